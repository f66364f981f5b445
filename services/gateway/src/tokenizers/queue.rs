//! Jobs that wait for a thread, and what is in hand: as many as there are threads, and so many bytes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use score::PieceId;

use super::Load;
use crate::core::{FairQueue, Share};
use crate::metrics;

/// What waits, and what is in hand.
pub(super) struct Queue {
    threads: usize,
    room: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: FairQueue,
    jobs: HashMap<PieceId, Waiting>,
    next: u64,
    running: usize,
    /// Bytes in hand.
    memory: usize,
}

struct Waiting {
    share: Share,
    bytes: usize,
    job: Job,
}

/// A job that may begin.
pub(super) struct Job {
    pub(super) memory: usize,
    pub(super) work: Box<dyn FnOnce() + Send>,
}

/// Bytes of text after which a lane lets the others of its tenant go first.
const TURN: u64 = 64 << 10;

// === impl Queue ===

impl Queue {
    pub(super) fn new(threads: usize, room: usize) -> Self {
        Self { threads, room, state: Mutex::default() }
    }

    /// Puts a job at the end of its lane, and says by which number it can be taken back.
    pub(super) fn push(&self, load: Load, work: Box<dyn FnOnce() + Send>) -> u64 {
        let Load { share, bytes, memory } = load;
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.waiting.push(PieceId(number), &share, bytes.max(1) as u64);
        state.jobs.insert(PieceId(number), Waiting { share, bytes, job: Job { memory, work } });
        state.report();
        number
    }

    /// Takes a job out that has not begun.
    pub(super) fn take_back(&self, number: u64) {
        let mut state = self.lock();
        if let Some(Waiting { share, .. }) = state.jobs.remove(&PieceId(number)) {
            state.waiting.remove(PieceId(number), &share);
            state.report();
        }
    }

    /// The job whose turn it is, if there is a thread for it and room.
    pub(super) fn begin(&self) -> Option<Job> {
        let mut state = self.lock();
        if state.running >= self.threads {
            return None;
        }
        let job = state.pop(self.room, usize::MAX)?;
        state.running += 1;
        Some(job)
    }

    /// The job whose turn it is, if it is so small.
    pub(super) fn small(&self, most: usize) -> Option<Job> {
        self.lock().pop(self.room, most)
    }

    /// A job that had begun has come to its end.
    pub(super) fn end(&self) {
        self.lock().running -= 1;
    }

    /// So many bytes are in hand no more.
    pub(super) fn give_back(&self, memory: usize) {
        let mut state = self.lock();
        state.memory -= memory;
        state.report();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn pop(&mut self, room: usize, most: usize) -> Option<Job> {
        let first = self.waiting.first()?;
        let waiting = self.jobs.get(&first)?;
        if waiting.bytes > most || self.memory + waiting.job.memory > room {
            return None;
        }
        self.waiting.pop(TURN);
        let job = self.jobs.remove(&first)?.job;
        self.memory += job.memory;
        self.report();
        Some(job)
    }

    fn report(&self) {
        metrics::tokenizers(self.waiting.len(), self.waiting.tokens(), self.memory);
    }
}
