//! Mistral (transformers, models/mistral): Llama with a sliding window on every layer.

use super::LLAMAS;
use crate::blueprint::*;

pub(super) const BLUEPRINT: Blueprint = Blueprint {
    name: "Mistral",
    model_type: "mistral",
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
    windows: Windows::Always { usual: 4096 },
    usual_kv_heads: Some(8),
    usual_head_dim: None,
    refused: &[],
    without_effect: "",
};
