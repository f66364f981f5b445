//! Qwen3 (transformers, models/qwen3): Llama with a norm on each head of queries and keys, before they are turned.

use super::LLAMAS;
use crate::blueprint::*;

pub(super) const BLUEPRINT: Blueprint = Blueprint {
    name: "Qwen3",
    model_type: "qwen3",
    head: Head::Linear { class: "ForSequenceClassification", weight: "score.weight" },
    embedding: "model.embed_tokens",
    embedding_scale: EmbeddingScale::One,
    layers: "model.layers",
    projections: LLAMAS,
    biases: Biases::None,
    norms: LayerNorms {
        before_attention: "input_layernorm",
        after_attention: None,
        before_mlp: "post_attention_layernorm",
        after_mlp: None,
        queries: Some("self_attn.q_norm"),
        keys: Some("self_attn.k_norm"),
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
    usual_head_dim: Some(128),
    refused: &[],
    without_effect: "",
};
