//! Qwen2 and Qwen2.5 (transformers, models/qwen2): Llama with a bias on queries, keys and values, and windows from some
//! layer on where a model asks for them.

use super::LLAMAS;
use crate::blueprint::*;

pub(super) const BLUEPRINT: Blueprint = Blueprint {
    name: "Qwen2",
    model_type: "qwen2",
    head: Head::Linear { class: "ForSequenceClassification", weight: "score.weight" },
    embedding: "model.embed_tokens",
    embedding_scale: EmbeddingScale::One,
    layers: "model.layers",
    projections: LLAMAS,
    biases: Biases::QueriesKeysValues,
    norms: LayerNorms {
        before_attention: "input_layernorm",
        after_attention: None,
        before_mlp: "post_attention_layernorm",
        after_mlp: None,
        queries: None,
        keys: None,
    },
    final_norm: "model.norm",
    norm_weight: NormWeight::Stored,
    activation: Activation::Silu,
    activation_field: "hidden_act",
    rope: RopePairs::Halves,
    attention_scale: AttentionScale::HeadDim,
    soft_cap: SoftCap::None,
    windows: Windows::WhereUsed { usual: 4096, usual_first: 28 },
    usual_kv_heads: Some(32),
    usual_head_dim: None,
    refused: &[],
    without_effect: "",
};
