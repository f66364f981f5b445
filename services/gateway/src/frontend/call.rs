//! What a call says beside its message: who it is charged to, how long it may take, which trace it belongs to.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use service::trace::{self, STAGE};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tracing::Span;

use crate::core::TenantId;
use crate::options::{DEFAULT_TENANT, TENANT_KEY, Tenants};
use crate::problem::Problem;

/// A call, or an item of a stream.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) tenant: TenantId,
    pub(super) weight: NonZeroU32,
    pub(super) received: Instant,
    /// When the client stops listening, if it said so.
    pub(super) timeout: Option<Duration>,
    pub(super) deadline: Instant,
    /// The trace that it belongs to; empty for none.
    pub(super) traceparent: Arc<str>,
    pub(super) span: Span,
}

const TIMEOUT: &str = "grpc-timeout";
/// The length of a trace's context.
const TRACEPARENT: usize = 55;
/// The longest name of a tenant.
const LONGEST_NAME: usize = 64;
/// An answer leaves so much before the client stops listening, or a part of its time if that is less, so that what was
/// computed arrives with what was not.
const MARGIN: Duration = Duration::from_millis(100);
const PART: u32 = 20;

// === impl Call ===

impl Call {
    /// Reads the metadata of a call that comes in now.
    pub(super) fn new(metadata: &MetadataMap, tenants: &Tenants, default: Duration) -> Result<Self, Problem> {
        let tenant = tenant(metadata)?;
        let timeout = timeout(metadata)?;
        if timeout.is_some_and(|timeout| timeout < LEAST) {
            return Err(Problem::deadline());
        }
        let traceparent = trace::of_metadata(metadata).filter(|it| it.len() == TRACEPARENT).unwrap_or_default();
        let span = tracing::debug_span!(target: STAGE, "call", tenant);
        trace::set_parent(&span, &traceparent);
        let received = Instant::now();
        let patience = timeout.map_or(default, |timeout| timeout - MARGIN.min(timeout / PART));
        Ok(Self {
            tenant: TenantId::new(tenant),
            weight: tenants.weight(tenant),
            received,
            timeout,
            deadline: received + patience.min(FAR),
            traceparent: traceparent.into(),
            span,
        })
    }

    /// An item that comes in now on this stream: it has the stream's deadline, or else the default for itself.
    pub(super) fn item(&self, default: Duration) -> Self {
        let received = Instant::now();
        let deadline = if self.timeout.is_some() { self.deadline } else { received + default.min(FAR) };
        let span = tracing::debug_span!(target: STAGE, parent: &self.span, "item");
        Self { received, deadline, span, ..self.clone() }
    }
}

/// Less than this is no time. The transport has a timer of its own, which counts whole milliseconds and would say that
/// the call was cancelled.
const LEAST: Duration = Duration::from_millis(1);
/// Nobody waits longer, and clocks can count so far.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);

fn tenant(metadata: &MetadataMap) -> Result<&str, Problem> {
    let Some(tenant) = metadata.get(TENANT_KEY) else { return Ok(DEFAULT_TENANT) };
    let name = tenant.to_str().ok().filter(|name| !name.is_empty() && name.len() <= LONGEST_NAME);
    let problem = || Problem::bad_request(TENANT_KEY, format!("a name has 1 to {LONGEST_NAME} ASCII characters"));
    name.ok_or_else(problem)
}

/// Up to eight digits and a unit, as gRPC has it.
fn timeout(metadata: &MetadataMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = metadata.get(TIMEOUT) else { return Ok(None) };
    let parse = || {
        let (digits, unit) = value.to_str().ok()?.split_at_checked(value.len().checked_sub(1)?)?;
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let count: u64 = digits.parse().ok()?;
        match unit {
            "H" => Some(Duration::from_secs(count * 3600)),
            "M" => Some(Duration::from_secs(count * 60)),
            "S" => Some(Duration::from_secs(count)),
            "m" => Some(Duration::from_millis(count)),
            "u" => Some(Duration::from_micros(count)),
            "n" => Some(Duration::from_nanos(count)),
            _ => None,
        }
    };
    parse().map(Some).ok_or_else(|| Problem::bad_request(TIMEOUT, "expected up to 8 digits and one of HMSmun"))
}

#[cfg(test)]
mod tests;
