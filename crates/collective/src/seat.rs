//! A rank's place in a collective that is formed anew when ranks have left, while the rank keeps its weights.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use crate::{Collective, Error};

/// A place that is taken in one collective after another. Nobody sits in it at first: it then says that its rank left.
pub struct Seat {
    rank: usize,
    world_size: usize,
    taken: Mutex<Option<Arc<dyn Collective>>>,
}

// === impl Seat ===

impl Seat {
    /// The seat of a rank, in collectives of this size.
    pub fn new(rank: usize, world_size: usize) -> Self {
        Self { rank, world_size, taken: Mutex::new(None) }
    }

    /// Takes part in this collective from now on, and leaves the one before.
    pub fn take(&self, collective: Arc<dyn Collective>) {
        debug_assert_eq!((self.rank, self.world_size), (collective.rank(), collective.world_size()), "another seat");
        if let Some(before) = self.lock().replace(collective) {
            before.abort();
        }
    }

    /// Leaves the collective, if there is one.
    pub fn leave(&self) {
        if let Some(before) = self.lock().take() {
            before.abort();
        }
    }

    fn current(&self) -> Result<Arc<dyn Collective>, Error> {
        self.lock().clone().ok_or(Error::RankLeft { rank: self.rank })
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Option<Arc<dyn Collective>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collective for Seat {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn all_reduce(&self, tensor: Tensor) -> Result<Tensor, Error> {
        self.current()?.all_reduce(tensor)
    }

    fn broadcast(&self, tensor: Option<Tensor>, root: usize) -> Result<Tensor, Error> {
        self.current()?.broadcast(tensor, root)
    }

    fn abort(&self) {
        self.leave();
    }
}
