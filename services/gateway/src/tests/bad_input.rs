//! Whatever a client sends, it gets the right code, and the gateway goes on.

use std::time::Duration;

use proto::v1;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request};
use tonic_types::StatusExt;

use super::cluster::*;
use super::fake::Conduct;
use crate::{Gateway, ServiceLimits, ServiceOptions, StartError, TENANT_KEY};

/// Sends bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(&mut self, item: Vec<u8>, buf: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        bytes::BufMut::put_slice(buf, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = tonic::Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
        bytes::Buf::advance(buf, bytes::Buf::remaining(buf));
        Ok(Some(()))
    }
}

fn options_of(change: impl Fn(&mut v1::Options)) -> Option<v1::Options> {
    let mut options = v1::Options::default();
    change(&mut options);
    Some(options)
}

#[tokio::test]
async fn options_that_cannot_be_fail_each_call() {
    let options = ServiceOptions { models: vec![model("m"), model("n")], ..options() };
    let (cluster, _fakes) = Cluster::with(options, &[]).await;
    let cases = [
        (None, Code::InvalidArgument, "options.model: name one of m, n"),
        (options_of(|it| it.model = "x".to_owned()), Code::NotFound, "the model \"x\" is not served, but: m, n"),
        (
            options_of(|it| (it.model, it.max_length) = ("m".to_owned(), 513)),
            Code::InvalidArgument,
            "options.max_length: 513, the model takes 512 tokens",
        ),
        (
            options_of(|it| (it.model, it.truncation) = ("m".to_owned(), 9)),
            Code::InvalidArgument,
            "options.truncation: 9 is not known",
        ),
    ];
    for (options, expected, why) in cases {
        let mut client = cluster.client.clone();
        let items = vec![text("a")];
        let found = code(client.score(v1::ScoreRequest { items: items.clone(), options: options.clone() }).await);
        assert_eq!(found, (expected, why.to_owned()));
        let found = code(client.tokenize(v1::TokenizeRequest { items, options }).await);
        assert_eq!(found, (expected, why.to_owned()));
    }
}

#[tokio::test]
async fn a_call_without_items_or_with_bad_metadata_is_refused() {
    let (cluster, _fakes) = Cluster::start(&["a"]).await;
    let none = (Code::InvalidArgument, "items: there are none".to_owned());
    assert_eq!(code(cluster.score(Vec::new()).await), none);
    let empty = v1::TokenizeRequest::default();
    assert_eq!(code(cluster.client.clone().tokenize(empty).await), none);
    let long = "x".repeat(65);
    let cases = [
        (TENANT_KEY, &*long, Code::InvalidArgument),
        (TENANT_KEY, "", Code::InvalidArgument),
        ("grpc-timeout", "soon", Code::InvalidArgument),
        ("grpc-timeout", "0S", Code::DeadlineExceeded),
    ];
    for (key, value, expected) in cases {
        let mut request = Request::new(v1::ScoreRequest { items: vec![text("a")], options: None });
        request.metadata_mut().insert(key, value.parse().unwrap());
        assert_eq!(code(cluster.client.clone().score(request).await).0, expected, "{key}: {value}");
    }
    assert!(cluster.score(vec![text("a")]).await.is_ok());
}

#[tokio::test]
async fn bytes_that_are_no_message_and_messages_that_are_too_large_are_refused() {
    let options = ServiceOptions { limits: ServiceLimits { message: 10_000, ..limits() }, ..options() };
    let (cluster, _fakes) = Cluster::with(options, &["a"]).await;
    for rpc in ["Score", "Tokenize", "ScoreStream"] {
        let path = format!("/assay.v1.RewardService/{rpc}").parse().unwrap();
        let mut raw = tonic::client::Grpc::new(cluster.channel.clone());
        raw.ready().await.unwrap();
        let requests = Request::new(tokio_stream::once(b"\xff\xff\xff".to_vec()));
        let answers = raw.streaming(requests, path, Raw).await;
        let status = match answers {
            Ok(answers) => answers.into_inner().message().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!(status.code(), Code::Internal, "{rpc}: {status:?}");
    }
    let large = cluster.score(vec![text(&"x".repeat(20_000))]).await;
    assert_eq!(code(large).0, Code::OutOfRange);
    let unknown = "/assay.v1.RewardService/Guess".parse().unwrap();
    let mut raw = tonic::client::Grpc::new(cluster.channel.clone());
    raw.ready().await.unwrap();
    let answer = raw.unary(Request::new(Vec::new()), unknown, Raw).await;
    assert_eq!(code(answer).0, Code::Unimplemented);
    assert!(cluster.score(vec![text("a")]).await.is_ok());
}

#[tokio::test]
async fn what_would_not_fit_into_the_memory_is_refused() {
    let (cluster, _fakes) = Cluster::start(&[]).await;
    let responses = vec![""; 300];
    let group = group(&"x".repeat(1 << 20), &responses);
    let (found, why) = code(cluster.score(vec![group]).await);
    assert_eq!(found, Code::ResourceExhausted, "{why}");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let mut options = options();
    options.limits.queue_conversations = 4;
    let (cluster, fakes) = Cluster::with(options, &["a"]).await;
    let (found, why) = code(cluster.score(vec![text("a"); 3]).await);
    assert_eq!(found, Code::ResourceExhausted, "{why}");
    fakes[0].set(Conduct::Hold);
    let mut client = cluster.client.clone();
    let request = v1::ScoreRequest { items: vec![text("a"); 2], options: None };
    let held = tokio::spawn(async move { client.score(request).await });
    cluster.until_held(2).await;
    let status = cluster.score(vec![text("a")]).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().starts_with("the tenant's share of the queue is full, come back in"), "{status}");
    let delay = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(delay > Duration::ZERO);
    held.abort();
    cluster.until_held(0).await;
}

#[tokio::test]
async fn a_gateway_that_could_serve_nothing_does_not_start() {
    let start = |models| {
        let options = ServiceOptions { models, ..options() };
        let network = service::Network::memory();
        Gateway::start(options, discovery::Registry::memory(), network).map(drop).unwrap_err()
    };
    assert!(matches!(start(vec![]), StartError::NoModels));
    assert!(matches!(start(vec![model("m"), model("m")]), StartError::SameName(name) if name == "m"));
    assert!(matches!(start(vec![model("")]), StartError::Model(_)));
}
