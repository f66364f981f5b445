//! Finds a gateway that takes lines, and another one when it is gone; knows when to give up.

use std::time::Duration;

use anyhow::{Result, bail};
use service::Backoff;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::link::{Link, Manner};
use crate::client::endpoints::{Endpoints, Gateway, PATIENCE, in_words, retry_after};
use crate::client::models::{check, served};

/// The waits before a gateway is tried again.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3);

/// Finds gateways.
pub(super) struct Connector {
    pub(super) endpoints: Endpoints,
    pub(super) manner: Manner,
    pub(super) patience: Patience,
    backoff: Backoff,
    /// Endpoints that have failed since one was good.
    failed: usize,
}

/// How long nothing has come of it.
pub(super) struct Patience {
    pub(super) limit: Duration,
    since: Instant,
}

// === impl Patience ===

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now() }
    }

    /// Something has come of it.
    pub(super) fn renew(&mut self) {
        self.since = Instant::now();
    }

    /// Whether it is over when so much more time has gone by.
    pub(super) fn ends_within(&self, wait: Duration) -> bool {
        self.since.elapsed() + wait > self.limit
    }
}

// === impl Connector ===

impl Connector {
    pub(super) fn new(endpoints: Endpoints, manner: Manner, limit: Duration) -> Self {
        Self { endpoints, manner, patience: Patience::new(limit), backoff: Backoff::new(FIRST, LONGEST), failed: 0 }
    }

    /// Finds a gateway that serves the model.
    pub(super) async fn connect(&mut self) -> Result<(Gateway, Link)> {
        loop {
            match self.attempt().await {
                Ok(found) => return Ok(found),
                Err((name, status)) => self.lost(&name, &status).await?,
            }
        }
    }

    /// A gateway has answered: what went wrong before is forgotten.
    pub(super) fn good(&mut self) {
        self.patience.renew();
        self.backoff.reset();
        self.failed = 0;
    }

    /// A gateway is gone: waits until the next one may be tried.
    ///
    /// # Errors
    /// If trying on is of no use.
    pub(super) async fn lost(&mut self, name: &str, status: &Status) -> Result<()> {
        let reason = in_words(status);
        if is_final(status.code()) {
            bail!("{name}: {reason}");
        }
        self.failed += 1;
        let wait = match retry_after(status) {
            Some(delay) => delay,
            // the others may be well
            None if !self.failed.is_multiple_of(self.endpoints.count()) => Duration::ZERO,
            None => self.backoff.wait(),
        };
        if self.patience.ends_within(wait) {
            let seconds = self.patience.limit.as_secs_f64();
            bail!(
                "{name}: {reason}; no gateway has answered for {seconds} s: is it up, and is this the port for gRPC? \
                 --retry-for tries longer"
            );
        }
        tracing::warn!(endpoint = name, "{reason}; trying again");
        sleep(wait).await;
        Ok(())
    }

    async fn attempt(&mut self) -> Result<(Gateway, Link), (String, Status)> {
        let gateway = self.endpoints.dial().await?;
        let Gateway { name, channel } = &gateway;
        let link = async {
            let served = served(channel.clone()).await?;
            check(&served, &self.manner.options)?;
            let late = |_| Status::unavailable("it does not answer");
            timeout(PATIENCE, Link::open(channel.clone(), &self.manner)).await.map_err(late)?
        };
        match link.await {
            Ok(link) => Ok((gateway, link)),
            Err(status) => Err((name.clone(), status)),
        }
    }

    /// Whether a replica of the model takes work, as far as the gateway says.
    pub(super) async fn is_ready(&self, gateway: &Gateway) -> bool {
        let served = served(gateway.channel.clone()).await.unwrap_or_default();
        let wanted = &self.manner.options.model;
        served.iter().any(|model| (wanted.is_empty() || model.name == *wanted) && model.replicas_ready > 0)
    }
}

/// Whether asking again is of no use, there or elsewhere.
fn is_final(code: Code) -> bool {
    use Code::{FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unauthenticated, Unimplemented};
    matches!(code, FailedPrecondition | InvalidArgument | NotFound | PermissionDenied | Unauthenticated | Unimplemented)
}

#[cfg(test)]
mod tests;
