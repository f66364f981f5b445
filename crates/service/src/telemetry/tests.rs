//! How the log looks, and spans on their way to a collector: one that listens, one that is away, one that is silent.

use std::io::{self, Write};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tracing::dispatcher::{self, with_default};
use tracing::{info, info_span, warn};

use super::{Announced, Format, Telemetry, build, init};
use crate::trace;

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn telemetry(format: Format) -> Telemetry {
    Telemetry { format, ..Telemetry::default() }
}

fn to(endpoint: &str) -> Telemetry {
    Telemetry { log: "off".to_owned(), otlp: Some(endpoint.to_owned()), ..telemetry(Format::Text) }
}

fn logged(telemetry: &Telemetry, ansi: bool, run: impl FnOnce()) -> String {
    let log = Log::default();
    let written = log.clone();
    let (dispatch, _guard) = build(telemetry, "tests", ansi, move || written.clone()).unwrap();
    with_default(&dispatch, run);
    log.text()
}

fn speak() {
    tracing::debug!("not to be seen");
    info_span!("request", id = 7).in_scope(|| warn!(rows = 3, "slow"));
}

#[test]
fn the_log_looks_as_it_should() {
    assert_eq!(logged(&telemetry(Format::Brief), false, || info!(rows = 3, "done")), " INFO done rows=3\n");
    assert_eq!(logged(&telemetry(Format::Brief), false, speak), " WARN request{id=7}: slow rows=3\n");
    let text = logged(&telemetry(Format::Text), false, speak);
    assert!(text.ends_with("Z  WARN request{id=7}: service::telemetry::tests: slow rows=3\n"), "{text}");
    let json = logged(&telemetry(Format::Json), true, speak);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["message"], &json["rows"], &json["level"]), (&"slow".into(), &3.into(), &"WARN".into()));
    assert_eq!(json["spans"][0]["id"], 7);
    let coloured = logged(&telemetry(Format::Brief), true, speak);
    assert!(coloured.contains("\u{1b}["), "{coloured}");
}

#[test]
fn what_cannot_work_is_refused() {
    let refused = |telemetry: Telemetry| init(&telemetry, "tests", false).err().unwrap().to_string();
    let filter = refused(Telemetry { log: "service=loud".to_owned(), ..telemetry(Format::Text) });
    assert!(filter.starts_with("log filter \"service=loud\": "), "{filter}");
    for endpoint in ["localhost:4317", "http://localhost", "grpc://localhost:4317"] {
        let expected = format!("otlp endpoint {endpoint:?}: expected one such as http://127.0.0.1:4317");
        assert_eq!(refused(to(endpoint)), expected);
    }
    assert!(refused(to("a b")).starts_with("otlp endpoint \"a b\": "));
}

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Serves, and says where.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        endpoint
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|spans| &spans.scope_spans).flat_map(|spans| spans.spans.clone()).collect()
    }

    fn services(&self) -> Vec<String> {
        let requests = self.0.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans).filter_map(|s| s.resource.as_ref());
        let names = resources.flat_map(|resource| &resource.attributes).filter(|a| a.key == "service.name");
        names
            .filter_map(|a| match a.value.as_ref()?.value.as_ref()? {
                Value::StringValue(name) => Some(name.clone()),
                _ => None,
            })
            .collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_through_processes_to_the_collector() {
    let collector = Collector::default();
    let endpoint = collector.serve().await;
    // Two processes, of which the second gets the context as text.
    let (gateway, gateway_guard) = build(&to(&endpoint), "tests", false, io::sink).unwrap();
    let context = with_default(&gateway, || info_span!("score", rows = 3).in_scope(trace::current)).unwrap();
    gateway_guard.flush();
    assert_eq!(collector.spans().len(), 1, "flush sends what has ended");
    let (shard, shard_guard) = build(&to(&endpoint), "shard", false, io::sink).unwrap();
    with_default(&shard, || {
        let span = info_span!("step");
        trace::set_parent(&span, &context);
        span.in_scope(|| tracing::debug_span!("not to be exported").in_scope(|| info!("computed")));
    });
    drop(shard_guard);
    let spans = collector.spans();
    let [score, step] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((score.name.as_str(), step.name.as_str()), ("score", "step"));
    assert_eq!(context, format!("00-{}-{}-01", hex(&score.trace_id), hex(&score.span_id)));
    assert_eq!((&step.trace_id, &step.parent_span_id), (&score.trace_id, &score.span_id));
    assert!(score.parent_span_id.is_empty());
    assert_eq!(step.events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["computed"]);
    assert_eq!(collector.services(), ["tests", "shard"]);
}

#[test]
fn a_collector_that_is_away_holds_nobody_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    for (endpoint, patience) in [(free, 1), (silent, 6)] {
        let began = Instant::now();
        let (dispatch, guard) = build(&to(&endpoint), "tests", false, io::sink).unwrap();
        with_default(&dispatch, || {
            for _ in 0..10_000 {
                info_span!("span").in_scope(|| ());
            }
        });
        assert!(began.elapsed() < Duration::from_secs(1), "spans took {:?}", began.elapsed());
        drop(guard);
        assert!(began.elapsed() < Duration::from_secs(1 + patience), "the end took {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_guard_may_be_dropped_in_a_runtime() {
    let (_, guard) = build(&to("http://127.0.0.1:1"), "tests", false, io::sink).unwrap();
    drop(guard);
}

/// An exporter that fails when told.
#[derive(Debug, Default)]
struct Moody(AtomicBool);

impl SpanExporter for Moody {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        match self.0.load(std::sync::atomic::Ordering::Relaxed) {
            true => Err(OTelSdkError::InternalFailure("away".to_owned())),
            false => Ok(()),
        }
    }
}

#[tokio::test]
async fn an_outage_is_logged_once() {
    let log = Log::default();
    let written = log.clone();
    let (dispatch, _guard) = build(&telemetry(Format::Brief), "tests", false, move || written.clone()).unwrap();
    let _entered = dispatcher::set_default(&dispatch);
    let announced =
        Announced { exporter: Moody::default(), endpoint: "http://c".to_owned(), failing: AtomicBool::new(false) };
    for away in [false, true, true, true, false, false, true] {
        announced.exporter.0.store(away, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(announced.export(Vec::new()).await.is_err(), away);
    }
    let text = log.text();
    let lines: Vec<_> = text.lines().map(|line| line.split(" endpoint").next().unwrap()).collect();
    let away = " WARN spans are dropped until the collector takes them";
    assert_eq!(lines, [away, " INFO the collector takes spans again", away]);
    assert!(text.contains("endpoint=\"http://c\" error="), "{text}");
}

#[test]
fn a_guard_moves_between_threads() {
    fn moves<T: Send + Sync + 'static>(_: &T) {}
    let (_, guard) = build(&telemetry(Format::Text), "tests", false, io::sink).unwrap();
    moves(&guard);
}
