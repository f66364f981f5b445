//! The memory of a step: planned once, so that none is asked for while steps are computed.

use super::flight::IN_FLIGHT;
use super::plan::DevicePlan;
use super::{Address, Device, MATMUL_ROWS, Memory};
use crate::error::{Error, Result};
use crate::share::Share;

/// The room for what lies between the kernels of a step, in rows of the widths named.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// hidden: the residual stream.
    pub(super) h: Address,
    /// hidden: its norm.
    pub(super) x: Address,
    /// hidden: what a branch computes.
    pub(super) partial: Address,
    /// queries, keys and values.
    pub(super) projected: Address,
    /// queries.
    pub(super) context: Address,
    /// gate and up, or queries.
    pub(super) wide: Address,
    /// intermediate.
    pub(super) activated: Address,
    /// Parts of a rank's own rows, hidden, from all ranks.
    pub(super) received: Address,
    /// head_dim, f32.
    pub(super) table: Address,
    /// head_dim, f32.
    pub(super) pooled_table: Address,
}

/// What NCCL takes for the buffers between ranks, at most.
const JOINING_BYTES: usize = 1 << 30;
/// What the driver takes for code, alignment and stacks.
const SPARE_BYTES: usize = 256 << 20;
/// The driver gives memory out in multiples of this.
const PIECE_BYTES: usize = 2 << 20;
/// Matrices begin where the fastest loads may.
const ALIGNMENT: usize = 256;

// === impl Room ===

impl Room {
    pub(super) fn new(share: &Share, device: &dyn Device, rows: usize) -> Result<(Self, Memory)> {
        let (starts, bytes) = Self::plan(share, device.dtype().size(), rows);
        let memory = device.allocate(bytes)?;
        let [h, x, partial, projected, context, wide, activated, received, table, pooled_table] =
            starts.map(|start| memory.address() + start);
        let room = Self { h, x, partial, projected, context, wide, activated, received, table, pooled_table };
        Ok((room, memory))
    }

    /// Where each part begins, and the bytes of all.
    fn plan(share: &Share, size: usize, rows: usize) -> ([usize; 10], usize) {
        let (config, rows) = (&share.config, rows.next_multiple_of(MATMUL_ROWS));
        let hidden = config.hidden * size;
        // a rank's own rows: one more than an even share at most, from each rank
        let received = if share.world_size > 1 { (rows + share.world_size) * hidden } else { 0 };
        let sizes = [
            rows * hidden,
            rows * hidden,
            rows * hidden,
            rows * (share.query_width + 2 * share.key_width) * size,
            rows * share.query_width * size,
            rows * (2 * share.intermediate).max(share.query_width) * size,
            rows * share.intermediate * size,
            received,
            rows * config.head_dim * 4,
            rows * config.head_dim * 4,
        ];
        let mut end = 0;
        let starts = sizes.map(|bytes| {
            let start = end;
            end += bytes.next_multiple_of(ALIGNMENT);
            start
        });
        (starts, end)
    }
}

/// What the weights take of a GPU. Biases, norms and the head are small, and part of the spare bytes.
fn weight_bytes(share: &Share, size: usize) -> usize {
    let piece = |numbers: usize| (numbers * size).next_multiple_of(PIECE_BYTES);
    let [projected, _, _, output, gate_up, down] = share.matrix_shapes().map(|(output, input)| piece(output * input));
    piece(share.embedding().len()) + share.config.layers() * (projected + output + gate_up + down)
}

/// Refuses a model that would not fit, before it is read.
pub(super) fn check_memory(share: &Share, device: &dyn Device, step_tokens: usize) -> Result<()> {
    let Some(free) = device.free_memory()? else { return Ok(()) };
    let weights = weight_bytes(share, device.dtype().size());
    let (_, room) = Room::plan(share, device.dtype().size(), step_tokens);
    let plans = DevicePlan::most_bytes(step_tokens, share.config.outputs());
    let ranks = if share.world_size > 1 { JOINING_BYTES } else { 0 };
    let needed = weights + room + IN_FLIGHT * (plans.upload + plans.download) + ranks + SPARE_BYTES;
    if needed <= free {
        return Ok(());
    }
    let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
    Err(Error::Device(format!(
        "this rank needs {:.1} GiB of the GPU's memory, {:.1} GiB are free: weights {:.1} GiB in {}, room for steps of \
         {step_tokens} tokens {:.1} GiB; more ranks (--tensor-parallel) or smaller steps (--max-batch-tokens) need less",
        gib(needed),
        gib(free),
        gib(weights),
        device.dtype(),
        gib(room)
    )))
}

#[cfg(test)]
mod tests;
