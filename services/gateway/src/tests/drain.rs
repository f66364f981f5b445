//! A gateway that is told to end finishes what it has accepted, and accepts nothing more.

use std::time::Duration;

use proto::v1;
use proto::v1::Status;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use super::cluster::*;
use super::fake::{Conduct, Fake};
use crate::{Ended, ServiceLimits, ServiceOptions};

const SOON: Duration = Duration::from_secs(5);

/// A call and a stream with an item each, at a replica that does nothing.
struct Open {
    call: tokio::task::JoinHandle<Result<v1::ScoreResponse, tonic::Status>>,
    asks: mpsc::UnboundedSender<v1::ScoreStreamRequest>,
    answers: tonic::Streaming<v1::ScoreStreamResponse>,
}

async fn open(cluster: &Cluster, fake: &Fake) -> Open {
    fake.set(Conduct::Hold);
    let mut client = cluster.client.clone();
    let request = v1::ScoreRequest { items: vec![ids(&[1, 2])], options: None };
    let call = tokio::spawn(async move { client.score(request).await.map(tonic::Response::into_inner) });
    let (asks, outbound) = mpsc::unbounded_channel();
    let outbound = UnboundedReceiverStream::new(outbound);
    let answers = cluster.client.clone().score_stream(outbound).await.unwrap().into_inner();
    asks.send(v1::ScoreStreamRequest { id: 1, item: Some(ids(&[3])), options: None }).unwrap();
    cluster.until_held(2).await;
    Open { call, asks, answers }
}

#[tokio::test]
async fn what_was_accepted_is_finished() {
    let (cluster, fakes) = Cluster::start(&["a"]).await;
    let Open { call, asks, mut answers } = open(&cluster, &fakes[0]).await;
    cluster.shutdown.cancel();
    sleep(Duration::from_millis(50)).await;
    asks.send(v1::ScoreStreamRequest { id: 2, item: Some(ids(&[3])), options: None }).unwrap();
    fakes[0].set(Conduct::Answer);
    fakes[0].cut();
    assert_eq!(call.await.unwrap().unwrap().items[0].results[0].status(), Status::Ok);
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.id, answer.item.unwrap().results[0].status()), (1, Status::Ok));
    assert_eq!(code(answers.message().await).0, Code::Unavailable);
    timeout(SOON, cluster.serving).await.unwrap().unwrap().unwrap();
    assert!(cluster.client.clone().list_models(v1::ListModelsRequest {}).await.is_err());
}

#[tokio::test]
async fn what_is_not_finished_in_time_is_given_up() {
    let options =
        ServiceOptions { limits: ServiceLimits { drain: Duration::from_millis(100), ..limits() }, ..options() };
    let (cluster, fakes) = Cluster::with(options, &["a"]).await;
    let Open { call, mut answers, .. } = open(&cluster, &fakes[0]).await;
    cluster.shutdown.cancel();
    assert_eq!(code(call.await.unwrap()).0, Code::Unavailable);
    assert_eq!(code(answers.message().await).0, Code::Unavailable);
    assert_eq!(timeout(SOON, cluster.serving).await.unwrap().unwrap().unwrap(), Ended::GaveUp);
}

#[tokio::test]
async fn a_lame_duck_takes_new_calls_for_some_time() {
    let lame_duck = Duration::from_millis(500);
    let options = ServiceOptions { limits: ServiceLimits { lame_duck, ..limits() }, ..options() };
    let (cluster, _fakes) = Cluster::with(options, &["a"]).await;
    cluster.shutdown.cancel();
    sleep(Duration::from_millis(50)).await;
    assert!(cluster.score(vec![ids(&[1, 2])]).await.is_ok());
    assert_eq!(timeout(SOON, cluster.serving).await.unwrap().unwrap().unwrap(), Ended::Finished);
    assert!(cluster.client.clone().list_models(v1::ListModelsRequest {}).await.is_err());
}

#[tokio::test]
async fn a_gateway_without_work_ends_at_once_and_lets_go_of_its_replicas() {
    let (cluster, fakes) = Cluster::start(&["a"]).await;
    assert!(cluster.observer.is_ready());
    cluster.shutdown.cancel();
    timeout(SOON, cluster.serving).await.unwrap().unwrap().unwrap();
    until(|| fakes[0].state.lines.lock().unwrap().iter().all(|line| line.is_closed())).await;
}
