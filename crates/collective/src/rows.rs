//! How rows are split over ranks, when each rank adds up, keeps or sends a slice of them.

use std::ops::Range;

/// Rows in consecutive slices, one for each rank; the first `rows % world_size` slices have one row more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowSplit {
    rows: usize,
    world_size: usize,
}

// === impl RowSplit ===

impl RowSplit {
    /// Splits `rows` over `world_size` ranks; a world of none counts as one of one.
    pub fn new(rows: usize, world_size: usize) -> Self {
        Self { rows, world_size: world_size.max(1) }
    }

    /// The number of all rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// The rows of a rank: none if there are fewer rows than ranks, or if there is no such rank.
    pub fn range(&self, rank: usize) -> Range<usize> {
        let (least, longer) = (self.rows / self.world_size, self.rows % self.world_size);
        let start = |rank: usize| rank.min(self.world_size) * least + rank.min(longer);
        start(rank)..start(rank + 1)
    }

    /// The rows of the longest slice, for buffers that any slice fits into.
    pub fn longest(&self) -> usize {
        self.rows.div_ceil(self.world_size)
    }

    /// Whether all slices are equally long.
    pub fn is_even(&self) -> bool {
        self.rows.is_multiple_of(self.world_size)
    }
}

#[cfg(test)]
mod tests;
