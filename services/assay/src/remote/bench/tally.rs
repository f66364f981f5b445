//! What was measured: counts, and histograms of times.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use proto::v1;
use serde::Serialize;
use tokio::time::Instant;

use super::caller::Answer;

/// A call that is over.
pub(super) struct Done {
    pub(super) due: Instant,
    pub(super) finished: Instant,
    pub(super) answer: Answer,
}

/// Times, in microseconds.
pub(super) struct Times(Histogram<u64>);

/// The sum of calls that are due from some time on.
pub(super) struct Tally {
    from: Instant,
    last: Instant,
    /// Conversations of a call.
    conversations: usize,
    pub(super) begun: u64,
    pub(super) calls: u64,
    pub(super) scored: u64,
    pub(super) input_tokens: u64,
    pub(super) computed_tokens: u64,
    /// Conversations, by their status; those of a call that failed, by its code.
    pub(super) statuses: BTreeMap<String, u64>,
    pub(super) first_failure: Option<String>,
    pub(super) fingerprints: BTreeSet<String>,
    pub(super) latency: Times,
    pub(super) queue: Times,
    pub(super) compute: Times,
}

/// Seconds, of so many of a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

/// Nobody waits longer.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

// === impl Times ===

impl Times {
    pub(super) fn new() -> Result<Self> {
        let micros = u64::try_from(LONGEST.as_micros()).unwrap_or(u64::MAX);
        Ok(Self(Histogram::new_with_bounds(1, micros, 3).context("a histogram")?))
    }

    pub(super) fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub(super) fn quantiles(&self) -> Quantiles {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e6;
        Quantiles {
            mean: self.0.mean() / 1e6,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.0.max() as f64 / 1e6,
        }
    }

    /// Counts of times in steps of 1, 2, 5, 10, ...: each the upper end in seconds, and the count below.
    pub(super) fn steps(&self) -> Vec<(f64, u64)> {
        let (mut steps, mut below, mut left) = (Vec::new(), 0, self.0.len());
        for end in (0..12).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power))) {
            let count = self.0.count_between(below + 1, end).min(left);
            left -= count;
            below = end;
            if count > 0 || !steps.is_empty() {
                steps.push((end as f64 / 1e6, count));
            }
            if left == 0 {
                break;
            }
        }
        steps
    }
}

// === impl Tally ===

impl Tally {
    /// Counts calls of so many conversations that are due at this time or later.
    pub(super) fn new(from: Instant, conversations: usize) -> Result<Self> {
        Ok(Self {
            from,
            last: from,
            conversations,
            begun: 0,
            calls: 0,
            scored: 0,
            input_tokens: 0,
            computed_tokens: 0,
            statuses: BTreeMap::new(),
            first_failure: None,
            fingerprints: BTreeSet::new(),
            latency: Times::new()?,
            queue: Times::new()?,
            compute: Times::new()?,
        })
    }

    /// A call is due now.
    pub(super) fn begin(&mut self, due: Instant) {
        if due >= self.from {
            self.begun += 1;
        }
    }

    /// A call is over.
    pub(super) fn add(&mut self, done: Done) {
        if done.due < self.from {
            return;
        }
        self.calls += 1;
        self.last = self.last.max(done.finished);
        match done.answer {
            Ok((results, timing)) => {
                self.latency.add(done.finished - done.due);
                let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
                self.queue.add(seconds(timing.queue_seconds));
                self.compute.add(seconds(timing.compute_seconds));
                for result in results {
                    self.add_result(&result);
                }
            }
            Err(status) => {
                let code = format!("{:?}", status.code());
                self.first_failure.get_or_insert_with(|| format!("{code}: {}", status.message()));
                *self.statuses.entry(code).or_default() += self.conversations as u64;
            }
        }
    }

    fn add_result(&mut self, result: &v1::Result) {
        let status = result.status().word();
        if result.score.is_some() {
            self.scored += 1;
            self.input_tokens += u64::from(result.tokens);
            self.computed_tokens += u64::from(result.computed_tokens);
            if !self.fingerprints.contains(&result.fingerprint) {
                self.fingerprints.insert(result.fingerprint.clone());
            }
        } else {
            self.first_failure.get_or_insert_with(|| format!("{status}: {}", result.error));
        }
        *self.statuses.entry(status).or_default() += 1;
    }

    /// Conversations that were due and have no answer yet.
    pub(super) fn unanswered(&self) -> u64 {
        (self.begun - self.calls) * self.conversations as u64
    }

    /// From the first that counts to the last answer.
    pub(super) fn seconds(&self) -> f64 {
        (self.last - self.from).as_secs_f64()
    }
}

#[cfg(test)]
mod tests;
