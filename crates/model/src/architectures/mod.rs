//! The implemented architectures: a file each that says all of it, a line here, and a golden checkpoint.

mod gemma2;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use crate::blueprint::{Blueprint, Projections};

pub(crate) const ALL: [&Blueprint; 5] =
    [&gemma2::BLUEPRINT, &llama::BLUEPRINT, &mistral::BLUEPRINT, &qwen2::BLUEPRINT, &qwen3::BLUEPRINT];

/// What Llama called them, and who came after it.
const LLAMAS: Projections = Projections {
    queries: "self_attn.q_proj",
    keys: "self_attn.k_proj",
    values: "self_attn.v_proj",
    output: "self_attn.o_proj",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
};
