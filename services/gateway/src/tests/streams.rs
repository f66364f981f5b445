//! Streams: answers as they are done, bounded reading, and every way in which one ends.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::v1;
use proto::v1::Status;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Streaming};

use super::cluster::*;
use super::fake::{Conduct, score};
use crate::{ServiceLimits, ServiceOptions};

type Asks = mpsc::UnboundedSender<v1::ScoreStreamRequest>;

async fn open(cluster: &Cluster) -> (Asks, Streaming<v1::ScoreStreamResponse>) {
    let (asks, outbound) = mpsc::unbounded_channel();
    let outbound = UnboundedReceiverStream::new(outbound);
    (asks, cluster.client.clone().score_stream(outbound).await.unwrap().into_inner())
}

fn ask(id: u64, item: v1::Item) -> v1::ScoreStreamRequest {
    v1::ScoreStreamRequest { id, item: Some(item), options: None }
}

fn max_length(id: u64, item: v1::Item, max_length: u32) -> v1::ScoreStreamRequest {
    let truncation = v1::Truncation::Right.into();
    let options = Some(v1::Options { max_length, truncation, ..Default::default() });
    v1::ScoreStreamRequest { options, ..ask(id, item) }
}

async fn all(mut answers: Streaming<v1::ScoreStreamResponse>) -> BTreeMap<u64, v1::ScoreStreamResponse> {
    let mut found = BTreeMap::new();
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(found.insert(answer.id, answer).is_none());
    }
    found
}

fn statuses(answer: &v1::ScoreStreamResponse) -> Vec<Status> {
    answer.item.as_ref().unwrap().results.iter().map(v1::Result::status).collect()
}

#[tokio::test]
async fn every_item_is_answered_under_its_id() {
    let (cluster, _fakes) = Cluster::start(&["a", "b"]).await;
    let (asks, answers) = open(&cluster).await;
    for id in 0..500_u32 {
        asks.send(ask(id.into(), ids(&[id, 1, 2]))).unwrap();
    }
    asks.send(ask(500, group("p", &["a", "b", "c"]))).unwrap();
    drop(asks);
    let answers = all(answers).await;
    assert_eq!(answers.len(), 501);
    for id in 0..500 {
        let answer = &answers[&id.into()];
        assert_eq!(answer.item.as_ref().unwrap().results[0].score, Some(score(&[id, 1, 2])));
        assert!(answer.timing.unwrap().queue_seconds > 0.0);
    }
    assert_eq!(statuses(&answers[&500]), [Status::Ok; 3]);
}

#[tokio::test]
async fn options_hold_until_there_are_others_and_a_bad_item_fails_alone() {
    let (cluster, _fakes) = Cluster::start(&["a"]).await;
    let (asks, answers) = open(&cluster).await;
    let unknown = Some(v1::Options { model: "x".to_owned(), ..Default::default() });
    asks.send(ask(0, ids(&[1; 9]))).unwrap();
    asks.send(max_length(1, ids(&[1; 9]), 4)).unwrap();
    asks.send(ask(2, ids(&[1; 9]))).unwrap();
    asks.send(max_length(3, group("p", &["a", "b"]), 9999)).unwrap();
    asks.send(v1::ScoreStreamRequest { options: unknown, ..ask(4, ids(&[1])) }).unwrap();
    asks.send(v1::ScoreStreamRequest { item: None, ..max_length(5, ids(&[1]), 0) }).unwrap();
    asks.send(ask(6, ids(&[1; 9]))).unwrap();
    drop(asks);
    let answers = all(answers).await;
    let found: Vec<_> = answers.values().map(statuses).collect();
    let (ok, cut, bad) = (Status::Ok, Status::Truncated, Status::Invalid);
    assert_eq!(found, [vec![ok], vec![cut], vec![cut], vec![bad; 2], vec![bad], vec![bad], vec![ok]]);
    let error = |id| answers[&id].item.as_ref().unwrap().results[0].error.clone();
    assert_eq!(error(3), "options.max_length: 9999, the model takes 512 tokens");
    assert_eq!(error(4), "the model \"x\" is not served, but: m");
    assert_eq!(error(5), "item: the item is empty");
}

#[tokio::test]
async fn no_more_is_read_than_may_be_open() {
    let options =
        ServiceOptions { limits: ServiceLimits { stream_items: 3.try_into().unwrap(), ..limits() }, ..options() };
    let (cluster, fakes) = Cluster::with(options, &["a"]).await;
    fakes[0].set(Conduct::Hold);
    let (asks, answers) = open(&cluster).await;
    (0..10).for_each(|id| asks.send(ask(id, ids(&[1, 2]))).unwrap());
    cluster.until_held(3).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((cluster.held().await, fakes[0].pieces()), (3, 3));
    fakes[0].set(Conduct::Answer);
    fakes[0].cut();
    drop(asks);
    assert_eq!(all(answers).await.len(), 10);
}

#[tokio::test]
async fn a_stream_waits_while_the_queue_is_full() {
    let mut options = options();
    options.limits.queue_conversations = 4;
    let (cluster, _fakes) = Cluster::with(options, &["a"]).await;
    let (asks, answers) = open(&cluster).await;
    (0..30).for_each(|id| asks.send(ask(id, ids(&[1, 2]))).unwrap());
    drop(asks);
    let answers = all(answers).await;
    assert!(answers.values().all(|answer| statuses(answer) == [Status::Ok]), "{answers:?}");
    assert_eq!(answers.len(), 30);
}

#[tokio::test]
async fn an_id_that_is_open_twice_ends_the_stream() {
    let (cluster, fakes) = Cluster::start(&["a"]).await;
    fakes[0].set(Conduct::Hold);
    let (asks, mut answers) = open(&cluster).await;
    asks.send(ask(7, ids(&[1]))).unwrap();
    cluster.until_held(1).await;
    asks.send(ask(7, ids(&[1]))).unwrap();
    let found = code(answers.message().await);
    assert_eq!(found, (Code::InvalidArgument, "id: the item 7 has no answer yet".to_owned()));
    cluster.until_held(0).await;
    // an id may come back after its answer
    fakes[0].set(Conduct::Answer);
    let (asks, mut answers) = open(&cluster).await;
    for _ in 0..2 {
        asks.send(ask(7, ids(&[1]))).unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().id, 7);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_items_with_it() {
    let (cluster, fakes) = Cluster::start(&["a"]).await;
    fakes[0].set(Conduct::Hold);
    let (asks, answers) = open(&cluster).await;
    (0..5).for_each(|id| asks.send(ask(id, ids(&[1, 2]))).unwrap());
    cluster.until_held(5).await;
    drop((answers, asks));
    cluster.until_held(0).await;
    until(|| fakes[0].state.withdrawn.load(std::sync::atomic::Ordering::SeqCst) == 5).await;
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline_with_answers_to_all() {
    let (cluster, fakes) = Cluster::start(&["a"]).await;
    fakes[0].set(Conduct::Hold);
    let (asks, outbound) = mpsc::unbounded_channel();
    let mut request = Request::new(UnboundedReceiverStream::new(outbound));
    request.set_timeout(Duration::from_millis(600));
    let mut answers = cluster.client.clone().score_stream(request).await.unwrap().into_inner();
    asks.send(ask(1, ids(&[1]))).unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(statuses(&answer), [Status::DeadlineExceeded]);
    let end = timeout(Duration::from_secs(5), answers.message()).await.unwrap();
    assert_eq!(code(end).0, Code::DeadlineExceeded);
}
