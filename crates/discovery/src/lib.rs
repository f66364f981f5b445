//! Says who is alive: a registry of members, in memory or in etcd.
//!
//! A worker [claims](Registry::claim) keys with its [`Incarnation`] and writes a small state under them; the claim is
//! held under a lease, and is free again when the lease ends. While it holds the claim it may
//! [open an epoch](Claim::open_epoch), whose number only grows. Everybody may [watch](Registry::watch) what lies below a
//! prefix, as a stream of [`Event`]s. What the values mean is the business of those who write them.
//!
//! A registry that is away changes nothing: a watch says nothing rather than that members are gone, a claim is lost only
//! when the registry says so, and calls are tried again for a bounded time. [`Registry::memory`] and [`Registry::etcd`]
//! behave alike, and one suite of tests runs over both.

mod claim;
mod error;
mod etcd;
#[cfg(any(test, feature = "test-etcd"))]
pub mod etcd_cluster;
mod key;
mod member;
mod memory;
mod store;

use std::sync::Arc;

use tokio::sync::mpsc;

pub use claim::{Claim, MAX_KEYS};
pub use error::Error;
pub use etcd::{Credentials, EtcdOptions};
pub use etcd_client::TlsOptions;
pub use key::{Key, MAX_KEY, Prefix};
pub use member::{Event, Incarnation, MAX_VALUE, Member};
pub use memory::Memory;
use store::{Commit, Retry, Store, Write};

/// Where members are written down. Clones are handles of the same registry.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn Store>,
}

/// The members below a prefix, as they come and go.
pub struct Watch {
    events: mpsc::Receiver<Event>,
}

/// Events that wait for a slow reader; beyond them, the registry keeps them or forgets them.
const PENDING: usize = 64;

// === impl Registry ===

impl Registry {
    /// A registry of this process. [`Memory`] is the same with faults on demand.
    pub fn memory() -> Self {
        Memory::new().registry()
    }

    /// A registry in etcd. Nothing is sent before the first call: etcd may be away.
    ///
    /// # Errors
    /// [`Error::Option`] or [`Error::Key`] if the options cannot work.
    pub async fn etcd(options: EtcdOptions) -> Result<Self, Error> {
        Ok(Self::over(etcd::Etcd::new(options).await?))
    }

    fn over(store: impl Store) -> Self {
        Self { store: Arc::new(store) }
    }

    /// Asks the registry for a sign of life, and whether it accepts this client.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unavailable`].
    pub async fn check(&self) -> Result<(), Error> {
        let key = Key::new("check")?;
        Retry::new(&*self.store).call(|| self.store.get(&key)).await.map(drop)
    }

    /// Claims all these keys or none, and writes `value` under each. What the same incarnation claimed before is taken
    /// over, so it is safe to call again after [`Error::Unavailable`] or [`Error::Lost`].
    ///
    /// # Errors
    /// [`Error::Claimed`] if another incarnation holds one of the keys, [`Error::Foreign`], [`Error::TooLarge`],
    /// [`Error::Option`] for no or too many keys, [`Error::Refused`], [`Error::Unavailable`].
    pub async fn claim(&self, keys: &[Key], incarnation: Incarnation, value: &[u8]) -> Result<Claim, Error> {
        claim::acquire(&self.store, keys, incarnation, value).await
    }

    /// Claims as [`claim`](Registry::claim) does, and waits for as long as another holds one of the keys or the registry
    /// is away. Drop the future to give up.
    ///
    /// # Errors
    /// As [`claim`](Registry::claim), without [`Error::Claimed`] and [`Error::Unavailable`].
    pub async fn claim_when_free(&self, keys: &[Key], incarnation: Incarnation, value: &[u8]) -> Result<Claim, Error> {
        loop {
            match self.claim(keys, incarnation, value).await {
                Err(Error::Claimed { key, holder }) => {
                    tracing::info!(%key, %holder, "waiting for a claim to become free");
                    self.until_free(&key).await;
                }
                Err(Error::Unavailable(reason)) => tracing::warn!(reason, "waiting for the registry to claim"),
                other => return other,
            }
        }
    }

    async fn until_free(&self, key: &Key) {
        let mut watch = self.watch(&key.folder());
        loop {
            match watch.next().await {
                Event::Reset(members) if members.iter().all(|member| member.key != *key) => return,
                Event::Remove(gone) if gone == *key => return,
                _ => {}
            }
        }
    }

    /// The members below a prefix now, in the order of their keys.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unavailable`].
    pub async fn list(&self, prefix: &Prefix) -> Result<Vec<Member>, Error> {
        Ok(Retry::new(&*self.store).call(|| self.store.list(prefix)).await?.members)
    }

    /// Watches what lies below a prefix, in a task that ends when the watch is dropped.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch(&self, prefix: &Prefix) -> Watch {
        let (sender, events) = mpsc::channel(PENDING);
        tokio::spawn(self.store.watch(prefix.clone(), sender));
        Watch { events }
    }

    /// Closes the epoch of this number; nothing happens if it is closed, or another has been opened.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Unavailable`].
    pub async fn close_epoch(&self, key: &Key, number: u64) -> Result<(), Error> {
        let remove = Write { key: key.clone(), bytes: None, lease: 0 };
        let commit = Commit { expect: vec![(key.clone(), number)], writes: vec![remove] };
        Retry::new(&*self.store).call(|| self.store.commit(&commit)).await.map(drop)
    }
}

// === impl Watch ===

impl Watch {
    /// The next event; the first is a [`Event::Reset`]. Waits while there is none, also while the registry is away. A
    /// future that is dropped loses no event.
    pub async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            // The runtime is ending, and this future with it.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;
