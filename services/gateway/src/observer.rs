//! The one window for those who watch: models, replicas, queues, as `assay.v1.StatusService` says it. It changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::v1;
use proto::v1::status_service_server::StatusService;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::core::{Rank, ReplicaView, Role, Serving};
use crate::runner::{self, Observation};

/// Watches a gateway. Clones share it; it does not keep the gateway alive.
#[derive(Clone)]
pub struct Observer {
    gateway: Arc<str>,
    models: Arc<BTreeMap<String, (runner::Watcher, usize)>>,
}

// === impl Observer ===

impl Observer {
    pub(crate) fn new(gateway: &str, models: BTreeMap<String, (runner::Watcher, usize)>) -> Self {
        Self { gateway: gateway.into(), models: Arc::new(models) }
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
        let mut replicas = BTreeMap::new();
        for (name, (watcher, max_length)) in self.models.iter() {
            let serving = watcher.serving();
            let (generation, fingerprint) =
                serving.version.map_or_else(Default::default, |it| (it.generation, it.fingerprint.to_string()));
            let Observation { stats, waiting, scored, replicas: seen } = watcher.observe().await.unwrap_or_default();
            for replica in seen {
                // all models hear of it, and its own knows more of it
                if replica.model == *name || !replicas.contains_key(&replica.name) {
                    replicas.insert(replica.name.clone(), status_of(replica));
                }
            }
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
        let replicas = replicas.into_values().collect();
        v1::GetStatusResponse { gateway: self.gateway.to_string(), models, replicas }
    }
}

fn status_of(replica: ReplicaView) -> v1::ReplicaStatus {
    use v1::ReplicaState::{Away, Dialing, Draining, Lost, Ready, Refused, Standby};
    let ReplicaView { name, model, address, ranks, world_size, epoch, role } = replica;
    let (state, reason) = match role {
        Role::Away => (Away, String::new()),
        Role::Dialing => (Dialing, String::new()),
        Role::Ready => (Ready, String::new()),
        Role::Standby => (Standby, String::new()),
        Role::Draining => (Draining, String::new()),
        Role::Lost(why) => (Lost, why),
        Role::Refused(why) => (Refused, why),
    };
    let progress = |rank| match rank {
        Rank::Loading => v1::RankProgress::Loading,
        Rank::Ready => v1::RankProgress::Ready,
        Rank::Serving => v1::RankProgress::Serving,
        Rank::Draining => v1::RankProgress::Draining,
    };
    let ranks = ranks.into_iter().map(|(rank, state)| v1::RankStatus { rank, progress: progress(state).into() });
    let (ranks, state) = (ranks.collect(), state.into());
    v1::ReplicaStatus { name, model, address, epoch, world_size, ranks, state, reason }
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

async fn any_change(changes: &mut Vec<watch::Receiver<Serving>>) {
    let waits = changes.iter_mut().map(|change| Box::pin(change.changed()));
    let (changed, ended, _) = match waits.len() {
        0 => std::future::pending().await,
        _ => futures_util::future::select_all(waits).await,
    };
    if changed.is_err() {
        changes.swap_remove(ended);
    }
}
