//! `assay.v1.StatusService`: what there is to see, in the words of the protocol.

use proto::v1;
use proto::v1::status_service_server::StatusService;
use tonic::{Request, Response, Status};

use crate::observer::{Backlog, ModelView, Observer, Rank, ReplicaView, Role, View};

/// Tells how the gateway is doing, also while it drains.
pub(crate) struct Monitor {
    pub(crate) observer: Observer,
}

// === impl Monitor ===

#[tonic::async_trait]
impl StatusService for Monitor {
    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(status(self.observer.view().await)))
    }
}

/// What there is to see, as a message.
pub(crate) fn status(view: View) -> v1::GetStatusResponse {
    v1::GetStatusResponse {
        gateway: view.gateway,
        models: view.models.into_iter().map(model).collect(),
        replicas: view.replicas.into_iter().map(replica).collect(),
    }
}

fn model(view: ModelView) -> v1::ModelStatus {
    let (generation, fingerprint) =
        view.version.map_or_else(Default::default, |it| (it.generation, it.fingerprint.to_string()));
    let stats = view.stats.as_ref();
    v1::ModelStatus {
        name: view.name,
        max_length: small(view.max_length),
        generation,
        fingerprint,
        replicas_ready: small(view.ready),
        replicas_standby: small(view.standby),
        conversations: stats.map_or(0, |it| it.conversations),
        waiting_tokens: stats.map_or(0, |it| it.waiting_tokens),
        sent_tokens: stats.map_or(0, |it| it.sent_tokens),
        tokens_per_second: stats.and_then(|it| it.tokens_per_second).unwrap_or_default(),
        retried: stats.map_or(0, |it| it.retried),
        waiting: view.waiting.into_iter().map(tenant).collect(),
        scored_tokens: view.scored_tokens,
        scores: view.scores,
    }
}

fn tenant(backlog: Backlog) -> v1::TenantStatus {
    let oldest_seconds = backlog.oldest.as_secs_f64();
    v1::TenantStatus { tenant: backlog.tenant, tokens: backlog.tokens, oldest_seconds }
}

fn replica(view: ReplicaView) -> v1::ReplicaStatus {
    let (state, reason) = match view.role {
        Role::Away => (v1::ReplicaState::Away, String::new()),
        Role::Dialing => (v1::ReplicaState::Dialing, String::new()),
        Role::Ready => (v1::ReplicaState::Ready, String::new()),
        Role::Standby => (v1::ReplicaState::Standby, String::new()),
        Role::Draining => (v1::ReplicaState::Draining, String::new()),
        Role::Lost(why) => (v1::ReplicaState::Lost, why),
        Role::Refused(why) => (v1::ReplicaState::Refused, why),
    };
    let rank = |(rank, progress): (u32, Rank)| v1::RankStatus { rank, progress: progress_of(progress).into() };
    v1::ReplicaStatus {
        name: view.name,
        model: view.model,
        address: view.address,
        epoch: view.epoch,
        world_size: view.world_size,
        ranks: view.ranks.into_iter().map(rank).collect(),
        state: state.into(),
        reason,
    }
}

fn progress_of(rank: Rank) -> v1::RankProgress {
    match rank {
        Rank::Loading => v1::RankProgress::Loading,
        Rank::Ready => v1::RankProgress::Ready,
        Rank::Serving => v1::RankProgress::Serving,
        Rank::Draining => v1::RankProgress::Draining,
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
