//! A process that owns consecutive ranks of a replica: it claims them, loads them, and takes part in one epoch after
//! another, as the leader if rank 0 is among them.
//!
//! | module | job |
//! |---|---|
//! | `membership` | holds the claims of the ranks and writes down how far they are |
//! | `roster` | what the registry says about the replica |
//! | `server` | takes in gateways and workers for the epoch that is open |
//! | `lead`, `follow` | one epoch, from either end |
//! | `crew` | the other workers of an epoch, as the leader sees them |
//! | `gateways` | the gateways of an epoch, as the leader sees them |
//! | `meeting` | how ranks meet those of other workers |

mod crew;
mod follow;
mod gateways;
mod lead;
mod meeting;
mod membership;
mod roster;
mod server;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use collective::Ticket;
use discovery::{Incarnation, Key, Registry};
use model::Device;
use proto::shard::v1::{RankRecord, RankState};
use schemars::JsonSchema;
use score::{Checksum, Partials, Stamp, Versions};
use serde::{Deserialize, Serialize};
use service::Network;
use service::config::{DurationText, Unusable, ensure};
use service::net::Listener;
use service::server::Limits;
use service::trace::{self, STAGE};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::Span;

use self::membership::Membership;
use self::roster::Roster;
use self::server::Lobby;
use crate::leader::{Report, Work};
use crate::plan::Allowance;
use crate::ranks::Done;
use crate::{Error, Ranks, RanksOptions, metrics};

/// What a worker is.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The model, as clients call it.
    pub model: String,
    /// The name of the replica, among all of the cluster.
    pub replica: String,
    /// The ranks, and what they compute.
    pub ranks: RanksOptions,
    /// The generation of the weights.
    pub generation: u64,
    /// What the bits of the scores depend on.
    pub fingerprint: String,
    /// A digest of config, tokenizer and template: gateways must have the same.
    pub text_digest: String,
    /// The most tokens of a step.
    pub step_tokens: usize,
    /// How long a step that is not full waits for more after the last that came.
    pub linger: Duration,
    /// Tokens of the step that begins an epoch on CPUs.
    pub probe: usize,
    /// Where others reach this worker; None for the address that it listens at.
    pub advertise: Option<String>,
    /// The versions of the inner protocol that it speaks.
    pub protocol: Versions,
    /// How long to wait for what.
    pub patience: Patience,
    /// What those who connect may hold of its port.
    pub connections: Limits,
}

/// How long a worker waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Patience {
    /// Workers of a replica let each other hear something so often.
    #[serde(with = "DurationText")]
    pub heartbeat: Duration,
    /// Who is silent for so long is gone.
    #[serde(with = "DurationText")]
    pub silence: Duration,
    /// How long the ranks of an epoch have to find each other.
    #[serde(with = "DurationText")]
    pub forming: Duration,
    /// How long ranks wait for one of them in the middle of a step, if nothing else says that it is gone.
    #[serde(with = "DurationText")]
    pub meeting: Duration,
    /// A step may take this, and ten times what its tokens take at the measured rate.
    #[serde(with = "DurationText")]
    pub step: Duration,
    /// How long accepted work may go on after the worker was told to end.
    #[serde(with = "DurationText")]
    pub drain: Duration,
    /// How long ranks may take to come back from a step of an epoch that is over.
    #[serde(with = "DurationText")]
    pub quiesce: Duration,
}

/// What the replicas that a worker led have computed since it was started.
#[derive(Debug, Default)]
pub struct Computed {
    steps: AtomicU64,
    tokens: AtomicU64,
}

/// A worker that has not been started.
pub struct Worker {
    options: WorkerOptions,
    computed: Arc<Computed>,
    registry: Registry,
    network: Network,
    record: watch::Sender<RankRecord>,
}

/// What the parts of a worker share.
struct Context {
    options: WorkerOptions,
    computed: Arc<Computed>,
    registry: Registry,
    network: Network,
    record: watch::Sender<RankRecord>,
    membership: Membership,
    incarnation: Incarnation,
    roster: watch::Receiver<Roster>,
    lobby: Arc<Lobby>,
    address: String,
    epoch_key: Key,
    /// The worker is to leave.
    stop: CancellationToken,
}

/// What a rank of this process computed.
struct Local {
    stamp: Stamp,
    rank: usize,
    partials: Result<Partials, String>,
}

/// The ranks of this process, for the length of an epoch.
struct Locals<'a> {
    ranks: &'a Ranks,
    /// What the checksums of the epoch cover.
    checksum: Checksum,
    sender: mpsc::UnboundedSender<Local>,
    results: mpsc::UnboundedReceiver<Local>,
    /// Each step that a rank has holds a clone.
    busy: Arc<()>,
}

/// How an epoch, or the attempt to form one, ended.
type Reason = String;

/// Tokens of the step that begins an epoch on CPUs, where nobody says otherwise.
pub const PROBE: usize = 32;
/// The pause after an epoch that could not be formed.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the registry has to take a claim back.
const RELEASE: Duration = Duration::from_secs(3);

// === impl Patience ===

impl Default for Patience {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            silence: Duration::from_secs(2),
            forming: Duration::from_secs(5),
            meeting: Duration::from_secs(60),
            step: Duration::from_secs(10),
            drain: Duration::from_secs(60),
            quiesce: Duration::from_secs(60),
        }
    }
}

impl Patience {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`Unusable`], with the setting.
    pub fn check(&self) -> Result<(), Unusable> {
        let Self { heartbeat, silence, forming, meeting, quiesce, .. } = *self;
        ensure(!heartbeat.is_zero(), "patience.heartbeat", "more than 0s")?;
        ensure(silence > heartbeat, "patience.silence", "more than patience.heartbeat, or everybody is gone at once")?;
        ensure(!forming.is_zero(), "patience.forming", "more than 0s")?;
        ensure(!meeting.is_zero(), "patience.meeting", "more than 0s")?;
        ensure(!quiesce.is_zero(), "patience.quiesce", "more than 0s")
    }

    /// How long a step may take.
    fn allowance(&self) -> Allowance {
        Allowance { least: self.step, factor: 10.0, slowest: 1.0 }
    }
}

// === impl Computed ===

impl Computed {
    /// A step of so many tokens is given to the ranks.
    fn add(&self, tokens: usize) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// Steps, and their tokens; those that sequences of a step share count once.
    pub fn so_far(&self) -> (u64, u64) {
        (self.steps.load(Ordering::Relaxed), self.tokens.load(Ordering::Relaxed))
    }
}

// === impl Worker ===

impl Worker {
    /// A worker that will do this.
    pub fn new(options: WorkerOptions, registry: Registry, network: Network) -> Self {
        let record = RankRecord {
            model: options.model.clone(),
            state: RankState::Loading.into(),
            address: options.advertise.clone().unwrap_or_default(),
            world_size: options.ranks.world_size as u32,
            epoch: 0,
            generation: options.generation,
            fingerprint: options.fingerprint.clone(),
        };
        Self { options, computed: Arc::default(), registry, network, record: watch::Sender::new(record) }
    }

    /// What it computes, as that goes on.
    pub fn computed(&self) -> Arc<Computed> {
        Arc::clone(&self.computed)
    }

    /// What it writes into the registry, as it changes.
    pub fn record(&self) -> watch::Receiver<RankRecord> {
        self.record.subscribe()
    }

    /// Serves, beside `others` (health, say), until `stop` is cancelled and what was accepted is done.
    ///
    /// # Errors
    /// If the model cannot be loaded, the registry refuses the worker, or a rank is beyond help. A registry that is
    /// away, and other workers that are, are waited for.
    pub async fn run(self, listener: Listener, others: Routes, stop: CancellationToken) -> Result<(), Error> {
        let Self { options, computed, registry, network, record } = self;
        let folder = Key::new(score::registry::replica(&options.replica))?;
        let address = options.advertise.clone().unwrap_or_else(|| listener.address().to_owned());
        record.send_modify(|record| record.address.clone_from(&address));
        if options.protocol.contains(1) {
            tracing::info!("workers and gateways of protocol 1 are accepted; with refuse_protocol_1 they are not");
        }
        let roster = roster::watch(&registry, &folder);
        let lobby = Arc::new(Lobby::new(&options, roster.clone()));
        let serving = server::serve(
            network.server(options.connections),
            listener,
            others,
            (Arc::clone(&lobby), server::largest(&options)),
        );
        let key = |rank| Key::new(score::registry::rank(&options.replica, rank as u32));
        let keys = options.ranks.ranks.clone().map(key);
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let incarnation = Incarnation::random();
        let membership = Membership::hold(registry.clone(), keys, incarnation, record.subscribe());
        let epoch_key = Key::new(score::registry::epoch(&options.replica))?;
        let context = Context {
            options,
            computed,
            registry,
            network,
            record,
            membership,
            incarnation,
            roster,
            lobby,
            address,
            epoch_key,
            stop,
        };
        let outcome = context.work().await;
        context.membership.release(RELEASE).await;
        drop(serving);
        outcome
    }
}

// === impl Context ===

impl Context {
    async fn work(&self) -> Result<(), Error> {
        let options = self.options.ranks.clone();
        let loading = tokio::task::spawn_blocking(move || Ranks::load(&options));
        let ranks = tokio::select! {
            ranks = loading => ranks.map_err(|_| Error::RankStopped(self.options.ranks.ranks.start))??,
            () = self.stop.cancelled() => return Ok(()),
            error = self.membership.refused() => return Err(error.into()),
        };
        for warning in ranks.warnings() {
            tracing::warn!("{warning}");
        }
        self.set_state(RankState::Ready, 0);
        let mut last = None;
        while !self.stop.is_cancelled() {
            let mut locals = Locals::new(&ranks);
            let reason = tokio::select! {
                reason = self.epoch(&mut locals) => reason,
                error = self.membership.refused() => return Err(error.into()),
            };
            if !self.stop.is_cancelled() {
                self.set_state(RankState::Ready, 0);
            }
            // a device that is lost fails every epoch: the process ends, and whoever looks after it starts another
            let quiet = locals.quiesce(self.options.patience.quiesce).await;
            ranks.check().and(quiet)?;
            if let Some(reason) = reason {
                // the same again and again is said once
                if last.as_ref() != Some(&reason) {
                    tracing::warn!(replica = self.options.replica, reason, "the epoch is over");
                    metrics::epoch_ended(&self.options.replica);
                }
                last = Some(reason);
                tokio::time::sleep(AGAIN).await;
            }
        }
        Ok(())
    }

    /// One epoch; None if the worker was told to leave before it began or when it was done.
    async fn epoch(&self, locals: &mut Locals<'_>) -> Option<Reason> {
        match self.options.ranks.ranks.start {
            0 => lead::lead(self, locals).await,
            _ => follow::follow(self, locals).await,
        }
    }

    /// The version of the NCCL by which the ranks of this worker can meet others; None if they are not on GPUs.
    fn nccl_version(&self) -> Result<Option<u32>, Reason> {
        let on_gpus = self.options.ranks.computes.iter().all(|compute| matches!(compute.device, Device::Cuda(_)));
        on_gpus.then(Ticket::version_here).transpose().map_err(|error| error.to_string())
    }

    fn set_state(&self, state: RankState, epoch: u64) {
        metrics::state(&self.options.replica, state, epoch);
        self.record.send_modify(|record| {
            record.state = state.into();
            record.epoch = epoch;
        });
    }
}

// === impl Local ===

impl Local {
    /// What was computed, as of any rank.
    fn report(self) -> Result<Report, Reason> {
        let Self { stamp, rank, partials } = self;
        let partials = partials.map_err(|problem| format!("rank {rank} failed: {problem}"))?;
        Ok(Report { first_rank: rank, stamp, ranks: vec![partials] })
    }
}

// === impl Locals ===

impl<'a> Locals<'a> {
    fn new(ranks: &'a Ranks) -> Self {
        let (sender, results) = mpsc::unbounded_channel();
        Self { ranks, checksum: Checksum::Row, sender, results, busy: Arc::new(()) }
    }

    /// Gives a step to the ranks; what they compute comes through `results`.
    fn compute(&self, work: &Work) -> Result<(), Error> {
        let (stamp, sender, busy) = (work.stamp, self.sender.clone(), Arc::clone(&self.busy));
        let first = self.ranks.numbers().start;
        let spans: Vec<_> = self.ranks.numbers().map(|rank| Mutex::new(span(work, rank))).collect();
        let done: Done = Arc::new(move |rank, partials| {
            let _held = &busy;
            // a rank's span ends with its own part of the step
            if let Some(span) = spans.get(rank - first) {
                *span.lock().unwrap_or_else(PoisonError::into_inner) = Span::none();
            }
            let partials = partials.map_err(|error: model::Error| error.to_string());
            // the epoch may be over
            let _ = sender.send(Local { stamp, rank, partials });
        });
        self.ranks.compute(&work.batch, self.checksum, &done)
    }

    /// Leaves the collective and waits until no rank computes.
    async fn quiesce(self, patience: Duration) -> Result<(), Error> {
        self.ranks.leave_seats();
        let idle = async {
            while Arc::strong_count(&self.busy) > 1 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(patience, idle).await.map_err(|_| Error::Stuck(patience))
    }
}

/// What a rank does in a step, as a part of the trace that the step belongs to.
fn span(work: &Work, rank: usize) -> Span {
    let (tokens, sequences) = (work.batch.tokens.len(), work.batch.ends.len());
    let span = tracing::debug_span!(target: STAGE, "step", rank, step = work.stamp.step, tokens, sequences);
    if let Some(trace) = &work.trace {
        trace::set_parent(&span, trace);
    }
    span
}
