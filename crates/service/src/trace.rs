//! One trace across processes: a span's context as the text of a W3C `traceparent`, out of one process and into another.
//!
//! Where [`telemetry`](crate::telemetry) exports no spans, [`current`] has nothing to say and [`set_parent`] no effect.

use axum::http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The name of the header, and of the gRPC metadata.
pub const TRACEPARENT: &str = "traceparent";

/// The target of the spans that a request is made of. They are exported at `debug` too, so that they cost nothing where
/// none are exported, and the log at `info` does not repeat them.
pub const STAGE: &str = "stage";

/// The text as the propagator reads it: headers of which there is one.
struct Header<'t>(&'t str);

/// The context of the current span, for the other process; None if there is none. It says so if the trace is not
/// recorded, so that the other process does not begin one of its own.
///
/// It fixes the span's place in its trace: [`set_parent`] comes before.
pub fn current() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let context = span.span_context();
    let flags = context.trace_flags().to_u8();
    context.is_valid().then(|| format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
}

/// Makes a span the child of the other process's span. A text that is no `traceparent` is ignored.
pub fn set_parent(span: &Span, traceparent: &str) {
    if span.is_disabled() {
        return;
    }
    if let Some(parent) = parse(traceparent) {
        // Without spans exported, or after the span's context was asked for, it stays as it is.
        let _ = span.set_parent(parent);
    }
}

/// The `traceparent` that came with a call, if it is one.
pub fn of_headers(headers: &HeaderMap) -> Option<&str> {
    let traceparent = headers.get(TRACEPARENT)?.to_str().ok()?;
    parse(traceparent).map(|_| traceparent)
}

fn parse(traceparent: &str) -> Option<Context> {
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Header(traceparent));
    context.span().span_context().is_valid().then_some(context)
}

// === impl Header ===

impl Extractor for Header<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

#[cfg(test)]
mod tests;
