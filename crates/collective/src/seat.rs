//! A rank's place in a collective that is formed anew when ranks have left, while the rank keeps its weights.

#[cfg(feature = "cuda")]
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;
#[cfg(feature = "cuda")]
use cudarc::driver::CudaStream;

#[cfg(feature = "cuda")]
use crate::nccl::{Nccl, PATIENCE, Slot};
use crate::{Collective, Error};

/// A place that is taken in one collective after another. Nobody sits in it at first: it then says that its rank left.
pub struct Seat {
    rank: usize,
    world_size: usize,
    taken: Mutex<Option<Arc<Sitting>>>,
}

/// What a seat is taken in.
struct Sitting {
    collective: Arc<dyn Collective>,
    /// Joins the same ranks on their GPUs, once they ask for it.
    #[cfg(feature = "cuda")]
    nccl: Slot,
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
        let before = self.lock().replace(Arc::new(Sitting::new(collective)));
        // without the lock: to end a communicator takes time, and others may want to sit or leave
        if let Some(before) = before {
            before.end();
        }
    }

    /// Leaves the collective, if there is one. This waits for no other rank, nor for one that forms a communicator.
    pub fn leave(&self) {
        let before = self.lock().take();
        if let Some(before) = before {
            before.end();
        }
    }

    fn current(&self) -> Result<Arc<Sitting>, Error> {
        self.lock().clone().ok_or(Error::RankLeft { rank: self.rank })
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Sitting>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(feature = "cuda")]
impl Seat {
    /// The communicator of the collective that the seat is taken in; `form` makes it at the first call.
    pub(crate) fn communicator(
        &self,
        form: impl FnOnce(&dyn Collective, &AtomicBool) -> Result<Nccl, Error>,
    ) -> Result<Arc<Nccl>, Error> {
        let sitting = self.current()?;
        sitting.nccl.get_or_form(self.rank, |cancelled| form(&*sitting.collective, cancelled))
    }
}

// === impl Sitting ===

impl Sitting {
    fn new(collective: Arc<dyn Collective>) -> Self {
        Self {
            collective,
            #[cfg(feature = "cuda")]
            nccl: Slot::default(),
        }
    }

    /// The collective first: ranks that wait in it, to agree on a communicator or for anything else, are free at once.
    fn end(&self) {
        self.collective.abort();
        #[cfg(feature = "cuda")]
        self.nccl.close();
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
        self.current()?.collective.all_reduce(tensor)
    }

    fn broadcast(&self, tensor: Option<Tensor>, root: usize) -> Result<Tensor, Error> {
        self.current()?.collective.broadcast(tensor, root)
    }

    fn abort(&self) {
        self.leave();
    }

    #[cfg(feature = "cuda")]
    fn left(&self) -> Option<usize> {
        self.current().map_or(Some(self.rank), |sitting| sitting.collective.left())
    }

    #[cfg(feature = "cuda")]
    fn nccl(&self, stream: &Arc<CudaStream>) -> Result<Arc<Nccl>, Error> {
        self.communicator(|collective, cancelled| Nccl::form_unless(collective, stream, PATIENCE, cancelled))
    }
}
