//! What is said of a replica: by the registry, by its leader, and by this gateway.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use score::Versions;

/// A replica, over all its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// A stream to the leader of a replica; its number is the gateway's choice, and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What the bits of a score depend on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The generation of the weights.
    pub generation: u64,
    /// The fingerprint of the checkpoint with the numerics.
    pub fingerprint: Arc<str>,
}

/// What a replica must agree with to compute for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What this gateway is called.
    pub gateway: Arc<str>,
    /// What the model is called.
    pub model: Arc<str>,
    /// Token ids are below this.
    pub vocab: u32,
    /// The most tokens of a conversation.
    pub longest: u64,
    /// Versions of the inner protocol.
    pub protocol: Versions,
}

/// How far a rank is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// It loads its share of the weights.
    Loading,
    /// It waits for the other ranks.
    Ready,
    /// It takes part in an epoch.
    Serving,
    /// It finishes what was accepted, and leaves.
    Draining,
}

/// What the registry says of a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The name of its replica.
    pub replica: String,
    /// Its number.
    pub rank: u32,
    /// The model, as clients call it.
    pub model: String,
    /// How far it is.
    pub state: Rank,
    /// Where its worker serves.
    pub address: String,
    /// The number of ranks of the replica.
    pub ranks: u32,
    /// The life of the replica that it takes part in; 0 while there is none.
    pub epoch: u64,
}

/// What happens in the registry.
#[derive(Debug, Clone)]
pub enum News {
    /// These records are there, and no others.
    Reset(Vec<Record>),
    /// A record was written.
    Written(Record),
    /// The record of a rank is gone.
    Removed {
        /// The name of its replica.
        replica: String,
        /// Its number.
        rank: u32,
    },
}

/// What the leader of a replica says first.
#[derive(Debug, Clone)]
pub struct Welcome {
    /// The version of the inner protocol that is spoken.
    pub protocol: u32,
    /// The life of the replica.
    pub epoch: u64,
    /// What it computes.
    pub version: Version,
    /// Its ranks.
    pub ranks: u32,
    /// The outputs of its head; 0 from leaders that know of one only.
    pub outputs: u32,
    /// The most tokens of one of its steps.
    pub step_tokens: u64,
    /// Ids of tokens are below this.
    pub vocab: u32,
}

/// A replica that takes up work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) replica: ReplicaId,
    pub(crate) epoch: u64,
    pub(crate) version: Version,
    pub(crate) ranks: usize,
    /// The outputs of its head.
    pub(crate) outputs: usize,
    /// The most tokens of one of its steps.
    pub(crate) step_tokens: u64,
}

/// Why there is no link any more, or yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLink {
    /// There is no connection.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// There was no welcome.
    #[error("did not answer in time")]
    Silent,
    /// The leader does not want it.
    #[error("refuses this gateway: {0}")]
    Refuses(String),
    /// The gateway does not want it.
    #[error("is not suited: {0}")]
    Unsuited(String),
    /// The leader said what it may not.
    #[error("does not keep to the protocol: {0}")]
    Protocol(&'static str),
    /// The connection ended, and this is why.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The leader ended it.
    #[error("closed the connection")]
    Closed,
    /// It was given up.
    #[error("had work and did nothing")]
    Stalled,
    /// It leads to a life that is over.
    #[error("a newer epoch was opened")]
    Replaced,
}

/// What is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Serving {
    /// The version, once there was one.
    pub version: Option<Version>,
    /// Replicas that take work.
    pub ready: usize,
    /// Replicas of other versions, that would.
    pub standby: usize,
}

/// A replica, as far as this gateway knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplicaView {
    /// Its name.
    pub name: String,
    /// The model that it serves.
    pub model: String,
    /// Where its leader serves.
    pub address: String,
    /// Its ranks that have a record, and how far they are.
    pub ranks: BTreeMap<u32, Rank>,
    /// The number of ranks that it should have.
    pub world_size: u32,
    /// The life that it leads; 0 if it has none.
    pub epoch: u64,
    /// What it is to this gateway.
    pub role: Role,
}

/// What a replica is to this gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Role {
    /// There is no link, for its leader does not say that it serves.
    #[default]
    Away,
    /// A link is being opened.
    Dialing,
    /// It takes work.
    Ready,
    /// It would take work, but another version is served.
    Standby,
    /// It finishes what it has.
    Draining,
    /// There is no link at the moment, and why.
    Lost(String),
    /// It cannot be used, and why.
    Refused(String),
}

/// The most ranks of a replica, and the most outputs of a head.
const RANKS: u32 = 1024;
const OUTPUTS: u32 = 1 << 16;

// === impl ReplicaId ===

impl ReplicaId {
    /// The replica of this name.
    pub fn of(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher.finish())
    }
}

// === impl Welcome ===

impl Welcome {
    /// Holds it to what is needed of a replica in this epoch.
    pub(crate) fn check(self, replica: ReplicaId, epoch: u64, terms: &Terms) -> Result<Announcement, NoLink> {
        let Self { protocol, version, ranks, outputs, step_tokens, vocab, .. } = self;
        let unsuited = |why: String| Err(NoLink::Unsuited(why));
        if !terms.protocol.contains(protocol) {
            return unsuited(format!("it speaks version {protocol} of the protocol"));
        }
        if self.epoch != epoch {
            return unsuited(format!("it is in epoch {}, not {epoch}", self.epoch));
        }
        if vocab != terms.vocab {
            return unsuited(format!("its vocabulary has {vocab} tokens, not {}", terms.vocab));
        }
        if step_tokens < terms.longest {
            let longest = terms.longest;
            return unsuited(format!("its steps take {step_tokens} tokens, a conversation may have {longest}"));
        }
        if ranks == 0 || ranks > RANKS || outputs > OUTPUTS || version.fingerprint.is_empty() {
            return Err(NoLink::Protocol("the welcome has no ranks, too many ranks or outputs, or no fingerprint"));
        }
        let (ranks, outputs) = (ranks as usize, outputs.max(1) as usize);
        Ok(Announcement { replica, epoch, version, ranks, outputs, step_tokens })
    }
}

// === impl NoLink ===

impl NoLink {
    /// What a replica without a link is to the gateway.
    pub(crate) fn role(&self) -> Role {
        match self {
            Self::Refuses(_) | Self::Unsuited(_) | Self::Protocol(_) => Role::Refused(self.to_string()),
            _ => Role::Lost(self.to_string()),
        }
    }
}

// === impl ReplicaView ===

impl ReplicaView {
    /// Why it takes no work, in words that follow "of them".
    fn why_not(&self) -> &str {
        match &self.role {
            Role::Draining => "is about to leave",
            Role::Ready | Role::Standby => "has just joined",
            Role::Dialing => "is being reached",
            Role::Lost(why) | Role::Refused(why) => why,
            Role::Away if self.ranks.values().any(|rank| *rank == Rank::Loading) => "loads its weights",
            Role::Away => "does not serve yet",
        }
    }
}

/// Why none of a model's replicas takes work, in words for a client.
pub fn why_none<'a>(replicas: impl IntoIterator<Item = &'a ReplicaView>) -> String {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for replica in replicas {
        *reasons.entry(replica.why_not()).or_default() += 1;
    }
    if reasons.is_empty() {
        return "no replica of the model is there".to_owned();
    }
    let reasons: Vec<_> = reasons.iter().map(|(reason, count)| format!("{count} of them {reason}")).collect();
    format!("no replica of the model is ready: {}", reasons.join("; "))
}
