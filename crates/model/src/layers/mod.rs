//! The layers of the forward pass on the CPU, each holding one rank's share of its weights.

mod block;
mod embedding;
mod head;
mod linear;
mod loader;

pub(crate) use self::block::{Block, Step};
pub(crate) use self::embedding::Embedding;
pub(crate) use self::head::Head;
pub(crate) use self::linear::Linear;
pub(crate) use self::loader::Loader;
