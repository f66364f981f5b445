//! One trace from a client's call through the gateway's stages to every rank, over the borders of processes, as a
//! collector sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use proto::v1 as wire;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::processes::{Cluster, Shape, dial};
use super::turn;

/// A collector that keeps what it gets: spans, with the service that sent each.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

/// The client's own span, which no process of the cluster knows.
const CLIENT: [u8; 8] = *b"a client";

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_process in request.into_inner().resource_spans {
            let attributes = of_process.resource.unwrap_or_default().attributes;
            let service = attributes.into_iter().find(|it| it.key == "service.name").unwrap();
            let service = text(service.value.as_ref());
            let spans = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Serves, and says where.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(self.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        endpoint
    }

    /// The spans of a trace, each with its service.
    fn of(&self, trace: [u8; 16]) -> Vec<(String, Span)> {
        let spans = self.0.lock().unwrap();
        spans.iter().filter(|(_, span)| span.trace_id == trace).cloned().collect()
    }
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The context of the client's span in a trace.
fn traceparent(trace: [u8; 16]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("00-{}-{}-01", hex(&trace), hex(&CLIENT))
}

fn request<T>(message: T, trace: [u8; 16]) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", traceparent(trace).parse().unwrap());
    request
}

/// A trace is connected, has these stages in the gateway, and a step of every rank within the call.
fn check(spans: &[(String, Span)], stages: &[&str]) {
    let shown: Vec<_> = spans.iter().map(|(service, span)| format!("{service} {}", span.name)).collect();
    let known: BTreeSet<_> = spans.iter().map(|(_, span)| span.span_id.clone()).collect();
    let (roots, others): (Vec<_>, Vec<_>) = spans.iter().partition(|(_, span)| span.parent_span_id == CLIENT);
    assert!(others.iter().all(|(_, span)| known.contains(&span.parent_span_id)), "not connected: {shown:?}");
    let [(_, call)] = &roots[..] else { panic!("not one call: {shown:?}") };
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    spans.iter().for_each(|(service, span)| names.entry(service).or_default().push(&span.name));
    names.values_mut().for_each(|names| names.sort_unstable());
    assert_eq!(names["assay-gateway"], stages, "{shown:?}");
    assert_eq!(names["assay-shard"], ["step", "step"], "{shown:?}");
    let steps = || spans.iter().map(|(_, span)| span).filter(|span| span.name == "step");
    let rank = |span: &Span| text(span.attributes.iter().find(|it| it.key == "rank").unwrap().value.as_ref());
    assert_eq!(steps().map(rank).collect::<BTreeSet<_>>(), BTreeSet::from(["0".to_owned(), "1".to_owned()]));
    for step in steps() {
        let within = call.start_time_unix_nano <= step.start_time_unix_nano
            && step.start_time_unix_nano < step.end_time_unix_nano
            && step.end_time_unix_nano <= call.end_time_unix_nano;
        assert!(within, "{call:?} {step:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_one_trace_from_the_client_to_every_rank() {
    let _turn = turn().await;
    let collector = Collector::default();
    let settings = format!("[telemetry]\notlp = {:?}\n", collector.serve().await);
    let shape = Shape { gateways: 1, replicas: 1, tensor_parallel: 2, ranks: vec!["0..1", "1..2"] };
    let mut cluster = Cluster::with_settings(1, &shape, [&settings, ""]).await;
    let mut client = dial(cluster.endpoint(0)).await.unwrap();
    let item = wire::Item { input: Some(wire::item::Input::Text("a conversation to be tokenized".to_owned())) };
    let (of_call, of_stream) = (*b"a trace, a call.", *b"another, streams");
    let score = wire::ScoreRequest { items: vec![item.clone()], options: None };
    client.score(request(score, of_call)).await.unwrap();
    let asks = tokio_stream::once(wire::ScoreStreamRequest { id: 1, item: Some(item), options: None });
    let mut answers = client.score_stream(request(asks, of_stream)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    // who leaves sends its last spans
    for process in cluster.gateways.iter_mut().chain(cluster.replicas.iter_mut().flatten()) {
        process.signal("TERM");
    }
    for process in cluster.gateways.iter_mut().chain(cluster.replicas.iter_mut().flatten()) {
        assert_eq!(process.wait(), Some(0), "{}", process.log());
    }
    check(&collector.of(of_call), &["call", "compute", "queue", "receive", "tokenize"]);
    check(&collector.of(of_stream), &["call", "compute", "item", "queue", "receive", "tokenize"]);
}
