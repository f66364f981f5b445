//! How ranks add up what each has computed of a matmul that is split by input, together with the norms and the residual
//! that follow (docs/adr/0007).
//!
//! One rank has nothing to add. Of more, each receives all parts of its own rows, adds them in rank order in f32 within
//! the norm's kernel, and sends the result to all: the bytes of a ring. The residual then lives in stretches of rows,
//! one on each rank.

use std::ops::Range;

use collective::RowSplit;

use super::Address;
use super::kernels::{Kernels, Norm};
use crate::error::Result;

/// Adds up the ranks' partial rows.
pub(crate) struct Reduction<'a> {
    pub(crate) kernels: Kernels<'a>,
    pub(crate) hidden: usize,
    pub(crate) eps: f64,
    /// Room for the parts of this rank's rows.
    pub(crate) received: Address,
}

/// What becomes of a branch's sum: `h` [own rows] += norm(sum) or sum, and `out` [rows] = norm(h), each if wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Join {
    pub(crate) rows: usize,
    pub(crate) partial: Address,
    pub(crate) residual: Address,
    pub(crate) residual_out: Address,
    pub(crate) branch_weight: Address,
    pub(crate) weight: Address,
    pub(crate) out: Address,
}

// === impl Reduction ===

impl Reduction<'_> {
    fn world_size(&self) -> usize {
        self.kernels.device.place().1
    }

    /// Whether the residual is split by rows over the ranks.
    pub(crate) fn splits_rows(&self) -> bool {
        self.world_size() > 1
    }

    fn split(&self, rows: usize) -> RowSplit {
        RowSplit::new(rows, self.world_size())
    }

    /// The rows of the residual that this rank holds.
    pub(crate) fn own(&self, rows: usize) -> Range<usize> {
        match self.splits_rows() {
            true => self.split(rows).range(self.kernels.device.place().0),
            false => 0..rows,
        }
    }

    /// Bytes of `rows` rows.
    fn bytes(&self, rows: usize) -> usize {
        rows * self.hidden * self.kernels.device.dtype().size()
    }

    /// Adds the parts up; after this every rank has all rows of `out`.
    pub(crate) fn join(&self, join: &Join) -> Result<()> {
        let own = self.own(join.rows);
        let norm = self.sum(join)?;
        let norm = Norm { out: join.out + self.bytes(own.start), ..norm };
        self.kernels.norm(&norm, own.len())?;
        match self.splits_rows() && join.weight != Address::NONE {
            true => self.kernels.device.all_gather(join.out, self.split(join.rows), self.hidden),
            false => Ok(()),
        }
    }

    /// Brings the parts together and returns the kernel's arguments that add them up, for this rank's rows.
    fn sum(&self, join: &Join) -> Result<Norm> {
        let device = self.kernels.device;
        let own = self.own(join.rows);
        let mut norm = Norm {
            x: join.partial,
            parts: 1,
            part_stride: 0,
            residual: join.residual,
            residual_out: join.residual_out,
            branch_weight: join.branch_weight,
            weight: join.weight,
            out: join.out,
            hidden: self.hidden,
            eps: self.eps,
        };
        if self.splits_rows() {
            device.exchange(join.partial, self.received, self.split(join.rows), self.hidden)?;
            norm.x = self.received;
            (norm.parts, norm.part_stride) = (self.world_size(), own.len() * self.hidden);
        }
        Ok(norm)
    }

    /// The arguments of the head's norm, over all rows, for the last branch. `whole` is room for all rows.
    pub(crate) fn join_whole(&self, join: &Join, whole: Address) -> Result<Norm> {
        if !self.splits_rows() {
            return self.sum(join);
        }
        let own = self.own(join.rows);
        let residual_out = whole + self.bytes(own.start);
        let last = Norm { residual_out, weight: Address::NONE, ..self.sum(join)? };
        self.kernels.norm(&last, own.len())?;
        self.kernels.device.all_gather(whole, self.split(join.rows), self.hidden)?;
        Ok(Norm { weight: join.weight, ..Norm::of(whole, self.hidden, self.eps) })
    }
}
