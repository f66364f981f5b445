//! The packed batch: the token sequences of one step as a prefix tree, without padding, each distinct prefix once.
//!
//! Sequences that share fewer than [`SHORTEST_SHARE`] tokens from their start are kept apart; all others are merged
//! token by token, so the number of tokens a step computes is known exactly while the step is being filled.

use std::ops::Range;
use std::sync::Arc;

use score::checksum::fold;
use score::{SHORTEST_SHARE, common_prefix, shared_prefix};

/// A run of tokens that a step computes once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where its tokens are in the flat list of tokens. Never empty.
    pub rows: Range<usize>,
    /// The position of its first token in every conversation that passes through it.
    pub position: usize,
    /// The segment that comes before it. Parents have lower numbers than their children.
    pub parent: Option<usize>,
}

/// What one step computes: tokens, the tree of segments they belong to, and where each sequence ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch {
    /// The tokens of all segments, one segment after another.
    pub tokens: Vec<u32>,
    /// The prefix tree; a sequence is a path from a root to the end of some segment.
    pub segments: Vec<Segment>,
    /// For each sequence, in the order in which they were pushed: the segment whose last token is its last token.
    pub ends: Vec<usize>,
}

/// Fills a step with sequences and knows at each moment how many tokens it computes.
#[derive(Debug, Clone, Default)]
pub struct Packer {
    sequences: Vec<Arc<[u32]>>,
    /// Numbers of the sequences, in the order of their tokens: neighbours share the most.
    sorted: Vec<usize>,
    tokens: usize,
}

// === impl PackedBatch ===

impl PackedBatch {
    /// For each sequence, the tokens that no other sequence of the batch shares with it.
    pub fn unshared(&self) -> Vec<usize> {
        let mut users = vec![0usize; self.segments.len()];
        self.ends.iter().for_each(|&end| users[end] += 1);
        for (number, segment) in self.segments.iter().enumerate().rev() {
            if let Some(parent) = segment.parent {
                users[parent] += users[number];
            }
        }
        // what comes after a segment with one user has one user too
        let mut own = vec![0; self.segments.len()];
        for (number, segment) in self.segments.iter().enumerate().filter(|(number, _)| users[*number] == 1) {
            own[number] = segment.parent.map_or(0, |parent| own[parent]) + segment.rows.len();
        }
        self.ends.iter().map(|&end| own[end]).collect()
    }
}

/// For each of the sequences that end at `ends`, the checksums of its tokens' `rows`, folded from its first to its last.
pub(crate) fn along_paths(segments: &[Segment], ends: &[usize], rows: &[u64]) -> Vec<u64> {
    let mut folded: Vec<u64> = Vec::with_capacity(segments.len());
    for segment in segments {
        let before = segment.parent.map_or(0, |parent| folded[parent]);
        folded.push(rows[segment.rows.clone()].iter().fold(before, |path, &row| fold(path, row)));
    }
    ends.iter().map(|&end| folded[end]).collect()
}

// === impl Packer ===

impl Packer {
    /// The number of tokens the step computes so far.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The number of sequences so far.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// The tokens that the step would compute more with this sequence in it.
    pub fn cost(&self, sequence: &[u32]) -> usize {
        self.cost_at(self.place(sequence), sequence)
    }

    /// Whether the step computes at most `budget` tokens with this sequence in it.
    ///
    /// The first sequence always fits: longer ones than the budget are refused before they come here. Sequences that
    /// are there already cost nothing, so a step is also held to `budget` sequences.
    pub fn fits(&self, sequence: &[u32], budget: usize) -> bool {
        self.is_empty() || (self.len() < budget && self.tokens + self.cost(sequence) <= budget)
    }

    /// Adds a sequence, which must not be empty.
    pub fn push(&mut self, sequence: Arc<[u32]>) {
        debug_assert!(!sequence.is_empty(), "an empty sequence has no last token to pool");
        let place = self.place(&sequence);
        self.tokens += self.cost_at(place, &sequence);
        self.sorted.insert(place, self.sequences.len());
        self.sequences.push(sequence);
    }

    /// Builds the prefix tree.
    pub fn pack(&self) -> PackedBatch {
        let batch = PackedBatch { tokens: Vec::new(), segments: Vec::new(), ends: vec![0; self.sequences.len()] };
        let mut tree = Tree { packer: self, batch, pending: Vec::new() };
        tree.split(0..self.sorted.len(), 0, None);
        while let Some(branch) = tree.pending.pop() {
            tree.grow(branch);
        }
        tree.batch
    }

    fn at(&self, place: usize) -> &[u32] {
        self.sorted.get(place).and_then(|&number| self.sequences.get(number)).map_or(&[], |sequence| sequence)
    }

    fn place(&self, sequence: &[u32]) -> usize {
        self.sorted.partition_point(|&number| self.sequences.get(number).is_some_and(|other| **other < *sequence))
    }

    fn cost_at(&self, place: usize, sequence: &[u32]) -> usize {
        let before = if place == 0 { 0 } else { shared_prefix(self.at(place - 1), sequence) };
        sequence.len() - before.max(shared_prefix(self.at(place), sequence))
    }
}

/// A prefix tree that is being built, from its roots.
struct Tree<'a> {
    packer: &'a Packer,
    batch: PackedBatch,
    /// Branches that still have to grow; a stack and not recursion, for a chain of prefixes can be thousands deep.
    pending: Vec<Branch>,
}

/// Sequences (by place in the sorted order) that go the same way from `depth` on.
struct Branch {
    places: Range<usize>,
    depth: usize,
    parent: Option<usize>,
}

impl Tree<'_> {
    /// Makes the segment that all sequences of a branch share, and the branches that leave its end.
    fn grow(&mut self, Branch { places, depth, parent }: Branch) {
        let (first, last) = (self.packer.at(places.start), self.packer.at(places.end - 1));
        // sorted, so what the first and the last share is shared by all
        let end = common_prefix(first, last);
        let start = self.batch.tokens.len();
        self.batch.tokens.extend_from_slice(&first[depth..end]);
        let segment = self.batch.segments.len();
        self.batch.segments.push(Segment { rows: start..self.batch.tokens.len(), position: depth, parent });
        // shorter sequences sort first
        let ending = places.clone().take_while(|&place| self.packer.at(place).len() == end).count();
        for place in places.start..places.start + ending {
            self.batch.ends[self.packer.sorted[place]] = segment;
        }
        self.split(places.start + ending..places.end, end, Some(segment));
    }

    /// Divides sequences, all longer than `depth` and equal up to there, into branches.
    fn split(&mut self, places: Range<usize>, depth: usize, parent: Option<usize>) {
        // from a root two sequences go together only if they share enough to be worth a segment
        let together = if parent.is_none() { SHORTEST_SHARE } else { depth + 1 };
        let mut start = places.start;
        for place in places.start + 1..=places.end {
            if place == places.end || common_prefix(self.packer.at(start), self.packer.at(place)) < together {
                self.pending.push(Branch { places: start..place, depth, parent });
                start = place;
            }
        }
    }
}

#[cfg(test)]
mod tests;
