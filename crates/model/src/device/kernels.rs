//! The kernels' arguments, field for field those of kernels/args.h, and how each is launched.

use super::{Address, Device, Launch};
use crate::compute::Dtype;
use crate::error::{Error, Result};
use crate::share::Share;

/// A field of a kernel's arguments: 8 bytes.
trait Word {
    fn word(self) -> u64;
}

impl Word for Address {
    fn word(self) -> u64 {
        self.0
    }
}

impl Word for usize {
    fn word(self) -> u64 {
        self as u64
    }
}

impl Word for bool {
    fn word(self) -> u64 {
        u64::from(self)
    }
}

impl Word for f64 {
    fn word(self) -> u64 {
        self.to_bits()
    }
}

/// Declares the arguments of a kernel; their words are its fields in order.
macro_rules! arguments {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct $name {
            $(pub(crate) $field: $kind),+
        }

        impl $name {
            fn words(&self) -> Vec<u64> {
                vec![$(self.$field.word()),+]
            }
        }
    };
}

arguments!(
    /// `checksums`, if any, of each token's id and row.
    Embed { tokens: Address, weight: Address, out: Address, hidden: usize, scale: f64, checksums: Address }
);
arguments!(
    /// x is the sum of the parts; b its own norm, if `branch_weight`; h = residual + b; out = norm(h) * weight.
    Norm {
        x: Address,
        parts: usize,
        part_stride: usize,
        residual: Address,
        residual_out: Address,
        branch_weight: Address,
        weight: Address,
        out: Address,
        hidden: usize,
        eps: f64,
    }
);
arguments!(RopeTable { positions: Address, inverse_frequencies: Address, table: Address, pairs: usize });
arguments!(Rope {
    x: Address,
    stride: usize,
    table: Address,
    heads: usize,
    head_dim: usize,
    bias: Address,
    weight: Address,
    eps: f64,
});
arguments!(Gated { gate_up: Address, out: Address, width: usize, gelu: bool });
arguments!(Attention {
    queries: Address,
    query_stride: usize,
    keys: Address,
    values: Address,
    value_bias: Address,
    key_stride: usize,
    out: Address,
    out_stride: usize,
    tiles: Address,
    segments: Address,
    head_dim: usize,
    group: usize,
    scale: f64,
    soft_cap: f64,
    window: usize,
});
arguments!(Head { weight: Address, first: usize, columns: usize, outputs: usize, logits: Address, checksums: Address });
arguments!(
    /// Row i of `out` is row `rows[i]` of `x`, which holds rows first .. end; zeros for other rows.
    Gather { x: Address, rows: Address, out: Address, width: usize, stride: usize, first: usize, end: usize }
);
arguments!(Fill { out: Address, count: usize, seed: usize, scale: f64, offset: f64 });

/// Query rows of a tile: as in kernels/attention.h.
pub(crate) const TILE_ROWS: usize = 64;
/// Threads of a block that goes over a row.
const ROW_THREADS: usize = 256;
/// Threads of a block whose warps each take a head or a row.
const WARPS_THREADS: usize = 128;
const WARP: usize = 32;
/// Bytes that a thread loads at a time.
const PACK: usize = 16;
/// Numbers that a thread fills.
const FILL_EACH: usize = 16;
/// Head sizes that the tensor cores' attention is compiled for.
const TENSOR_CORE_HEADS: [usize; 3] = [64, 128, 256];
/// The widest head that the kernels take.
pub(crate) const WIDEST_HEAD: usize = 512;

/// All kernels for these numbers.
#[cfg(feature = "cuda")]
pub(crate) fn names(dtype: Dtype) -> Vec<String> {
    let plain = ["embed", "gather", "fill", "norm", "head", "rope", "gated", "attention_plain"].map(str::to_owned);
    let heads = if dtype == Dtype::F32 { &[][..] } else { &TENSOR_CORE_HEADS };
    let names = plain.into_iter().chain(heads.iter().map(|head_dim| format!("attention_{head_dim}")));
    names.map(|name| format!("{name}_{dtype}")).chain(["rope_table".to_owned()]).collect()
}

impl Norm {
    /// Of one part as it is: what is to be done with it is filled in by the caller.
    pub(crate) fn of(x: Address, hidden: usize, eps: f64) -> Self {
        let none = Address::NONE;
        Self {
            x,
            parts: 1,
            part_stride: 0,
            residual: none,
            residual_out: none,
            branch_weight: none,
            weight: none,
            out: none,
            hidden,
            eps,
        }
    }
}

/// Launches kernels on a device.
#[derive(Clone, Copy)]
pub(crate) struct Kernels<'a> {
    pub(crate) device: &'a dyn Device,
}

// === impl Kernels ===

impl Kernels<'_> {
    pub(crate) fn embed(&self, arguments: &Embed, rows: usize) -> Result<()> {
        self.launch("embed", [rows, 1], (self.row_threads(arguments.hidden), WARP * 8), &arguments.words())
    }

    pub(crate) fn norm(&self, arguments: &Norm, rows: usize) -> Result<()> {
        self.launch("norm", [rows, 1], (self.row_threads(arguments.hidden), SUMS), &arguments.words())
    }

    /// The arguments of the norm come first.
    pub(crate) fn head(&self, norm: &Norm, head: &Head, rows: usize) -> Result<()> {
        let words = [norm.words(), head.words()].concat();
        self.launch("head", [rows, 1], (self.row_threads(norm.hidden), SUMS), &words)
    }

    pub(crate) fn rope_table(&self, arguments: &RopeTable, rows: usize) -> Result<()> {
        let launch = Launch {
            kernel: "rope_table",
            grid: [rows, 1],
            threads: arguments.pairs.next_multiple_of(WARP).min(ROW_THREADS),
            shared: 0,
            arguments: &arguments.words(),
        };
        self.launch_exactly(&launch)
    }

    pub(crate) fn rope(&self, arguments: &Rope, rows: usize) -> Result<()> {
        let groups = arguments.heads.div_ceil(WARPS_THREADS / WARP);
        self.launch("rope", [rows, groups], (WARPS_THREADS, 0), &arguments.words())
    }

    pub(crate) fn gated(&self, arguments: &Gated, rows: usize) -> Result<()> {
        let each = ROW_THREADS * PACK / self.device.dtype().size();
        self.launch("gated", [rows, arguments.width.div_ceil(each)], (ROW_THREADS, 0), &arguments.words())
    }

    /// On the tensor cores where they have the numbers and the head's size.
    pub(crate) fn attention(&self, arguments: &Attention, tiles: usize, heads: usize) -> Result<()> {
        let head_dim = arguments.head_dim;
        if self.device.dtype() == Dtype::F32 || !TENSOR_CORE_HEADS.contains(&head_dim) {
            return self.attention_plain(arguments, tiles, heads);
        }
        let block_keys = if head_dim > 128 { 32 } else { 64 };
        let shared = (TILE_ROWS + 2 * block_keys) * head_dim * self.device.dtype().size() + 2 * block_keys * 8;
        let name = format!("attention_{head_dim}");
        self.launch(&name, [tiles, heads], (WARPS_THREADS, shared), &arguments.words())
    }

    pub(crate) fn attention_plain(&self, arguments: &Attention, tiles: usize, heads: usize) -> Result<()> {
        let shared = WARPS_THREADS * (4 + 8); // a weight and a row for each lane
        self.launch("attention_plain", [tiles, heads], (WARPS_THREADS, shared), &arguments.words())
    }

    pub(crate) fn gather(&self, arguments: &Gather, count: usize) -> Result<()> {
        self.launch("gather", [count, 1], (self.row_threads(arguments.width), 0), &arguments.words())
    }

    pub(crate) fn fill(&self, arguments: &Fill) -> Result<()> {
        let blocks = arguments.count.div_ceil(ROW_THREADS * FILL_EACH);
        self.launch("fill", [blocks, 1], (ROW_THREADS, 0), &arguments.words())
    }

    /// Threads that share a row of `width` numbers evenly: as few turns as `ROW_THREADS` would take, in whole warps.
    fn row_threads(&self, width: usize) -> usize {
        let packs = width * self.device.dtype().size() / PACK;
        let turns = packs.div_ceil(ROW_THREADS).max(1);
        packs.div_ceil(turns).next_multiple_of(WARP).max(WARP)
    }

    /// A kernel of the device's numbers.
    fn launch(&self, name: &str, grid: [usize; 2], (threads, shared): (usize, usize), words: &[u64]) -> Result<()> {
        let kernel = format!("{name}_{}", self.device.dtype());
        self.launch_exactly(&Launch { kernel: &kernel, grid, threads, shared, arguments: words })
    }

    fn launch_exactly(&self, launch: &Launch<'_>) -> Result<()> {
        if launch.grid.contains(&0) { Ok(()) } else { self.device.launch(launch) }
    }
}

/// Shared memory of the norms: a sum for each warp, 4 bytes or 8.
const SUMS: usize = ROW_THREADS / WARP * 8;

/// The widest row that the norms hold in registers: 48 numbers on each thread.
pub(crate) const WIDEST_ROW: usize = ROW_THREADS * 48;

/// Refuses models that the kernels are not made for.
///
/// # Errors
/// [`Error::Device`] naming the size.
pub(crate) fn check(share: &Share) -> Result<()> {
    let (hidden, head_dim) = (share.config.hidden, share.config.head_dim);
    if hidden > WIDEST_ROW {
        return Err(Error::Device(format!("hidden_size {hidden} is beyond the GPU kernels' {WIDEST_ROW}")));
    }
    if head_dim > WIDEST_HEAD || !head_dim.is_multiple_of(4) {
        return Err(Error::Device(format!(
            "head_dim {head_dim} does not fit the GPU kernels: a multiple of 4, at most {WIDEST_HEAD}"
        )));
    }
    let widths = [("hidden_size", hidden), ("intermediate_size", share.intermediate)];
    match widths.iter().find(|(_, width)| !width.is_multiple_of(8)) {
        Some((name, width)) => Err(Error::Device(format!("{name} {width} is no multiple of 8 on each rank"))),
        None => Ok(()),
    }
}
