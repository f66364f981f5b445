//! What the rest of the gateway holds of a model's task.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::Span;

use super::{Admit, Command, Observation};
use crate::core::{Event, Item, LaneId, Outcome, Refusal, Request, RequestId, Serving, TenantId, Time, why_none};

/// A handle to a model's task. Clones share it; the task ends with the last of them.
#[derive(Clone)]
pub(crate) struct Handle {
    inbox: mpsc::UnboundedSender<Command>,
    start: Instant,
    serving: watch::Receiver<Serving>,
    next: Arc<AtomicU64>,
}

/// As much of a handle as it takes to watch; it does not keep the task alive.
#[derive(Clone)]
pub(crate) struct Watcher {
    inbox: mpsc::WeakUnboundedSender<Command>,
    serving: watch::Receiver<Serving>,
}

/// A request for scores.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) tenant: TenantId,
    pub(crate) weight: NonZeroU32,
    pub(crate) lane: LaneId,
    pub(crate) deadline: Instant,
    pub(crate) traceparent: Arc<str>,
    pub(crate) items: Vec<Item>,
}

/// Why there are no outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    /// It was not let in.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The task has ended.
    #[error("the gateway has ended")]
    Ended,
}

/// Takes a request back when whoever waits for it goes away.
struct Waits<'a> {
    inbox: &'a mpsc::UnboundedSender<Command>,
    request: Option<RequestId>,
}

// === impl Handle ===

impl Handle {
    pub(super) fn new(
        inbox: mpsc::UnboundedSender<Command>,
        start: Instant,
        serving: watch::Receiver<Serving>,
    ) -> Self {
        Self { inbox, start, serving, next: Arc::default() }
    }

    /// The outcome of each conversation, in any order. Drop the future to take the request back.
    pub(crate) async fn score(&self, ask: Ask) -> Result<Vec<Outcome>, Unanswered> {
        let Ask { tenant, weight, lane, deadline, traceparent, items } = ask;
        let id = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        let deadline = Time::new(deadline.saturating_duration_since(self.start));
        let request = Request { id, tenant, weight, lane, deadline, items };
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Admit(Admit { request, traceparent, span: Span::current(), answer }));
        let mut waits = Waits { inbox: &self.inbox, request: Some(id) };
        let outcomes = answered.await;
        waits.request = None;
        Ok(outcomes.map_err(|_| Unanswered::Ended)??)
    }

    /// The registry says something.
    pub(crate) fn happened(&self, event: Event) {
        self.tell(Command::Happened(event));
    }

    /// Why no replica takes work, in words for a client.
    pub(crate) async fn why_none(&self, model: &str) -> String {
        let replicas = self.watcher().observe().await.map_or_else(Vec::new, |it| it.replicas);
        why_none(replicas.iter().filter(|replica| replica.model == model))
    }

    /// What is served now.
    pub(crate) fn serving(&self) -> Serving {
        self.serving.borrow().clone()
    }

    /// For those who only watch.
    pub(crate) fn watcher(&self) -> Watcher {
        Watcher { inbox: self.inbox.downgrade(), serving: self.serving.clone() }
    }

    /// If the task has ended, whoever waits for an answer learns it from the answer.
    fn tell(&self, command: Command) {
        let _ = self.inbox.send(command);
    }
}

// === impl Watcher ===

impl Watcher {
    /// What is served now.
    pub(crate) fn serving(&self) -> Serving {
        self.serving.borrow().clone()
    }

    /// A replica says something.
    pub(super) fn happened(&self, event: Event) {
        if let Some(inbox) = self.inbox.upgrade() {
            let _ = inbox.send(Command::Happened(event));
        }
    }

    /// Tells when what is served changes.
    pub(crate) fn changes(&self) -> watch::Receiver<Serving> {
        self.serving.clone()
    }

    /// How it goes; None if the task has ended.
    pub(crate) async fn observe(&self) -> Option<Observation> {
        let (answer, answered) = oneshot::channel();
        self.inbox.upgrade()?.send(Command::Observe(answer)).ok()?;
        answered.await.ok()
    }
}

// === impl Waits ===

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            let _ = self.inbox.send(Command::Cancel(request));
        }
    }
}
