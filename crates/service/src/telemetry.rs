//! The log of a process on stderr, and its spans to an OpenTelemetry collector where one is given.
//!
//! The log is written by a thread of its own, so that nobody waits for who reads it, or does not. Spans leave in batches, from a thread and a small runtime of their own: who is traced never waits for a collector.
//! Spans that find no collector are dropped, and the log says once that it is away and once that it is back.

mod queue;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{RetryPolicy, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{ClientTlsConfig, Endpoint};
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, dispatcher};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt, registry};

use self::queue::{Flush, Queue};
use crate::{net, trace};

/// What a process says of itself while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// What the log holds: error, warn, info, debug, or a filter such as info,gateway=debug. Spans are exported from info
    /// on, and those of a request's stages from debug on, whatever the log holds.
    pub log: String,
    /// How the log is written: brief, text or json.
    pub format: Format,
    /// Where a collector takes traces by OTLP over gRPC.
    #[schemars(example = "http://127.0.0.1:4317")]
    pub otlp: Option<String>,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A line each for people at a terminal: level and message.
    Brief,
    /// A line each for people: time, level, target, and message.
    #[default]
    Text,
    /// A JSON object each, for machines.
    Json,
}

/// Why the process cannot be observed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The filter is none.
    #[error("log filter {filter:?}: {reason}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The collector's address is none.
    #[error("otlp endpoint {endpoint:?}: {reason}")]
    Endpoint {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The system gives no thread for the log, or for the export of spans.
    #[error("no runtime for telemetry: {0}")]
    Runtime(io::Error),
    /// There is a log.
    #[error("the log has been started before")]
    Started,
}

/// Sends the last spans when it is dropped, for which it waits a few seconds at most, and writes the last lines.
#[must_use = "spans are sent until it is dropped"]
pub struct Guard {
    spans: Option<Spans>,
    log: Option<Flush>,
}

struct Spans {
    provider: SdkTracerProvider,
    runtime: Runtime,
}

/// An exporter that says once when it cannot export.
#[derive(Debug)]
struct Announced<E> {
    exporter: E,
    endpoint: String,
    failing: AtomicBool,
}

/// How long a connection to the collector, and a call, may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the end of the process may wait for the last spans.
const LAST_FLUSH: Duration = Duration::from_secs(3);

// === impl Telemetry ===

impl Default for Telemetry {
    fn default() -> Self {
        Self { log: "info".to_owned(), format: Format::Text, otlp: None }
    }
}

/// Starts the log of a process, coloured if `ansi` says so (JSON never is), and the export of spans under the name
/// `service` if there is a collector. It is the first thing a process does, and needs no runtime.
///
/// # Errors
/// If the filter or the endpoint is none, or a log has been started. A collector that is away is no error.
pub fn init(telemetry: &Telemetry, service: &'static str, ansi: bool) -> Result<Guard, Error> {
    let (queue, flush) = Queue::start(io::stderr()).map_err(Error::Runtime)?;
    let (log, mut guard) = build(telemetry, service, ansi, queue)?;
    dispatcher::set_global_default(log).map_err(|_| Error::Started)?;
    guard.log = Some(flush);
    Ok(guard)
}

/// The log and the export of spans, not yet in place.
fn build<W>(telemetry: &Telemetry, service: &'static str, ansi: bool, writer: W) -> Result<(Dispatch, Guard), Error>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&telemetry.log)
        .map_err(|error| Error::Filter { filter: telemetry.log.clone(), reason: error.to_string() })?;
    let log = fmt::layer().with_writer(writer).with_ansi(ansi);
    let log = match telemetry.format {
        Format::Brief => log.without_time().with_target(false).boxed(),
        Format::Text => log.boxed(),
        Format::Json => log.json().flatten_event(true).with_current_span(false).boxed(),
    };
    let log = registry().with(log.with_filter(filter));
    let Some(endpoint) = &telemetry.otlp else {
        return Ok((Dispatch::new(log), Guard { spans: None, log: None }));
    };
    let spans = Spans::export_to(endpoint, service)?;
    let tracer = spans.provider.tracer(service);
    let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_threads(false);
    let exported = Targets::new().with_default(LevelFilter::INFO).with_target(trace::STAGE, LevelFilter::DEBUG);
    Ok((Dispatch::new(log.with(layer.with_filter(exported))), Guard { spans: Some(spans), log: None }))
}

// === impl Spans ===

impl Spans {
    fn export_to(endpoint: &str, service: &'static str) -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("telemetry").enable_all().build();
        let runtime = runtime.map_err(Error::Runtime)?;
        let inside = runtime.enter();
        let exporter = exporter(endpoint);
        drop(inside);
        let exporter = match exporter {
            Ok(exporter) => Announced { exporter, endpoint: endpoint.to_owned(), failing: AtomicBool::new(false) },
            Err(error) => {
                // Dropping it would wait, which the runtime that this may be called from does not allow.
                runtime.shutdown_background();
                return Err(Error::Endpoint { endpoint: endpoint.to_owned(), reason: error.to_string() });
            }
        };
        let resource = Resource::builder().with_service_name(service).build();
        let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
        Ok(Self { provider, runtime })
    }
}

fn exporter(endpoint: &str) -> Result<opentelemetry_otlp::SpanExporter, Box<dyn std::error::Error>> {
    let mut collector = Endpoint::from_shared(endpoint.to_owned())?.connect_timeout(PATIENCE).timeout(PATIENCE);
    let has_port = collector.uri().port().is_some();
    match collector.uri().scheme_str() {
        Some("http") if has_port => {}
        Some("https") if has_port => collector = collector.tls_config(ClientTlsConfig::new().with_native_roots())?,
        _ => return Err("expected one such as http://127.0.0.1:4317".into()),
    }
    let channel = collector.connect_with_connector_lazy(tower::service_fn(net::connect));
    // Retries would hold up the end of a process whose collector is away, for spans that it may lose.
    let once = RetryPolicy::default().with_max_retries(0);
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_retry_policy(once);
    Ok(exporter.with_channel(channel).with_timeout(PATIENCE).build()?)
}

// === impl Guard ===

impl Guard {
    /// Sends the spans that have ended so far. It blocks, a few seconds at most.
    pub fn flush(&self) {
        if let Some(spans) = &self.spans {
            // Whatever goes wrong has been announced.
            let _ = spans.provider.force_flush();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(Spans { provider, runtime }) = self.spans.take() {
            let _ = provider.shutdown_with_timeout(LAST_FLUSH);
            runtime.shutdown_background();
        }
        drop(self.log.take());
    }
}

// === impl Announced ===

impl<E: SpanExporter> SpanExporter for Announced<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        let was_failing = self.failing.swap(outcome.is_err(), Ordering::Relaxed);
        match &outcome {
            Err(error) if !was_failing => {
                tracing::warn!(endpoint = self.endpoint, %error, "spans are dropped until the collector takes them");
            }
            Ok(()) if was_failing => tracing::info!(endpoint = self.endpoint, "the collector takes spans again"),
            _ => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests;
