//! A step as the kernels read it: one buffer of words that goes to the device in one copy.

use std::cmp::Reverse;

use score::Checksum;

use super::kernels::TILE_ROWS;
use super::{Address, SlotSizes};
use crate::batch::{PackedBatch, Segment};
use crate::plan::{self, Tile};

/// A step, ready to be sent to a device.
#[derive(Debug)]
pub(crate) struct DevicePlan {
    words: Vec<u32>,
    /// Where the parts begin, in words and in the order of the fields of [`PlanAddresses`].
    starts: [usize; 7],
    pub(crate) rows: usize,
    pub(crate) pooled: usize,
    pub(crate) tiles: usize,
    /// For each sequence: which pooled row is its own.
    pub(crate) pooled_row: Vec<usize>,
    /// What the checksums cover, and the tree that they are folded along.
    pub(crate) checksum: Checksum,
    pub(crate) segments: Vec<Segment>,
    pub(crate) ends: Vec<usize>,
}

/// The parts of a plan on the device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanAddresses {
    pub(crate) tiles: Address,
    pub(crate) pooled_tiles: Address,
    pub(crate) segments: Address,
    pub(crate) tokens: Address,
    pub(crate) positions: Address,
    pub(crate) pooled_rows: Address,
    pub(crate) pooled_positions: Address,
}

/// Words of a tile and of a segment: kernels/args.h.
const RECORD: usize = 4;
/// Bytes of a checksum. The results are those of embedded rows, if they are wanted, those of pooled rows, and then the
/// logits, [pooled, outputs].
const CHECKSUM_BYTES: usize = 8;
/// The most words of a plan for each token of a step: there may be as many tiles, segments and pooled rows as tokens.
const MOST_WORDS: usize = 3 * RECORD + 4;

// === impl DevicePlan ===

impl DevicePlan {
    pub(crate) fn new(batch: &PackedBatch, checksum: Checksum) -> Self {
        let (runs, run_of) = joined(&batch.segments);
        let mut all = plan::blocks(&runs, usize::MAX, TILE_ROWS).into_iter().next().unwrap_or_default();
        let (pooled, pooled_row) = plan::pooled(batch, usize::MAX);
        let mut last = pooled.into_iter().next().unwrap_or_default();
        last.tiles.iter_mut().for_each(|tile| tile.segment = run_of[tile.segment]);
        // the longest first: a block that starts last should end soon
        all.tiles.sort_by_key(|tile| Reverse(tile.position + tile.rows.len()));
        let (rows, pooled, tiles) = (all.positions.len(), last.positions.len(), all.tiles.len());
        let record = |(number, segment): (usize, &Segment)| -> [u32; RECORD] {
            let parent = segment.parent.unwrap_or(number);
            [segment.rows.start as u32, segment.position as u32, parent as u32, 0]
        };
        let records = runs.iter().enumerate().flat_map(record).collect();
        let parts: [Vec<u32>; 7] = [
            all.tiles.iter().flat_map(tile).collect(),
            last.tiles.iter().flat_map(tile).collect(),
            records,
            batch.tokens.clone(),
            all.positions,
            last.sources,
            last.positions,
        ];
        let (mut words, mut starts) = (Vec::new(), [0; 7]);
        for (start, part) in starts.iter_mut().zip(parts) {
            *start = words.len();
            words.extend(part);
        }
        let (segments, ends) = (batch.segments.clone(), batch.ends.clone());
        Self { words, starts, rows, pooled, tiles, pooled_row, checksum, segments, ends }
    }

    /// The words as bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.words.len() * 4];
        let places = bytes.as_chunks_mut::<4>().0;
        places.iter_mut().zip(&self.words).for_each(|(place, word)| *place = word.to_ne_bytes());
        bytes
    }

    /// Where the parts are once the plan lies at `start`.
    pub(crate) fn at(&self, start: Address) -> PlanAddresses {
        let [tiles, pooled_tiles, segments, tokens, positions, pooled_rows, pooled_positions] =
            self.starts.map(|word| start + word * 4);
        PlanAddresses { tiles, pooled_tiles, segments, tokens, positions, pooled_rows, pooled_positions }
    }

    /// Bytes of the embedded rows' checksums, which are the first results.
    pub(crate) fn embedded_bytes(&self) -> usize {
        match self.checksum {
            Checksum::Row => 0,
            Checksum::Path => self.rows * CHECKSUM_BYTES,
        }
    }

    /// Bytes of the pooled rows' checksums, which come next.
    pub(crate) fn pooled_bytes(&self) -> usize {
        self.pooled * CHECKSUM_BYTES
    }

    /// Bytes of all results.
    pub(crate) fn result_bytes(&self, outputs: usize) -> usize {
        self.embedded_bytes() + self.pooled_bytes() + self.pooled * outputs * 4
    }

    /// The most bytes of a plan of `tokens` tokens, and of its results: every row may be pooled.
    pub(crate) fn most_bytes(tokens: usize, outputs: usize) -> SlotSizes {
        SlotSizes { upload: tokens * MOST_WORDS * 4, download: tokens * (2 * CHECKSUM_BYTES + outputs * 4) }
    }
}

/// Segments, each as one with its parent where it follows it in the list of tokens, and for each of the given ones which
/// of these it is in. So tiles are full, and keys are found without a walk from segment to segment, also where every
/// prefix of a conversation is scored.
fn joined(segments: &[Segment]) -> (Vec<Segment>, Vec<usize>) {
    let (mut runs, mut run_of): (Vec<Segment>, Vec<usize>) = (Vec::new(), Vec::new());
    for segment in segments {
        match segment.parent {
            Some(parent) if segments[parent].rows.end == segment.rows.start => {
                runs[run_of[parent]].rows.end = segment.rows.end;
                run_of.push(run_of[parent]);
            }
            parent => {
                run_of.push(runs.len());
                runs.push(Segment { parent: parent.map(|parent| run_of[parent]), ..segment.clone() });
            }
        }
    }
    (runs, run_of)
}

/// As kernels/args.h has it.
fn tile(tile: &Tile) -> [u32; RECORD] {
    [tile.rows.start, tile.rows.len(), tile.position, tile.segment].map(|word| word as u32)
}

#[cfg(test)]
mod tests;
