//! Claims: keys that one incarnation holds under a lease, and the epochs that it opens while it holds them.
//!
//! Every write expects the revisions that this claim last saw. If the registry knows better, what it knows decides:
//! entries under this claim's own lease are an earlier write of its own whose answer was lost, and their revision is
//! taken over; anything else means that the claim is gone.

use std::sync::Arc;

use backon::{BackoffBuilder as _, ExponentialBackoff};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::time::sleep;

use crate::member::{decode, encode};
use crate::store::{Commit, Entry, Failure, Lease, Outcome, Retry, Store, WAITS, Write, next};
use crate::{Error, Incarnation, Key};

/// The most keys in a claim; etcd takes 128 operations in a transaction.
pub const MAX_KEYS: usize = 64;

/// Keys that are held, all of them or none. Dropping it gives them back in the background;
/// [`release`](Claim::release) also waits until that has happened.
pub struct Claim {
    store: Arc<dyn Store>,
    keys: Vec<Key>,
    incarnation: Incarnation,
    lease: Held,
    /// The revision of the last write to the keys. Its lock makes writes take turns.
    revision: Mutex<u64>,
}

/// A lease that a task keeps alive, and revokes when this is dropped.
struct Held {
    id: i64,
    lost: Arc<watch::Sender<bool>>,
    /// Tells the task to end; without a word, that it is to revoke the lease.
    end: Option<oneshot::Sender<()>>,
}

/// Claims the keys for an incarnation.
pub(crate) async fn acquire(
    store: &Arc<dyn Store>,
    keys: &[Key],
    incarnation: Incarnation,
    value: &[u8],
) -> Result<Claim, Error> {
    if keys.is_empty() || keys.len() > MAX_KEYS {
        let reason = format!("{} keys, a claim has 1 to {MAX_KEYS}", keys.len());
        return Err(Error::Option { option: "keys", reason });
    }
    let bytes = encode(&keys[0], incarnation, value)?;
    let mut retry = Retry::new(&**store);
    let lease = Held::new(Arc::clone(store), retry.call(|| store.grant()).await?);
    let mut expect = vec![0; keys.len()];
    loop {
        let commit = Commit {
            expect: keys.iter().cloned().zip(expect.iter().copied()).collect(),
            writes: keys.iter().map(|key| put(key, &bytes, lease.id)).collect(),
        };
        let revision = match retry.call(|| store.commit(&commit)).await? {
            Outcome::Done(revision) => Some(revision),
            Outcome::Conflict(found) => {
                expect = free(keys, incarnation, &found)?;
                under(lease.id, &found)
            }
        };
        if let Some(revision) = revision {
            let (store, keys, revision) = (Arc::clone(store), keys.to_vec(), Mutex::new(revision));
            return Ok(Claim { store, keys, incarnation, lease, revision });
        }
    }
}

/// The revisions to expect, if nobody else holds any of the keys. What this incarnation claimed before is free to it.
fn free(keys: &[Key], incarnation: Incarnation, found: &[Option<Entry>]) -> Result<Vec<u64>, Error> {
    let revision = |(key, entry): (&Key, &Option<Entry>)| {
        let Some(entry) = entry else { return Ok(0) };
        match decode(key, &entry.bytes)? {
            (holder, _) if holder == incarnation => Ok(entry.revision),
            (holder, _) => Err(Error::Claimed { key: key.clone(), holder }),
        }
    };
    keys.iter().zip(found).map(revision).collect()
}

/// The revision of these entries, if all of them are under this lease. They are always written together.
fn under(lease: i64, found: &[Option<Entry>]) -> Option<u64> {
    let held = |entry: &Option<Entry>| entry.as_ref().filter(|entry| entry.lease == lease).map(|entry| entry.revision);
    found.iter().map(held).reduce(|first, next| first.filter(|_| first == next))?
}

fn put(key: &Key, bytes: &[u8], lease: i64) -> Write {
    Write { key: key.clone(), bytes: Some(bytes.to_vec()), lease }
}

// === impl Claim ===

impl Claim {
    /// The keys that are held.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Who holds them.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Writes another value under all keys. Safe to call again after [`Error::Unavailable`].
    ///
    /// # Errors
    /// [`Error::Lost`] if the claim is not held any more, [`Error::TooLarge`], [`Error::Refused`],
    /// [`Error::Unavailable`].
    pub async fn update(&self, value: &[u8]) -> Result<(), Error> {
        let bytes = encode(&self.keys[0], self.incarnation, value)?;
        let writes: Vec<_> = self.keys.iter().map(|key| put(key, &bytes, self.lease.id)).collect();
        let mut revision = self.revision.lock().await;
        let mut retry = Retry::new(&*self.store);
        loop {
            let commit = Commit { expect: self.at(*revision), writes: writes.clone() };
            match self.store.commit(&commit).await {
                Ok(Outcome::Done(done)) => {
                    *revision = done;
                    return Ok(());
                }
                Ok(Outcome::Conflict(found)) => {
                    *revision = under(self.lease.id, &found).ok_or_else(|| self.lose())?;
                    if found[0].as_ref().is_some_and(|entry| entry.bytes == bytes) {
                        return Ok(()); // an attempt whose answer was lost
                    }
                }
                Err(Failure::LeaseEnded) => return Err(self.lose()),
                Err(failure) => retry.after(failure).await?,
            }
        }
    }

    /// Opens an epoch: writes `value` under `key`, in place of the epoch before, and returns the epoch's number, which
    /// is the registry's revision and so greater than any before. The epoch stays when the claim's lease ends; it is
    /// closed by [`Registry::close_epoch`](crate::Registry::close_epoch), or by the next one.
    ///
    /// # Errors
    /// [`Error::Lost`] if the claim is not held any more, [`Error::TooLarge`], [`Error::Refused`],
    /// [`Error::Unavailable`].
    pub async fn open_epoch(&self, key: &Key, value: &[u8]) -> Result<u64, Error> {
        let bytes = encode(key, self.incarnation, value)?;
        let mut revision = self.revision.lock().await;
        let mut retry = Retry::new(&*self.store);
        let mut before = retry.call(|| self.store.get(key)).await?.map_or(0, |entry| entry.revision);
        loop {
            let mut commit = Commit { expect: self.at(*revision), writes: vec![put(key, &bytes, 0)] };
            commit.expect.push((key.clone(), before));
            match retry.call(|| self.store.commit(&commit)).await? {
                Outcome::Done(number) => return Ok(number),
                Outcome::Conflict(mut found) => {
                    let epoch = found.pop().flatten();
                    *revision = under(self.lease.id, &found).ok_or_else(|| self.lose())?;
                    match epoch {
                        // Only the holder of the claim opens epochs: an attempt whose answer was lost.
                        Some(epoch) if epoch.revision != before && epoch.bytes == bytes => return Ok(epoch.revision),
                        epoch => before = epoch.map_or(0, |epoch| epoch.revision),
                    }
                }
            }
        }
    }

    /// Returns when the claim is lost: when the registry said that its lease has ended, or a write found it gone. An
    /// unreachable registry is no loss. The keys may then be claimed again.
    pub async fn lost(&self) {
        let mut lost = self.lease.lost.subscribe();
        // The sender lives as long as the claim.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Gives the keys back, so that others can claim them now.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unavailable`]; the keys are then free when the lease ends.
    pub async fn release(mut self) -> Result<(), Error> {
        revoke(&*self.store, self.lease.id).await?;
        if let Some(end) = self.lease.end.take() {
            // The task may have ended: the claim was lost.
            let _ = end.send(());
        }
        Ok(())
    }

    fn at(&self, revision: u64) -> Vec<(Key, u64)> {
        self.keys.iter().map(|key| (key.clone(), revision)).collect()
    }

    fn lose(&self) -> Error {
        self.lease.lost.send_replace(true);
        Error::Lost { key: self.keys[0].clone() }
    }
}

// === impl Held ===

impl Held {
    fn new(store: Arc<dyn Store>, lease: Lease) -> Self {
        let lost = Arc::new(watch::Sender::new(false));
        let (end, ended) = oneshot::channel();
        tokio::spawn(hold(store, lease, Arc::clone(&lost), ended));
        Self { id: lease.id, lost, end: Some(end) }
    }
}

/// Keeps a lease alive until it is lost or given back. While the registry is away it goes on asking: only the registry
/// can say that a lease has ended.
async fn hold(store: Arc<dyn Store>, lease: Lease, lost: Arc<watch::Sender<bool>>, mut end: oneshot::Receiver<()>) {
    let pause = lease.ttl / 3;
    let mut wait = pause;
    // those since it failed first
    let mut waits: Option<ExponentialBackoff> = None;
    loop {
        let kept = async {
            sleep(wait).await;
            store.keep(lease.id).await
        };
        let kept = tokio::select! {
            kept = kept => kept,
            word = &mut end => {
                if word.is_err() && let Err(error) = revoke(&*store, lease.id).await {
                    tracing::warn!(%error, "a lease was not given back and ends by itself");
                }
                return;
            }
        };
        match kept {
            Ok(()) => {
                if waits.take().is_some() {
                    tracing::info!("the registry keeps the lease again");
                }
                wait = pause;
            }
            Err(Failure::LeaseEnded) => {
                tracing::warn!("the lease has ended");
                lost.send_replace(true);
                return;
            }
            Err(failure) => {
                if waits.is_none() {
                    tracing::warn!(%failure, "the registry does not keep the lease, trying on");
                }
                wait = next(waits.get_or_insert_with(|| WAITS.build()));
            }
        }
    }
}

async fn revoke(store: &dyn Store, lease: i64) -> Result<(), Error> {
    let mut retry = Retry::new(store);
    loop {
        match store.revoke(lease).await {
            Ok(()) | Err(Failure::LeaseEnded) => return Ok(()),
            Err(failure) => retry.after(failure).await?,
        }
    }
}
