//! The registry of one process: a map with revisions, leases and a bounded history, as etcd has them.
//!
//! It has no clock. A lease ends when its holder gives it back, or when a test says so; that, and the other faults that
//! a [`Memory`] has on demand, happen in the order in which they are asked for, so a seeded simulation repeats.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::member::decode;
use crate::store::{BoxFuture, Commit, Entry, Failure, Lease, Listing, Outcome, Store};
use crate::{Event, Key, Member, Prefix, Registry};

/// Changes that a watch can catch up with.
const HISTORY: usize = 1024;
const TTL: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(10);

/// A client of an in-memory registry, with faults on demand. Clones share the connection;
/// [`another`](Memory::another) makes one of its own to the same registry.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
    faults: Arc<Mutex<Faults>>,
}

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

/// The faults of one connection.
#[derive(Default)]
struct Faults {
    cut: bool,
    lose_answers: usize,
    /// Counts the times that its watches were broken.
    broken: u64,
}

#[derive(Default)]
struct State {
    revision: u64,
    entries: BTreeMap<Key, Entry>,
    leases: BTreeSet<i64>,
    granted: i64,
    /// What was written under a key at a revision; None where it was removed.
    history: VecDeque<(u64, Key, Option<Entry>)>,
    /// The last revision that the history has forgotten.
    compacted: u64,
}

// === impl Memory ===

impl Memory {
    /// An empty registry.
    pub fn new() -> Self {
        let shared = Shared { state: Mutex::default(), changed: watch::Sender::new(()) };
        Self { shared: Arc::new(shared), faults: Arc::default() }
    }

    /// Another connection to the same registry.
    pub fn another(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), faults: Arc::default() }
    }

    /// The registry, over this connection.
    pub fn registry(&self) -> Registry {
        Registry::over(self.clone())
    }

    /// Cuts this connection, or mends it: calls fail, watches stand still, and the holder of a lease learns nothing.
    pub fn set_reachable(&self, reachable: bool) {
        self.faults().cut = !reachable;
        self.shared.changed.send_replace(());
    }

    /// Lets the next `times` writes over this connection take effect and their answers get lost.
    pub fn lose_answers(&self, times: usize) {
        self.faults().lose_answers = times;
    }

    /// Breaks the watches of this connection so that they must list again.
    pub fn break_watches(&self) {
        self.faults().broken += 1;
        self.shared.changed.send_replace(());
    }

    /// Ends the lease that holds this key, as if its time had run out; false if the key has none.
    pub fn expire(&self, key: &Key) -> bool {
        let mut state = self.shared.lock();
        let lease = state.entries.get(key).map_or(0, |entry| entry.lease);
        let ended = state.end(lease);
        drop(state);
        self.shared.changed.send_replace(());
        ended
    }

    /// Forgets the history: watches that have not caught up must list again.
    pub fn compact(&self) {
        let mut state = self.shared.lock();
        state.compacted = state.revision;
        state.history.clear();
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        // Nothing panics while it holds the lock.
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if the connection carries a request.
    fn request(&self) -> Result<MutexGuard<'_, State>, Failure> {
        if self.faults().cut {
            return Err(Failure::Unavailable("the connection is cut".to_owned()));
        }
        Ok(self.shared.lock())
    }

    /// Changes the state over the connection, and tells the watches.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T, Failure>) -> Result<T, Failure> {
        let result = change(&mut *self.request()?);
        self.shared.changed.send_replace(());
        let mut faults = self.faults();
        if faults.lose_answers > 0 {
            faults.lose_answers -= 1;
            return Err(Failure::Unavailable("the answer was lost".to_owned()));
        }
        result
    }

    async fn follow(self, prefix: Prefix, events: mpsc::Sender<Event>) {
        let mut changed = self.shared.changed.subscribe();
        let mut seen = None;
        loop {
            changed.mark_unchanged();
            for event in self.news(&prefix, &mut seen) {
                if events.send(event).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = events.closed() => return,
            }
        }
    }

    /// What happened since a watch has last looked: at which revision, and over which life of the connection.
    fn news(&self, prefix: &Prefix, seen: &mut Option<(u64, u64)>) -> Vec<Event> {
        let broken = self.faults().broken;
        let Ok(state) = self.request() else { return Vec::new() };
        let now = (state.revision, broken);
        match seen.replace(now) {
            Some((revision, life)) if life == broken && revision >= state.compacted => {
                let new = state.history.iter().filter(|(at, key, _)| *at > revision && prefix.contains(key));
                new.filter_map(|(_, key, entry)| event(key, entry.as_ref())).collect()
            }
            _ => vec![Event::Reset(state.members(prefix))],
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for Memory {
    fn deadline(&self) -> Duration {
        DEADLINE
    }

    fn grant(&self) -> BoxFuture<'_, Result<Lease, Failure>> {
        Box::pin(async {
            let mut state = self.request()?;
            state.granted += 1;
            let id = state.granted;
            state.leases.insert(id);
            Ok(Lease { id, ttl: TTL })
        })
    }

    fn keep(&self, lease: i64) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move { if self.request()?.leases.contains(&lease) { Ok(()) } else { Err(Failure::LeaseEnded) } })
    }

    fn revoke(&self, lease: i64) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move { self.change(|state| if state.end(lease) { Ok(()) } else { Err(Failure::LeaseEnded) }) })
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, Failure>> {
        Box::pin(async { Ok(self.request()?.entries.get(key).cloned()) })
    }

    fn list<'a>(&'a self, prefix: &'a Prefix) -> BoxFuture<'a, Result<Listing, Failure>> {
        Box::pin(async {
            let state = self.request()?;
            Ok(Listing { members: state.members(prefix), revision: state.revision })
        })
    }

    fn commit<'a>(&'a self, commit: &'a Commit) -> BoxFuture<'a, Result<Outcome, Failure>> {
        Box::pin(async { self.change(|state| state.commit(commit)) })
    }

    fn watch(&self, prefix: Prefix, events: mpsc::Sender<Event>) -> BoxFuture<'static, ()> {
        Box::pin(self.clone().follow(prefix, events))
    }
}

// === impl State ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn commit(&mut self, commit: &Commit) -> Result<Outcome, Failure> {
        let found: Vec<_> = commit.expect.iter().map(|(key, _)| self.entries.get(key).cloned()).collect();
        let revisions = found.iter().map(|entry| entry.as_ref().map_or(0, |entry| entry.revision));
        if !revisions.eq(commit.expect.iter().map(|(_, revision)| *revision)) {
            return Ok(Outcome::Conflict(found));
        }
        if commit.writes.iter().any(|write| write.lease != 0 && !self.leases.contains(&write.lease)) {
            return Err(Failure::LeaseEnded);
        }
        self.revision += 1;
        let revision = self.revision;
        for write in &commit.writes {
            let entry = write.bytes.clone().map(|bytes| Entry { bytes, revision, lease: write.lease });
            self.record(write.key.clone(), entry);
        }
        Ok(Outcome::Done(revision))
    }

    /// Ends a lease and what was written under it; false if there is none.
    fn end(&mut self, lease: i64) -> bool {
        let ended = self.leases.remove(&lease);
        let under = self.entries.iter().filter(|(_, entry)| ended && entry.lease == lease);
        let keys: Vec<_> = under.map(|(key, _)| key.clone()).collect();
        if !keys.is_empty() {
            self.revision += 1;
        }
        for key in keys {
            self.record(key, None);
        }
        ended
    }

    fn record(&mut self, key: Key, entry: Option<Entry>) {
        match &entry {
            Some(entry) => drop(self.entries.insert(key.clone(), entry.clone())),
            None if self.entries.remove(&key).is_some() => {}
            None => return,
        }
        self.history.push_back((self.revision, key, entry));
        if self.history.len() > HISTORY
            && let Some((revision, ..)) = self.history.pop_front()
        {
            self.compacted = revision;
        }
    }

    fn members(&self, prefix: &Prefix) -> Vec<Member> {
        let below = self.entries.iter().filter(|(key, _)| prefix.contains(key));
        below.filter_map(|(key, entry)| member(key, entry)).collect()
    }
}

fn event(key: &Key, entry: Option<&Entry>) -> Option<Event> {
    let Some(entry) = entry else { return Some(Event::Remove(key.clone())) };
    member(key, entry).map(Event::Add)
}

fn member(key: &Key, entry: &Entry) -> Option<Member> {
    let (holder, value) = decode(key, &entry.bytes).ok()?;
    Some(Member { key: key.clone(), value, holder, revision: entry.revision })
}
