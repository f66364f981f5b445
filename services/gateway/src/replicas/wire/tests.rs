//! Messages become values, and what is not complete becomes a failure.

use super::*;

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
    match &results(message)[..] {
        [Answer { reply: Reply::Failed(problem), .. }] => assert_eq!(problem, expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_step_computed_is_read_for_each_rank() {
    let answers = results(computed());
    let [Answer { tag, conversation: 6, reply: Reply::Computed { partials, tokens: 7 } }] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(*tag, Tag { piece: PieceId(4), attempt: 5 });
    let stamp = Stamp { generation: 1, epoch: 2, step: 3 };
    let second = Partial { rank: 1, stamp, logit: 1.5, checksum: 9 };
    assert_eq!(partials[..], [Partial { rank: 0, stamp, logit: 0.5, checksum: 8 }, second]);
}

#[test]
fn what_is_not_complete_is_a_failure() {
    fails(|message| message.computed[0].logits.truncate(1), "1 partial logits and 2 checksums of 2 ranks");
    fails(|message| message.computed[0].checksums.push(1), "2 partial logits and 3 checksums of 2 ranks");
    fails(|message| message.ranks.truncate(1), "2 partial logits and 2 checksums of 1 ranks");
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
    let dispatch = Dispatch {
        tag,
        request: crate::core::RequestId(9),
        deadline: crate::core::Time::default(),
        tokens: 3,
        urgent: true,
        prefix: [1, 2].into(),
        conversations: vec![(4, [3].into())],
    };
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
