//! Places for connections: so many, each with a time by which it has to be needed again.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The places there are. Clones share them.
#[derive(Clone)]
pub(super) struct Places {
    most: usize,
    state: Arc<(Mutex<State>, Notify)>,
}

#[derive(Default)]
struct State {
    taken: usize,
    next: u64,
    /// Those of which nothing is open, by the time at which they are over.
    idle: BTreeMap<(Instant, u64), CancellationToken>,
}

/// A place that is taken, until it is dropped.
pub(super) struct Place {
    places: Places,
    number: u64,
    over: CancellationToken,
    held: Mutex<Held>,
}

struct Held {
    requests: usize,
    /// When it is over, unless something is asked before.
    until: Instant,
    /// What is heard next is the beginning of a request.
    quiet: bool,
}

/// A request of a connection, until it is dropped; then the connection has so long to ask again.
pub(super) struct Request {
    place: Arc<Place>,
    idle: Duration,
}

// === impl Places ===

impl Places {
    pub(super) fn new(most: NonZeroUsize) -> Self {
        Self { most: most.get(), state: Arc::default() }
    }

    /// Takes a place, which is over after so long. If all are taken, the one that would be over first gives way.
    pub(super) fn take(&self, within: Duration) -> Place {
        if self.are_taken() {
            self.give_way(1);
        }
        let (over, until) = (CancellationToken::new(), Instant::now() + within);
        let mut state = self.lock();
        let number = state.next;
        (state.taken, state.next) = (state.taken + 1, number + 1);
        state.idle.insert((until, number), over.clone());
        let held = Mutex::new(Held { requests: 0, until, quiet: false });
        Place { places: self.clone(), number, over, held }
    }

    /// Whether there is none left.
    pub(super) fn are_taken(&self) -> bool {
        self.lock().taken >= self.most
    }

    /// Waits until a place that was taken is free, or could give way.
    pub(super) async fn change(&self) {
        self.state.1.notified().await;
    }

    /// Ends the places whose time is over.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        while let Some(first) = state.idle.first_entry().filter(|first| first.key().0 <= now) {
            first.remove().cancel();
        }
    }

    /// Ends so many of those that would be over first.
    pub(super) fn give_way(&self, places: usize) {
        let mut state = self.lock();
        (0..places).map_while(|_| state.idle.pop_first()).for_each(|(_, over)| over.cancel());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Place ===

impl Place {
    /// Waits until it is over.
    pub(super) async fn is_over(&self) {
        self.over.cancelled().await;
    }

    /// Whether a request is open.
    pub(super) fn is_asked(&self) -> bool {
        self.lock().requests > 0
    }

    /// Something has to come within this time.
    pub(super) fn expect(&self, within: Duration) {
        self.wait(&mut self.lock(), within);
    }

    /// Something of a request was heard: its head has to be there within this time.
    pub(super) fn begins(&self, head: Duration) {
        let mut held = self.lock();
        if std::mem::take(&mut held.quiet) {
            self.wait(&mut held, head);
        }
    }

    /// The client speaks HTTP/2, in which heads do not follow each other.
    pub(super) fn introduced(&self, idle: Duration) {
        let mut held = self.lock();
        if !std::mem::replace(&mut held.quiet, true) {
            self.wait(&mut held, idle);
        }
    }

    /// A request has come.
    pub(super) fn ask(self: &Arc<Self>, idle: Duration) -> Request {
        let mut held = self.lock();
        if held.requests == 0 {
            self.places.lock().idle.remove(&(held.until, self.number));
        }
        held.requests += 1;
        Request { place: Arc::clone(self), idle }
    }

    fn wait(&self, held: &mut Held, within: Duration) {
        if held.requests > 0 {
            return;
        }
        let mut state = self.places.lock();
        state.idle.remove(&(held.until, self.number));
        held.until = Instant::now() + within;
        if !self.over.is_cancelled() {
            state.idle.insert((held.until, self.number), self.over.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let until = self.lock().until;
        let mut state = self.places.lock();
        state.taken -= 1;
        state.idle.remove(&(until, self.number));
        drop(state);
        self.places.state.1.notify_one();
    }
}

// === impl Request ===

impl Drop for Request {
    fn drop(&mut self) {
        let mut held = self.place.lock();
        held.requests -= 1;
        held.quiet = true;
        self.place.wait(&mut held, self.idle);
        // it may give way now
        self.place.places.state.1.notify_one();
    }
}
