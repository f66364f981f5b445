//! Ranks as threads of one process: they meet at one mutex and share tensors by reference.
//!
//! A meeting blocks on a condition variable and never spins, so ranks that wait leave their core to ranks that work.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use crate::{Collective, Error};

/// One rank's end of a collective over the threads of a process. Dropping it tells the other ranks not to wait.
pub struct Threads {
    rank: usize,
    meeting: Arc<Meeting>,
}

/// Joins `world_size` ranks; the result holds one end for each, in rank order, to be moved to the rank's thread.
pub fn threads(world_size: usize) -> Vec<Threads> {
    let state = State { round: 0, given: vec![None; world_size], arrived: 0, result: Arc::from([]), left: None };
    let meeting = Arc::new(Meeting { state: Mutex::new(state), changed: Condvar::new() });
    (0..world_size).map(|rank| Threads { rank, meeting: Arc::clone(&meeting) }).collect()
}

struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Counts the meetings that have taken place.
    round: u64,
    /// What each rank has brought to the meeting that is forming.
    given: Vec<Option<Tensor>>,
    arrived: usize,
    /// What the ranks brought to the last meeting. It cannot be replaced before every rank has read it, for each must
    /// arrive again first.
    result: Arc<[Option<Tensor>]>,
    left: Option<usize>,
}

// === impl Threads ===

impl Threads {
    /// Waits until every rank has brought something, and returns all of it in rank order.
    fn meet(&self, tensor: Option<Tensor>) -> Result<Arc<[Option<Tensor>]>, Error> {
        let mut state = self.meeting.lock();
        if let Some(rank) = state.left {
            return Err(Error::RankLeft { rank });
        }
        let round = state.round;
        state.given[self.rank] = tensor;
        state.arrived += 1;
        if state.arrived == state.given.len() {
            let empty = vec![None; state.given.len()];
            state.result = std::mem::replace(&mut state.given, empty).into();
            state.arrived = 0;
            state.round += 1;
            self.meeting.changed.notify_all();
        }
        while state.round == round {
            if let Some(rank) = state.left {
                return Err(Error::RankLeft { rank });
            }
            state = self.meeting.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(Arc::clone(&state.result))
    }
}

impl Meeting {
    /// No code panics while it holds the lock, so a poisoned state is a whole one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.meeting.lock().given.len()
    }

    fn all_reduce(&self, tensor: Tensor) -> Result<Tensor, Error> {
        let given = self.meet(Some(tensor))?;
        let mut tensors = given.iter().flatten();
        let Some(first) = tensors.next() else { return Err(Error::RankLeft { rank: 0 }) };
        // Every rank adds for itself: the tensors are in shared memory, and an exchange of sums would be a second meeting.
        Ok(tensors.try_fold(first.clone(), |sum, tensor| sum + tensor)?)
    }

    fn broadcast(&self, tensor: Option<Tensor>, root: usize) -> Result<Tensor, Error> {
        let given = self.meet(tensor.filter(|_| root == self.rank))?;
        let nothing = Error::NothingToBroadcast { root, world_size: given.len() };
        given.get(root).cloned().flatten().ok_or(nothing)
    }

    fn abort(&self) {
        self.meeting.lock().left.get_or_insert(self.rank);
        self.meeting.changed.notify_all();
    }

    #[cfg(feature = "cuda")]
    fn left(&self) -> Option<usize> {
        self.meeting.lock().left
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.abort();
    }
}
