//! When a step is overdue: a replica that has work must make progress, as fast as it was measured to be.

use std::collections::VecDeque;
use std::time::Duration;

/// How long a step may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance {
    /// This in any case.
    pub least: Duration,
    /// And so many times what its tokens take at the measured rate.
    pub factor: f64,
    /// Tokens a second that are taken for the rate if nothing is measured yet, or less is.
    pub slowest: f64,
}

/// Watches the steps that were given to the ranks, which compute them one after another.
#[derive(Debug)]
pub struct Watchdog {
    allowance: Allowance,
    /// Steps that are not finished and their tokens, the oldest first.
    steps: VecDeque<(u64, usize)>,
    /// When the oldest step began: when it was given or the one before it was finished.
    progress: Duration,
    /// Tokens of finished steps, and the seconds they took; what is longer ago counts less.
    tokens: f64,
    seconds: f64,
}

/// What is left of a measurement when the next is added.
const KEPT: f64 = 0.9;

// === impl Watchdog ===

impl Watchdog {
    /// Nothing is computed, and nothing measured.
    pub fn new(allowance: Allowance) -> Self {
        Self { allowance, steps: VecDeque::new(), progress: Duration::ZERO, tokens: 0.0, seconds: 0.0 }
    }

    /// A step was given to the ranks.
    pub fn started(&mut self, now: Duration, step: u64, tokens: usize) {
        if self.steps.is_empty() {
            self.progress = now;
        }
        self.steps.push_back((step, tokens));
    }

    /// All ranks have answered the oldest step. Says how long it took; None if this is another step.
    pub fn finished(&mut self, now: Duration, step: u64) -> Option<Duration> {
        let (_, tokens) = self.steps.pop_front_if(|(oldest, _)| *oldest == step)?;
        let took = now.saturating_sub(self.progress);
        self.progress = now;
        self.tokens = self.tokens * KEPT + tokens as f64;
        self.seconds = self.seconds * KEPT + took.as_secs_f64();
        Some(took)
    }

    /// Tokens computed a second, while there was something to compute.
    pub fn rate(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.tokens / self.seconds)
    }

    /// When the oldest step is overdue; None if nothing is computed.
    pub fn overdue_at(&self) -> Option<Duration> {
        let (_, tokens) = self.steps.front()?;
        let Allowance { least, factor, slowest } = self.allowance;
        let rate = self.rate().unwrap_or(slowest).max(slowest);
        let seconds = factor * *tokens as f64 / rate;
        let more = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        Some(self.progress.saturating_add(least.saturating_add(more)))
    }

    /// The number of the oldest step, if it is overdue.
    pub fn overdue(&self, now: Duration) -> Option<u64> {
        let (step, _) = self.steps.front()?;
        self.overdue_at().filter(|at| *at <= now).map(|_| *step)
    }
}
