//! A step as the kernels read it: one buffer of words that goes to the device in one copy.

use score::Checksum;

use super::kernels::TILE_ROWS;
use super::{Address, SlotSizes};
use crate::batch::{PackedBatch, Segment};

/// A step, ready to be sent to a device.
#[derive(Debug)]
pub(crate) struct DevicePlan {
    words: Vec<u32>,
    pub(crate) rows: usize,
    pub(crate) pooled: usize,
    pub(crate) tiles: usize,
    places: Places,
    /// For each sequence: which pooled row is its own.
    pub(crate) pooled_row: Vec<usize>,
    /// What the checksums cover, and the tree that they are folded along.
    pub(crate) checksum: Checksum,
    pub(crate) segments: Vec<Segment>,
    pub(crate) ends: Vec<usize>,
}

/// Where the parts of a plan begin, in words.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    tiles: usize,
    pooled_tiles: usize,
    segments: usize,
    tokens: usize,
    positions: usize,
    pooled_rows: usize,
    pooled_positions: usize,
}

/// The parts of a plan on the device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanAddresses {
    pub(crate) tokens: Address,
    pub(crate) positions: Address,
    pub(crate) tiles: Address,
    pub(crate) segments: Address,
    pub(crate) pooled_rows: Address,
    pub(crate) pooled_positions: Address,
    pub(crate) pooled_tiles: Address,
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
        let mut ending = batch.ends.clone();
        ending.sort_unstable();
        ending.dedup();
        let mut words = Vec::new();
        let mut tiles = tiles(batch);
        // the longest first: a block that starts last should end soon
        tiles.sort_by_key(|tile| std::cmp::Reverse(tile[2] + tile[1]));
        let mut places = Places::default();
        words.extend(tiles.iter().flatten());
        places.pooled_tiles = words.len();
        for (row, &segment) in ending.iter().enumerate() {
            let last = batch.segments[segment].position + batch.segments[segment].rows.len() - 1;
            words.extend([row as u32, 1, last as u32, segment as u32]);
        }
        places.segments = words.len();
        for (number, segment) in batch.segments.iter().enumerate() {
            let parent = segment.parent.unwrap_or(number);
            words.extend([segment.rows.start as u32, segment.position as u32, parent as u32, 0]);
        }
        places.tokens = words.len();
        words.extend(&batch.tokens);
        places.positions = words.len();
        for segment in &batch.segments {
            words.extend((0..segment.rows.len()).map(|i| (segment.position + i) as u32));
        }
        places.pooled_rows = words.len();
        words.extend(ending.iter().map(|&segment| (batch.segments[segment].rows.end - 1) as u32));
        places.pooled_positions = words.len();
        let last = |&segment: &usize| batch.segments[segment].position + batch.segments[segment].rows.len() - 1;
        words.extend(ending.iter().map(|segment| last(segment) as u32));
        Self {
            words,
            rows: batch.tokens.len(),
            pooled: ending.len(),
            tiles: tiles.len(),
            places,
            pooled_row: batch.ends.iter().map(|end| ending.binary_search(end).unwrap_or_default()).collect(),
            checksum,
            segments: batch.segments.clone(),
            ends: batch.ends.clone(),
        }
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
        let at = |word: usize| start + word * 4;
        PlanAddresses {
            tokens: at(self.places.tokens),
            positions: at(self.places.positions),
            tiles: at(self.places.tiles),
            segments: at(self.places.segments),
            pooled_rows: at(self.places.pooled_rows),
            pooled_positions: at(self.places.pooled_positions),
            pooled_tiles: at(self.places.pooled_tiles),
        }
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

/// Query rows of each segment, in tiles: row, rows, position, segment.
fn tiles(batch: &PackedBatch) -> Vec<[u32; RECORD]> {
    let mut tiles = Vec::new();
    for (number, segment) in batch.segments.iter().enumerate() {
        for start in segment.rows.clone().step_by(TILE_ROWS) {
            let rows = TILE_ROWS.min(segment.rows.end - start);
            let position = segment.position + start - segment.rows.start;
            tiles.push([start as u32, rows as u32, position as u32, number as u32]);
        }
    }
    tiles
}
