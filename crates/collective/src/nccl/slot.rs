//! The communicator beside a collective: formed when it is first asked for, and ended with the collective, by a thread
//! that waits for nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Nccl;
use crate::Error;

/// A place for one communicator.
#[derive(Default)]
pub(crate) struct Slot {
    /// Held by who forms it. Who closes the slot never takes this lock.
    forming: Mutex<()>,
    /// Held for moments.
    formed: Mutex<Option<Arc<Nccl>>>,
    /// Tells who forms it to give up.
    closed: AtomicBool,
}

// === impl Slot ===

impl Slot {
    /// The communicator, which `form` makes if there is none yet; it is to give up when its argument says so.
    pub(crate) fn get_or_form(
        &self,
        rank: usize,
        form: impl FnOnce(&AtomicBool) -> Result<Nccl, Error>,
    ) -> Result<Arc<Nccl>, Error> {
        let _alone = self.forming.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nccl) = self.formed().as_ref() {
            return Ok(Arc::clone(nccl));
        }
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::RankLeft { rank });
        }
        let nccl = Arc::new(form(&self.closed)?);
        let mut formed = self.formed();
        // who closes the slot says so before it looks for what is formed
        if self.closed.load(Ordering::SeqCst) {
            drop(formed);
            nccl.abort();
            return Err(Error::RankLeft { rank });
        }
        *formed = Some(Arc::clone(&nccl));
        Ok(nccl)
    }

    /// Ends the communicator, or the forming of it, without waiting for the latter.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let formed = self.formed().take();
        if let Some(nccl) = formed {
            nccl.abort();
        }
    }

    /// No code panics while it holds the lock.
    fn formed(&self) -> MutexGuard<'_, Option<Arc<Nccl>>> {
        self.formed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
