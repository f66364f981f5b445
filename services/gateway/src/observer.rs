//! The one window for those who watch: models, replicas, queues. It changes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::core::{Stats, Version};
use crate::replicas::Record;
use crate::runner::{self, Observation, Scored};

/// Watches a gateway. Clones share it; it does not keep the gateway alive.
#[derive(Clone)]
pub struct Observer {
    gateway: Arc<str>,
    models: Arc<BTreeMap<String, (runner::Watcher, usize)>>,
    roster: Roster,
}

/// What there is to see at a moment.
#[derive(Debug, Clone)]
pub struct View {
    /// What the gateway is called.
    pub gateway: String,
    /// The models that are served, by name.
    pub models: Vec<ModelView>,
    /// The replicas that are there, by name.
    pub replicas: Vec<ReplicaView>,
}

/// A model that is served.
#[derive(Debug, Clone)]
pub struct ModelView {
    /// What clients call it.
    pub name: String,
    /// The most tokens of a conversation.
    pub max_length: usize,
    /// The version that is served, once there was one.
    pub version: Option<Version>,
    /// Replicas that take work.
    pub ready: usize,
    /// Replicas of other versions, that would.
    pub standby: usize,
    /// How its gateway is doing; None if it has ended.
    pub stats: Option<Stats>,
    /// What waits for credits, by tenant.
    pub waiting: Vec<Backlog>,
    /// Conversations that got a score, since the start.
    pub scores: u64,
    /// Their tokens.
    pub scored_tokens: u64,
}

/// What waits for credits, of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// Whose.
    pub tenant: String,
    /// Tokens.
    pub tokens: u64,
    /// Pieces.
    pub pieces: usize,
    /// How long ago the oldest of them came in.
    pub oldest: Duration,
}

/// A replica, as far as this gateway knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaView {
    /// Its name.
    pub name: String,
    /// The model that it serves.
    pub model: String,
    /// Where its leader serves.
    pub address: String,
    /// Its ranks that have a record, and how far they are.
    pub ranks: BTreeMap<u32, Rank>,
    /// The number of ranks that it should have.
    pub world_size: u32,
    /// The life that it leads; 0 if it has none.
    pub epoch: u64,
    /// What it is to this gateway.
    pub role: Role,
}

/// How far a rank is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// It loads its share of the weights.
    Loading,
    /// It waits for the other ranks.
    Ready,
    /// It takes part in an epoch.
    Serving,
    /// It finishes what was accepted, and leaves.
    Draining,
}

/// What a replica is to this gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Role {
    /// There is no line, for its leader does not say that it serves.
    #[default]
    Away,
    /// A line is being opened.
    Dialing,
    /// It takes work.
    Ready,
    /// It would take work, but another version is served.
    Standby,
    /// It finishes what it has.
    Draining,
    /// There is no line at the moment, and why.
    Lost(String),
    /// It cannot be used, and why.
    Refused(String),
}

/// How the line to a replica is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Line {
    #[default]
    None,
    Dialing,
    Open {
        version: Version,
        draining: bool,
    },
    Lost(String),
    Refused(String),
}

/// What is known of replicas, written by those who follow them.
#[derive(Clone, Default)]
pub(crate) struct Roster {
    replicas: Arc<Mutex<BTreeMap<String, (ReplicaView, Line)>>>,
}

// === impl Observer ===

impl Observer {
    pub(crate) fn new(gateway: &str, models: BTreeMap<String, (runner::Watcher, usize)>, roster: Roster) -> Self {
        Self { gateway: gateway.into(), models: Arc::new(models), roster }
    }

    /// Whether some replica takes work.
    pub fn is_ready(&self) -> bool {
        self.models.values().any(|(watcher, _)| watcher.serving().ready > 0)
    }

    /// Waits until some replica takes work, or (`ready` false) until none does. Never, once the gateway has ended.
    pub async fn until(&self, ready: bool) {
        let mut changes: Vec<_> = self.models.values().map(|(watcher, _)| watcher.changes()).collect();
        while self.is_ready() != ready {
            any_change(&mut changes).await;
        }
    }

    /// All there is to see now.
    pub async fn view(&self) -> View {
        let mut models = Vec::with_capacity(self.models.len());
        for (name, (watcher, max_length)) in self.models.iter() {
            let serving = watcher.serving();
            let (stats, waiting, scored) = match watcher.observe().await {
                Some(Observation { stats, waiting, scored }) => (Some(stats), waiting, scored),
                None => (None, Vec::new(), Scored::default()),
            };
            models.push(ModelView {
                name: name.clone(),
                max_length: *max_length,
                version: serving.version,
                ready: serving.ready,
                standby: serving.standby,
                stats,
                waiting,
                scores: scored.scores,
                scored_tokens: scored.tokens,
            });
        }
        View { gateway: self.gateway.to_string(), models, replicas: self.replicas() }
    }

    fn replicas(&self) -> Vec<ReplicaView> {
        let served = |model: &str| self.models.get(model).and_then(|(watcher, _)| watcher.serving().version);
        let role = |view: &ReplicaView, line: &Line| match line {
            Line::None => Role::Away,
            Line::Dialing => Role::Dialing,
            Line::Open { draining: true, .. } => Role::Draining,
            Line::Open { version, .. } if served(&view.model).as_ref() == Some(version) => Role::Ready,
            Line::Open { .. } => Role::Standby,
            Line::Lost(why) => Role::Lost(why.clone()),
            Line::Refused(why) => Role::Refused(why.clone()),
        };
        let replicas = self.roster.lock();
        replicas.values().map(|(view, line)| ReplicaView { role: role(view, line), ..view.clone() }).collect()
    }
}

async fn any_change(changes: &mut Vec<watch::Receiver<runner::Serving>>) {
    let waits = changes.iter_mut().map(|change| Box::pin(change.changed()));
    let (changed, ended, _) = match waits.len() {
        0 => std::future::pending().await,
        _ => futures_util::future::select_all(waits).await,
    };
    if changed.is_err() {
        changes.swap_remove(ended);
    }
}

// === impl Roster ===

impl Roster {
    /// Takes in what a rank wrote.
    pub(crate) fn record(&self, record: &Record) {
        let mut replicas = self.lock();
        let (view, _) = replicas.entry(record.replica.clone()).or_default();
        view.name.clone_from(&record.replica);
        view.ranks.insert(record.rank, record.state);
        if record.rank == 0 {
            view.model.clone_from(&record.model);
            view.address.clone_from(&record.address);
            (view.world_size, view.epoch) = (record.ranks, record.epoch);
        }
    }

    /// Forgets ranks whose records are gone.
    pub(crate) fn forget_ranks(&self, gone: impl Fn(&str, u32) -> bool) {
        self.lock().retain(|name, (view, line)| {
            view.ranks.retain(|rank, _| !gone(name, *rank));
            is_there(view, line)
        });
    }

    /// Takes in how the line to a replica is.
    pub(crate) fn line(&self, replica: &str, line: Line) {
        let mut replicas = self.lock();
        let (view, before) = replicas.entry(replica.to_owned()).or_default();
        replica.clone_into(&mut view.name);
        *before = line;
        if !is_there(view, before) {
            replicas.remove(replica);
        }
    }

    /// Nobody looks for a line to a replica; what was wrong with it is forgotten.
    pub(crate) fn idle(&self, replica: &str) {
        if let Some((_, line @ (Line::Lost(_) | Line::Refused(_)))) = self.lock().get_mut(replica) {
            *line = Line::None;
        }
    }

    /// A replica finishes what it has.
    pub(crate) fn draining(&self, replica: &str) {
        if let Some((_, Line::Open { draining, .. })) = self.lock().get_mut(replica) {
            *draining = true;
        }
    }

    /// Why no replica of a model takes work, in words for a client.
    pub(crate) fn why_none(&self, model: &str) -> String {
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for (view, line) in self.lock().values().filter(|(view, _)| view.model == model) {
            let reason = match line {
                Line::Open { draining: true, .. } => "is about to leave",
                Line::Open { .. } => "has just joined",
                Line::Dialing => "is being reached",
                Line::Lost(why) | Line::Refused(why) => why,
                Line::None if view.ranks.values().any(|rank| *rank == Rank::Loading) => "loads its weights",
                Line::None => "does not serve yet",
            };
            *reasons.entry(reason.to_owned()).or_default() += 1;
        }
        if reasons.is_empty() {
            return "no replica of the model is there".to_owned();
        }
        let reasons: Vec<_> = reasons.iter().map(|(reason, count)| format!("{count} of them {reason}")).collect();
        format!("no replica of the model is ready: {}", reasons.join("; "))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (ReplicaView, Line)>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A replica is there as long as it has a record, or a line.
fn is_there(view: &ReplicaView, line: &Line) -> bool {
    !view.ranks.is_empty() || matches!(line, Line::Dialing | Line::Open { .. })
}
