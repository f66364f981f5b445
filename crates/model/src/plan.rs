//! What a step's prefix tree means for the rows of its matrices: row blocks, positions, and the keys each query sees. A
//! CPU computes a step in several blocks, a device in one.

use std::ops::Range;

use crate::batch::{PackedBatch, Segment};

/// Consecutive keys of a conversation that lie in consecutive rows of the key/value pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The position of the first key in the conversation.
    pub(crate) position: usize,
    /// Its row in the pool.
    pub(crate) row: usize,
    pub(crate) len: usize,
}

/// Query rows that follow each other in one segment, and so share most of the keys they see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Rows of the block.
    pub(crate) rows: Range<usize>,
    /// The position of the first row.
    pub(crate) position: usize,
    pub(crate) segment: usize,
}

/// A block of rows that goes through a layer together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    /// Rows of the step's flat list of tokens. For pooled rows: where they come from.
    pub(crate) sources: Vec<u32>,
    /// The position of each row in its conversation.
    pub(crate) positions: Vec<u32>,
    pub(crate) tiles: Vec<Tile>,
}

impl Rows {
    /// Of a block of the step's tokens: where in the flat list it begins.
    pub(crate) fn first(&self) -> usize {
        self.sources.first().map_or(0, |&row| row as usize)
    }
}

/// A step, ready to be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StepPlan {
    /// Every token, in order.
    pub(crate) blocks: Vec<Rows>,
    /// The last token of each segment that a sequence ends in: all that the last layer has to compute.
    pub(crate) pooled: Vec<Rows>,
    /// For each sequence: which pooled row, counted over all pooled blocks, is its own.
    pub(crate) pooled_row: Vec<usize>,
    /// One more than the highest position.
    pub(crate) positions: usize,
}

impl StepPlan {
    /// Plans a batch in blocks of at most `block_rows` rows, and tiles of at most `tile_rows`.
    pub(crate) fn new(batch: &PackedBatch, block_rows: usize, tile_rows: usize) -> Self {
        let (pooled, pooled_row) = pooled(batch, block_rows);
        Self {
            blocks: blocks(&batch.segments, block_rows, tile_rows),
            pooled,
            pooled_row,
            positions: batch.segments.iter().map(|segment| segment.position + segment.rows.len()).max().unwrap_or(0),
        }
    }
}

/// Every token of these segments, in order.
pub(crate) fn blocks(segments: &[Segment], block_rows: usize, tile_rows: usize) -> Vec<Rows> {
    let rows = 0..segments.last().map_or(0, |segment| segment.rows.end);
    even_blocks(rows, block_rows).map(|rows| block(segments, rows, tile_rows)).collect()
}

/// The pooled rows, and for each sequence which of them is its own.
pub(crate) fn pooled(batch: &PackedBatch, block_rows: usize) -> (Vec<Rows>, Vec<usize>) {
    let mut ending: Vec<usize> = batch.ends.clone();
    ending.sort_unstable();
    ending.dedup();
    let pooled = even_blocks(0..ending.len(), block_rows).map(|part| pooled_block(batch, &ending[part])).collect();
    (pooled, batch.ends.iter().map(|end| ending.binary_search(end).unwrap_or_default()).collect())
}

/// Splits a range into as few parts as `most` allows, all of nearly the same length.
fn even_blocks(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = range.len().div_ceil(most.max(1));
    let len = range.len();
    (0..parts).map(move |part| range.start + len * part / parts..range.start + len * (part + 1) / parts)
}

fn block(segments: &[Segment], rows: Range<usize>, tile_rows: usize) -> Rows {
    let mut block = Rows { sources: rows.clone().map(|row| row as u32).collect(), ..Rows::default() };
    let first = segments.partition_point(|segment| segment.rows.end <= rows.start);
    for (number, segment) in segments.iter().enumerate().skip(first) {
        let own = segment.rows.start.max(rows.start)..segment.rows.end.min(rows.end);
        if own.is_empty() {
            break;
        }
        let position = |row: usize| segment.position + row - segment.rows.start;
        block.positions.extend(own.clone().map(|row| position(row) as u32));
        for start in own.clone().step_by(tile_rows) {
            let end = own.end.min(start + tile_rows);
            let tile = start - rows.start..end - rows.start;
            block.tiles.push(Tile { rows: tile, position: position(start), segment: number });
        }
    }
    block
}

fn pooled_block(batch: &PackedBatch, ending: &[usize]) -> Rows {
    let mut block = Rows::default();
    for (row, number) in ending.iter().enumerate() {
        let segment = &batch.segments[*number];
        let position = segment.position + segment.rows.len() - 1;
        block.sources.push((segment.rows.end - 1) as u32);
        block.positions.push(position as u32);
        block.tiles.push(Tile { rows: row..row + 1, position, segment: *number });
    }
    block
}

/// For each segment: the keys of its ancestors and its own, in the order of positions.
pub(crate) fn runs(batch: &PackedBatch) -> Vec<Vec<Run>> {
    (0..batch.segments.len()).map(|segment| runs_to(&batch.segments, segment)).collect()
}

fn runs_to(segments: &[Segment], segment: usize) -> Vec<Run> {
    let path = std::iter::successors(Some(segment), |&segment| segments[segment].parent);
    let run = |segment: usize| {
        let Segment { rows, position, .. } = &segments[segment];
        Run { position: *position, row: rows.start, len: rows.len() }
    };
    let mut runs: Vec<_> = path.map(run).collect();
    runs.reverse();
    runs
}

#[cfg(test)]
mod tests;
