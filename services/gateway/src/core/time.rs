//! Time as a value: how long the gateway has been up, told by whoever calls it.

use std::ops::Add;
use std::time::Duration;

/// A moment, counted from some start that all moments of a gateway share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(Duration);

// === impl Time ===

impl Time {
    /// The moment this long after the start.
    pub const fn new(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}
