//! The figures of a load, as a table for people and as JSON for scripts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::tally::{Quantiles, Tally};
use crate::remote::status::tables::table;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    /// What was sent, and where.
    pub(super) load: String,
    pub(super) endpoints: String,
    /// From the end of the warm-up to the last answer.
    pub(super) seconds: f64,
    pub(super) calls: u64,
    /// Conversations that have a score.
    pub(super) conversations: u64,
    /// Conversations that were still open when the measurement was over.
    pub(super) unanswered: u64,
    /// Conversations that are over, by status, or by the code of their call.
    pub(super) statuses: BTreeMap<String, u64>,
    pub(super) first_failure: Option<String>,
    pub(super) conversations_per_second: f64,
    pub(super) input_tokens_per_second: f64,
    pub(super) computed_tokens_per_second: f64,
    pub(super) latency_seconds: Quantiles,
    pub(super) queue_seconds: Quantiles,
    pub(super) compute_seconds: Quantiles,
    /// Calls by latency: the upper end of each step in seconds, and how many are in it.
    pub(super) latency_histogram: Vec<(f64, u64)>,
    pub(super) fingerprint: String,
}

/// The longest bar.
const WIDTH: u64 = 50;

// === impl Report ===

impl Report {
    pub(super) fn new(load: String, endpoints: String, tally: &Tally) -> Self {
        let seconds = tally.seconds();
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Self {
            load,
            endpoints,
            seconds,
            calls: tally.calls,
            conversations: tally.scored,
            unanswered: tally.unanswered(),
            statuses: tally.statuses.clone(),
            first_failure: tally.first_failure.clone(),
            conversations_per_second: rate(tally.scored),
            input_tokens_per_second: rate(tally.input_tokens),
            computed_tokens_per_second: rate(tally.computed_tokens),
            latency_seconds: tally.latency.quantiles(),
            queue_seconds: tally.queue.quantiles(),
            compute_seconds: tally.compute.quantiles(),
            latency_histogram: tally.latency.steps(),
            fingerprint: tally.fingerprints.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
        }
    }

    /// Whether every conversation has a score.
    pub(super) fn is_sound(&self) -> bool {
        self.unanswered == 0 && self.statuses.values().sum::<u64>() == self.conversations
    }

    /// As text.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n{}\n\n", self.load, self.endpoints);
        let mut rates = table(&["CONVERSATIONS/S", "INPUT TOKENS/S", "COMPUTED TOKENS/S", "SECONDS", "CALLS"], &ALL);
        rates.add_row([
            format!("{:.1}", self.conversations_per_second),
            format!("{:.0}", self.input_tokens_per_second),
            format!("{:.0}", self.computed_tokens_per_second),
            format!("{:.1}", self.seconds),
            self.calls.to_string(),
        ]);
        let mut times = table(&["MILLISECONDS", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"], &ALL[1..]);
        let rows =
            [("latency", self.latency_seconds), ("queue", self.queue_seconds), ("compute", self.compute_seconds)];
        for (name, of) in rows {
            let figures = [of.mean, of.p50, of.p90, of.p99, of.p999, of.max].map(|time| format!("{:.1}", time * 1e3));
            times.add_row([vec![name.to_owned()], figures.to_vec()].concat());
        }
        let mut statuses = table(&["STATUS", "CONVERSATIONS"], &[1]);
        for (status, count) in &self.statuses {
            statuses.add_row([status.clone(), count.to_string()]);
        }
        if self.unanswered > 0 {
            statuses.add_row(["(open at the end)".to_owned(), self.unanswered.to_string()]);
        }
        for table in [rates, times, statuses] {
            for line in table.lines() {
                let _ = writeln!(text, "{}", line.trim_end());
            }
            text.push('\n');
        }
        if let Some(failure) = &self.first_failure {
            let _ = writeln!(text, "the first without a score: {failure}\n");
        }
        text + &self.histogram()
    }

    fn histogram(&self) -> String {
        let most = self.latency_histogram.iter().map(|(_, count)| *count).max().unwrap_or_default().max(1);
        let mut text = String::new();
        for (end, count) in &self.latency_histogram {
            // what is there is seen
            let bar = "#".repeat((count * WIDTH).div_ceil(most) as usize);
            let line = format!("up to {:>9} ms {count:>9} {bar}", end * 1e3);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

/// Every column of a table with figures only.
const ALL: [usize; 7] = [0, 1, 2, 3, 4, 5, 6];

#[cfg(test)]
mod tests;
