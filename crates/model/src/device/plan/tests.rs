//! What a device reads of a step.

use std::sync::Arc;

use super::*;
use crate::batch::Packer;

fn batch(sequences: &[&[u32]]) -> PackedBatch {
    let mut packer = Packer::default();
    sequences.iter().for_each(|&sequence| packer.push(Arc::from(sequence)));
    packer.pack()
}

fn run(rows: std::ops::Range<usize>, position: usize, parent: Option<usize>) -> Segment {
    Segment { rows, position, parent }
}

#[test]
fn a_conversation_whose_every_prefix_is_scored_is_planned_like_one_that_is_scored_once() {
    let tokens: Vec<u32> = (0..200).collect();
    let prefixes: Vec<&[u32]> = (70..=200).map(|len| &tokens[..len]).collect();
    let (every, once) = (batch(&prefixes), batch(&[&tokens]));
    assert_eq!((every.segments.len(), once.segments.len()), (131, 1));
    let plan = |batch| DevicePlan::new(batch, Checksum::Path);
    let (every, once) = (plan(&every), plan(&once));
    assert_eq!((every.tiles, every.pooled), (4, 131));
    // tiles and, behind those of the pooled rows, the only run
    assert_eq!(every.words[..4 * RECORD], once.words[..4 * RECORD]);
    assert_eq!(every.words[every.starts[2]..every.starts[3]], [0; RECORD]);
    let pooled = every.words[every.starts[1]..every.starts[2]].as_chunks::<RECORD>().0;
    assert_eq!(pooled[..2], [[0, 1, 69, 0], [1, 1, 70, 0]]);
}

#[test]
fn a_branch_is_joined_with_what_it_follows_and_with_nothing_else() {
    // a root with two children, of which the second comes first, and that has a child of its own
    let segments = [run(0..4, 0, None), run(4..6, 4, Some(0)), run(6..9, 6, Some(1)), run(9..12, 4, Some(0))];
    let (runs, run_of) = joined(&segments);
    assert_eq!(runs, [run(0..9, 0, None), run(9..12, 4, Some(0))]);
    assert_eq!(run_of, [0, 0, 0, 1]);
    // another conversation behind the last row of one is none of its
    let segments = [run(0..4, 0, None), run(4..8, 0, None)];
    assert_eq!(joined(&segments), (segments.to_vec(), vec![0, 1]));
}
