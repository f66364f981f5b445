//! A step on its way: what a device does with a batch, and what will come of it.

use crate::batch::PackedBatch;
use crate::error::Result;
use crate::layers::PartialLogit;

/// What computes a rank's share of steps: one for each kind of device.
pub(crate) trait Forward: Send + Sync {
    /// Has a step computed, behind those that were submitted before; the batch has been checked.
    ///
    /// At most two steps are in flight: this blocks until the last but one is computed, whether or not anybody waits
    /// for it.
    ///
    /// # Errors
    /// If the device refuses, or another rank has left.
    fn submit(&self, batch: &PackedBatch) -> Result<Pending>;
}

/// The partial logits of a step that was submitted.
#[must_use = "the partial logits are what `wait` returns"]
pub struct Pending(Wait);

enum Wait {
    Ready(Vec<PartialLogit>),
    Later(Box<dyn FnOnce() -> Result<Vec<PartialLogit>> + Send>),
}

// === impl Pending ===

impl Pending {
    /// A step that is computed.
    pub fn ready(partial_logits: Vec<PartialLogit>) -> Self {
        Self(Wait::Ready(partial_logits))
    }

    /// A step that is computed when `wait` returns.
    pub fn later(wait: impl FnOnce() -> Result<Vec<PartialLogit>> + Send + 'static) -> Self {
        Self(Wait::Later(Box::new(wait)))
    }

    /// Waits until the step is computed, on any thread: a partial logit of each sequence of the batch, in the order in
    /// which they were pushed.
    ///
    /// # Errors
    /// If the device failed, or another rank has left.
    pub fn wait(self) -> Result<Vec<PartialLogit>> {
        match self.0 {
            Wait::Ready(partial_logits) => Ok(partial_logits),
            Wait::Later(wait) => wait(),
        }
    }
}
