//! The registry in etcd: leases, transactions and watches of its own kind, and calls that are bounded in time.
//!
//! Keys lie below `<namespace>/`. All reads are linearizable. Keeping a lease alive is a call like the others, so it
//! moves to another node like the others.

mod nodes;
mod options;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::sync::mpsc;

use crate::member::decode;
use crate::store::{BoxFuture, Commit, Entry, Failure, Lease, Listing, Outcome, Store};
use crate::{Error, Event, Key, Member, Prefix};
use nodes::Nodes;
pub use options::{Credentials, EtcdOptions};

/// The entries that are listed at a time: with values of the largest size, half of what a message may hold.
const PAGE: i64 = 128;

#[derive(Clone)]
pub(crate) struct Etcd {
    cluster: Arc<Cluster>,
}

struct Cluster {
    nodes: Nodes,
    /// What the registry's keys begin with in etcd, ending in a slash.
    root: String,
    lease: Duration,
    deadline: Duration,
}

// === impl Etcd ===

impl Etcd {
    pub(crate) async fn new(options: EtcdOptions) -> Result<Self, Error> {
        let nodes = Nodes::new(&options).await?;
        let root = format!("{}/", options.namespace);
        let cluster = Cluster { nodes, root, lease: options.lease, deadline: options.deadline };
        Ok(Self { cluster: Arc::new(cluster) })
    }
}

impl Store for Etcd {
    fn deadline(&self) -> Duration {
        self.cluster.deadline
    }

    fn grant(&self) -> BoxFuture<'_, Result<Lease, Failure>> {
        Box::pin(self.cluster.grant())
    }

    fn keep(&self, lease: i64) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.cluster.keep(lease))
    }

    fn revoke(&self, lease: i64) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.cluster.revoke(lease))
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, Failure>> {
        Box::pin(self.cluster.get(key))
    }

    fn list<'a>(&'a self, prefix: &'a Prefix) -> BoxFuture<'a, Result<Listing, Failure>> {
        Box::pin(self.cluster.list(prefix))
    }

    fn commit<'a>(&'a self, commit: &'a Commit) -> BoxFuture<'a, Result<Outcome, Failure>> {
        Box::pin(self.cluster.commit(commit))
    }

    fn watch(&self, prefix: Prefix, events: mpsc::Sender<Event>) -> BoxFuture<'static, ()> {
        Box::pin(watch::run(Arc::clone(&self.cluster), prefix, events))
    }
}

// === impl Cluster ===

impl Cluster {
    async fn grant(&self) -> Result<Lease, Failure> {
        let mut node = self.nodes.pick().await?;
        let seconds = i64::try_from(self.lease.as_secs()).unwrap_or(i64::MAX);
        // A lease whose answer is lost ends by itself, with nothing written under it.
        let granted = self.nodes.ask(node.index, node.client.lease_grant(seconds, None)).await?;
        let ttl = Duration::from_secs(granted.ttl().unsigned_abs());
        Ok(Lease { id: granted.id(), ttl })
    }

    async fn keep(&self, lease: i64) -> Result<(), Failure> {
        let mut node = self.nodes.pick().await?;
        match self.nodes.ask(node.index, node.client.lease_keep_alive(lease)).await {
            Ok(_) => Ok(()),
            Err(Failure::LeaseEnded) => self.confirm_end(lease).await,
            Err(failure) => Err(failure),
        }
    }

    /// A leader that was just elected may not have applied the grant yet: a linearizable read waits until it has.
    async fn confirm_end(&self, lease: i64) -> Result<(), Failure> {
        self.revision().await?;
        let mut node = self.nodes.pick().await?;
        let left = self.nodes.ask(node.index, node.client.lease_time_to_live(lease, None)).await?;
        if left.ttl() > 0 {
            return Err(Failure::Unavailable("the leader did not know the lease yet".to_owned()));
        }
        Err(Failure::LeaseEnded)
    }

    async fn revoke(&self, lease: i64) -> Result<(), Failure> {
        let mut node = self.nodes.pick().await?;
        self.nodes.ask(node.index, node.client.lease_revoke(lease)).await?;
        Ok(())
    }

    async fn read(&self, key: String, options: Option<GetOptions>) -> Result<GetResponse, Failure> {
        let mut node = self.nodes.pick().await?;
        self.nodes.ask(node.index, node.client.get(key, options)).await
    }

    /// The revision of the whole store.
    async fn revision(&self) -> Result<u64, Failure> {
        let head = self.read(self.root.clone(), Some(GetOptions::new().with_count_only())).await?;
        Ok(revision_of(head.header()))
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Failure> {
        Ok(self.read(self.path(key), None).await?.kvs().first().map(entry))
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing, Failure> {
        let mut from = self.path(prefix);
        // All these keys, and no others, sort before the prefix with its last byte, a slash, counted up.
        let end = format!("{}0", from.trim_end_matches('/'));
        let mut members = Vec::new();
        let mut revision = 0; // the newest for the first page, and the same for all others
        loop {
            let page = GetOptions::new().with_range(end.as_str()).with_limit(PAGE).with_revision(revision);
            let page = self.read(from, Some(page)).await?;
            if revision == 0 {
                revision = page.header().map_or(0, |header| header.revision());
            }
            members.extend(page.kvs().iter().filter_map(|kv| self.member(kv)));
            match page.kvs().last().and_then(|kv| kv.key_str().ok()) {
                Some(last) if page.more() => from = format!("{last}\0"),
                _ => return Ok(Listing { members, revision: revision.unsigned_abs() }),
            }
        }
    }

    async fn commit(&self, commit: &Commit) -> Result<Outcome, Failure> {
        let expected = |(key, revision): &(Key, u64)| {
            Compare::mod_revision(self.path(key), CompareOp::Equal, i64::try_from(*revision).unwrap_or(i64::MAX))
        };
        let writes = commit.writes.iter().map(|write| match &write.bytes {
            Some(bytes) => {
                TxnOp::put(self.path(&write.key), bytes.as_slice(), Some(PutOptions::new().with_lease(write.lease)))
            }
            None => TxnOp::delete(self.path(&write.key), None),
        });
        let reads = commit.expect.iter().map(|(key, _)| TxnOp::get(self.path(key), None));
        let txn = Txn::new()
            .when(commit.expect.iter().map(expected).collect::<Vec<_>>())
            .and_then(writes.collect::<Vec<_>>())
            .or_else(reads.collect::<Vec<_>>());
        let mut node = self.nodes.pick().await?;
        let done = self.nodes.ask(node.index, node.client.txn(txn)).await?;
        if done.succeeded() {
            return Ok(Outcome::Done(revision_of(done.header())));
        }
        let found = done.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(found) => found.kvs().first().map(entry),
            _ => None,
        });
        Ok(Outcome::Conflict(found.collect()))
    }

    fn path(&self, name: impl std::fmt::Display) -> String {
        format!("{}{name}", self.root)
    }

    fn key(&self, kv: &KeyValue) -> Option<Key> {
        Key::new(kv.key_str().ok()?.strip_prefix(&self.root)?).ok()
    }

    /// What this crate wrote; None for something that others put there.
    fn member(&self, kv: &KeyValue) -> Option<Member> {
        let member = self.key(kv).and_then(|key| {
            let (holder, value) = decode(&key, kv.value()).ok()?;
            Some(Member { key, value, holder, revision: kv.mod_revision().unsigned_abs() })
        });
        if member.is_none() {
            tracing::warn!(key = %String::from_utf8_lossy(kv.key()), "etcd holds something that is no entry of this registry");
        }
        member
    }
}

fn entry(kv: &KeyValue) -> Entry {
    Entry { bytes: kv.value().to_vec(), revision: kv.mod_revision().unsigned_abs(), lease: kv.lease() }
}

fn revision_of(header: Option<&etcd_client::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.revision().unsigned_abs())
}
