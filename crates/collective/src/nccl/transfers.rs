//! Which rows go where, as addresses: the arithmetic of an exchange and of a gather.

use super::Row;
use crate::RowSplit;

/// A part that stays on its rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copy {
    /// Where it is.
    pub(super) from: u64,
    /// Where it is to be.
    pub(super) to: u64,
    pub(super) rows: usize,
}

/// A part that goes to, or comes from, another rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    /// To `peer`, from `address` here.
    Send { peer: usize, address: u64, rows: usize },
    /// From `peer`, to `address` here.
    Receive { peer: usize, address: u64, rows: usize },
}

/// The rows of a rank's own slice, from all ranks, in rank order; and the other slices to their ranks.
/// `send` has all rows, and `receive` has room for as many slices like the own one as there are ranks.
pub(super) fn exchange(rank: usize, split: RowSplit, row: Row, send: u64, receive: u64) -> (Copy, Vec<Transfer>) {
    let own = split.range(rank);
    let place = |peer: usize| receive + row.bytes(peer * own.len());
    let slice = |peer: usize| send + row.bytes(split.range(peer).start);
    let peers = with_each_peer(rank, split, |peer| {
        [
            Transfer::Send { peer, address: slice(peer), rows: split.range(peer).len() },
            Transfer::Receive { peer, address: place(peer), rows: own.len() },
        ]
    });
    (Copy { from: slice(rank), to: place(rank), rows: own.len() }, peers)
}

/// The slices of all ranks, each to its place in `whole`; and the own `slice` to all ranks.
pub(super) fn all_gather(rank: usize, split: RowSplit, row: Row, slice: u64, whole: u64) -> (Copy, Vec<Transfer>) {
    let own = split.range(rank);
    let place = |peer: usize| whole + row.bytes(split.range(peer).start);
    let peers = with_each_peer(rank, split, |peer| {
        [
            Transfer::Send { peer, address: slice, rows: own.len() },
            Transfer::Receive { peer, address: place(peer), rows: split.range(peer).len() },
        ]
    });
    (Copy { from: slice, to: place(rank), rows: own.len() }, peers)
}

/// Without the transfers of nothing, which both ends leave out.
fn with_each_peer(rank: usize, split: RowSplit, transfers: impl Fn(usize) -> [Transfer; 2]) -> Vec<Transfer> {
    let peers = (0..split.world_size()).filter(|&peer| peer != rank);
    peers.flat_map(transfers).filter(|transfer| transfer.rows() > 0).collect()
}

impl Transfer {
    fn rows(&self) -> usize {
        match *self {
            Self::Send { rows, .. } | Self::Receive { rows, .. } => rows,
        }
    }
}
