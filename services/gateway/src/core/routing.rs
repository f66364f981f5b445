//! Which replica has room: credits that replicas grant, where a prompt was seen last, and who keeps failing.
//!
//! A piece goes to a replica where it fits into the balance of credits; or where half a step is free, or nothing of
//! this gateway's is left: then it may overdraw. So a step is at least half full, and a large piece waits for the next
//! step at most, and not for room that small ones take away; yet what a replica has beyond its
//! next step is less than half a step, and who comes next finds room in the one after that. What is urgent need not wait
//! for that: it may overdraw the balance by half a step.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::core::Time;

/// A replica, over all its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// What the bits of a score depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// The generation of the weights.
    pub generation: u64,
    /// The fingerprint of the checkpoint with the numerics.
    pub fingerprint: Arc<str>,
}

/// What a replica says of itself when it takes up work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Who it is.
    pub replica: ReplicaId,
    /// Its life.
    pub epoch: u64,
    /// What it computes.
    pub version: Version,
    /// Its ranks.
    pub ranks: usize,
    /// The outputs of its head.
    pub outputs: usize,
    /// The most tokens of one of its steps.
    pub step_tokens: u64,
}

/// How replicas are chosen and given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// A replica that has work and neither answers nor grants for so long has stalled.
    pub stalled_after: Duration,
    /// After so many failures in a row a replica gets nothing for a while.
    pub failures: u32,
    /// How long at first; twice as long each time it goes on failing.
    pub pause: Duration,
    /// And never longer than this.
    pub longest_pause: Duration,
    /// Prompts to remember: this many at least, twice as many at most.
    pub prompts: usize,
}

/// A piece that looks for a replica.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) tokens: u64,
    /// What its prompt is known by.
    pub(crate) prompt: Option<u64>,
    /// Where it has failed.
    pub(crate) avoid: Option<ReplicaId>,
    /// Whether it goes before what else was sent and is not computed yet.
    pub(crate) urgent: bool,
}

/// The replicas of one model.
#[derive(Debug)]
pub(crate) struct Fleet {
    routing: Routing,
    served: Vec<Version>,
    replicas: BTreeMap<ReplicaId, Replica>,
    records: BTreeMap<ReplicaId, Record>,
    prompts: Prompts,
}

/// A replica in one of its lives.
#[derive(Debug)]
struct Replica {
    announced: Announcement,
    draining: bool,
    /// Credits granted and not used; below zero if the last piece took more, or some were taken back.
    balance: i64,
    /// Pieces it has, and their tokens.
    pieces: usize,
    tokens: u64,
    /// All tokens that it was ever given.
    given: u64,
    /// When it last did something, or was first given something to do.
    progress: Time,
}

/// What is known of a replica over its lives.
#[derive(Debug, Default)]
struct Record {
    epoch: u64,
    failures: u32,
    paused_until: Time,
}

/// Which replica saw a prompt last. When `young` is full it becomes `old`, and what was old is forgotten.
#[derive(Debug)]
struct Prompts {
    young: HashMap<u64, ReplicaId>,
    old: HashMap<u64, ReplicaId>,
    capacity: usize,
}

/// Records of replicas that have left are kept up to this number.
const RECORDS: usize = 1024;

// === impl Fleet ===

impl Fleet {
    pub(crate) fn new(routing: Routing) -> Self {
        let prompts = Prompts { young: HashMap::new(), old: HashMap::new(), capacity: routing.prompts };
        Self { routing, served: Vec::new(), replicas: BTreeMap::new(), records: BTreeMap::new(), prompts }
    }

    /// Replicas of other versions get nothing from now on.
    pub(crate) fn serve(&mut self, versions: Vec<Version>) {
        self.served = versions;
    }

    /// Whether this announcement is of a life that is over.
    pub(crate) fn is_past(&self, announced: &Announcement) -> bool {
        self.records.get(&announced.replica).is_some_and(|record| record.epoch > announced.epoch)
    }

    pub(crate) fn join(&mut self, now: Time, announced: Announcement) {
        let id = announced.replica;
        self.records.entry(id).or_default().epoch = announced.epoch;
        if self.records.len() > RECORDS {
            self.records.retain(|known, _| *known == id || self.replicas.contains_key(known));
        }
        let new = Replica { announced, draining: false, balance: 0, pieces: 0, tokens: 0, given: 0, progress: now };
        self.replicas.insert(id, new);
    }

    pub(crate) fn leave(&mut self, id: ReplicaId) {
        self.replicas.remove(&id);
    }

    /// What a replica announced, if this is the life it leads.
    pub(crate) fn alive(&self, id: ReplicaId, epoch: u64) -> Option<&Announcement> {
        self.replicas.get(&id).map(|replica| &replica.announced).filter(|announced| announced.epoch == epoch)
    }

    /// The life that a replica leads.
    pub(crate) fn epoch(&self, id: ReplicaId) -> Option<u64> {
        self.replicas.get(&id).map(|replica| replica.announced.epoch)
    }

    pub(crate) fn drain(&mut self, id: ReplicaId, epoch: u64) {
        if let Some(replica) = self.replicas.get_mut(&id).filter(|replica| replica.announced.epoch == epoch) {
            replica.draining = true;
        }
    }

    /// Adds credits, or takes them back; the balance never exceeds two steps, whatever the replica says.
    pub(crate) fn grant(&mut self, now: Time, id: ReplicaId, epoch: u64, tokens: i64) {
        if let Some(replica) = self.replicas.get_mut(&id).filter(|replica| replica.announced.epoch == epoch) {
            let most = signed(replica.announced.step_tokens.saturating_mul(2));
            replica.balance = replica.balance.saturating_add(tokens).min(most);
            if tokens > 0 {
                replica.progress = now;
            }
        }
    }

    pub(crate) fn made_progress(&mut self, now: Time, id: ReplicaId) {
        if let Some(replica) = self.replicas.get_mut(&id) {
            replica.progress = now;
        }
    }

    /// Credits granted and not used.
    pub(crate) fn balance(&self) -> i64 {
        self.replicas.values().fold(0, |sum, replica| replica.balance.saturating_add(sum))
    }

    /// Tokens that replicas have and have not answered.
    pub(crate) fn tokens(&self) -> u64 {
        self.replicas.values().map(|replica| replica.tokens).sum()
    }

    /// The tokens of the smallest step.
    pub(crate) fn step_tokens(&self) -> Option<u64> {
        self.replicas.values().map(|replica| replica.announced.step_tokens).min()
    }

    /// The replica with the most room for a piece, or the one near it in room that saw the prompt. `avoid` comes last.
    pub(crate) fn choose(&self, now: Time, wanted: Wanted) -> Option<ReplicaId> {
        let Wanted { prompt, avoid, .. } = wanted;
        let order = |(id, replica): &(ReplicaId, &Replica)| {
            (Some(*id) != avoid, replica.balance, Reverse((replica.given, *id)))
        };
        let (id, best) = self.with_room(now, wanted).max_by_key(order)?;
        let saw = prompt.and_then(|prompt| self.prompts.get(prompt)).filter(|saw| Some(*saw) != avoid);
        let near = |replica: &Replica| {
            best.balance.saturating_sub(replica.balance) <= signed(replica.announced.step_tokens / 2)
        };
        let saw = self.with_room(now, wanted).find(|(id, replica)| saw == Some(*id) && near(replica));
        Some(saw.map_or(id, |(id, _)| id))
    }

    /// Replicas that may be given such a piece.
    fn with_room(&self, now: Time, wanted: Wanted) -> impl Iterator<Item = (ReplicaId, &Replica)> {
        let open = move |id: &ReplicaId, replica: &Replica| {
            let paused = self.records.get(id).filter(|record| record.failures >= self.routing.failures);
            // after the pause one piece at a time, until one comes back well
            paused.is_none_or(|record| record.paused_until <= now && replica.pieces == 0)
        };
        let ready = |replica: &Replica| !replica.draining && self.served.contains(&replica.announced.version);
        let room = move |(id, replica): &(&ReplicaId, &Replica)| {
            replica.has_room(wanted) && ready(replica) && open(id, replica)
        };
        self.replicas.iter().filter(room).map(|(id, replica)| (*id, replica))
    }

    pub(crate) fn sent(&mut self, now: Time, id: ReplicaId, wanted: Wanted) {
        let Wanted { tokens, prompt, .. } = wanted;
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        if replica.pieces == 0 {
            replica.progress = now;
        }
        replica.balance = replica.balance.saturating_sub_unsigned(tokens);
        replica.given += tokens;
        replica.tokens += tokens;
        replica.pieces += 1;
        if let Some(prompt) = prompt {
            self.prompts.insert(prompt, id);
        }
    }

    /// A piece is not there any more.
    pub(crate) fn closed(&mut self, id: ReplicaId, tokens: u64) {
        if let Some(replica) = self.replicas.get_mut(&id) {
            replica.tokens = replica.tokens.saturating_sub(tokens);
            replica.pieces = replica.pieces.saturating_sub(1);
        }
    }

    pub(crate) fn succeeded(&mut self, id: ReplicaId) {
        if let Some(record) = self.records.get_mut(&id) {
            record.failures = 0;
        }
    }

    pub(crate) fn failed(&mut self, now: Time, id: ReplicaId) {
        let Some(record) = self.records.get_mut(&id) else { return };
        record.failures = record.failures.saturating_add(1);
        if let Some(again) = record.failures.checked_sub(self.routing.failures) {
            let pause = self.routing.pause.saturating_mul(1 << again.min(16));
            record.paused_until = now + pause.min(self.routing.longest_pause);
        }
    }

    /// Replicas that have work and do nothing.
    pub(crate) fn stalled(&self, now: Time) -> Vec<(ReplicaId, u64)> {
        let stalled = |replica: &&Replica| replica.stalls_at(&self.routing).is_some_and(|at| at <= now);
        self.replicas.values().filter(stalled).map(|it| (it.announced.replica, it.announced.epoch)).collect()
    }

    /// When the next replica stalls, or the next pause ends, if nothing happens before that.
    pub(crate) fn wakes_at(&self, now: Time) -> Option<Time> {
        let stalls = self.replicas.values().filter_map(|replica| replica.stalls_at(&self.routing));
        let pauses = self.records.values().map(|record| record.paused_until).filter(|&until| until > now);
        stalls.chain(pauses).min()
    }
}

fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

// === impl Replica ===

impl Replica {
    fn has_room(&self, Wanted { tokens, urgent, .. }: Wanted) -> bool {
        let half = self.announced.step_tokens / 2;
        let enough = self.balance >= signed(tokens.min(half));
        let free = self.balance > 0 && (enough || self.pieces == 0);
        free || urgent && self.balance.saturating_add_unsigned(half) >= signed(tokens)
    }

    fn stalls_at(&self, routing: &Routing) -> Option<Time> {
        (self.pieces > 0).then(|| self.progress + routing.stalled_after)
    }
}

// === impl Prompts ===

impl Prompts {
    fn get(&self, prompt: u64) -> Option<ReplicaId> {
        self.young.get(&prompt).or_else(|| self.old.get(&prompt)).copied()
    }

    fn insert(&mut self, prompt: u64, replica: ReplicaId) {
        if self.young.len() >= self.capacity {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(prompt, replica);
    }
}

#[cfg(test)]
mod tests;
