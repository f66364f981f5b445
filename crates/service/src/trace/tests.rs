//! The context of spans as text, in and out; `telemetry` tests that a collector sees the same.

use axum::http::HeaderMap;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::subscriber::with_default;
use tracing::{Span, info_span};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry;

use super::{TRACEPARENT, current, of_headers, set_parent};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// No text of these is a context.
const MALFORMED: [&str; 7] = [
    "",
    "00",
    "nonsense",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
    "00-00000000000000000000000000000000-b7ad6b7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
    "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
];

/// Runs with spans that are recorded, and exported nowhere.
fn traced(run: impl FnOnce()) {
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tests"));
    with_default(registry().with(layer), run);
}

/// The context in a span with this parent, twice: with a child in between.
fn inside(parent: &str) -> (Option<String>, Option<String>) {
    let span = info_span!("outer");
    set_parent(&span, parent);
    span.in_scope(|| (current(), info_span!("inner").in_scope(current)))
}

#[test]
fn nothing_is_said_where_nothing_is_traced() {
    assert_eq!(current(), None);
    set_parent(&Span::none(), PARENT);
    assert_eq!(inside(PARENT), (None, None));
    with_default(registry(), || assert_eq!(inside(PARENT), (None, None)));
    traced(|| assert_eq!(current(), None, "outside of any span"));
}

#[test]
fn a_span_continues_the_trace_of_its_parent() {
    traced(|| {
        let (outer, inner) = inside(PARENT);
        let (outer, inner) = (outer.unwrap(), inner.unwrap());
        assert!(outer.starts_with(&format!("00-{TRACE}-")) && outer.ends_with("-01"), "{outer}");
        assert!(inner.starts_with(&format!("00-{TRACE}-")), "{inner}");
        assert!(outer != inner && outer != PARENT, "{outer} {inner}");
        assert_eq!(outer.len(), PARENT.len());
        assert!(inside(&outer).0.unwrap().starts_with(&format!("00-{TRACE}-")), "what goes out comes in again");
    });
}

#[test]
fn a_trace_that_is_not_recorded_stays_so() {
    traced(|| {
        let (outer, inner) = inside(UNSAMPLED);
        for said in [outer.unwrap(), inner.unwrap()] {
            assert!(said.contains(TRACE) && said.ends_with("-00"), "{said}");
        }
    });
}

#[test]
fn what_is_malformed_is_ignored() {
    traced(|| {
        for text in MALFORMED {
            let context = inside(text).0.unwrap();
            assert!(!context.contains(TRACE), "{text:?} became {context}");
        }
    });
}

#[test]
fn a_parent_that_comes_too_late_is_ignored() {
    traced(|| {
        let span = info_span!("span");
        let before = span.in_scope(current).unwrap();
        set_parent(&span, PARENT);
        assert_eq!(span.in_scope(current).unwrap(), before);
    });
}

#[test]
fn headers_hold_it_or_nothing() {
    let mut headers = HeaderMap::new();
    assert_eq!(of_headers(&headers), None);
    headers.insert(TRACEPARENT, PARENT.parse().unwrap());
    assert_eq!(of_headers(&headers).unwrap(), PARENT);
    for text in MALFORMED {
        headers.insert(TRACEPARENT, text.parse().unwrap());
        assert_eq!(of_headers(&headers), None, "{text:?}");
    }
}
