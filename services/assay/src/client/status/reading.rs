//! A reading of a gateway, as it is printed: the protocol's words and numbers under names for people and for scripts.

use std::time::Duration;

use proto::v1;
use serde::Serialize;

/// How a gateway is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Reading {
    pub(super) gateway: String,
    /// Whether each model has a replica that is ready.
    pub(super) ready: bool,
    pub(super) models: Vec<Model>,
    pub(super) replicas: Vec<Replica>,
}

/// How a model is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) max_length: u32,
    pub(super) generation: u64,
    pub(super) fingerprint: String,
    pub(super) replicas_ready: u32,
    pub(super) replicas_standby: u32,
    /// Conversations that came in and are not answered.
    pub(super) conversations: u64,
    pub(super) waiting_tokens: u64,
    pub(super) sent_tokens: u64,
    /// Between two readings what was scored; in the first, what was computed while there was something to compute.
    pub(super) tokens_per_second: f64,
    pub(super) retried: u64,
    pub(super) scored_tokens: u64,
    pub(super) scores: u64,
    pub(super) waiting: Vec<Waiting>,
}

/// What waits, of one tenant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Waiting {
    pub(super) tenant: String,
    pub(super) tokens: u64,
    pub(super) oldest_seconds: f64,
}

/// How a replica is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Replica {
    pub(super) name: String,
    pub(super) model: String,
    pub(super) state: String,
    pub(super) epoch: u64,
    pub(super) world_size: u32,
    pub(super) ranks: Vec<Rank>,
    pub(super) address: String,
    pub(super) reason: String,
}

/// How a rank is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Rank {
    pub(super) rank: u32,
    pub(super) progress: String,
}

// === impl Reading ===

impl Reading {
    /// The status that a process ends with that read this last.
    pub(super) fn exit_code(&self) -> u8 {
        if self.ready { 0 } else { crate::SOME_FAILED }
    }

    /// Puts the rate since a reading before in the place of the gateway's own.
    pub(super) fn measure_since(&mut self, before: &Self, elapsed: Duration) {
        if before.gateway != self.gateway || elapsed.is_zero() {
            return;
        }
        for model in &mut self.models {
            let then = before.models.iter().find(|then| then.name == model.name);
            // fewer than before: it has started again
            if let Some(tokens) = then.and_then(|then| model.scored_tokens.checked_sub(then.scored_tokens)) {
                model.tokens_per_second = tokens as f64 / elapsed.as_secs_f64();
            }
        }
    }
}

impl From<v1::GetStatusResponse> for Reading {
    fn from(read: v1::GetStatusResponse) -> Self {
        let models: Vec<Model> = read.models.into_iter().map(Model::from).collect();
        Self {
            gateway: read.gateway,
            ready: models.iter().all(|model| model.replicas_ready > 0),
            models,
            replicas: read.replicas.into_iter().map(Replica::from).collect(),
        }
    }
}

impl From<v1::ModelStatus> for Model {
    fn from(model: v1::ModelStatus) -> Self {
        let waiting =
            |it: v1::TenantStatus| Waiting { tenant: it.tenant, tokens: it.tokens, oldest_seconds: it.oldest_seconds };
        Self {
            name: model.name,
            max_length: model.max_length,
            generation: model.generation,
            fingerprint: model.fingerprint,
            replicas_ready: model.replicas_ready,
            replicas_standby: model.replicas_standby,
            conversations: model.conversations,
            waiting_tokens: model.waiting_tokens,
            sent_tokens: model.sent_tokens,
            tokens_per_second: model.tokens_per_second,
            retried: model.retried,
            scored_tokens: model.scored_tokens,
            scores: model.scores,
            waiting: model.waiting.into_iter().map(waiting).collect(),
        }
    }
}

impl From<v1::ReplicaStatus> for Replica {
    fn from(replica: v1::ReplicaStatus) -> Self {
        let state = replica.state();
        let rank =
            |it: v1::RankStatus| Rank { rank: it.rank, progress: word(it.progress().as_str_name(), "RANK_PROGRESS_") };
        Self {
            state: word(state.as_str_name(), "REPLICA_STATE_"),
            name: replica.name,
            model: replica.model,
            epoch: replica.epoch,
            world_size: replica.world_size,
            ranks: replica.ranks.into_iter().map(rank).collect(),
            address: replica.address,
            reason: replica.reason,
        }
    }
}

/// A value's name without that of its enum; what a newer gateway says is unspecified here.
fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
pub(super) mod tests;
