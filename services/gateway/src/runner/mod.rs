//! A task for each model: it owns the model's core, tells it what happens and when, and carries out what it says.
//!
//! Everything that happens comes through one inbox, in batches; so the core needs no lock, and a busy gateway wakes the
//! task seldom. The inbox has no bound of its own: callers wait for their answers, and replicas speak about what they
//! were sent.

mod handle;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proto::v1;
use score::Tag;
use service::trace::STAGE;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::Span;

pub(crate) use self::handle::{Ask, Handle, Unanswered, Watcher};
use crate::core::{
    Action, Dispatch, Event, Gateway, LinkId, Outcome, Refusal, ReplicaView, Request, RequestId, Serving, Stats, Time,
};
use crate::metrics;
use crate::options::Tenants;
use crate::replicas::Dialer;

/// What the task is told.
pub(crate) enum Command {
    /// Somebody asks for scores.
    Admit(Admit),
    /// Somebody went away.
    Cancel(RequestId),
    /// The registry or a replica says something.
    Happened(Event),
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

/// A link that is open, or being opened; it is closed when this is dropped.
struct Link {
    /// What is to be sent, in order. Credits bound it.
    outbox: mpsc::UnboundedSender<Outgoing>,
    _task: AbortOnDropHandle<()>,
}

/// What a replica is told.
pub(crate) enum Outgoing {
    /// To compute something, for as long as somebody waits; and the trace that it belongs to.
    Piece(Dispatch, Instant, Arc<str>),
    /// That nobody waits for something.
    Withdraw(Tag),
}

/// How it goes.
#[derive(Default)]
pub(crate) struct Observation {
    pub(crate) stats: Stats,
    pub(crate) waiting: Vec<v1::TenantStatus>,
    pub(crate) scored: Scored,
    pub(crate) replicas: Vec<ReplicaView>,
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
    /// For links to speak through, which does not keep the task alive.
    watcher: Watcher,
    requests: HashMap<RequestId, OpenRequest>,
    dialer: Arc<Dialer>,
    links: HashMap<LinkId, Link>,
    serving: watch::Sender<Serving>,
    scored: Scored,
    /// Tenants whose queues have a gauge.
    gauges: Vec<String>,
}

/// A request that waits for answers.
struct OpenRequest {
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
    pub(crate) fn new(model: Arc<str>, gateway: Gateway, tenants: Arc<Tenants>, dialer: Dialer) -> (Self, Handle) {
        let (sender, inbox) = mpsc::unbounded_channel();
        let (serving, state) = watch::channel(Serving::default());
        let start = Instant::now();
        let handle = Handle::new(sender, start, state);
        let watcher = handle.watcher();
        let (requests, links, dialer) = (HashMap::new(), HashMap::new(), Arc::new(dialer));
        let (scored, gauges) = (Scored::default(), Vec::new());
        let runner =
            Self { model, gateway, tenants, start, inbox, watcher, requests, dialer, links, serving, scored, gauges };
        (runner, handle)
    }

    /// Runs until nobody holds a handle, or it is dropped; its links end with it.
    pub(crate) async fn run(mut self) {
        let mut commands = Vec::with_capacity(BATCH);
        let mut report = interval(REPORT);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wakes = self.gateway.wakes_at().map(|time| self.start + time.since(Time::default()));
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
            Command::Happened(event) => {
                if let Event::Ended { link, .. } = &event {
                    self.links.remove(link);
                }
                self.happens(event);
            }
            Command::Observe(answer) => drop(answer.send(self.observe())),
        }
    }

    fn admit(&mut self, Admit { request, traceparent, span, answer }: Admit) {
        let conversations = request.conversations() as usize;
        let open = OpenRequest {
            answer,
            outcomes: Vec::with_capacity(conversations),
            conversations,
            unsent: conversations,
            traceparent,
            _stage: tracing::debug_span!(target: STAGE, parent: &span, "queue"),
            parent: span,
        };
        self.requests.insert(request.id, open);
        self.happens(Event::Admit(request));
    }

    /// Tells the core, and does what it says.
    fn happens(&mut self, event: Event) {
        for action in self.gateway.handle(self.now(), event) {
            match action {
                Action::Refuse { request, refusal } => self.refuse(request, refusal),
                Action::Dial { link, replica, address, epoch } => self.dial(link, replica, address, epoch),
                Action::HangUp { link } => drop(self.links.remove(&link)),
                Action::Serving(serving) => self.serve(serving),
                Action::Send { link, dispatch } => self.send(link, dispatch),
                Action::Withdraw { link, tag } => self.tell(link, Outgoing::Withdraw(tag)),
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

    fn dial(&mut self, link: LinkId, replica: String, address: String, epoch: u64) {
        let (outbox, outgoing) = mpsc::unbounded_channel();
        let (dialer, watcher) = (Arc::clone(&self.dialer), self.watcher.clone());
        let task = tokio::spawn(async move {
            let why = dialer.run((link, &address, epoch), outgoing, |event| watcher.happened(event)).await;
            tracing::info!(replica, epoch, %why, "no link to a replica");
            watcher.happened(Event::Ended { link, why });
        });
        self.links.insert(link, Link { outbox, _task: AbortOnDropHandle::new(task) });
    }

    fn serve(&mut self, serving: Serving) {
        metrics::replicas(&self.model, &serving);
        let before = self.serving.send_replace(serving.clone());
        if let Some(version) = serving.version.filter(|version| before.version.as_ref() != Some(version)) {
            let (generation, fingerprint) = (version.generation, &version.fingerprint);
            tracing::info!(model = &*self.model, generation, %fingerprint, "serving");
        }
    }

    fn send(&mut self, link: LinkId, dispatch: Dispatch) {
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
        self.tell(link, Outgoing::Piece(dispatch, until, traceparent));
    }

    /// Says something to a replica. If its connection has ended, that is about to be heard.
    fn tell(&self, link: LinkId, what: Outgoing) {
        if let Some(link) = self.links.get(&link) {
            let _ = link.outbox.send(what);
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
        let (stats, replicas) = (self.gateway.stats(), self.gateway.replicas().collect());
        Observation { stats, waiting: self.waiting(), scored: self.scored, replicas }
    }

    fn waiting(&self) -> Vec<v1::TenantStatus> {
        let backlog = |waiting: crate::core::Waiting<'_>| v1::TenantStatus {
            tenant: waiting.tenant.as_str().to_owned(),
            tokens: waiting.tokens,
            oldest_seconds: waiting.oldest.as_secs_f64(),
            pieces: waiting.pieces as u64,
        };
        self.gateway.waiting(self.now()).map(backlog).collect()
    }

    fn report(&mut self) {
        let waiting = self.waiting();
        metrics::core(&self.model, &self.gateway.stats());
        self.gauges = metrics::waiting(&self.model, &self.tenants, &waiting, std::mem::take(&mut self.gauges));
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.serving.send_modify(|serving| (serving.ready, serving.standby) = (0, 0));
    }
}
