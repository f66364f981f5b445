//! A step on its way: what a device does with a batch, and what will come of it.

use score::{Checksum, Partials};

use crate::batch::PackedBatch;
use crate::error::Result;

/// What computes a rank's share of steps: one for each kind of device.
pub(crate) trait Forward: Send + Sync {
    /// Has a step computed, behind those that were submitted before, with checksums that cover what is said; the batch has
    /// been checked.
    ///
    /// At most two steps are in flight: this blocks until the last but one is computed, whether or not anybody waits
    /// for it.
    ///
    /// # Errors
    /// If the device refuses, or another rank has left.
    fn submit(&self, batch: &PackedBatch, checksum: Checksum) -> Result<Pending>;
}

/// The partial logits of a step that was submitted.
#[must_use = "the partial logits are what `wait` returns"]
pub struct Pending(Wait);

enum Wait {
    Ready(Partials),
    Later(Box<dyn FnOnce() -> Result<Partials> + Send>),
}

// === impl Pending ===

impl Pending {
    /// A step that is computed.
    pub fn ready(partials: Partials) -> Self {
        Self(Wait::Ready(partials))
    }

    /// A step that is computed when `wait` returns.
    pub fn later(wait: impl FnOnce() -> Result<Partials> + Send + 'static) -> Self {
        Self(Wait::Later(Box::new(wait)))
    }

    /// Waits until the step is computed, on any thread: what the rank contributes to each sequence of the batch, in
    /// the order in which they were pushed.
    ///
    /// # Errors
    /// If the device failed, or another rank has left.
    pub fn wait(self) -> Result<Partials> {
        match self.0 {
            Wait::Ready(partials) => Ok(partials),
            Wait::Later(wait) => wait(),
        }
    }
}
