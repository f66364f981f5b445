//! Replicas come, go, misbehave and change; clients get right scores or the reason why not.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use discovery::{Incarnation, Key};
use proto::Message as _;
use proto::shard::v1 as wire;
use proto::v1::{ReplicaState, Status};
use tokio::time::sleep;

use super::cluster::*;
use super::fake::{Conduct, score};
use crate::ServiceOptions;

const SHORT: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_a_dying_replica_had_is_computed_by_another() {
    let (cluster, fakes) = Cluster::start(&["a", "b"]).await;
    fakes[1].set(Conduct::Hold);
    let mut client = cluster.client.clone();
    let items = (0..20).map(|id| ids(&[id, 2, 3])).collect();
    let asks = tokio::spawn(async move {
        client.score(proto::v1::ScoreRequest { items, options: None }).await.unwrap().into_inner().items
    });
    until(|| fakes[0].pieces() + fakes[1].pieces() == 20).await;
    let held = fakes[1].pieces();
    assert!(held > 0 && cluster.held().await as usize >= held);
    fakes[1].cut();
    let items = asks.await.unwrap();
    assert!(fakes[0].pieces() >= 20);
    for (id, item) in (0..).zip(items) {
        assert_eq!(item.results[0].score, Some(score(&[id, 2, 3])));
    }
}

#[tokio::test]
async fn a_replica_that_dies_of_every_piece_costs_nobody_a_score() {
    let (cluster, fakes) = Cluster::start(&["a", "b"]).await;
    fakes[0].set(Conduct::Die);
    for id in 0..10 {
        assert_eq!(cluster.score(vec![ids(&[id, 2])]).await.unwrap()[0].score, Some(score(&[id, 2])));
    }
    assert!(fakes[0].pieces() > 0);
}

#[tokio::test]
async fn a_line_that_broke_is_opened_again() {
    let (cluster, fakes) = Cluster::start(&["a"]).await;
    for lines in 2..5 {
        fakes[0].cut();
        until(|| fakes[0].attached() == lines).await;
    }
    cluster.until_state("a", ReplicaState::Ready).await;
    assert!(cluster.score(vec![text("a")]).await.unwrap()[0].score.is_some());
}

#[tokio::test]
async fn without_a_replica_an_answer_says_why() {
    let (cluster, _fakes) = Cluster::start(&[]).await;
    let (status, why) = cluster.fails(SHORT).await;
    assert_eq!(status, Status::Unavailable);
    assert!(why.ends_with("no replica of the model is there"), "{why}");
    let mut fakes = Vec::new();
    for name in ["a", "b"] {
        let mut fake = cluster.fake(name).await;
        *fake.state.text_digest.lock().unwrap() = "other".to_owned();
        fake.announce().await;
        fakes.push(fake);
    }
    cluster.until_reason("a", "refuses this gateway: another tokenizer").await;
    cluster.until_reason("b", "refuses this gateway: another tokenizer").await;
    assert!(!cluster.observer.is_ready());
    let (status, why) = cluster.fails(SHORT).await;
    assert_eq!(status, Status::Unavailable);
    assert!(why.contains("no replica of the model is ready: 2 of them"), "{why}");
    // the right one is used as soon as it is there
    *fakes[0].state.text_digest.lock().unwrap() = super::fake::DIGEST.to_owned();
    cluster.observer.until(true).await;
    assert!(cluster.score(vec![text("a")]).await.unwrap()[0].score.is_some());
}

#[tokio::test]
async fn what_is_no_score_is_never_one() {
    let (cluster, fakes) = Cluster::start(&["a"]).await;
    for (conduct, attempts, expected) in [
        (Conduct::OtherRows, 3, "ranks 0 and 1 computed different rows"),
        (Conduct::NotFinite, 2, "the score is not a finite number"),
        (Conduct::NoStamp, 3, "the replica failed: rank 1 names no step"),
        (Conduct::OneLogit, 3, "the replica failed: 1 partial logits and 2 checksums, for 1 outputs each"),
        (Conduct::Fail, 3, "the replica failed: no memory"),
    ] {
        fakes[0].set(conduct);
        let before = fakes[0].pieces();
        assert_eq!(cluster.fails(LONG).await, (Status::Internal, expected.to_owned()));
        assert_eq!(fakes[0].pieces() - before, attempts, "{conduct:?}");
    }
    fakes[0].set(Conduct::Answer);
    assert!(cluster.score(vec![text("a")]).await.unwrap()[0].score.is_some());
}

#[tokio::test]
async fn who_does_not_keep_to_the_protocol_is_hung_up_on() {
    let (cluster, fakes) = Cluster::start(&["a"]).await;
    fakes[0].set(Conduct::Nonsense);
    let (status, why) = cluster.fails(LONG).await;
    assert_eq!(status, Status::Unavailable, "{why}");
    assert_eq!((fakes[0].attached() >= 3, fakes[0].pieces()), (true, 3));
}

#[tokio::test]
async fn one_version_is_served_at_a_time() {
    let (cluster, _fakes) = Cluster::start(&["a"]).await;
    let mut others = Vec::new();
    for name in ["b", "c"] {
        let mut fake = cluster.fake(name).await;
        *fake.state.fingerprint.lock().unwrap() = "new".to_owned();
        fake.state.generation.store(4, SeqCst);
        fake.announce().await;
        if name == "b" {
            cluster.until_state("b", ReplicaState::Standby).await;
            let results = cluster.score(vec![text("a"); 10]).await.unwrap();
            assert!(results.iter().all(|result| (&*result.fingerprint, result.generation) == ("fingerprint", 3)));
            assert_eq!(fake.pieces(), 0);
        }
        others.push(fake);
    }
    cluster.until_state("a", ReplicaState::Standby).await;
    let results = cluster.score(vec![text("a"); 10]).await.unwrap();
    assert!(results.iter().all(|result| (&*result.fingerprint, result.generation) == ("new", 4)));
    let model = &cluster.observer.status().await.models[0];
    assert_eq!((model.replicas_ready, model.replicas_standby), (2, 1));
}

#[tokio::test]
async fn a_lease_that_ends_breaks_no_line() {
    let (cluster, mut fakes) = Cluster::start(&["a"]).await;
    fakes[0].forget().await;
    cluster.until(|replicas, _| replicas[0].ranks.is_empty()).await;
    assert!(cluster.score(vec![text("a")]).await.unwrap()[0].score.is_some());
    cluster.memory.break_watches();
    fakes[0].announce().await;
    cluster.until(|replicas, _| !replicas[0].ranks.is_empty()).await;
    cluster.memory.break_watches();
    sleep(Duration::from_millis(50)).await;
    assert_eq!((fakes[0].attached(), cluster.observer.is_ready()), (1, true));
    // but without a record a line that breaks is not opened again
    fakes[0].forget().await;
    cluster.until(|replicas, _| replicas[0].ranks.is_empty()).await;
    fakes[0].cut();
    cluster.until(|replicas, ready| replicas.is_empty() && ready == 0).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(fakes[0].attached(), 1);
    fakes[0].announce().await;
    cluster.until_state("a", ReplicaState::Ready).await;
}

#[tokio::test]
async fn a_newer_epoch_replaces_the_line_and_an_older_one_does_not() {
    let (cluster, mut fakes) = Cluster::start(&["a"]).await;
    fakes[0].set(Conduct::Hold);
    let mut client = cluster.client.clone();
    let request = proto::v1::ScoreRequest { items: vec![ids(&[1, 2])], options: None };
    let asks = tokio::spawn(async move { client.score(request).await.unwrap().into_inner() });
    until(|| fakes[0].pieces() == 1).await;
    fakes[0].set(Conduct::Answer);
    fakes[0].open(5).await;
    assert_eq!(asks.await.unwrap().items[0].results[0].score, Some(score(&[1, 2])));
    assert_eq!(fakes[0].attached(), 2);
    fakes[0].open(4).await;
    sleep(Duration::from_millis(50)).await;
    assert_eq!(fakes[0].attached(), 2);
    assert!(cluster.score(vec![text("a")]).await.unwrap()[0].score.is_some());
    // the record says 6 and the leader is in another epoch
    fakes[0].open(6).await;
    cluster.until(|replicas, ready| replicas[0].epoch == 6 && ready == 1).await;
    fakes[0].state.epoch.store(7, SeqCst);
    fakes[0].cut();
    cluster.until_reason("a", "is not suited: it is in epoch 7, not 6").await;
}

#[tokio::test]
async fn who_is_about_to_leave_gets_no_more_and_answers_what_it_has() {
    let (cluster, fakes) = Cluster::start(&["a", "b"]).await;
    fakes[0].say(&wire::attach_response::Message::Draining(wire::Draining {}));
    cluster.until_state("a", ReplicaState::Draining).await;
    let results = cluster.score((0..10).map(|id| ids(&[id])).collect()).await.unwrap();
    assert!(results.iter().all(|result| result.score.is_some()));
    assert_eq!((fakes[0].pieces(), fakes[1].pieces()), (0, 10));
    // one that only declines is not asked again either
    fakes[1].set(Conduct::Decline);
    let (status, why) = cluster.fails(SHORT).await;
    assert_eq!((status, fakes[1].pieces()), (Status::DeadlineExceeded, 11), "{why}");
}

#[tokio::test]
async fn neighbouring_protocols_talk_and_others_do_not() {
    let options = ServiceOptions { protocol: score::Versions { lowest: 2, highest: 3 }, ..options() };
    let (cluster, _fakes) = Cluster::with(options, &[]).await;
    let (mut old, mut next) = (cluster.fake("old").await, cluster.fake("next").await);
    next.state.protocol.store(2, SeqCst);
    old.announce().await;
    next.announce().await;
    cluster.until_state("next", ReplicaState::Ready).await;
    cluster.until_reason("old", "refuses this gateway: no common version").await;
}

#[tokio::test]
async fn records_that_make_no_sense_are_ignored() {
    let (cluster, _fakes) = Cluster::start(&["a"]).await;
    let registry = cluster.memory.registry();
    let claim = |key: &str, value: Vec<u8>| {
        let (registry, key) = (registry.clone(), Key::new(key).unwrap());
        async move { registry.claim(&[key], Incarnation::random(), &value).await.unwrap() }
    };
    let _claims = [
        claim("replicas/b/ranks/0", b"\xff\xff".to_vec()).await,
        claim("replicas/c/ranks/x", b"\xff".to_vec()).await,
        claim("replicas/a/epoch", wire::EpochRecord { address: "h".to_owned() }.encode_to_vec()).await,
        claim("replicas", Vec::new()).await,
    ];
    let mut other = cluster.fake("d").await;
    let record = wire::RankRecord { model: "x".to_owned(), ..other.record() };
    other.write(&record.encode_to_vec()).await;
    cluster.until_reason("d", "the model \"x\" is not served here").await;
    let names: Vec<_> = cluster.observer.status().await.replicas.into_iter().map(|it| it.name).collect();
    assert_eq!((names, other.attached()), (vec!["a".to_owned(), "d".to_owned()], 0));
    assert!(cluster.score(vec![text("a")]).await.unwrap()[0].score.is_some());
}

#[tokio::test]
async fn a_replica_with_steps_that_are_too_small_is_not_used() {
    let (cluster, _fakes) = Cluster::start(&[]).await;
    let mut small = cluster.fake("small").await;
    small.state.step_tokens.store(511, SeqCst);
    small.announce().await;
    let why = "is not suited: its steps take 511 tokens, a conversation may have 512";
    cluster.until_reason("small", why).await;
}

#[tokio::test]
async fn a_head_of_several_outputs_is_answered_with_all_of_them_and_one_of_one_as_ever() {
    for (outputs, expected) in [(0, vec![]), (1, vec![]), (3, vec![1.0, 2.0])] {
        let (cluster, _fakes) = Cluster::start(&[]).await;
        let mut fake = cluster.fake("a").await;
        fake.state.outputs.store(outputs, SeqCst);
        fake.announce().await;
        cluster.observer.until(true).await;
        let result = cluster.score(vec![text("a")]).await.unwrap().remove(0);
        let score = result.score.unwrap();
        let all = if expected.is_empty() { vec![] } else { [vec![score], expected].concat() };
        assert_eq!(result.outputs, all, "{outputs} outputs");
    }
}

#[tokio::test]
async fn a_replica_that_cannot_be_reached_is_tried_again() {
    let (cluster, _fakes) = Cluster::start(&[]).await;
    let mut fake = cluster.fake("a").await;
    let record = wire::RankRecord { address: "nowhere".to_owned(), ..fake.record() };
    fake.write(&record.encode_to_vec()).await;
    cluster.until_reason("a", "cannot be reached").await;
    fake.announce().await;
    cluster.until_state("a", ReplicaState::Ready).await;
}
