//! Scores have the bits of a sum in rank order, and every disagreement has its name.

use proptest::prelude::*;

use super::*;

const EXPECTED: Expected = Expected { ranks: 3, generation: 2, epoch: 9 };

fn partials(logits: [f32; 3]) -> Vec<Partial> {
    let stamp = Stamp { generation: 2, epoch: 9, step: 41 };
    logits.iter().enumerate().map(|(rank, &logit)| Partial { rank, stamp, logit, checksum: 7 }).collect()
}

#[track_caller]
fn check(expected: Disagreement, spoil: impl Fn(&mut Vec<Partial>)) {
    let mut spoilt = partials([1.0, 2.0, 3.0]);
    spoil(&mut spoilt);
    assert_eq!(add_up(EXPECTED, &spoilt), Err(expected));
}

#[test]
fn scores_are_summed_in_rank_order() {
    let stamp = Stamp { generation: 2, epoch: 9, step: 41 };
    assert_eq!(add_up(EXPECTED, &partials([1e8, 1.0, -1e8])), Ok((0.0, stamp)));
    let mut shuffled = partials([1e8, 1.0, -1e8]);
    shuffled.rotate_left(1);
    assert_eq!(add_up(EXPECTED, &shuffled), Ok((0.0, stamp)));
    let (zero, _) = add_up(EXPECTED, &partials([-0.0; 3])).unwrap();
    assert_eq!(zero.to_bits(), 0.0_f32.to_bits());
}

#[test]
fn every_disagreement_has_its_name() {
    check(Disagreement::Missing { rank: 0 }, Vec::clear);
    check(Disagreement::Missing { rank: 1 }, |partials| partials.truncate(1));
    check(Disagreement::Missing { rank: 1 }, |partials| partials[1].rank = 0);
    check(Disagreement::TooMany { found: 4, ranks: 3 }, |partials| partials.push(partials[0]));
    check(Disagreement::TooMany { found: 4, ranks: 3 }, |partials| partials.push(Partial { rank: 3, ..partials[0] }));
    check(Disagreement::Checksum { rank: 2 }, |partials| partials[2].checksum = 8);
    check(Disagreement::Stamp { rank: 1 }, |partials| partials[1].stamp.step = 42);
    check(Disagreement::Stamp { rank: 2 }, |partials| partials[2].stamp.epoch = 8);
    check(Disagreement::NotFinite, |partials| partials[1].logit = f32::NAN);
    check(Disagreement::NotFinite, |partials| partials[0].logit = f32::INFINITY);
    check(Disagreement::NotFinite, |partials| partials.iter_mut().for_each(|partial| partial.logit = f32::MAX));
    let old = Stamp { generation: 2, epoch: 8, step: 41 };
    let stale = Disagreement::Stale { found: old, expected: EXPECTED };
    check(stale, |partials| partials.iter_mut().for_each(|partial| partial.stamp.epoch = 8));
    // rows that differ matter more than what came of them
    check(Disagreement::Checksum { rank: 1 }, |partials| {
        partials[0].logit = f32::NAN;
        partials[1].checksum = 8;
    });
    assert_eq!(add_up(Expected { ranks: 0, ..EXPECTED }, &[]), Err(Disagreement::Missing { rank: 0 }));
}

proptest! {
    #[test]
    fn a_score_is_the_sum_from_zero_or_nothing(logits in prop::array::uniform3(any::<f32>())) {
        let sum = 0.0 + logits[0] + logits[1] + logits[2];
        let found = add_up(EXPECTED, &partials(logits));
        prop_assert_eq!(found.ok().map(|(score, _)| score.to_bits()), sum.is_finite().then(|| sum.to_bits()));
    }
}
