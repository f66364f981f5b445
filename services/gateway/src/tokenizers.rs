//! Threads that render and tokenize, apart from those that serve. What they have in hand is bounded in bytes: beyond
//! that, callers wait, and with them their clients.

use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use service::trace::STAGE;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::Span;

/// The threads, and the room for what they have in hand.
pub(crate) struct Tokenizers {
    pool: ThreadPool,
    room: Arc<Semaphore>,
}

/// Whether anybody waits for a job's result.
pub(crate) trait Wanted: Sync {
    /// False once nobody does: the rest can be left out.
    fn is_wanted(&self) -> bool;
}

/// Why a job has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undone {
    /// It is larger than all the room there is.
    TooLarge,
    /// Its turn had not come by the deadline.
    TooLate,
    /// It panicked.
    Failed,
}

/// The most bytes in hand: text, a group's prompt once for each response, and what holds a conversation.
pub(crate) const ROOM: usize = 256 << 20;
const UNIT: usize = 1024;

// === impl Tokenizers ===

impl Tokenizers {
    /// So many threads.
    pub(crate) fn new(threads: usize) -> Result<Self, ThreadPoolBuildError> {
        let pool = ThreadPoolBuilder::new().num_threads(threads.max(1)).thread_name(|n| format!("tokenizer-{n}"));
        // a job that panics has no result, which its caller notices
        let pool = pool.panic_handler(|_| tracing::error!("a tokenizer thread panicked")).build()?;
        Ok(Self { pool, room: Arc::new(Semaphore::new(ROOM / UNIT)) })
    }

    /// Runs a job over so many bytes of text; in it, rayon's parallel iterators use these threads.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        deadline: Instant,
        job: impl FnOnce(&dyn Wanted) -> T + Send + 'static,
    ) -> Result<T, Undone> {
        if bytes > ROOM {
            return Err(Undone::TooLarge);
        }
        let units = u32::try_from(bytes / UNIT + 1).map_err(|_| Undone::TooLarge)?.min((ROOM / UNIT) as u32);
        let place = timeout_at(deadline, Arc::clone(&self.room).acquire_many_owned(units)).await;
        let place = place.map_err(|_| Undone::TooLate)?.map_err(|_| Undone::Failed)?;
        let (sender, receiver) = oneshot::channel();
        let span = Span::current();
        self.pool.spawn_fifo(move || {
            let stage = tracing::debug_span!(target: STAGE, parent: &span, "tokenize");
            let done = stage.in_scope(|| job(&sender));
            drop(place);
            // nobody waits: nobody misses it
            let _ = sender.send(done);
        });
        receiver.await.map_err(|_| Undone::Failed)
    }
}

impl<T: Send> Wanted for oneshot::Sender<T> {
    fn is_wanted(&self) -> bool {
        !self.is_closed()
    }
}
