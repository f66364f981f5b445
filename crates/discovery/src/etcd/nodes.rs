//! The nodes of an etcd cluster, one at a time: everybody uses the same one until it fails somebody.
//!
//! Each node has a client of its own, made when it is first needed. A client that failed is dropped with its connection
//! and its token, so that a connection into nowhere, a node that hangs and a token that has run out are left in one way.
//!
//! etcd hashes passwords one after another, some tenths of a second each on a busy machine: a process logs in once for all
//! that it asks, and more patiently each time that it took too long. A cluster that starts at once would else never get in.

use std::error::Error as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tokio::sync;
use tokio::time::timeout;

use super::EtcdOptions;
use crate::Error;
use crate::store::Failure;

pub(super) struct Nodes {
    endpoints: Vec<String>,
    connect: ConnectOptions,
    attempt: Duration,
    deadline: Duration,
    state: Mutex<State>,
    /// Held by who connects.
    connecting: sync::Mutex<()>,
}

struct State {
    current: usize,
    clients: Vec<Option<Client>>,
    /// How long the next one that connects waits.
    patience: Duration,
}

/// A node to ask, with its number.
pub(super) struct Node {
    pub(super) client: Client,
    pub(super) index: usize,
}

// === impl Nodes ===

impl Nodes {
    pub(super) async fn new(options: &EtcdOptions) -> Result<Self, Error> {
        options.check()?;
        // Without a user nothing is sent: this reads addresses and certificates.
        let dry = EtcdOptions { credentials: None, ..options.clone() };
        Client::connect(&options.endpoints, Some(dry.connect())).await.map_err(|error| {
            let option = if options.tls.is_some() { "endpoints or tls" } else { "endpoints" };
            Error::Option { option, reason: describe(&error) }
        })?;
        let count = options.endpoints.len();
        // Clients begin at different nodes.
        let current = fastrand::usize(..count);
        let EtcdOptions { attempt, deadline, .. } = *options;
        let state = Mutex::new(State { current, clients: vec![None; count], patience: attempt });
        let (endpoints, connect, connecting) = (options.endpoints.clone(), options.connect(), sync::Mutex::new(()));
        Ok(Self { endpoints, connect, attempt, deadline, state, connecting })
    }

    pub(super) fn attempt(&self) -> Duration {
        self.attempt
    }

    /// The node that has not failed.
    pub(super) async fn pick(&self) -> Result<Node, Failure> {
        if let Ok(node) = self.connected() {
            return Ok(node);
        }
        let _turn = self.connecting.lock().await;
        // whoever had the turn before may have connected
        let (index, patience) = match self.connected() {
            Ok(node) => return Ok(node),
            Err(missing) => missing,
        };
        let connect = Client::connect([&self.endpoints[index]], Some(self.connect.clone()));
        let client = match timeout(patience, self.answered(index, connect)).await {
            Ok(client) => client?,
            Err(_) => {
                self.lock().patience = (2 * patience).min(self.deadline);
                return Err(self.late(index, patience));
            }
        };
        let mut state = self.lock();
        state.patience = self.attempt;
        state.clients[index] = Some(client.clone());
        Ok(Node { client, index })
    }

    /// The node that has not failed, if it is connected; else which it is, and how long to wait for it.
    fn connected(&self) -> Result<Node, (usize, Duration)> {
        let state = self.lock();
        let index = state.current;
        state.clients[index].clone().map(|client| Node { client, index }).ok_or((index, state.patience))
    }

    /// Waits for a node's answer, but not for long.
    pub(super) async fn ask<T>(
        &self,
        index: usize,
        answer: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Failure> {
        let answered = timeout(self.attempt, self.answered(index, answer)).await;
        answered.unwrap_or_else(|_| Err(self.late(index, self.attempt)))
    }

    /// Waits for a node's answer.
    async fn answered<T>(
        &self,
        index: usize,
        answer: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Failure> {
        answer.await.map_err(|error| self.failed(index, classify(&error)))
    }

    fn late(&self, index: usize, patience: Duration) -> Failure {
        self.failed(index, Failure::Unavailable(format!("no answer within {patience:?}")))
    }

    /// Leaves a node if it is why something failed, and says which node it was.
    pub(super) fn failed(&self, index: usize, failure: Failure) -> Failure {
        let Failure::Unavailable(reason) = failure else { return failure };
        let endpoint = &self.endpoints[index];
        tracing::debug!(endpoint, reason, "a node of etcd failed");
        let mut state = self.lock();
        state.clients[index] = None;
        if state.current == index {
            state.current = (index + 1) % self.endpoints.len();
        }
        Failure::Unavailable(format!("{endpoint}: {reason}"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === errors ===

/// The status codes of gRPC that are named here, by their numbers on the wire.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const UNIMPLEMENTED: i32 = 12;
}

/// Whether it is worth trying again.
fn classify(error: &etcd_client::Error) -> Failure {
    use etcd_client::Error as E;
    let reason = describe(error);
    match error {
        E::GRpcStatus(status) => match status.code() as i32 {
            // Somebody changed users or roles after this client logged in: it must log in again.
            code::INVALID_ARGUMENT if reason.contains("revision of auth store is old") => Failure::Unavailable(reason),
            code::INVALID_ARGUMENT | code::PERMISSION_DENIED | code::FAILED_PRECONDITION | code::UNIMPLEMENTED => {
                Failure::Refused(reason)
            }
            // Nothing but a lease is asked for by its name.
            code::NOT_FOUND => Failure::LeaseEnded,
            _ => Failure::Unavailable(reason),
        },
        E::InvalidArgs(_) | E::InvalidUri(_) | E::InvalidMetadataValue(_) => Failure::Refused(reason),
        E::LeaseKeepAliveError(reason) if reason == "lease not found" => Failure::LeaseEnded,
        _ => Failure::Unavailable(reason),
    }
}

/// The message, with the causes that the client's own message leaves out.
fn describe(error: &etcd_client::Error) -> String {
    let (mut text, mut cause) = match error {
        etcd_client::Error::GRpcStatus(status) => (status.message().to_owned(), status.source()),
        etcd_client::Error::TransportError(error) => (error.to_string(), error.source()),
        other => (other.to_string(), None),
    };
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
