//! The prefix tree of random sequences, and the count of tokens while it is being filled.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// Sequences over two tokens, some of them made from the beginning of an earlier one.
fn sequences() -> impl Strategy<Value = Vec<Arc<[u32]>>> {
    let tail = prop::collection::vec(0u32..2, 0..40);
    let parts = prop::collection::vec((any::<prop::sample::Index>(), 0usize..60, tail), 1..14);
    parts.prop_map(|parts| {
        let mut sequences: Vec<Arc<[u32]>> = vec![Arc::from([0; 24])];
        for (base, keep, tail) in parts {
            let base = base.get(&sequences);
            let sequence: Arc<[u32]> = base.iter().take(keep).copied().chain(tail).collect();
            if !sequence.is_empty() {
                sequences.push(sequence);
            }
        }
        sequences
    })
}

fn packer<'a>(sequences: impl IntoIterator<Item = &'a Arc<[u32]>>) -> Packer {
    let mut packer = Packer::default();
    for sequence in sequences {
        packer.push(Arc::clone(sequence));
    }
    packer
}

/// Tokens from 0 to `len`, so that no two counted sequences share anything but a common start.
fn counted(len: u32) -> Vec<u32> {
    (0..len).collect()
}

/// The tokens on the way from a root to the end of a segment.
fn path(batch: &PackedBatch, end: usize) -> Vec<u32> {
    let mut tokens = Vec::new();
    let mut next = Some(end);
    while let Some(number) = next {
        let segment = &batch.segments[number];
        tokens.splice(0..0, batch.tokens[segment.rows.clone()].iter().copied());
        next = segment.parent;
    }
    tokens
}

/// Packs sequences and checks all that holds for every batch.
fn check(sequences: &[Arc<[u32]>]) -> PackedBatch {
    let packer = packer(sequences);
    let batch = packer.pack();
    assert_eq!(packer.len(), sequences.len());
    assert_eq!(packer.tokens(), batch.tokens.len());
    assert_eq!(batch.ends.len(), sequences.len());
    for (sequence, &end) in sequences.iter().zip(&batch.ends) {
        assert_eq!(path(&batch, end), sequence[..]);
    }
    let mut row = 0;
    for (number, segment) in batch.segments.iter().enumerate() {
        assert!(!segment.rows.is_empty(), "segment {number} is empty");
        assert_eq!(segment.rows.start, row, "segment {number} does not begin where the one before it ends");
        row = segment.rows.end;
        let parent = segment.parent.map(|parent| {
            assert!(parent < number, "segment {number} comes before its parent");
            &batch.segments[parent]
        });
        assert_eq!(segment.position, parent.map_or(0, |parent| parent.position + parent.rows.len()));
    }
    assert_eq!(row, batch.tokens.len());
    batch
}

/// The distinct prefixes of all sequences, where only those with the same first 16 tokens know of each other.
fn distinct_prefixes(sequences: &[Arc<[u32]>]) -> usize {
    let (long, short): (Vec<_>, Vec<_>) = sequences.iter().partition(|sequence| sequence.len() >= SHORTEST_SHARE);
    let prefixes = |sequence: &Arc<[u32]>| {
        let sequence = sequence.to_vec();
        (1..=sequence.len()).map(move |len| (sequence[..SHORTEST_SHARE].to_vec(), sequence[..len].to_vec()))
    };
    let distinct: HashSet<_> = long.into_iter().flat_map(prefixes).collect();
    distinct.len() + short.into_iter().map(|sequence| sequence.len()).sum::<usize>()
}

proptest! {
    #[test]
    fn every_sequence_is_a_path_and_every_distinct_prefix_one_token(sequences in sequences()) {
        let batch = check(&sequences);
        prop_assert_eq!(batch.tokens.len(), distinct_prefixes(&sequences));
    }

    #[test]
    fn the_cost_is_known_before_the_push(sequences in sequences()) {
        let mut packer = Packer::default();
        for sequence in &sequences {
            let (before, cost) = (packer.tokens(), packer.cost(sequence));
            packer.push(Arc::clone(sequence));
            prop_assert_eq!(packer.tokens(), before + cost);
            prop_assert_eq!(packer.pack().tokens.len(), packer.tokens());
        }
    }

    #[test]
    fn the_order_of_pushes_changes_no_count(
        (sequences, shuffled) in sequences().prop_flat_map(|s| (Just(s.clone()), Just(s).prop_shuffle())),
    ) {
        prop_assert_eq!(check(&sequences).tokens, check(&shuffled).tokens);
    }

    #[test]
    fn pushing_everything_again_costs_nothing(sequences in sequences()) {
        let long: Vec<_> = sequences.into_iter().filter(|sequence| sequence.len() >= SHORTEST_SHARE).collect();
        let twice: Vec<_> = long.iter().chain(&long).cloned().collect();
        let batch = check(&twice);
        prop_assert_eq!(&batch.tokens, &check(&long).tokens);
        prop_assert_eq!(&batch.ends[..long.len()], &batch.ends[long.len()..]);
    }
}

#[test]
fn nothing_packs_to_nothing() {
    let packer = Packer::default();
    assert!(packer.is_empty());
    assert_eq!((packer.len(), packer.tokens(), packer.cost(&[1, 2, 3])), (0, 0, 3));
    assert_eq!(packer.pack(), PackedBatch { tokens: Vec::new(), segments: Vec::new(), ends: Vec::new() });
}

#[test]
fn a_groups_prompt_is_computed_once() {
    for responses in [1, 2, 8, 64] {
        let sequence = |response: u32| -> Arc<[u32]> { [counted(100), vec![1000 + response; 30]].concat().into() };
        let group: Vec<_> = (0..responses).map(sequence).collect();
        let batch = check(&group);
        assert_eq!(batch.tokens.len(), 100 + responses as usize * 30);
        assert_eq!(batch.segments.len(), if responses == 1 { 1 } else { 1 + responses as usize });
    }
}

#[test]
fn what_the_responses_share_is_computed_once_too() {
    let sequence = |tail: &[u32]| -> Arc<[u32]> { [counted(20), tail.to_vec()].concat().into() };
    // one shared token is enough below a root
    let batch = check(&[sequence(&[1, 2, 3]), sequence(&[1, 5]), sequence(&[9])]);
    assert_eq!(batch.tokens.len(), 20 + 1 + 2 + 1 + 1);
    assert_eq!(batch.segments.len(), 5);
}

#[test]
fn sixteen_tokens_are_a_share_and_fifteen_are_not() {
    for (shared, tokens, segments) in [(15, 50, 2), (16, 34, 3), (17, 33, 3)] {
        let sequence =
            |token: u32| -> Arc<[u32]> { [counted(shared), vec![token; 25 - shared as usize]].concat().into() };
        let batch = check(&[sequence(100), sequence(200)]);
        assert_eq!((batch.tokens.len(), batch.segments.len()), (tokens, segments), "{shared}");
        // a sequence that is all of the shared part
        let whole: Arc<[u32]> = counted(shared).into();
        let batch = check(&[sequence(100), whole]);
        let tokens = if shared < 16 { 25 + shared as usize } else { 25 };
        assert_eq!((batch.tokens.len(), batch.segments.len()), (tokens, 2), "{shared}");
    }
}

#[test]
fn a_prefix_of_another_sequence_ends_inside_it() {
    let (long, short): (Arc<[u32]>, Arc<[u32]>) = (counted(50).into(), counted(30).into());
    for order in [[&long, &short], [&short, &long]] {
        let batch = check(&order.map(Arc::clone));
        assert_eq!(batch.tokens.len(), 50);
        let lengths: Vec<_> = batch.segments.iter().map(|segment| segment.rows.len()).collect();
        assert_eq!(lengths, [30, 20]);
    }
}

#[test]
fn a_chain_of_thousands_of_prefixes_does_not_exhaust_the_stack() {
    let longest = counted(4000);
    let sequences: Vec<Arc<[u32]>> = (16..=4000).rev().map(|len| longest[..len].into()).collect();
    let batch = std::thread::Builder::new()
        .stack_size(128 << 10)
        .spawn(move || packer(&sequences).pack())
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(batch.tokens, longest);
    assert_eq!(batch.segments.len(), 3985);
    assert_eq!(batch.ends[0], 3984);
    assert_eq!(batch.segments[3984].position, 3999);
}

#[test]
fn what_is_not_shared_is_counted_for_each_sequence() {
    let sequence = |tail: &[u32]| -> Arc<[u32]> { (0..20).chain(tail.iter().copied()).collect() };
    let mut packer = Packer::default();
    for tail in [&[100, 101, 102][..], &[100, 200], &[300], &[300], &[]] {
        packer.push(sequence(tail));
    }
    packer.push((500..509).collect());
    assert_eq!(packer.pack().unshared(), [2, 1, 0, 0, 0, 9]);
}
