//! The implemented models, one file each, to be read beside transformers' modeling files.

pub(crate) mod gemma2;
pub(crate) mod llama;
pub(crate) mod qwen3;
