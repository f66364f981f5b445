//! How partial logits become a score, and replicas that cannot be had.

use super::*;

fn partial(logit: f32, checksum: u64) -> Vec<PartialLogit> {
    vec![PartialLogit { logit, checksum }]
}

#[test]
fn scores_are_summed_in_rank_order() {
    let ranks = [partial(1e8, 7), partial(1.0, 7), partial(-1e8, 7)];
    assert_eq!(add_up(&ranks, 0), Ok(0.0));
}

#[test]
fn a_score_is_refused_unless_all_ranks_agree() {
    assert_eq!(add_up(&[partial(1.0, 7), partial(1.0, 8)], 0), Err(Disagreement::Checksum(1)));
    assert_eq!(add_up(&[partial(1.0, 7), Vec::new()], 0), Err(Disagreement::Missing(1)));
    assert_eq!(add_up(&[partial(f32::NAN, 7)], 0), Err(Disagreement::NotFinite));
    assert_eq!(add_up(&[partial(f32::MAX, 7), partial(f32::MAX, 7)], 0), Err(Disagreement::NotFinite));
}
