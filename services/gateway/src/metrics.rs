//! What is counted, as functions named for what happened. Names begin with `assay_gateway_`.

use std::time::Duration;

use ::metrics::{counter, gauge, histogram};
use proto::v1::{self, TenantStatus};
use service::metrics::Metric;
use tonic::Code;

use crate::core::{Serving, Stats};
use crate::options::Tenants;

/// All of them.
pub const METRICS: &[Metric] = &[
    Metric::counter("assay_gateway_requests_total", "Calls that have ended, by name and gRPC status code"),
    Metric::counter("assay_gateway_items_total", "Conversations and groups that came in"),
    Metric::counter("assay_gateway_conversations_total", "Conversations that were answered, by status"),
    Metric::counter("assay_gateway_tokens_total", "Tokens of the conversations that have a score"),
    Metric::counter("assay_gateway_tokens_computed_total", "Of these tokens, those that were computed"),
    Metric::counter("assay_gateway_tokens_saved_total", "Of these tokens, those that another conversation shares"),
    Metric::histogram(
        "assay_gateway_score",
        "Scores: raw logits",
        &[-30.0, -20.0, -10.0, -5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0],
    ),
    Metric::histogram(
        "assay_gateway_stage_seconds",
        "How long requests take: tokenize, queue, compute, and total",
        &[0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0],
    ),
    Metric::counter("assay_gateway_prompt_cache_hits_total", "Prompts whose token ids were in the cache"),
    Metric::counter("assay_gateway_prompt_cache_misses_total", "Prompts whose token ids were not in the cache"),
    Metric::gauge("assay_gateway_replicas", "Replicas that take work (ready), or would if another version were served"),
    Metric::gauge("assay_gateway_held_requests", "Requests that came in and are not answered"),
    Metric::gauge("assay_gateway_held_conversations", "Conversations that came in and are not answered"),
    Metric::gauge("assay_gateway_held_tokens", "Tokens of the conversations that are not answered"),
    Metric::gauge("assay_gateway_sent_tokens", "Tokens that replicas have and have not answered"),
    Metric::gauge("assay_gateway_credits", "Tokens that replicas would take now"),
    Metric::gauge("assay_gateway_tokens_per_second", "Tokens computed a second while there is something to compute"),
    Metric::counter("assay_gateway_retries_total", "Pieces that were sent again, because a replica went away"),
    Metric::counter("assay_gateway_discarded_answers_total", "Answers that came too late, or of an earlier epoch"),
    Metric::gauge("assay_gateway_tokenizer_waiting_jobs", "Calls and items that wait to be tokenized"),
    Metric::gauge("assay_gateway_tokenizer_waiting_bytes", "Bytes of text that wait to be tokenized"),
    Metric::gauge("assay_gateway_tokenizer_memory_bytes", "Memory that what is being tokenized takes, about"),
    Metric::gauge("assay_gateway_waiting_tokens", "Tokens that wait for a replica, by tenant"),
    Metric::gauge("assay_gateway_waiting_pieces", "Pieces that wait for a replica, by tenant"),
    Metric::gauge("assay_gateway_waiting_oldest_seconds", "How long the oldest piece of a tenant has waited"),
];

/// A stage of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Tokenize,
    Queue,
    Compute,
    Total,
}

/// Who an item belongs to, as labels.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) model: String,
    pub(crate) tenant: String,
}

/// A call has ended.
pub(crate) fn request_done(rpc: &'static str, code: Code) {
    counter!("assay_gateway_requests_total", "rpc" => rpc, "code" => code_name(code)).increment(1);
}

/// Conversations have been answered with a status.
pub(crate) fn conversations_done(owner: &Owner, status: v1::Status, count: u64) {
    let labels = [("model", owner.model.clone()), ("tenant", owner.tenant.clone()), ("status", status.word())];
    counter!("assay_gateway_conversations_total", &labels).increment(count);
}

/// An item has come in.
pub(crate) fn items(owner: &Owner, count: u64) {
    counter!("assay_gateway_items_total", &labels(owner)).increment(count);
}

/// Conversations of so many tokens have been scored, of which so many were computed for them alone.
pub(crate) fn tokens(owner: &Owner, tokens: u64, computed: u64) {
    counter!("assay_gateway_tokens_total", &labels(owner)).increment(tokens);
    counter!("assay_gateway_tokens_computed_total", &labels(owner)).increment(computed);
    counter!("assay_gateway_tokens_saved_total", &labels(owner)).increment(tokens.saturating_sub(computed));
}

/// Conversations have these scores.
pub(crate) fn scores(model: &str, scores: impl Iterator<Item = f32>) {
    let histogram = histogram!("assay_gateway_score", "model" => model.to_owned());
    scores.for_each(|score| histogram.record(score));
}

/// A stage has taken so long.
pub(crate) fn stage(model: &str, stage: Stage, time: Duration) {
    let name = match stage {
        Stage::Tokenize => "tokenize",
        Stage::Queue => "queue",
        Stage::Compute => "compute",
        Stage::Total => "total",
    };
    histogram!("assay_gateway_stage_seconds", "model" => model.to_owned(), "stage" => name).record(time);
}

/// So many jobs, with so many bytes of text, wait to be tokenized, and what is being tokenized takes so much memory.
pub(crate) fn tokenizers(jobs: usize, bytes: u64, memory: usize) {
    gauge!("assay_gateway_tokenizer_waiting_jobs").set(jobs as f64);
    gauge!("assay_gateway_tokenizer_waiting_bytes").set(bytes as f64);
    gauge!("assay_gateway_tokenizer_memory_bytes").set(memory as f64);
}

/// Lookups in the prompt cache, since the start.
pub(crate) fn prompt_cache(model: &str, (hits, misses): (u64, u64)) {
    counter!("assay_gateway_prompt_cache_hits_total", "model" => model.to_owned()).absolute(hits);
    counter!("assay_gateway_prompt_cache_misses_total", "model" => model.to_owned()).absolute(misses);
}

/// What is served has changed.
pub(crate) fn replicas(model: &str, serving: &Serving) {
    gauge!("assay_gateway_replicas", "model" => model.to_owned(), "state" => "ready").set(serving.ready as f64);
    gauge!("assay_gateway_replicas", "model" => model.to_owned(), "state" => "standby").set(serving.standby as f64);
}

/// How a model's core is doing.
pub(crate) fn core(model: &str, stats: &Stats) {
    let model = &[("model", model.to_owned())];
    gauge!("assay_gateway_held_requests", model).set(stats.requests as f64);
    gauge!("assay_gateway_held_conversations", model).set(stats.conversations as f64);
    gauge!("assay_gateway_held_tokens", model).set(stats.tokens as f64);
    gauge!("assay_gateway_sent_tokens", model).set(stats.sent_tokens as f64);
    gauge!("assay_gateway_credits", model).set(stats.credits as f64);
    gauge!("assay_gateway_tokens_per_second", model).set(stats.tokens_per_second.unwrap_or_default());
    counter!("assay_gateway_retries_total", model).absolute(stats.retried);
    counter!("assay_gateway_discarded_answers_total", model).absolute(stats.discarded);
}

/// What waits, by tenant; `before` are the tenants that had a gauge, and the result those that have one now.
pub(crate) fn waiting(model: &str, tenants: &Tenants, waiting: &[TenantStatus], before: Vec<String>) -> Vec<String> {
    let mut now: Vec<TenantStatus> = Vec::new();
    for backlog in waiting {
        let tenant = tenants.label(&backlog.tenant);
        match now.iter_mut().find(|known| known.tenant == tenant) {
            Some(known) => {
                known.tokens += backlog.tokens;
                known.pieces += backlog.pieces;
                known.oldest_seconds = known.oldest_seconds.max(backlog.oldest_seconds);
            }
            None => now.push(TenantStatus { tenant, ..backlog.clone() }),
        }
    }
    let gone = before.into_iter().filter(|tenant| now.iter().all(|known| known.tenant != *tenant));
    let gone: Vec<_> = gone.map(|tenant| TenantStatus { tenant, ..TenantStatus::default() }).collect();
    for backlog in now.iter().chain(&gone) {
        let labels = [("model", model.to_owned()), ("tenant", backlog.tenant.clone())];
        gauge!("assay_gateway_waiting_tokens", &labels).set(backlog.tokens as f64);
        gauge!("assay_gateway_waiting_pieces", &labels).set(backlog.pieces as f64);
        gauge!("assay_gateway_waiting_oldest_seconds", &labels).set(backlog.oldest_seconds);
    }
    now.into_iter().map(|backlog| backlog.tenant).collect()
}

fn labels(owner: &Owner) -> [(&'static str, String); 2] {
    [("model", owner.model.clone()), ("tenant", owner.tenant.clone())]
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::ResourceExhausted => "resource_exhausted",
        Code::Unavailable => "unavailable",
        Code::Internal => "internal",
        _ => "other",
    }
}
