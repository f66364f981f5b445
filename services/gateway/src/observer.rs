//! The one window for those who watch: models, replicas, queues, as `assay.v1.StatusService` says it. It changes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::v1;
use proto::v1::status_service_server::StatusService;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::core::Version;
use crate::replicas::Record;
use crate::runner::{self, Observation};

/// Watches a gateway. Clones share it; it does not keep the gateway alive.
#[derive(Clone)]
pub struct Observer {
    gateway: Arc<str>,
    models: Arc<BTreeMap<String, (runner::Watcher, usize)>>,
    roster: Roster,
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
    replicas: Arc<Mutex<BTreeMap<String, (v1::ReplicaStatus, Line)>>>,
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
    pub async fn status(&self) -> v1::GetStatusResponse {
        let mut models = Vec::with_capacity(self.models.len());
        for (name, (watcher, max_length)) in self.models.iter() {
            let serving = watcher.serving();
            let (generation, fingerprint) =
                serving.version.map_or_else(Default::default, |it| (it.generation, it.fingerprint.to_string()));
            let Observation { stats, waiting, scored } = watcher.observe().await.unwrap_or_default();
            models.push(v1::ModelStatus {
                name: name.clone(),
                max_length: small(*max_length),
                generation,
                fingerprint,
                replicas_ready: small(serving.ready),
                replicas_standby: small(serving.standby),
                conversations: stats.conversations,
                waiting_tokens: stats.waiting_tokens,
                sent_tokens: stats.sent_tokens,
                tokens_per_second: stats.tokens_per_second.unwrap_or_default(),
                retried: stats.retried,
                waiting,
                scored_tokens: scored.tokens,
                scores: scored.scores,
            });
        }
        v1::GetStatusResponse { gateway: self.gateway.to_string(), models, replicas: self.replicas() }
    }

    fn replicas(&self) -> Vec<v1::ReplicaStatus> {
        use v1::ReplicaState::{Away, Dialing, Draining, Lost, Ready, Refused, Standby};
        let served = |model: &str| self.models.get(model).and_then(|(watcher, _)| watcher.serving().version);
        let state = |replica: &v1::ReplicaStatus, line: &Line| match line {
            Line::None => (Away, String::new()),
            Line::Dialing => (Dialing, String::new()),
            Line::Open { draining: true, .. } => (Draining, String::new()),
            Line::Open { version, .. } if served(&replica.model).as_ref() == Some(version) => (Ready, String::new()),
            Line::Open { .. } => (Standby, String::new()),
            Line::Lost(why) => (Lost, why.clone()),
            Line::Refused(why) => (Refused, why.clone()),
        };
        let status = |(replica, line): &(v1::ReplicaStatus, Line)| {
            let (state, reason) = state(replica, line);
            v1::ReplicaStatus { state: state.into(), reason, ..replica.clone() }
        };
        self.roster.lock().values().map(status).collect()
    }
}

/// Also while the gateway drains.
#[tonic::async_trait]
impl StatusService for Observer {
    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(self.status().await))
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
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
        let (status, _) = replicas.entry(record.replica.clone()).or_default();
        status.name.clone_from(&record.replica);
        let rank = v1::RankStatus { rank: record.rank, progress: record.state.into() };
        match status.ranks.binary_search_by_key(&record.rank, |known| known.rank) {
            Ok(place) => status.ranks[place] = rank,
            Err(place) => status.ranks.insert(place, rank),
        }
        if record.rank == 0 {
            status.model.clone_from(&record.model);
            status.address.clone_from(&record.address);
            (status.world_size, status.epoch) = (record.ranks, record.epoch);
        }
    }

    /// Forgets ranks whose records are gone.
    pub(crate) fn forget_ranks(&self, gone: impl Fn(&str, u32) -> bool) {
        self.lock().retain(|name, (status, line)| {
            status.ranks.retain(|rank| !gone(name, rank.rank));
            is_there(status, line)
        });
    }

    /// Takes in how the line to a replica is.
    pub(crate) fn line(&self, replica: &str, line: Line) {
        let mut replicas = self.lock();
        let (status, before) = replicas.entry(replica.to_owned()).or_default();
        replica.clone_into(&mut status.name);
        *before = line;
        if !is_there(status, before) {
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
        let loads = |rank: &v1::RankStatus| rank.progress() == v1::RankProgress::Loading;
        for (status, line) in self.lock().values().filter(|(status, _)| status.model == model) {
            let reason = match line {
                Line::Open { draining: true, .. } => "is about to leave",
                Line::Open { .. } => "has just joined",
                Line::Dialing => "is being reached",
                Line::Lost(why) | Line::Refused(why) => why,
                Line::None if status.ranks.iter().any(loads) => "loads its weights",
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (v1::ReplicaStatus, Line)>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A replica is there as long as it has a record, or a line.
fn is_there(status: &v1::ReplicaStatus, line: &Line) -> bool {
    !status.ranks.is_empty() || matches!(line, Line::Dialing | Line::Open { .. })
}
