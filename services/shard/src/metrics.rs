//! What is counted, as functions named for what happened. Names begin with `assay_shard_`.

use std::time::Duration;

use ::metrics::{counter, gauge, histogram};
use proto::shard::v1::RankState;
use service::metrics::Metric;

/// All of them.
pub const METRICS: &[Metric] = &[
    Metric::gauge("assay_shard_state", "1 for the state that the worker is in: loading, waiting, serving or draining"),
    Metric::gauge("assay_shard_epoch", "The epoch that the worker takes part in; 0 for none"),
    Metric::counter("assay_shard_epochs_ended_total", "Epochs that ended and were not to end"),
    Metric::counter("assay_shard_steps_total", "Steps that were given to the ranks"),
    Metric::counter("assay_shard_sequences_total", "Conversations in these steps"),
    Metric::counter("assay_shard_tokens_computed_total", "Tokens in these steps; what conversations share counts once"),
    Metric::histogram(
        "assay_shard_step_seconds",
        "How long steps take",
        &[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0],
    ),
    Metric::histogram(
        "assay_shard_step_tokens",
        "Tokens of a step",
        &[64.0, 256.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0],
    ),
    Metric::histogram(
        "assay_shard_step_occupancy",
        "The part of a step's tokens that is used",
        &[0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0],
    ),
    Metric::gauge("assay_shard_waiting_sequences", "Conversations that wait for a step"),
];

const STATES: [(RankState, &str); 4] = [
    (RankState::Loading, "loading"),
    (RankState::Ready, "waiting"),
    (RankState::Serving, "serving"),
    (RankState::Draining, "draining"),
];

/// The worker is in another state, or another epoch.
pub(crate) fn state(replica: &str, state: RankState, epoch: u64) {
    for (each, name) in STATES {
        let is = f64::from(u8::from(each == state));
        gauge!("assay_shard_state", "replica" => replica.to_owned(), "state" => name).set(is);
    }
    gauge!("assay_shard_epoch", "replica" => replica.to_owned()).set(epoch as f64);
}

/// An epoch has ended that was not to end.
pub(crate) fn epoch_ended(replica: &str) {
    counter!("assay_shard_epochs_ended_total", "replica" => replica.to_owned()).increment(1);
}

/// A step is given to the ranks.
pub(crate) fn step(replica: &str, sequences: usize, tokens: usize, budget: usize) {
    counter!("assay_shard_steps_total", "replica" => replica.to_owned()).increment(1);
    counter!("assay_shard_sequences_total", "replica" => replica.to_owned()).increment(sequences as u64);
    counter!("assay_shard_tokens_computed_total", "replica" => replica.to_owned()).increment(tokens as u64);
    histogram!("assay_shard_step_tokens", "replica" => replica.to_owned()).record(tokens as f64);
    histogram!("assay_shard_step_occupancy", "replica" => replica.to_owned()).record(tokens as f64 / budget as f64);
}

/// A step was computed.
pub(crate) fn step_took(replica: &str, took: Duration) {
    histogram!("assay_shard_step_seconds", "replica" => replica.to_owned()).record(took.as_secs_f64());
}

/// Sequences wait for a step.
pub(crate) fn waiting(replica: &str, sequences: usize) {
    gauge!("assay_shard_waiting_sequences", "replica" => replica.to_owned()).set(sequences as f64);
}
