//! The status as JSON, with the names of the protocol.

use proto::v1;
use serde_json::{Value, json};

/// How the gateway is doing.
pub(super) fn status(status: &v1::GetStatusResponse) -> Value {
    json!({
        "gateway": status.gateway,
        "models": status.models.iter().map(model).collect::<Vec<_>>(),
        "replicas": status.replicas.iter().map(replica).collect::<Vec<_>>(),
    })
}

fn model(model: &v1::ModelStatus) -> Value {
    let tenant = |it: &v1::TenantStatus| json!({ "tenant": it.tenant, "tokens": it.tokens, "oldest_seconds": it.oldest_seconds });
    json!({
        "name": model.name,
        "max_length": model.max_length,
        "generation": model.generation,
        "fingerprint": model.fingerprint,
        "replicas_ready": model.replicas_ready,
        "replicas_standby": model.replicas_standby,
        "conversations": model.conversations,
        "waiting_tokens": model.waiting_tokens,
        "sent_tokens": model.sent_tokens,
        "tokens_per_second": model.tokens_per_second,
        "retried": model.retried,
        "waiting": model.waiting.iter().map(tenant).collect::<Vec<_>>(),
        "scored_tokens": model.scored_tokens,
        "scores": model.scores,
    })
}

fn replica(replica: &v1::ReplicaStatus) -> Value {
    let rank = |it: &v1::RankStatus| json!({ "rank": it.rank, "progress": lower(it.progress().as_str_name(), "RANK_PROGRESS_") });
    json!({
        "name": replica.name,
        "model": replica.model,
        "address": replica.address,
        "epoch": replica.epoch,
        "world_size": replica.world_size,
        "ranks": replica.ranks.iter().map(rank).collect::<Vec<_>>(),
        "state": lower(replica.state().as_str_name(), "REPLICA_STATE_"),
        "reason": replica.reason,
    })
}

/// The name of an enum's value, without what all of its values begin with.
pub(super) fn lower(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}
