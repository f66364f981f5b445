//! Which replica has room: credits that replicas grant, where a prompt was seen last, and who keeps failing.
//!
//! A piece goes to a replica where it fits into the balance of credits; or where half a step is free, or nothing of
//! this gateway's is left: then it may overdraw. So a step is at least half full, and a large piece waits for the next
//! step at most, and not for room that small ones take away; yet what a replica has beyond its
//! next step is less than half a step, and who comes next finds room in the one after that. What is urgent need not wait
//! for that: it may overdraw the balance by half a step.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::config::DurationText;

use crate::core::replica::Announcement;
use crate::core::{ReplicaId, Time, Version};

/// How replicas are chosen and given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    /// How often a conversation is sent before it is given up; at least once.
    pub attempts: u32,
    /// A replica that has work and neither answers nor grants for so long is given up; longer than its longest step.
    #[serde(with = "DurationText")]
    pub stalled_after: Duration,
    /// After so many failures in a row a replica gets nothing for a while.
    pub failures: u32,
    /// How long at first; twice as long each time it goes on failing.
    #[serde(with = "DurationText")]
    pub pause: Duration,
    /// And never longer than this.
    #[serde(with = "DurationText")]
    pub longest_pause: Duration,
    /// Prompts of which it remembers where they were computed: this many at least, twice as many at most.
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

/// The replicas of one model. What is asked of them with each event is kept in order, so that it takes logarithmic time.
#[derive(Debug)]
pub(crate) struct Fleet {
    routing: Routing,
    served: Option<Version>,
    replicas: HashMap<ReplicaId, Replica>,
    /// By the tokens of a step: what is room for a piece depends on that.
    groups: BTreeMap<u64, Group>,
    /// When a replica stalls, or its pause ends.
    alarms: BTreeSet<(Time, ReplicaId)>,
    balance: i128,
    tokens: u64,
    /// Replicas that have left and are remembered because they have failed.
    gone: usize,
    prompts: Prompts,
}

/// Replicas with steps of one size.
#[derive(Debug, Default)]
struct Group {
    replicas: usize,
    /// Those that may be given something, and of these the ones that have nothing.
    open: BTreeSet<Place>,
    idle: BTreeSet<Place>,
}

/// The order in which replicas are chosen, the last first: the largest balance, then who was given the least.
type Place = (i64, Reverse<(u64, ReplicaId)>);

/// A replica, over all its lives.
#[derive(Debug, Default)]
struct Replica {
    life: Option<Life>,
    failures: u32,
    paused_until: Time,
}

/// A replica in one of its lives.
#[derive(Debug)]
struct Life {
    announced: Announcement,
    draining: bool,
    /// Whether a pause has not ended.
    paused: bool,
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

/// What the fleet keeps in order about a replica.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    step_tokens: u64,
    place: Place,
    open: bool,
    idle: bool,
    alarm: Option<Time>,
    tokens: u64,
}

/// Which replica saw a prompt last. When `young` is full it becomes `old`, and what was old is forgotten.
#[derive(Debug)]
struct Prompts {
    young: HashMap<u64, ReplicaId>,
    old: HashMap<u64, ReplicaId>,
    capacity: usize,
}

/// Replicas that have left and had failed are remembered up to this number.
const REMEMBERED: usize = 1024;

// === impl Fleet ===

impl Fleet {
    pub(crate) fn new(routing: Routing) -> Self {
        let prompts = Prompts { young: HashMap::new(), old: HashMap::new(), capacity: routing.prompts };
        let (replicas, groups, alarms) = (HashMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { routing, served: None, replicas, groups, alarms, balance: 0, tokens: 0, gone: 0, prompts }
    }

    /// Replicas of other versions get nothing from now on.
    pub(crate) fn serve(&mut self, version: Option<Version>) {
        if self.served == version {
            return;
        }
        self.served = version;
        let Self { replicas, groups, routing, served, .. } = self;
        groups.values_mut().for_each(Group::clear);
        for entry in replicas.values().filter_map(|replica| replica.entry(routing, served.as_ref())) {
            groups.entry(entry.step_tokens).or_default().insert(&entry);
        }
    }

    /// A replica takes up work, with no credits yet.
    pub(crate) fn join(&mut self, now: Time, announced: Announcement) {
        let id = announced.replica;
        if self.replicas.get(&id).is_some_and(|replica| replica.life.is_none()) {
            self.gone -= 1;
        }
        self.replicas.entry(id).or_default();
        self.change(id, |replica| {
            let paused = replica.paused_until > now;
            let (draining, balance, pieces, tokens, given, progress) = (false, 0, 0, 0, 0, now);
            replica.life = Some(Life { announced, draining, paused, balance, pieces, tokens, given, progress });
        });
    }

    /// A replica is gone.
    pub(crate) fn leave(&mut self, id: ReplicaId) {
        if self.announced(id).is_none() {
            return;
        }
        self.change(id, |replica| replica.life = None);
        match self.replicas.get(&id) {
            Some(replica) if replica.failures > 0 => self.gone += 1,
            _ => drop(self.replicas.remove(&id)),
        }
        if self.gone > REMEMBERED {
            self.replicas.retain(|_, replica| replica.life.is_some());
            self.gone = 0;
        }
    }

    /// What a replica announced.
    pub(crate) fn announced(&self, id: ReplicaId) -> Option<&Announcement> {
        self.replicas.get(&id)?.life.as_ref().map(|life| &life.announced)
    }

    pub(crate) fn drain(&mut self, id: ReplicaId) {
        self.change_life(id, |life| life.draining = true);
    }

    /// Adds credits, or takes them back; the balance never exceeds two steps, whatever the replica says.
    pub(crate) fn grant(&mut self, now: Time, id: ReplicaId, tokens: i64) {
        self.change_life(id, |life| {
            let most = signed(life.announced.step_tokens.saturating_mul(2));
            life.balance = life.balance.saturating_add(tokens).min(most);
            if tokens > 0 {
                life.progress = now;
            }
        });
    }

    pub(crate) fn made_progress(&mut self, now: Time, id: ReplicaId) {
        self.change_life(id, |life| life.progress = now);
    }

    /// Credits granted and not used.
    pub(crate) fn balance(&self) -> i64 {
        i64::try_from(self.balance).unwrap_or(if self.balance > 0 { i64::MAX } else { i64::MIN })
    }

    /// Tokens that replicas have and have not answered.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The tokens of the smallest step.
    pub(crate) fn step_tokens(&self) -> Option<u64> {
        self.groups.first_key_value().map(|(step_tokens, _)| *step_tokens)
    }

    /// The replica with the most room for a piece, or the one near it in room that saw the prompt. `avoid` comes last.
    pub(crate) fn choose(&self, wanted: Wanted) -> Option<ReplicaId> {
        let Wanted { prompt, avoid, .. } = wanted;
        let with_room = |id| self.with_room(id, wanted).map(|life| (life.order(), id));
        let best = self.groups.values().flat_map(|group| group.best(avoid)).filter_map(with_room).max();
        let Some(((most, _), best)) = best else {
            return avoid.filter(|id| self.with_room(*id, wanted).is_some());
        };
        let near = |life: &Life| most.saturating_sub(life.balance) <= signed(life.announced.step_tokens / 2);
        let saw = prompt.and_then(|prompt| self.prompts.get(prompt)).filter(|saw| Some(*saw) != avoid);
        let saw = saw.filter(|saw| self.with_room(*saw, wanted).is_some_and(near));
        Some(saw.unwrap_or(best))
    }

    /// A replica, if it may be given such a piece.
    fn with_room(&self, id: ReplicaId, wanted: Wanted) -> Option<&Life> {
        let replica = self.replicas.get(&id)?;
        let open = replica.is_open(&self.routing, self.served.as_ref());
        replica.life.as_ref().filter(|life| open && life.has_room(wanted))
    }

    pub(crate) fn sent(&mut self, now: Time, id: ReplicaId, wanted: Wanted) {
        let Wanted { tokens, prompt, .. } = wanted;
        self.change_life(id, |life| {
            if life.pieces == 0 {
                life.progress = now;
            }
            life.balance = life.balance.saturating_sub_unsigned(tokens);
            life.given += tokens;
            life.tokens += tokens;
            life.pieces += 1;
        });
        if let Some(prompt) = prompt {
            self.prompts.insert(prompt, id);
        }
    }

    /// A piece is not there any more.
    pub(crate) fn closed(&mut self, id: ReplicaId, tokens: u64) {
        self.change_life(id, |life| {
            life.tokens = life.tokens.saturating_sub(tokens);
            life.pieces = life.pieces.saturating_sub(1);
        });
    }

    pub(crate) fn succeeded(&mut self, id: ReplicaId) {
        if self.replicas.get(&id).is_some_and(|replica| replica.failures > 0) {
            self.change(id, |replica| replica.failures = 0);
        }
    }

    pub(crate) fn failed(&mut self, now: Time, id: ReplicaId) {
        let routing = self.routing;
        self.change(id, |replica| {
            replica.failures = replica.failures.saturating_add(1);
            if let Some(again) = replica.failures.checked_sub(routing.failures) {
                let pause = routing.pause.saturating_mul(1 << again.min(16));
                replica.paused_until = now + pause.min(routing.longest_pause);
                replica.life.iter_mut().for_each(|life| life.paused = true);
            }
        });
    }

    /// Ends pauses, and gives the replicas that have work and do nothing.
    pub(crate) fn stalled(&mut self, now: Time) -> Vec<ReplicaId> {
        let due: Vec<_> = self.alarms.range(..=(now, ReplicaId(u64::MAX))).map(|(_, id)| *id).collect();
        let routing = self.routing;
        let mut stalled = Vec::new();
        for id in due {
            self.change(id, |replica| {
                let over = replica.paused_until <= now;
                let Some(life) = &mut replica.life else { return };
                life.paused &= !over;
                stalled.extend(life.stalls_at(&routing).filter(|at| *at <= now).map(|_| id));
            });
        }
        stalled
    }

    /// When the next replica stalls, or the next pause ends, if nothing happens before that.
    pub(crate) fn wakes_at(&self) -> Option<Time> {
        self.alarms.first().map(|(at, _)| *at)
    }

    fn change_life(&mut self, id: ReplicaId, how: impl FnOnce(&mut Life)) {
        self.change(id, |replica| {
            if let Some(life) = &mut replica.life {
                how(life);
            }
        });
    }

    /// Changes a replica, and puts it where it belongs after that.
    fn change(&mut self, id: ReplicaId, how: impl FnOnce(&mut Replica)) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let before = replica.entry(&self.routing, self.served.as_ref());
        how(replica);
        let after = replica.entry(&self.routing, self.served.as_ref());
        if before == after {
            return;
        }
        if let Some(entry) = before {
            self.balance -= i128::from(entry.place.0);
            self.tokens -= entry.tokens;
            entry.alarm.map(|at| self.alarms.remove(&(at, id)));
            if let Some(group) = self.groups.get_mut(&entry.step_tokens)
                && group.remove(&entry)
            {
                self.groups.remove(&entry.step_tokens);
            }
        }
        if let Some(entry) = after {
            self.balance += i128::from(entry.place.0);
            self.tokens += entry.tokens;
            self.alarms.extend(entry.alarm.map(|at| (at, id)));
            self.groups.entry(entry.step_tokens).or_default().insert(&entry);
        }
    }
}

fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

// === impl Group ===

impl Group {
    fn insert(&mut self, entry: &Entry) {
        self.replicas += 1;
        self.open.extend(entry.open.then_some(entry.place));
        self.idle.extend(entry.idle.then_some(entry.place));
    }

    /// Takes a replica out; says whether it was the last.
    fn remove(&mut self, entry: &Entry) -> bool {
        self.open.remove(&entry.place);
        self.idle.remove(&entry.place);
        self.replicas -= 1;
        self.replicas == 0
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// If any but `avoid` has room, one of these has the most: the first of all, or the first that has nothing.
    fn best(&self, avoid: Option<ReplicaId>) -> impl Iterator<Item = ReplicaId> {
        let first = move |places: &BTreeSet<Place>| {
            places.iter().rev().map(|(_, Reverse((_, id)))| *id).find(|id| Some(*id) != avoid)
        };
        [first(&self.open), first(&self.idle)].into_iter().flatten()
    }
}

// === impl Replica ===

impl Replica {
    /// Whether it may be given something: after a pause one piece at a time, until one comes back well.
    fn is_open(&self, routing: &Routing, served: Option<&Version>) -> bool {
        let Some(life) = &self.life else { return false };
        let ready = !life.draining && served == Some(&life.announced.version);
        ready && (self.failures < routing.failures || !life.paused && life.pieces == 0)
    }

    fn entry(&self, routing: &Routing, served: Option<&Version>) -> Option<Entry> {
        let life = self.life.as_ref()?;
        let open = self.is_open(routing, served);
        let pause = (life.paused && self.failures >= routing.failures).then_some(self.paused_until);
        Some(Entry {
            step_tokens: life.announced.step_tokens,
            place: life.order(),
            open,
            idle: open && life.pieces == 0,
            alarm: life.stalls_at(routing).into_iter().chain(pause).min(),
            tokens: life.tokens,
        })
    }
}

// === impl Life ===

impl Life {
    fn order(&self) -> Place {
        (self.balance, Reverse((self.given, self.announced.replica)))
    }

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
