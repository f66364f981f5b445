//! The nodes of an etcd cluster, one at a time: everybody uses the same one until it fails somebody.
//!
//! Each node has a client of its own, made when it is first needed. A client that failed is dropped with its connection
//! and its token, so that a connection into nowhere, a node that hangs and a token that has run out are left in one way.

use std::collections::hash_map::RandomState;
use std::error::Error as _;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tokio::time::timeout;

use super::EtcdOptions;
use crate::Error;
use crate::store::Failure;

pub(super) struct Nodes {
    endpoints: Vec<String>,
    connect: ConnectOptions,
    attempt: Duration,
    state: Mutex<State>,
}

struct State {
    current: usize,
    clients: Vec<Option<Client>>,
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
        let current = RandomState::new().build_hasher().finish() as usize % count;
        let state = Mutex::new(State { current, clients: vec![None; count] });
        let (endpoints, connect, attempt) = (options.endpoints.clone(), options.connect(), options.attempt);
        Ok(Self { endpoints, connect, attempt, state })
    }

    pub(super) fn attempt(&self) -> Duration {
        self.attempt
    }

    /// The node that has not failed.
    pub(super) async fn pick(&self) -> Result<Node, Failure> {
        let (index, client) = {
            let state = self.lock();
            (state.current, state.clients[state.current].clone())
        };
        if let Some(client) = client {
            return Ok(Node { client, index });
        }
        let connect = Client::connect([&self.endpoints[index]], Some(self.connect.clone()));
        let client = self.ask(index, connect).await?;
        self.lock().clients[index] = Some(client.clone());
        Ok(Node { client, index })
    }

    /// Waits for a node's answer, but not for long.
    pub(super) async fn ask<T>(
        &self,
        index: usize,
        answer: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Failure> {
        let failure = match timeout(self.attempt, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => classify(&error),
            Err(_) => Failure::Unavailable(format!("no answer within {:?}", self.attempt)),
        };
        Err(self.failed(index, failure))
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
