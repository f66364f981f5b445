//! Finds a gateway that takes items, and another one when it is gone; knows when to give up.

use std::time::Duration;

use proto::v1;
use service::Backoff;
use service::net::tls_refusal;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::Error;
use crate::connection::{Connection, Endpoints, PATIENCE, Terms};
use crate::error::{in_words, is_final, retry_after};
use crate::exchange::Exchange;

/// Finds gateways.
pub(crate) struct Connector {
    endpoints: Endpoints,
    terms: Terms,
    pub(crate) patience: Patience,
    backoff: Backoff,
    /// Endpoints that have failed since one was good.
    failed: usize,
}

/// A gateway that takes items of a model.
pub(crate) struct Found {
    pub(crate) gateway: Connection,
    pub(crate) exchange: Exchange,
    pub(crate) model: v1::Model,
    /// The largest item that it reads, in bytes.
    pub(crate) largest: usize,
}

/// How long nothing has come of it.
pub(crate) struct Patience {
    pub(crate) limit: Duration,
    since: Instant,
}

/// The waits before a gateway is tried again.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(6);

// === impl Patience ===

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now() }
    }

    /// Something has come of it.
    pub(crate) fn renew(&mut self) {
        self.since = Instant::now();
    }

    /// Whether it is over when so much more time has gone by.
    pub(crate) fn ends_within(&self, wait: Duration) -> bool {
        self.since.elapsed() + wait > self.limit
    }
}

// === impl Connector ===

impl Connector {
    pub(crate) fn new(endpoints: Endpoints, terms: Terms, limit: Duration) -> Self {
        let backoff = Backoff::new(FIRST, LONGEST);
        Self { endpoints, terms, patience: Patience::new(limit), backoff, failed: 0 }
    }

    /// How items are read.
    pub(crate) fn reading(&self) -> v1::Options {
        self.terms.options.clone()
    }

    /// Finds a gateway that serves the model.
    pub(crate) async fn connect(&mut self) -> Result<Found, Error> {
        loop {
            let (name, status) = match self.endpoints.dial().await {
                Ok(gateway) => match self.begin(&gateway).await {
                    Ok(found) => return found,
                    Err(status) => (gateway.name, status),
                },
                Err(failed) => failed,
            };
            self.lost(&name, &status).await?;
        }
    }

    /// A gateway has answered: what went wrong before is forgotten.
    pub(crate) fn good(&mut self) {
        self.patience.renew();
        self.backoff.reset();
        self.failed = 0;
    }

    /// A gateway is gone: waits until the next one may be tried.
    ///
    /// # Errors
    /// If trying on is of no use.
    pub(crate) async fn lost(&mut self, name: &str, status: &Status) -> Result<(), Error> {
        // a server's verdict on a client's certificate comes after the client's handshake
        let status = tls_refusal(status).map_or_else(|| status.clone(), Status::failed_precondition);
        let (endpoint, status) = (name.to_owned(), Box::new(status));
        if is_final(status.code()) {
            return Err(Error::Refused { endpoint, status });
        }
        self.failed += 1;
        let wait = match retry_after(&status) {
            Some(delay) => delay,
            // the others may be well
            None if !self.failed.is_multiple_of(self.endpoints.count()) => Duration::ZERO,
            None => self.backoff.wait(),
        };
        if self.patience.ends_within(wait) {
            return Err(Error::Unreachable { endpoint, status, patience: self.patience.limit });
        }
        tracing::warn!(endpoint, "{}; trying again", in_words(&status));
        sleep(wait).await;
        Ok(())
    }

    /// Whether a replica of the model takes work, as far as the gateway says.
    pub(crate) async fn is_ready(&self, gateway: &Connection) -> bool {
        let served = gateway.models().await.unwrap_or_default();
        gateway.choose(served, &self.terms.options).is_ok_and(|model| model.replicas_ready > 0)
    }

    /// No replica was there for too long.
    pub(crate) fn no_replica(&self, reason: String) -> Error {
        Error::NoReplica { endpoints: self.endpoints.names(), reason, patience: self.patience.limit }
    }

    /// The inner error is one that ends everything.
    async fn begin(&self, gateway: &Connection) -> Result<Result<Found, Error>, Status> {
        let (served, largest) = gateway.listed().await?;
        let model = match gateway.choose(served, &self.terms.options) {
            Ok(model) => model,
            Err(error) => return Ok(Err(error)),
        };
        let late = |_| Status::unavailable("it does not answer");
        let exchange = timeout(PATIENCE, Exchange::open(gateway, &self.terms)).await.map_err(late)??;
        Ok(Ok(Found { gateway: gateway.clone(), exchange, model, largest }))
    }
}

#[cfg(test)]
mod tests;
