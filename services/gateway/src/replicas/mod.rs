//! Who is there: follows the registry, and keeps a line to the leader of each replica that serves a model of ours.
//!
//! A record of rank 0 that says SERVING is a reason to dial, and nothing else is: when it goes away, because its lease
//! has ended or the registry is gone, lines that are open stay open. A newer epoch replaces the line of an older one.

mod link;
mod record;
mod wire;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use discovery::{Key, Member, Registry};
use proto::v1::RankProgress;
use score::{Versions, registry};
use service::Network;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::link::Link;
pub(crate) use self::record::Record;
use crate::core::ReplicaId;
use crate::observer::{Line, Roster};
use crate::runner;

/// A model, as far as replicas are concerned.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) runner: runner::Handle,
    pub(crate) text_digest: Arc<str>,
    pub(crate) vocab: u32,
    pub(crate) max_length: usize,
}

/// What a gateway brings to its replicas.
pub(crate) struct Setting {
    pub(crate) name: String,
    pub(crate) protocol: Versions,
    pub(crate) models: HashMap<String, Model>,
    pub(crate) network: Network,
    pub(crate) roster: Roster,
    pub(crate) stop: CancellationToken,
}

/// Where the leader of a replica is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    model: String,
    address: String,
    epoch: u64,
}

/// Replicas that have a record, or a line.
struct Directory {
    setting: Arc<Setting>,
    links: BTreeMap<String, Entry>,
    /// Keys whose values made no sense, so that it is said once.
    complained: HashSet<Key>,
}

struct Entry {
    target: watch::Sender<Option<Target>>,
    /// Whether the link has a target in hand.
    busy: Arc<AtomicBool>,
    /// The newest life that is known.
    epoch: u64,
}

/// Beyond so many, complaints are repeated.
const COMPLAINTS: usize = 1024;

/// Follows the registry until the gateway ends.
pub(crate) async fn follow(registry: Registry, setting: Arc<Setting>) {
    let folder = match Key::new(registry::REPLICAS) {
        Ok(folder) => folder.below(),
        Err(error) => return tracing::error!(%error, "the replicas' folder is no key"),
    };
    if setting.protocol.contains(1) {
        tracing::info!("replicas of protocol 1 are accepted; with refuse_protocol_1 they are not");
    }
    let mut watch = registry.watch(&folder);
    let stop = setting.stop.clone();
    let mut directory = Directory { setting, links: BTreeMap::new(), complained: HashSet::new() };
    while let Some(event) = stop.run_until_cancelled(watch.next()).await {
        match event {
            discovery::Event::Reset(members) => directory.reset(&members),
            discovery::Event::Add(member) => directory.add(&member),
            discovery::Event::Remove(key) => directory.remove(&key),
        }
        directory.forget();
    }
}

/// A replica's number: the same whenever its name comes up again.
fn id(replica: &str) -> ReplicaId {
    let mut hasher = DefaultHasher::new();
    replica.hash(&mut hasher);
    ReplicaId(hasher.finish())
}

// === impl Directory ===

impl Directory {
    fn reset(&mut self, members: &[Member]) {
        let there: HashSet<&str> = members.iter().map(|member| member.key.as_str()).collect();
        let gone = |key: &Key| !there.contains(key.as_str());
        let known = self.links.keys().filter_map(|replica| record::key(replica, 0));
        for key in known.filter(gone).collect::<Vec<_>>() {
            self.remove(&key);
        }
        self.setting.roster.forget_ranks(|replica, rank| record::key(replica, rank).is_none_or(|key| gone(&key)));
        members.iter().for_each(|member| self.add(member));
    }

    fn add(&mut self, member: &Member) {
        let record = match record::read(&member.key, &member.value) {
            Ok(Some(record)) => record,
            Ok(None) => return,
            Err(problem) => return self.complain(&member.key, &problem),
        };
        self.setting.roster.record(&record);
        if record.rank == 0 {
            self.lead(record);
        }
    }

    fn complain(&mut self, key: &Key, problem: &str) {
        if self.complained.len() >= COMPLAINTS {
            self.complained.clear();
        }
        if self.complained.insert(key.clone()) {
            tracing::warn!(%key, problem, "a record of a replica is ignored");
        }
    }

    /// Takes in the record of a leader.
    fn lead(&mut self, record: Record) {
        let Record { replica, model, state, address, epoch, .. } = record;
        let entry = self.links.entry(replica.clone()).or_insert_with(|| Entry::new(&self.setting, &replica));
        if epoch < entry.epoch {
            return tracing::debug!(replica, epoch, known = entry.epoch, "a record of a life that is over is ignored");
        }
        entry.epoch = epoch;
        let served = self.setting.models.contains_key(&model);
        if state != RankProgress::Serving {
            self.setting.roster.idle(&replica);
        }
        if !served {
            self.setting.roster.line(&replica, Line::Refused(format!("the model {model:?} is not served here")));
        }
        let target = (served && state == RankProgress::Serving).then_some(Target { model, address, epoch });
        entry.aim(target);
    }

    fn remove(&mut self, key: &Key) {
        let Some((replica, rank)) = record::place(key) else { return };
        self.setting.roster.forget_ranks(|name, number| name == replica && number == rank);
        if let Some(entry) = self.links.get(replica).filter(|_| rank == 0) {
            entry.aim(None);
        }
    }

    /// Lets go of replicas that have neither a record nor a line.
    fn forget(&mut self) {
        // without a target, a link that is not busy cannot become so
        self.links.retain(|_, entry| entry.target.borrow().is_some() || entry.busy.load(Ordering::SeqCst));
    }
}

// === impl Entry ===

impl Entry {
    fn new(setting: &Arc<Setting>, replica: &str) -> Self {
        let (target, wanted) = watch::channel(None);
        let busy = Arc::new(AtomicBool::new(false));
        let link = Link::new(Arc::clone(setting), replica, Arc::clone(&busy));
        let stop = setting.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(link.run(wanted)).await });
        Self { target, busy, epoch: 0 }
    }

    fn aim(&self, target: Option<Target>) {
        self.target.send_if_modified(|before| {
            let new = *before != target;
            *before = target;
            new
        });
    }
}
