//! Who calls: who it is charged to, how long it may take, which trace it belongs to.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use service::axum::http::HeaderMap;
use service::server::REQUEST_ID;
use service::trace::{self, STAGE};
use tokio::time::Instant;
use tracing::Span;

use super::Entrance;
use crate::core::TenantId;
use crate::options::{DEFAULT_TENANT, TENANT_KEY, Tenants};
use crate::problem::Problem;

/// Who makes a call, or sends an item of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    pub(crate) weight: NonZeroU32,
    pub(crate) received: Instant,
    /// When the client stops listening, if it said so.
    pub(crate) timeout: Option<Duration>,
    pub(crate) deadline: Instant,
    /// The trace that it belongs to; empty for none.
    pub(crate) traceparent: Arc<str>,
    pub(crate) span: Span,
}

/// The length of a trace's context.
const TRACEPARENT: usize = 55;
/// The longest name of a tenant.
const LONGEST_NAME: usize = 64;
/// An answer leaves so much before the client stops listening, or a part of its time if that is less, so that what was
/// computed arrives with what was not.
const MARGIN: Duration = Duration::from_millis(100);
const PART: u32 = 20;
/// Less than this is no time: a transport's own timers count whole milliseconds.
const LEAST: Duration = Duration::from_millis(1);
/// Nobody waits longer, and clocks can count so far.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);

// === impl Entrance ===

impl Entrance {
    /// Who makes a call that comes in now with these headers; `timeout` is how long the client says that it listens.
    pub(crate) fn caller(&self, headers: &HeaderMap, timeout: Option<Duration>) -> Result<Caller, Problem> {
        let caller = Caller::new(headers, timeout, &self.tenants, self.default_timeout)?;
        let tenant = self.names.of(&caller.tenant, &self.tenants, caller.received);
        Ok(Caller { tenant, ..caller })
    }
}

// === impl Caller ===

impl Caller {
    fn new(
        headers: &HeaderMap,
        timeout: Option<Duration>,
        tenants: &Tenants,
        default: Duration,
    ) -> Result<Self, Problem> {
        let tenant = tenant(headers)?;
        if timeout.is_some_and(|timeout| timeout < LEAST) {
            return Err(Problem::deadline());
        }
        let traceparent = trace::of_headers(headers).filter(|it| it.len() == TRACEPARENT).unwrap_or_default();
        let request = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
        let span = tracing::debug_span!(target: STAGE, "call", tenant, request);
        trace::set_parent(&span, traceparent);
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

    /// An item that comes in now on this caller's stream: it has the stream's deadline, or else the default for itself.
    pub(crate) fn item(&self, default: Duration) -> Self {
        let received = Instant::now();
        let deadline = if self.timeout.is_some() { self.deadline } else { received + default.min(FAR) };
        let span = tracing::debug_span!(target: STAGE, parent: &self.span, "item");
        Self { received, deadline, span, ..self.clone() }
    }
}

fn tenant(headers: &HeaderMap) -> Result<&str, Problem> {
    let Some(tenant) = headers.get(TENANT_KEY) else { return Ok(DEFAULT_TENANT) };
    let name = tenant.to_str().ok().filter(|name| !name.is_empty() && name.len() <= LONGEST_NAME);
    name.ok_or_else(|| Problem::bad_request(TENANT_KEY, format!("a name has 1 to {LONGEST_NAME} ASCII characters")))
}

#[cfg(test)]
mod tests;
