//! A task for each model: it owns the model's core, tells it what happens and when, and carries out what it says.
//!
//! Everything that happens comes through one inbox, in batches; so the core needs no lock, and a busy gateway wakes the
//! task seldom. The inbox has no bound of its own: callers wait for their answers, and replicas speak about what they
//! were sent.

mod handle;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use proto::v1;
use score::Tag;
use service::trace::STAGE;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Span;

pub(crate) use self::handle::{Ask, Handle, Unanswered, Watcher};
use crate::core::{
    Action, Announcement, Dispatch, Event, Gateway, Outcome, Refusal, ReplicaId, Request, RequestId, Stats, Time,
    Version, elect,
};
use crate::metrics;
use crate::options::Tenants;

/// What the task is told.
pub(crate) enum Command {
    /// Somebody asks for scores.
    Admit(Admit),
    /// Somebody went away.
    Cancel(RequestId),
    /// A replica takes up work.
    Joined(Announcement, Line),
    /// A replica says something.
    Said(Event),
    /// Somebody wants to know how it goes.
    Observe(oneshot::Sender<Observation>),
}

/// A request, and where its answer goes.
pub(crate) struct Admit {
    request: Request,
    traceparent: Arc<str>,
    span: Span,
    answer: oneshot::Sender<Result<Vec<Outcome>, Refusal>>,
}

/// The way to a replica, for one epoch.
pub(crate) struct Line {
    /// What is to be sent, in order. Credits bound it.
    pub(crate) outbox: mpsc::UnboundedSender<Outgoing>,
    /// Cancelled to give it up.
    pub(crate) close: CancellationToken,
}

/// What a replica is told.
pub(crate) enum Outgoing {
    /// To compute something, for as long as somebody waits; and the trace that it belongs to.
    Piece(Dispatch, Instant, Arc<str>),
    /// That nobody waits for something.
    Withdraw(Tag),
}

/// What is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Serving {
    /// The version, once there was one.
    pub(crate) version: Option<Version>,
    /// Replicas that take work.
    pub(crate) ready: usize,
    /// Replicas of other versions, that would.
    pub(crate) standby: usize,
}

/// How it goes.
#[derive(Default)]
pub(crate) struct Observation {
    pub(crate) stats: Stats,
    pub(crate) waiting: Vec<v1::TenantStatus>,
    pub(crate) scored: Scored,
}

/// What has a score, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Scored {
    /// Conversations.
    pub(crate) scores: u64,
    /// Their tokens, those that they share counted for each.
    pub(crate) tokens: u64,
}

pub(crate) struct Runner {
    model: Arc<str>,
    gateway: Gateway,
    tenants: Arc<Tenants>,
    start: Instant,
    inbox: mpsc::UnboundedReceiver<Command>,
    requests: HashMap<RequestId, Waiting>,
    lines: HashMap<ReplicaId, Line>,
    /// Replicas that would take work: their epoch, and their version.
    ready: BTreeMap<ReplicaId, (u64, Version)>,
    serving: watch::Sender<Serving>,
    scored: Scored,
    /// Tenants whose queues have a gauge.
    gauges: Vec<String>,
}

/// A request that waits for answers.
struct Waiting {
    answer: oneshot::Sender<Result<Vec<Outcome>, Refusal>>,
    outcomes: Vec<Outcome>,
    conversations: usize,
    /// Conversations that were not sent.
    unsent: usize,
    traceparent: Arc<str>,
    parent: Span,
    /// Where it is; ends with it.
    _stage: Span,
}

/// Commands that are taken at a time.
const BATCH: usize = 256;
/// How often gauges are set.
const REPORT: Duration = Duration::from_secs(1);

// === impl Runner ===

impl Runner {
    /// A runner that has not been started, and the handle to it.
    pub(crate) fn new(model: Arc<str>, gateway: Gateway, tenants: Arc<Tenants>) -> (Self, Handle) {
        let (sender, inbox) = mpsc::unbounded_channel();
        let (serving, state) = watch::channel(Serving::default());
        let start = Instant::now();
        let handle = Handle::new(sender, start, state);
        let (requests, lines, ready) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        let (scored, gauges) = (Scored::default(), Vec::new());
        (Self { model, gateway, tenants, start, inbox, requests, lines, ready, serving, scored, gauges }, handle)
    }

    /// Runs until nobody holds a handle.
    pub(crate) async fn run(mut self) {
        let mut commands = Vec::with_capacity(BATCH);
        let mut report = interval(REPORT);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wakes = self.gateway.wakes_at(self.now()).map(|time| self.start + time.since(Time::default()));
            tokio::select! {
                biased;
                received = self.inbox.recv_many(&mut commands, BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
                () = sleep_until(wakes.unwrap_or(self.start)), if wakes.is_some() => self.happens(Event::Tick),
                _ = report.tick() => self.report(),
            }
            for command in commands.drain(..) {
                self.obey(command);
            }
        }
    }

    fn now(&self) -> Time {
        Time::new(self.start.elapsed())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Admit(admit) => self.admit(admit),
            Command::Cancel(request) => {
                self.requests.remove(&request);
                self.happens(Event::Cancel(request));
            }
            Command::Joined(announcement, line) => self.joined(announcement, line),
            Command::Said(event) => self.said(event),
            Command::Observe(answer) => drop(answer.send(self.observe())),
        }
    }

    fn admit(&mut self, Admit { request, traceparent, span, answer }: Admit) {
        let conversations = request.conversations() as usize;
        let waiting = Waiting {
            answer,
            outcomes: Vec::with_capacity(conversations),
            conversations,
            unsent: conversations,
            traceparent,
            _stage: tracing::debug_span!(target: STAGE, parent: &span, "queue"),
            parent: span,
        };
        self.requests.insert(request.id, waiting);
        self.happens(Event::Admit(request));
    }

    fn joined(&mut self, announcement: Announcement, line: Line) {
        let replica = announcement.replica;
        if let Some(old) = self.lines.insert(replica, line) {
            old.close.cancel();
        }
        self.ready.insert(replica, (announcement.epoch, announcement.version.clone()));
        self.happens(Event::Joined(announcement));
        self.elect();
    }

    fn said(&mut self, event: Event) {
        match event {
            Event::Left { replica, epoch } => {
                self.lines.remove(&replica);
                self.not_ready(replica, epoch);
                self.happens(event);
                self.elect();
            }
            Event::Draining { replica, epoch } => {
                self.not_ready(replica, epoch);
                self.happens(event);
                self.elect();
            }
            other => self.happens(other),
        }
    }

    fn not_ready(&mut self, replica: ReplicaId, epoch: u64) {
        if self.ready.get(&replica).is_some_and(|(current, _)| *current == epoch) {
            self.ready.remove(&replica);
        }
    }

    /// Chooses the version that is served.
    fn elect(&mut self) {
        let served = self.serving.borrow().version.clone();
        let elected = elect(served.as_ref(), self.ready.values().map(|(_, version)| version));
        let ready = self.ready.values().filter(|(_, version)| Some(version) == elected.as_ref()).count();
        let serving = Serving { version: elected.clone(), ready, standby: self.ready.len() - ready };
        metrics::replicas(&self.model, &serving);
        self.serving.send_if_modified(|before| std::mem::replace(before, serving.clone()) != serving);
        if let Some(version) = elected.filter(|version| Some(version) != served.as_ref()) {
            let (generation, fingerprint) = (version.generation, &version.fingerprint);
            tracing::info!(model = &*self.model, generation, %fingerprint, "serving");
            self.happens(Event::Serve(vec![version]));
        }
    }

    /// Tells the core, and does what it says.
    fn happens(&mut self, event: Event) {
        for action in self.gateway.handle(self.now(), event) {
            match action {
                Action::Refuse { request, refusal } => self.refuse(request, refusal),
                Action::Send { replica, dispatch, .. } => self.send(replica, dispatch),
                Action::Withdraw { replica, tag, .. } => self.tell(replica, Outgoing::Withdraw(tag)),
                // its line says that it has left
                Action::Disconnect { replica, epoch } => {
                    if let Some(line) = self.lines.remove(&replica) {
                        line.close.cancel();
                    }
                    self.not_ready(replica, epoch);
                }
                Action::Answer(outcome) => self.answer(outcome),
            }
        }
    }

    fn refuse(&mut self, request: RequestId, refusal: Refusal) {
        if let Some(waiting) = self.requests.remove(&request) {
            // whoever is gone needs no answer
            let _ = waiting.answer.send(Err(refusal));
        }
    }

    fn send(&mut self, replica: ReplicaId, dispatch: Dispatch) {
        let mut traceparent = Arc::default();
        if let Some(waiting) = self.requests.get_mut(&dispatch.request) {
            traceparent = Arc::clone(&waiting.traceparent);
            if dispatch.piece.tag.attempt == 1 {
                waiting.unsent = waiting.unsent.saturating_sub(dispatch.piece.tails.len());
                if waiting.unsent == 0 {
                    waiting._stage = tracing::debug_span!(target: STAGE, parent: &waiting.parent, "compute");
                }
            }
        }
        let until = self.start + dispatch.deadline.since(Time::default());
        self.tell(replica, Outgoing::Piece(dispatch, until, traceparent));
    }

    /// Says something to a replica. If its connection has ended, that is about to be heard.
    fn tell(&self, replica: ReplicaId, what: Outgoing) {
        if let Some(line) = self.lines.get(&replica) {
            let _ = line.outbox.send(what);
        }
    }

    fn answer(&mut self, outcome: Outcome) {
        let request = outcome.request;
        let Some(waiting) = self.requests.get_mut(&request) else { return };
        if outcome.result.is_ok() {
            self.scored.scores += 1;
            self.scored.tokens += outcome.tokens;
        }
        waiting.outcomes.push(outcome);
        if waiting.outcomes.len() == waiting.conversations
            && let Some(waiting) = self.requests.remove(&request)
        {
            let _ = waiting.answer.send(Ok(waiting.outcomes));
        }
    }

    fn observe(&self) -> Observation {
        let backlog = |waiting: crate::core::Waiting<'_>| v1::TenantStatus {
            tenant: waiting.tenant.as_str().to_owned(),
            tokens: waiting.tokens,
            oldest_seconds: waiting.oldest.as_secs_f64(),
            pieces: waiting.pieces as u64,
        };
        let waiting = self.gateway.waiting(self.now()).map(backlog).collect();
        Observation { stats: self.gateway.stats(), waiting, scored: self.scored }
    }

    fn report(&mut self) {
        let Observation { stats, waiting, .. } = self.observe();
        metrics::core(&self.model, &stats);
        self.gauges = metrics::waiting(&self.model, &self.tenants, &waiting, std::mem::take(&mut self.gauges));
    }
}
