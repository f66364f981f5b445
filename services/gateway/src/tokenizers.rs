//! Threads that render and tokenize, apart from those that serve. What waits for them takes turns as what is computed does:
//! fair by bytes between tenants, and within a tenant between its lanes. What they have in hand is bounded in bytes.
//!
//! A job may take seconds, so it looks up after every few kilobytes: whether anybody still waits for it, and whether a
//! small job has its turn, which is then done in between.

mod queue;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use service::trace::STAGE;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::Span;

use self::queue::{Job, Queue};
use crate::core::Share;

/// The threads, and what waits for them. Clones share them.
#[derive(Clone)]
pub(crate) struct Tokenizers(Arc<Shared>);

struct Shared {
    pool: ThreadPool,
    queue: Queue,
}

/// Whether anybody waits for a job's result.
pub(crate) trait Wanted: Sync {
    /// False once nobody does: the rest can be left out. To be asked often, as others have their turn here.
    fn is_wanted(&self) -> bool;
}

/// What a job is.
pub(crate) struct Load {
    /// Whose it is.
    pub(crate) share: Share,
    /// Bytes of text, by which it takes its turn.
    pub(crate) bytes: usize,
    /// Bytes that it takes in hand.
    pub(crate) memory: usize,
}

/// Why a job has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undone {
    /// It is larger than all the room there is.
    TooLarge,
    /// It was not done by the deadline.
    TooLate,
    /// It panicked.
    Failed,
}

/// A job that somebody waits for, while it goes on.
struct Waited<'a, T> {
    sender: &'a oneshot::Sender<T>,
    tokenizers: &'a Tokenizers,
}

/// Takes a job back when whoever waits for it goes away.
struct Waits<'a> {
    queue: &'a Queue,
    number: u64,
}

/// The most bytes in hand: text, a group's prompt once for each response, what holds a conversation, and what tokenizing
/// takes.
pub(crate) const ROOM: usize = 256 << 20;
/// A job that is done in between has at most so many bytes.
const SMALL: usize = 32 << 10;

thread_local! {
    /// Whether this thread does a job within another.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

// === impl Tokenizers ===

impl Tokenizers {
    /// So many threads.
    pub(crate) fn new(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let threads = threads.max(1);
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("tokenizer-{n}")).build()?;
        Ok(Self(Arc::new(Shared { pool, queue: Queue::new(threads, ROOM) })))
    }

    /// How many jobs go on at a time.
    pub(crate) fn threads(&self) -> usize {
        self.0.pool.current_num_threads()
    }

    /// Runs a job in its turn; in it, rayon's parallel iterators use these threads.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        load: Load,
        deadline: Instant,
        job: impl FnOnce(&dyn Wanted) -> T + Send + 'static,
    ) -> Result<T, Undone> {
        if load.memory > ROOM {
            return Err(Undone::TooLarge);
        }
        let (sender, receiver) = oneshot::channel();
        let (span, tokenizers) = (Span::current(), self.clone());
        let work = move || {
            let stage = tracing::debug_span!(target: STAGE, parent: &span, "tokenize");
            let waited = Waited { sender: &sender, tokenizers: &tokenizers };
            let done = stage.in_scope(|| job(&waited));
            // nobody waits: nobody misses it
            let _ = sender.send(done);
        };
        let Shared { queue, .. } = &*self.0;
        let _waits = Waits { number: queue.push(load, Box::new(work)), queue };
        self.go_on();
        // one that is late has nobody waiting for it, and stops
        let done = timeout_at(deadline, receiver).await.map_err(|_| Undone::TooLate)?;
        done.map_err(|_| Undone::Failed)
    }

    /// Begins what may begin.
    fn go_on(&self) {
        while let Some(job) = self.0.queue.begin() {
            let tokenizers = self.clone();
            self.0.pool.spawn_fifo(move || {
                run(job, &tokenizers.0.queue);
                tokenizers.0.queue.end();
                tokenizers.go_on();
            });
        }
    }

    /// Does a small job whose turn it is, unless this is within one.
    fn look_up(&self) {
        if WITHIN.get() {
            return;
        }
        while let Some(job) = self.0.queue.small(SMALL) {
            WITHIN.set(true);
            run(job, &self.0.queue);
            WITHIN.set(false);
        }
    }
}

/// Does a job, and gives back what it had in hand. One that panics has no result, which its caller notices.
fn run(job: Job, queue: &Queue) {
    let Job { memory, work } = job;
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("a tokenizer thread panicked");
    }
    queue.give_back(memory);
}

impl<T: Send> Wanted for Waited<'_, T> {
    fn is_wanted(&self) -> bool {
        self.tokenizers.look_up();
        !self.sender.is_closed()
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.queue.take_back(self.number);
    }
}

#[cfg(test)]
mod tests;
