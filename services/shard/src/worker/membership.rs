//! Holds the claims of a worker's ranks and writes down how far they are, in a task that outlives every outage of the
//! registry. An epoch never ends because of what happens here.

use std::sync::Arc;
use std::time::Duration;

use discovery::{Claim, Error, Incarnation, Key, Registry};
use proto::Message as _;
use proto::shard::v1::RankRecord;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The claims of a worker.
pub(super) struct Membership {
    claim: Arc<watch::Sender<Option<Arc<Claim>>>>,
    refused: watch::Receiver<Option<Arc<Error>>>,
    task: JoinHandle<()>,
}

/// The ends that the task holds.
struct Holder {
    registry: Registry,
    keys: Vec<Key>,
    incarnation: Incarnation,
    record: watch::Receiver<RankRecord>,
    claim: Arc<watch::Sender<Option<Arc<Claim>>>>,
}

/// The pause after a write that failed.
const AGAIN: Duration = Duration::from_millis(500);

// === impl Membership ===

impl Membership {
    /// Claims the keys as soon as they are free, and from then on keeps the record under them.
    pub(super) fn hold(
        registry: Registry,
        keys: Vec<Key>,
        incarnation: Incarnation,
        record: watch::Receiver<RankRecord>,
    ) -> Self {
        let claim = Arc::new(watch::Sender::new(None));
        let (refused_sender, refused) = watch::channel(None);
        let mut holder = Holder { registry, keys, incarnation, record, claim: Arc::clone(&claim) };
        let task = tokio::spawn(async move {
            let error = holder.run().await;
            refused_sender.send_replace(Some(Arc::new(error)));
        });
        Self { claim, refused, task }
    }

    /// The claim, once it is held.
    pub(super) async fn claim(&self) -> Arc<Claim> {
        let mut claim = self.claim.subscribe();
        loop {
            if let Some(claim) = claim.borrow_and_update().clone() {
                return claim;
            }
            if claim.changed().await.is_err() {
                // the task has ended, and `refused` says why
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns when the registry will never let this worker in.
    pub(super) async fn refused(&self) -> Error {
        let mut refused = self.refused.clone();
        if let Ok(error) = refused.wait_for(Option::is_some).await
            && let Some(error) = error.as_ref()
        {
            return match &**error {
                Error::Refused(reason) => Error::Refused(reason.clone()),
                other => Error::Refused(other.to_string()),
            };
        }
        std::future::pending().await
    }

    /// Gives the claims back, so that gateways and other workers know at once.
    pub(super) async fn release(&self, patience: Duration) {
        self.task.abort();
        let mut claim = self.claim.send_replace(None);
        let release = async {
            // the task lets go of its own reference as it ends
            while let Some(held) = claim.take() {
                match Arc::try_unwrap(held) {
                    Ok(claim) => return claim.release().await,
                    Err(held) => claim = Some(held),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        };
        match tokio::time::timeout(patience, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the claims end with their lease"),
            Err(_) => tracing::warn!("the registry is away: the claims end with their lease"),
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Holder ===

impl Holder {
    /// Holds the claim for ever; returns why it cannot.
    async fn run(&mut self) -> Error {
        loop {
            let record = self.record.borrow_and_update().encode_to_vec();
            let claim = match self.registry.claim_when_free(&self.keys, self.incarnation, &record).await {
                Ok(claim) => Arc::new(claim),
                Err(error) => return error,
            };
            self.claim.send_replace(Some(Arc::clone(&claim)));
            self.keep(&claim).await;
            self.claim.send_replace(None);
        }
    }

    /// Writes the record down whenever it changes, until the claim is lost.
    async fn keep(&mut self, claim: &Claim) {
        loop {
            tokio::select! {
                () = claim.lost() => return,
                changed = self.record.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
            loop {
                let record = self.record.borrow_and_update().encode_to_vec();
                match claim.update(&record).await {
                    Ok(()) => break,
                    Err(Error::Lost { .. }) => return,
                    Err(error) => tracing::warn!(%error, "the registry does not know how far this worker is"),
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
