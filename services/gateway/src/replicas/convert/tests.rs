//! Messages become values, and what is not complete becomes a failure.

use score::{Partial, PieceId, Stamp, Tag, Tail};

use super::*;
use crate::core::Dispatch;

fn computed() -> wire::Results {
    let stamp = Some(wire::Stamp { generation: 1, epoch: 2, step: 3 });
    let computed = wire::Computed {
        piece: 4,
        attempt: 5,
        conversation: 6,
        tokens: 7,
        logits: vec![0.5, 1.5],
        checksums: vec![8, 9],
    };
    let ranks = (0..2).map(|rank| wire::RankStep { rank, stamp }).collect();
    wire::Results { ranks, computed: vec![computed], micros: 10 }
}

#[track_caller]
fn fails(spoil: impl Fn(&mut wire::Results), expected: &str) {
    let mut message = computed();
    spoil(&mut message);
    match &results(message, 1)[..] {
        [Answer { reply: Reply::Failed(problem), .. }] => assert_eq!(problem, expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_step_computed_is_read_for_each_rank() {
    let answers = results(computed(), 1);
    let [Answer { tag, conversation: 6, reply: Reply::Computed { ranks, partials, tokens: 7 } }] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(*tag, Tag { piece: PieceId(4), attempt: 5 });
    let stamp = Stamp { generation: 1, epoch: 2, step: 3 };
    assert_eq!(**ranks, [0, 1].map(|rank| RankStep { rank, stamp }));
    assert_eq!(partials.get(1), Some(Partial { values: &[1.5], checksum: 9 }));
    let mut several = computed();
    several.computed[0].logits = vec![0.5, 0.25, 1.5, 1.25];
    let answers = results(several, 2);
    let Reply::Computed { partials, .. } = &answers[0].reply else { panic!("{answers:?}") };
    assert_eq!(partials.get(1), Some(Partial { values: &[1.5, 1.25], checksum: 9 }));
}

#[test]
fn what_is_not_complete_is_a_failure() {
    fails(|message| message.computed[0].logits.truncate(1), "1 partial logits and 2 checksums, for 1 outputs each");
    fails(|message| message.computed[0].checksums.push(1), "2 partial logits and 3 checksums, for 1 outputs each");
    fails(|message| message.ranks.truncate(1), "partial logits of 2 ranks, and 1 ranks");
    fails(|message| message.ranks[1].stamp = None, "rank 1 names no step");
}

#[test]
fn a_rejection_says_why_or_declines() {
    let rejection =
        |problem: &str| wire::Rejection { piece: 1, attempt: 2, conversation: 3, problem: problem.to_owned() };
    let answers = rejections(wire::Rejections { rejections: vec![rejection(""), rejection("no memory")] });
    assert!(matches!(&answers[0].reply, Reply::Declined));
    assert!(matches!(&answers[1].reply, Reply::Failed(problem) if problem == "no memory"));
}

#[test]
fn a_piece_travels_with_its_tag_and_the_time_that_is_left() {
    let tag = Tag { piece: PieceId(1), attempt: 2 };
    let tails = vec![Tail { conversation: 4, ids: [3].into() }];
    let piece = score::Piece { tag, prefix: [1, 2].into(), tails, urgent: true };
    assert_eq!(piece.tokens(), 3);
    let (request_id, deadline) = (crate::core::RequestId(9), crate::core::Time::default());
    let dispatch = Dispatch { tokens: piece.tokens(), piece, request: request_id, deadline };
    let past = Instant::now();
    let expected = wire::Piece {
        piece: 1,
        attempt: 2,
        prefix: vec![1, 2],
        tails: vec![wire::Tail { conversation: 4, ids: vec![3] }],
        timeout_micros: 0,
        traceparent: "t".to_owned(),
        urgent: true,
    };
    let message = request(Outgoing::Piece(dispatch, past, "t".into()));
    assert_eq!(message.message, Some(Request::Piece(expected)));
    let message = request(Outgoing::Withdraw(tag));
    assert_eq!(message.message, Some(Request::Withdrawal(wire::Withdrawal { piece: 1, attempt: 2 })));
}
