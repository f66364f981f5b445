//! What the in-memory registry and etcd have in common: revisions, leases, and writes that happen only if nothing has
//! changed. Claims and epochs are built on these few operations, once for both.
//!
//! An operation is one attempt. A [`Failure::Unavailable`] write may have taken effect, now or later; since every write
//! names the revisions that it expects, sending it again never applies it twice.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::{Error, Event, Key, Member, Prefix};

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where members are written down.
pub(crate) trait Store: Send + Sync + 'static {
    /// How long an operation is tried again before its caller learns that the registry is away.
    fn deadline(&self) -> Duration;

    /// A new lease, to be kept alive by whoever asked for it.
    fn grant(&self) -> BoxFuture<'_, Result<Lease, Failure>>;

    /// Keeps a lease alive for another time to live; [`Failure::LeaseEnded`] means that it is really gone.
    fn keep(&self, lease: i64) -> BoxFuture<'_, Result<(), Failure>>;

    /// Ends a lease and removes what was written under it.
    fn revoke(&self, lease: i64) -> BoxFuture<'_, Result<(), Failure>>;

    /// What is written under a key now.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, Failure>>;

    /// All members below a prefix, at one revision.
    fn list<'a>(&'a self, prefix: &'a Prefix) -> BoxFuture<'a, Result<Listing, Failure>>;

    /// Writes all or nothing.
    fn commit<'a>(&'a self, commit: &'a Commit) -> BoxFuture<'a, Result<Outcome, Failure>>;

    /// Sends what happens below the prefix, beginning with a reset, until nobody receives it.
    fn watch(&self, prefix: Prefix, events: mpsc::Sender<Event>) -> BoxFuture<'static, ()>;
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) id: i64,
    pub(crate) ttl: Duration,
}

/// What is written under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) bytes: Vec<u8>,
    /// The revision of the last write.
    pub(crate) revision: u64,
    /// The lease that it ends with; 0 for none.
    pub(crate) lease: i64,
}

/// The members at one revision.
pub(crate) struct Listing {
    pub(crate) members: Vec<Member>,
    pub(crate) revision: u64,
}

/// Writes that happen together, if every expected key is at its expected revision (0: absent).
#[derive(Clone, Debug, Default)]
pub(crate) struct Commit {
    pub(crate) expect: Vec<(Key, u64)>,
    pub(crate) writes: Vec<Write>,
}

#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) key: Key,
    /// None removes the key.
    pub(crate) bytes: Option<Vec<u8>>,
    /// The lease that the entry ends with; 0 for none.
    pub(crate) lease: i64,
}

/// What came of a commit.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It happened, at this revision.
    Done(u64),
    /// It did not happen; these are the entries under the expected keys, in their order.
    Conflict(Vec<Option<Entry>>),
}

/// Why an attempt did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No answer, or none that counts: try again.
    Unavailable(String),
    /// Trying again is of no use.
    Refused(String),
    /// The lease does not exist any more.
    LeaseEnded,
}

/// Waits between attempts: doubling, up to a second with the jitter, so that not all come back at once.
pub(crate) const WAITS: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(50))
    .with_max_delay(LONGEST)
    .without_max_times()
    .with_jitter();
const LONGEST: Duration = Duration::from_millis(500);

/// The time that an operation has, over all its attempts.
pub(crate) struct Retry {
    until: Instant,
    waits: ExponentialBackoff,
}

// === impl Failure ===

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable(reason) => Self::Unavailable(reason),
            Failure::Refused(reason) => Self::Refused(reason),
            Failure::LeaseEnded => Self::Unavailable("the lease ended meanwhile".to_owned()),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unavailable(reason) | Self::Refused(reason) => f.write_str(reason),
            Self::LeaseEnded => f.write_str("the lease has ended"),
        }
    }
}

// === impl Retry ===

impl Retry {
    pub(crate) fn new(store: &dyn Store) -> Self {
        Self { until: Instant::now() + store.deadline(), waits: WAITS.build() }
    }

    /// Makes attempts until one succeeds or there is to be none.
    pub(crate) async fn call<'a, T>(
        &mut self,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, Failure>>,
    ) -> Result<T, Error> {
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(failure) => self.after(failure).await?,
            }
        }
    }

    /// Waits until the next attempt is due; the failure comes back if there is to be none.
    pub(crate) async fn after(&mut self, failure: Failure) -> Result<(), Error> {
        let wait = next(&mut self.waits);
        if !matches!(failure, Failure::Unavailable(_)) || Instant::now() + wait >= self.until {
            return Err(failure.into());
        }
        sleep(wait).await;
        Ok(())
    }
}

/// The next of [`WAITS`], which have no end.
pub(crate) fn next(waits: &mut ExponentialBackoff) -> Duration {
    waits.next().unwrap_or(LONGEST)
}
