//! Scores have the bits of a sum in rank order, and every disagreement has its name.

use proptest::prelude::*;

use super::*;

const EXPECTED: Expected = Expected { ranks: 3, outputs: 1, generation: 2, epoch: 9 };
const STAMP: Stamp = Stamp { generation: 2, epoch: 9, step: 41 };

/// A rank's contribution, with its values owned.
#[derive(Clone)]
struct Said {
    rank: usize,
    stamp: Stamp,
    values: Vec<f32>,
    checksum: u64,
}

fn said(logits: [f32; 3]) -> Vec<Said> {
    let of_rank = |(rank, &logit): (usize, &f32)| Said { rank, stamp: STAMP, values: vec![logit], checksum: 7 };
    logits.iter().enumerate().map(of_rank).collect()
}

fn sum(expected: Expected, said: &[Said]) -> Result<(Outputs, Stamp), Disagreement> {
    add_up(
        expected,
        said.iter().map(|it| {
            (RankStep { rank: it.rank, stamp: it.stamp }, Partial { values: &it.values, checksum: it.checksum })
        }),
    )
}

#[track_caller]
fn check(expected: Disagreement, spoil: impl Fn(&mut Vec<Said>)) {
    let mut spoilt = said([1.0, 2.0, 3.0]);
    spoil(&mut spoilt);
    assert_eq!(sum(EXPECTED, &spoilt), Err(expected));
}

#[test]
fn scores_are_summed_in_rank_order() {
    let (found, stamp) = sum(EXPECTED, &said([1e8, 1.0, -1e8])).unwrap();
    assert_eq!((found, stamp), (Outputs { score: 0.0, others: [].into() }, STAMP));
    let (zero, _) = sum(EXPECTED, &said([-0.0; 3])).unwrap();
    assert_eq!(zero.score.to_bits(), 0.0_f32.to_bits());
}

#[test]
fn each_output_is_a_sum_of_its_own() {
    let mut several = said([0.0; 3]);
    for (number, of_rank) in several.iter_mut().enumerate() {
        of_rank.values = vec![number as f32, 1e8, -0.5];
    }
    let expected = Expected { outputs: 3, ..EXPECTED };
    let (found, _) = sum(expected, &several).unwrap();
    assert_eq!(found.iter().collect::<Vec<_>>(), [3.0, 3e8, -1.5]);
    assert_eq!((found.score, &*found.others), (3.0, &[3e8, -1.5][..]));
    several[1].values[2] = f32::INFINITY;
    assert_eq!(sum(expected, &several), Err(Disagreement::NotFinite), "any of them");
    several[2].values.pop();
    assert_eq!(sum(expected, &several), Err(Disagreement::Outputs { rank: 2, found: 2, outputs: 3 }));
}

#[test]
fn a_head_that_is_not_linear_is_rank_0s_and_the_others_send_zeros() {
    assert_eq!(sum(EXPECTED, &said([0.1 + 0.2, 0.0, 0.0])).unwrap().0.score.to_bits(), (0.1f32 + 0.2).to_bits());
}

#[test]
fn every_disagreement_has_its_name() {
    check(Disagreement::Missing { rank: 0 }, Vec::clear);
    check(Disagreement::Missing { rank: 1 }, |said| said.truncate(1));
    check(Disagreement::Missing { rank: 1 }, |said| drop(said.remove(1)));
    check(Disagreement::Missing { rank: 1 }, |said| said[1].rank = 0);
    check(Disagreement::Missing { rank: 0 }, |said| said.rotate_left(1));
    check(Disagreement::TooMany { found: 4, ranks: 3 }, |said| said.push(said[0].clone()));
    check(Disagreement::TooMany { found: 4, ranks: 3 }, |said| said.push(Said { rank: 3, ..said[0].clone() }));
    check(Disagreement::Outputs { rank: 1, found: 0, outputs: 1 }, |said| said[1].values.clear());
    check(Disagreement::Outputs { rank: 0, found: 2, outputs: 1 }, |said| said[0].values.push(1.0));
    check(Disagreement::Checksum { rank: 2 }, |said| said[2].checksum = 8);
    check(Disagreement::Stamp { rank: 1 }, |said| said[1].stamp.step = 42);
    check(Disagreement::Stamp { rank: 2 }, |said| said[2].stamp.epoch = 8);
    check(Disagreement::NotFinite, |said| said[1].values[0] = f32::NAN);
    check(Disagreement::NotFinite, |said| said[0].values[0] = f32::INFINITY);
    check(Disagreement::NotFinite, |said| said.iter_mut().for_each(|it| it.values[0] = f32::MAX));
    let old = Stamp { epoch: 8, ..STAMP };
    let stale = Disagreement::Stale { found: old, expected: EXPECTED };
    check(stale, |said| said.iter_mut().for_each(|it| it.stamp.epoch = 8));
    // rows that differ matter more than what came of them
    check(Disagreement::Checksum { rank: 1 }, |said| {
        said[0].values[0] = f32::NAN;
        said[1].checksum = 8;
    });
    assert_eq!(sum(Expected { ranks: 0, ..EXPECTED }, &[]), Err(Disagreement::Missing { rank: 0 }));
}

proptest! {
    #[test]
    fn a_score_is_the_sum_from_zero_or_nothing(logits in prop::array::uniform3(any::<f32>())) {
        let expected = 0.0 + logits[0] + logits[1] + logits[2];
        let found = sum(EXPECTED, &said(logits));
        let bits = found.ok().map(|(outputs, _)| outputs.score.to_bits());
        prop_assert_eq!(bits, expected.is_finite().then(|| expected.to_bits()));
    }
}
