//! The whole gateway, event by event.

use std::num::NonZeroU32;

use super::*;
use score::Versions;
use score::{Outputs, Partials, RankStep, Stamp, Tag, Tail};

use crate::core::{Dispatch, Item, LaneId, LinkId, News, Outcome, Rank, Record, Scope, Version, Welcome};

const STEP: u64 = 100;

fn at(millis: u64) -> Time {
    Time::new(Duration::from_millis(millis))
}

fn version() -> Version {
    Version { generation: 1, fingerprint: "f".into() }
}

fn request(id: u64, deadline: u64, items: &[Item]) -> Request {
    let (id, lane, tenant) = (RequestId(id), LaneId(id), TenantId::new("a"));
    Request { id, tenant, weight: NonZeroU32::MIN, lane, deadline: at(deadline), items: items.to_vec() }
}

/// A conversation of so many tokens.
fn conversation(tokens: usize) -> Item {
    Item::new(&[vec![1; tokens]], 0)
}

/// A gateway and these replicas, each with credits for two steps.
fn gateway(replicas: u64) -> Gateway {
    let settings = Settings {
        limits: Limits { tokens: 10_000, conversations: 1_000, longest: STEP },
        routing: Routing {
            attempts: 3,
            stalled_after: Duration::from_secs(1),
            failures: 2,
            pause: Duration::from_secs(5),
            longest_pause: Duration::from_secs(5),
            prompts: 10,
        },
        step_tokens: STEP,
    };
    let (name, model, vocab) = ("g".into(), "m".into(), 1000);
    let mut gateway = Gateway::new(
        settings,
        Terms { gateway: name, model, vocab, longest: STEP, protocol: Versions { lowest: 1, highest: 1 } },
    );
    for replica in 0..replicas {
        join(&mut gateway, replica, 1);
    }
    gateway
}

fn link(link: u64) -> LinkId {
    LinkId(link)
}

/// Names of replicas in the order in which equals are chosen.
fn name(replica: u64) -> String {
    let mut names: Vec<String> = (0..3).map(|name| format!("replica-{name}")).collect();
    names.sort_by_key(|name| ReplicaId::of(name));
    names[replica as usize].clone()
}

/// A replica begins a life and is given a link, numbered in order; what is done beside that.
fn join(gateway: &mut Gateway, replica: u64, epoch: u64) -> Vec<Action> {
    let (replica, model, address) = (name(replica), "m".to_owned(), "a".to_owned());
    let record = Record { replica, rank: 0, model, state: Rank::Serving, address, ranks: 2, epoch };
    let mut actions = gateway.handle(at(0), Event::Registry(News::Written(record)));
    let dialed =
        actions.iter().find_map(|action| if let Action::Dial { link, .. } = action { Some(*link) } else { None });
    if let Some(link) = dialed {
        let (protocol, ranks, step_tokens, vocab) = (1, 2, STEP, 1000);
        let welcome = Welcome { protocol, epoch, version: version(), ranks, outputs: 1, step_tokens, vocab };
        actions.extend(gateway.handle(at(0), Event::Welcomed { link, welcome }));
        actions.extend(gateway.handle(at(0), Event::Granted { link, tokens: 2 * STEP as i64 }));
    }
    actions.retain(|action| !matches!(action, Action::Dial { .. } | Action::HangUp { .. } | Action::Serving(_)));
    actions
}

/// What is sent, and nothing else is done.
#[track_caller]
fn sent(actions: Vec<Action>) -> Vec<(u64, Dispatch)> {
    let send = |action| match action {
        Action::Send { link, dispatch } => Some((link.0, dispatch)),
        Action::Serving(_) => None,
        other => panic!("not sent: {other:?}"),
    };
    actions.into_iter().filter_map(send).collect()
}

#[track_caller]
fn sent_one(actions: Vec<Action>) -> (u64, Tag) {
    match &sent(actions)[..] {
        [(replica, dispatch)] => (*replica, dispatch.piece.tag),
        other => panic!("not one piece: {other:?}"),
    }
}

/// The only thing done is an answer.
#[track_caller]
fn answered(actions: Vec<Action>) -> Result<f32, Failure> {
    match <[Action; 1]>::try_from(actions) {
        Ok([Action::Answer(Outcome { result, .. })]) => result.map(|score| score.outputs.score),
        other => panic!("not one answer: {other:?}"),
    }
}

fn computed(epoch: u64, logits: [f32; 2], checksums: [u64; 2]) -> Reply {
    let stamp = Stamp { generation: 1, epoch, step: 5 };
    let ranks = [0, 1].map(|rank| RankStep { rank, stamp });
    let partials = Partials::new(1, logits.to_vec(), checksums.to_vec()).unwrap();
    Reply::Computed { ranks: ranks.into(), partials, tokens: 4 }
}

fn answer(gateway: &mut Gateway, at_link: u64, tag: Tag, reply: Reply) -> Vec<Action> {
    let answers = vec![Answer { tag, conversation: 0, reply }];
    gateway.handle(at(1), Event::Answered { link: link(at_link), answers })
}

fn good() -> Reply {
    computed(1, [1.0, 2.0], [3, 3])
}

fn different_rows() -> Reply {
    computed(1, [1.0, 2.0], [3, 4])
}

#[test]
fn a_conversation_goes_out_and_comes_back_as_a_score() {
    let mut gateway = gateway(1);
    let (replica, tag) = sent_one(gateway.handle(at(0), Event::Admit(request(0, 100, &[conversation(10)]))));
    assert_eq!((replica, tag), (0, Tag { piece: PieceId(0), attempt: 1 }));
    let actions = answer(&mut gateway, 0, tag, good());
    let [Action::Answer(outcome)] = &actions[..] else { panic!("{actions:?}") };
    let stamp = Stamp { generation: 1, epoch: 1, step: 5 };
    let outputs = Outputs { score: 3.0, others: [].into() };
    let score = Score { outputs, stamp, fingerprint: "f".into(), tokens: 4, replica: ReplicaId::of(&name(0)) };
    assert_eq!(outcome.result, Ok(score));
    assert_eq!((outcome.queued, outcome.computed), (Duration::ZERO, Duration::from_millis(1)));
    // a second answer is heard by nobody
    assert!(answer(&mut gateway, 0, tag, good()).is_empty());
    assert_eq!((gateway.stats().discarded, gateway.stats().requests), (1, 0));
}

#[test]
fn nothing_is_sent_without_credit_and_a_group_falls_into_pieces() {
    let mut gateway = gateway(0);
    let group: Vec<Vec<u32>> = (0..10).map(|end| [vec![7; 40], vec![end; 20]].concat()).collect();
    assert!(gateway.handle(at(0), Event::Admit(request(0, 100, &[Item::new(&group, 40)]))).is_empty());
    assert_eq!((gateway.stats().waiting_pieces, gateway.stats().waiting_tokens), (4, 4 * 40 + 200));
    let sent = sent(join(&mut gateway, 0, 1));
    // two steps of credit: two whole pieces; the third would go if half a step were free
    let pieces: Vec<_> = sent.iter().map(|(_, it)| (it.tokens, it.piece.prefix.len(), it.piece.tails.len())).collect();
    assert_eq!(pieces, [(100, 40, 3), (100, 40, 3)]);
    assert_eq!(sent[1].1.piece.tails[0], Tail { conversation: 3, ids: vec![3; 20].into() });
    assert_eq!((gateway.stats().credits, gateway.stats().sent_tokens), (0, 200));
}

#[test]
fn what_a_lost_replica_had_goes_to_another_and_a_late_answer_is_not_heard() {
    let mut gateway = gateway(2);
    let (replica, first) = sent_one(gateway.handle(at(0), Event::Admit(request(0, 100, &[conversation(10)]))));
    let left = Event::Ended { link: link(replica), why: NoLink::Closed };
    let (other, second) = sent_one(gateway.handle(at(1), left.clone()));
    assert_eq!((other, second), (1, Tag { attempt: 2, ..first }));
    assert!(gateway.handle(at(1), left).is_empty());
    assert!(answer(&mut gateway, replica, first, good()).is_empty());
    assert!(answer(&mut gateway, other, first, good()).is_empty(), "that was the first attempt");
    assert!(join(&mut gateway, 2, 1).is_empty());
    assert!(answer(&mut gateway, 2, second, good()).is_empty(), "it was not sent there");
    assert_eq!(answered(answer(&mut gateway, other, second, good())), Ok(3.0));
    assert_eq!((gateway.stats().retried, gateway.stats().discarded), (1, 3));
}

#[test]
fn a_replica_in_a_new_life_has_lost_what_it_had() {
    let mut gateway = gateway(1);
    let (_, first) = sent_one(gateway.handle(at(0), Event::Admit(request(0, 100, &[conversation(10)]))));
    let (next, second) = sent_one(join(&mut gateway, 0, 2));
    assert_eq!(next, 1);
    assert!(join(&mut gateway, 0, 1).is_empty(), "that life is over");
    assert!(answer(&mut gateway, 0, first, good()).is_empty());
    let answers = vec![Answer { tag: second, conversation: 0, reply: good() }];
    let stale = gateway.handle(at(1), Event::Answered { link: link(1), answers });
    // partial logits of an old epoch in the new one's answer: not a score; it waits for the replica to recover
    assert!(stale.is_empty());
    assert_eq!((gateway.stats().waiting_pieces, gateway.stats().retried), (1, 2));
}

#[test]
fn ranks_that_disagree_are_asked_elsewhere_and_at_last_the_answer_says_so() {
    let mut gateway = gateway(3);
    let (mut replica, mut tag) = sent_one(gateway.handle(at(0), Event::Admit(request(0, 100, &[conversation(10)]))));
    for _ in 0..2 {
        let (other, again) = sent_one(answer(&mut gateway, replica, tag, different_rows()));
        assert_ne!(other, replica);
        (replica, tag) = (other, again);
    }
    let failure = Failure::Disagreement(Disagreement::Checksum { rank: 1 });
    assert_eq!(answered(answer(&mut gateway, replica, tag, different_rows())), Err(failure));
    assert_eq!(gateway.stats().requests, 0);
}

#[test]
fn a_replica_that_keeps_failing_gets_nothing_for_a_while() {
    let mut gateway = gateway(1);
    let (_, mut tag) = sent_one(gateway.handle(at(0), Event::Admit(request(0, 9_000, &[conversation(10)]))));
    tag = sent_one(answer(&mut gateway, 0, tag, Reply::Failed("no memory".to_owned()))).1;
    assert!(answer(&mut gateway, 0, tag, different_rows()).is_empty());
    assert_eq!(gateway.wakes_at(), Some(at(5_001)));
    tag = sent_one(gateway.handle(at(5_001), Event::Tick)).1;
    assert_eq!(answered(answer(&mut gateway, 0, tag, good())), Ok(3.0));
}

#[test]
fn a_score_that_is_not_finite_gets_a_second_opinion() {
    let nan = || computed(1, [f32::NAN, 1.0], [3, 3]);
    let mut gateway = gateway(2);
    let (replica, tag) = sent_one(gateway.handle(at(0), Event::Admit(request(0, 100, &[conversation(10)]))));
    let (other, tag) = sent_one(answer(&mut gateway, replica, tag, nan()));
    assert_ne!(other, replica);
    assert_eq!(answered(answer(&mut gateway, other, tag, nan())), Err(Disagreement::NotFinite.into()));
    // where the others can compute it, the replica is to blame
    for id in 1..=2 {
        let (replica, tag) = sent_one(gateway.handle(at(1), Event::Admit(request(id, 100, &[conversation(60)]))));
        assert_eq!(replica, 0);
        let (other, tag) = sent_one(answer(&mut gateway, replica, tag, nan()));
        assert_eq!(answered(answer(&mut gateway, other, tag, good())), Ok(3.0));
        let grant = Event::Granted { link: link(0), tokens: 200 };
        assert!(gateway.handle(at(1), grant).is_empty());
    }
    let (replica, _) = sent_one(gateway.handle(at(1), Event::Admit(request(3, 100, &[conversation(10)]))));
    assert_eq!(replica, 1);
}

#[test]
fn siblings_of_what_fails_keep_their_scores() {
    let mut gateway = gateway(1);
    let group: Vec<Vec<u32>> = (0..3).map(|end| [vec![7; 20], vec![end; 5]].concat()).collect();
    let (_, tag) = sent_one(gateway.handle(at(0), Event::Admit(request(0, 100, &[Item::new(&group, 20)]))));
    let replies = [good(), different_rows(), good()];
    let answers = replies.into_iter().enumerate().map(|(conversation, reply)| Answer { tag, conversation, reply });
    let event = Event::Answered { link: link(0), answers: answers.collect() };
    let mut actions = gateway.handle(at(1), event);
    let (_, dispatch) = sent(actions.split_off(2)).remove(0);
    assert!(actions.iter().all(|action| matches!(action, Action::Answer(Outcome { result: Ok(_), .. }))));
    assert_eq!(dispatch.piece.tails, [Tail { conversation: 1, ids: vec![1; 5].into() }]);
    assert_eq!((dispatch.tokens, gateway.stats().conversations), (25, 1));
}

#[test]
fn a_replica_says_one_thing_about_a_conversation() {
    let mut gateway = gateway(1);
    let group: Vec<Vec<u32>> = (0..2).map(|end| [vec![7; 20], vec![end; 5]].concat()).collect();
    let (_, tag) = sent_one(gateway.handle(at(0), Event::Admit(request(0, 100, &[Item::new(&group, 20)]))));
    assert!(answer(&mut gateway, 0, tag, different_rows()).is_empty());
    assert!(answer(&mut gateway, 0, tag, good()).is_empty(), "it has failed this time");
    assert_eq!((gateway.stats().discarded, gateway.stats().conversations), (1, 2));
}

#[test]
fn who_declines_gets_no_more_and_finishes_the_rest() {
    let mut gateway = gateway(1);
    let (_, first) = sent_one(gateway.handle(at(0), Event::Admit(request(0, 100, &[conversation(10)]))));
    let (_, second) = sent_one(gateway.handle(at(0), Event::Admit(request(1, 100, &[conversation(10)]))));
    assert!(answer(&mut gateway, 0, second, Reply::Declined).is_empty());
    assert_eq!(answered(answer(&mut gateway, 0, first, good())), Ok(3.0));
    assert_eq!(sent_one(join(&mut gateway, 1, 1)), (1, Tag { attempt: 2, ..second }));
}

#[test]
fn whoever_goes_away_frees_the_place_at_once() {
    let mut gateway = gateway(1);
    let (_, tag) = sent_one(gateway.handle(at(0), Event::Admit(request(0, 100, &[conversation(90)]))));
    sent_one(gateway.handle(at(0), Event::Admit(request(1, 100, &[conversation(90)]))));
    assert!(gateway.handle(at(0), Event::Admit(request(2, 100, &[conversation(90)]))).is_empty());
    assert!(gateway.handle(at(0), Event::Cancel(RequestId(2))).is_empty());
    let actions = gateway.handle(at(0), Event::Cancel(RequestId(0)));
    assert!(matches!(actions[..], [Action::Withdraw { tag: withdrawn, .. }] if withdrawn == tag), "{actions:?}");
    assert!(gateway.handle(at(0), Event::Cancel(RequestId(0))).is_empty());
    let stats = gateway.stats();
    assert_eq!((stats.requests, stats.tokens, stats.waiting_tokens, stats.sent_tokens), (1, 90, 0, 90));
    assert!(answer(&mut gateway, 0, tag, good()).is_empty());
}

#[test]
fn deadlines_pass_in_the_queue_and_on_the_way() {
    let mut gateway = gateway(1);
    let flood = (0..3).map(|id| request(id, 50 + id, &[conversation(90)]));
    let actions: Vec<_> = flood.flat_map(|request| gateway.handle(at(0), Event::Admit(request))).collect();
    assert_eq!(sent(actions).len(), 2);
    assert_eq!(gateway.wakes_at(), Some(at(50)));
    let actions = gateway.handle(at(52), Event::Tick);
    let late =
        |action: &&Action| matches!(action, Action::Answer(Outcome { result: Err(Failure::DeadlineExceeded), .. }));
    assert_eq!(actions.iter().filter(late).count(), 3);
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::Withdraw { .. })).count(), 2);
    assert_eq!((gateway.stats().requests, gateway.wakes_at()), (0, None));
}

#[test]
fn a_replica_that_does_nothing_is_given_up() {
    let mut gateway = gateway(2);
    let (hung, _) = sent_one(gateway.handle(at(0), Event::Admit(request(0, 9_000, &[conversation(10)]))));
    assert_eq!(gateway.wakes_at(), Some(at(1_000)));
    let mut actions = gateway.handle(at(1_000), Event::Tick);
    let disconnect = actions.remove(0);
    assert!(matches!(disconnect, Action::HangUp { link } if link.0 == hung));
    actions.retain(|action| matches!(action, Action::Send { .. }));
    assert_eq!(sent_one(actions).0, 1 - hung);
}

#[test]
fn what_may_not_come_in_is_told_why() {
    let mut gateway = gateway(0);
    let refusal = |gateway: &mut Gateway, request| match &gateway.handle(at(10), Event::Admit(request))[..] {
        [] => None,
        [Action::Refuse { refusal, .. }] => Some(*refusal),
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(&mut gateway, request(0, 100, &[conversation(10)])), None);
    assert_eq!(refusal(&mut gateway, request(0, 100, &[conversation(10)])), Some(Refusal::Duplicate));
    assert_eq!(refusal(&mut gateway, request(1, 100, &[])), Some(Refusal::Empty { item: 0 }));
    let long = Refusal::TooLong { item: 0, tokens: 101, limit: 100 };
    assert_eq!(refusal(&mut gateway, request(1, 100, &[conversation(101)])), Some(long));
    let past = Refusal::Deadline { left: Duration::ZERO, wait: Duration::ZERO, retry_after: None };
    assert_eq!(refusal(&mut gateway, request(1, 10, &[conversation(1)])), Some(past));
    let many = vec![conversation(1); 501];
    let large = Refusal::TooLarge { tokens: 501, conversations: 501 };
    assert_eq!(refusal(&mut gateway, request(1, 100, &many)), Some(large));
}

#[test]
fn a_million_tiny_items_cannot_exhaust_the_memory() {
    let mut gateway = gateway(0);
    let mut refused = 0;
    for id in 0..1_000_000 {
        let actions = gateway.handle(at(0), Event::Admit(request(id, 100, &[conversation(1)])));
        let full = Refusal::Full { scope: Scope::Tenant, retry_after: Duration::from_secs(1) };
        refused += actions.iter().filter(|it| matches!(it, Action::Refuse { refusal, .. } if *refusal == full)).count();
    }
    assert_eq!((refused, gateway.stats().conversations), (999_500, 500));
}
