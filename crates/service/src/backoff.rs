//! How long to wait before a peer is tried again.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// Waits that double, each shortened by up to a half, so that not all come back at once.
pub struct Backoff {
    builder: ExponentialBuilder,
    waits: ExponentialBackoff,
    longest: Duration,
}

// === impl Backoff ===

impl Backoff {
    /// From the first wait to the longest.
    pub fn new(first: Duration, longest: Duration) -> Self {
        // the jitter adds up to the wait itself
        let builder = ExponentialBuilder::new().with_min_delay(first / 2).with_max_delay(longest / 2);
        let builder = builder.without_max_times().with_jitter();
        Self { builder, waits: builder.build(), longest }
    }

    /// The next wait is the first again.
    pub fn reset(&mut self) {
        self.waits = self.builder.build();
    }

    /// How long to wait now.
    pub fn wait(&mut self) -> Duration {
        self.waits.next().unwrap_or(self.longest)
    }
}
