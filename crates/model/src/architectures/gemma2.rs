//! Gemma-2 (transformers, models/gemma2): norms before and after each branch, weights as 1 + w, soft-capped attention
//! scores, a sliding window on every other layer, a scaled embedding.

use super::LLAMAS;
use crate::blueprint::*;
use crate::compute::Dtype;

pub(super) const BLUEPRINT: Blueprint = Blueprint {
    name: "Gemma2",
    model_type: "gemma2",
    head: Head::Linear { class: "ForSequenceClassification", weight: "score.weight" },
    embedding: "model.embed_tokens",
    embedding_scale: EmbeddingScale::RootOfHidden,
    layers: "model.layers",
    projections: LLAMAS,
    biases: Biases::None,
    norms: LayerNorms {
        before_attention: "input_layernorm",
        after_attention: Some("post_attention_layernorm"),
        before_mlp: "pre_feedforward_layernorm",
        after_mlp: Some("post_feedforward_layernorm"),
        queries: None,
        keys: None,
    },
    final_norm: "model.norm",
    norm_weight: NormWeight::OnePlusStored,
    activation: Activation::GeluTanh,
    activation_field: "hidden_activation",
    rope: RopePairs::Halves,
    attention_scale: AttentionScale::Field { name: "query_pre_attn_scalar", usual: 256.0 },
    soft_cap: SoftCap::Field { name: "attn_logit_softcapping", usual: 50.0 },
    windows: Windows::Alternating { usual: 4096 },
    usual_kv_heads: Some(4),
    usual_head_dim: Some(256),
    // the residual stream, in the middle of the model
    refused: &[(Dtype::F16, "Gemma-2's activations are beyond the range of f16, which ends at 65504")],
    // final_logit_softcapping: the classification model has no language-model head to cap
    without_effect: "hidden_act final_logit_softcapping sliding_window_size cache_implementation",
};
