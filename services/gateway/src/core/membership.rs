//! Who is there: what the registry says, the links to leaders, and which version is served.
//!
//! A record of rank 0 that says SERVING is a reason to dial, and nothing else is: when it goes away, because its lease
//! has ended or the registry is gone, links that are open stay open. A newer epoch replaces the link to an older one. A
//! link that has ended is dialed again as long as there is a reason, after waits that double.
//!
//! Each model hears of all replicas, for a replica may come back with another model; those of others are only shown.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::core::election::elect;
use crate::core::replica::Announcement;
use crate::core::{
    Action, LinkId, News, NoLink, Rank, Record, ReplicaId, ReplicaView, Role, Serving, Terms, Time, Version, Welcome,
};

/// The replicas that have a record, or a link.
#[derive(Debug)]
pub(crate) struct Membership {
    terms: Terms,
    members: BTreeMap<ReplicaId, Member>,
    /// Whose each link is, until it ends.
    links: HashMap<LinkId, ReplicaId>,
    redials: BTreeSet<(Time, ReplicaId)>,
    /// Versions of those that would take work, and how many these are.
    versions: BTreeMap<Version, usize>,
    serving: Serving,
    /// Whether the versions have changed since the last election.
    changed: bool,
    next: u64,
}

#[derive(Debug, Default)]
struct Member {
    /// What the registry says of it; its role is told by the link.
    view: ReplicaView,
    /// The reason to dial it.
    target: Option<Target>,
    link: Link,
    /// When it was dialed last, and the next wait.
    dialed: Time,
    wait: Duration,
}

/// Where the leader of a replica is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    address: String,
    epoch: u64,
}

/// How the link to a replica is.
#[derive(Debug, Default)]
enum Link {
    #[default]
    None,
    /// It ended, and will be dialed again then.
    Ended {
        tried: Target,
        why: NoLink,
        again: Time,
    },
    Dialing {
        id: LinkId,
        target: Target,
    },
    Open {
        id: LinkId,
        target: Target,
        version: Version,
        draining: bool,
    },
}

/// The waits before a replica is dialed again.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

// === impl Membership ===

impl Membership {
    pub(crate) fn new(terms: Terms) -> Self {
        Self {
            terms,
            members: BTreeMap::new(),
            links: HashMap::new(),
            redials: BTreeSet::new(),
            versions: BTreeMap::new(),
            serving: Serving::default(),
            changed: false,
            next: 0,
        }
    }

    /// Takes in what the registry says; says which replicas have lost a link that was open.
    pub(crate) fn hear(&mut self, now: Time, news: News, actions: &mut Vec<Action>) -> Vec<ReplicaId> {
        match news {
            News::Reset(records) => {
                let there: HashSet<(&str, u32)> = records.iter().map(|it| (it.replica.as_str(), it.rank)).collect();
                let ranks = self.members.values().map(|member| &member.view);
                let ranks = ranks.flat_map(|view| view.ranks.keys().map(|rank| (view.name.clone(), *rank)));
                let gone = ranks.filter(|(name, rank)| !there.contains(&(name.as_str(), *rank)));
                for (name, rank) in gone.collect::<Vec<_>>() {
                    self.remove(now, &name, rank, actions);
                }
                records.into_iter().filter_map(|record| self.write(now, record, actions)).collect()
            }
            News::Written(record) => self.write(now, record, actions).into_iter().collect(),
            News::Removed { replica, rank } => {
                self.remove(now, &replica, rank, actions);
                Vec::new()
            }
        }
    }

    fn write(&mut self, now: Time, record: Record, actions: &mut Vec<Action>) -> Option<ReplicaId> {
        let Record { replica, rank, model, state, address, ranks, epoch } = record;
        let id = ReplicaId::of(&replica);
        let member = self.members.entry(id).or_default();
        let view = &mut member.view;
        view.name = replica;
        view.ranks.insert(rank, state);
        let known = member.target.is_some() || member.link.is_there();
        // a life that is over has nothing to say
        if rank != 0 || state == Rank::Serving && epoch < view.epoch && known {
            return None;
        }
        let ours = *model == *self.terms.model;
        member.target = (ours && state == Rank::Serving).then(|| Target { address: address.clone(), epoch });
        (view.model, view.address, view.world_size, view.epoch) = (model, address, ranks, epoch);
        self.aim(now, id, actions)
    }

    fn remove(&mut self, now: Time, replica: &str, rank: u32, actions: &mut Vec<Action>) {
        let id = ReplicaId::of(replica);
        let Some(member) = self.members.get_mut(&id) else { return };
        member.view.ranks.remove(&rank);
        if rank == 0 {
            member.target = None;
        }
        self.aim(now, id, actions);
    }

    /// Dials what there is a new reason to dial, and forgets what nothing is left of. Says whose open link that ended.
    fn aim(&mut self, now: Time, id: ReplicaId, actions: &mut Vec<Action>) -> Option<ReplicaId> {
        let member = self.members.get_mut(&id)?;
        let mut lost = None;
        match (&member.target, &member.link) {
            (None, Link::Ended { again, .. }) => {
                self.redials.remove(&(*again, id));
                member.link = Link::None;
            }
            (Some(target), Link::Ended { tried, .. }) if target != tried => self.dial(now, id, actions),
            (Some(_), Link::None) => self.dial(now, id, actions),
            (Some(new), Link::Dialing { target, .. } | Link::Open { target, .. }) if new.epoch > target.epoch => {
                lost = self.hang_up(now, id, NoLink::Replaced, actions);
            }
            _ => {}
        }
        self.forget(id);
        lost
    }

    fn dial(&mut self, now: Time, id: ReplicaId, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(target) = member.target.clone() else { return };
        if let Link::Ended { again, tried, .. } = &member.link {
            self.redials.remove(&(*again, id));
            if *tried != target {
                member.wait = Duration::ZERO;
            }
        }
        let link = LinkId(self.next);
        self.next += 1;
        self.links.insert(link, id);
        let (replica, address, epoch) = (member.view.name.clone(), target.address.clone(), target.epoch);
        (member.link, member.dialed) = (Link::Dialing { id: link, target }, now);
        actions.push(Action::Dial { link, replica, address, epoch });
    }

    /// Lets go of a replica that has neither a record nor a link.
    fn forget(&mut self, id: ReplicaId) {
        if self.members.get(&id).is_some_and(|member| member.view.ranks.is_empty() && !member.link.is_there()) {
            self.members.remove(&id);
        }
    }

    /// A leader has introduced itself; None if it is not wanted.
    pub(crate) fn welcomed(
        &mut self,
        now: Time,
        link: LinkId,
        welcome: Welcome,
        actions: &mut Vec<Action>,
    ) -> Option<Announcement> {
        let id = *self.links.get(&link)?;
        let member = self.members.get_mut(&id)?;
        let Link::Dialing { target, .. } = &member.link else {
            self.hang_up(now, id, NoLink::Protocol("a second welcome"), actions);
            return None;
        };
        match welcome.check(id, target.epoch, &self.terms) {
            Ok(announced) => {
                let (target, version) = (target.clone(), announced.version.clone());
                *self.versions.entry(version.clone()).or_default() += 1;
                self.changed = true;
                member.link = Link::Open { id: link, target, version, draining: false };
                Some(announced)
            }
            Err(why) => {
                self.hang_up(now, id, why, actions);
                None
            }
        }
    }

    /// A link has ended; says whose it was if it was open.
    pub(crate) fn ended(
        &mut self,
        now: Time,
        link: LinkId,
        why: NoLink,
        actions: &mut Vec<Action>,
    ) -> Option<ReplicaId> {
        let id = self.links.remove(&link)?;
        let member = self.members.get_mut(&id)?;
        let (tried, open) = match std::mem::take(&mut member.link) {
            Link::Dialing { target, .. } => (target, false),
            Link::Open { target, version, draining, .. } => {
                if !draining {
                    no_longer(&mut self.versions, &version);
                    self.changed = true;
                }
                (target, true)
            }
            Link::None | Link::Ended { .. } => return None,
        };
        if why == NoLink::Replaced || now.since(member.dialed) > 2 * LONGEST {
            member.wait = Duration::ZERO;
        }
        let wait = member.wait.max(FIRST);
        member.wait = (2 * wait).min(LONGEST);
        let again = now + shortened(wait, &self.terms.gateway, link);
        self.redials.insert((again, id));
        member.link = Link::Ended { tried, why, again };
        self.aim(now, id, actions);
        open.then_some(id)
    }

    /// Gives up the link to a replica; says whose it was if it was open.
    pub(crate) fn hang_up(
        &mut self,
        now: Time,
        id: ReplicaId,
        why: NoLink,
        actions: &mut Vec<Action>,
    ) -> Option<ReplicaId> {
        let link = self.members.get(&id)?.link.id()?;
        actions.push(Action::HangUp { link });
        self.ended(now, link, why, actions)
    }

    /// A replica takes no more work; says which.
    pub(crate) fn drain(&mut self, link: LinkId) -> Option<ReplicaId> {
        let id = *self.links.get(&link)?;
        if let Link::Open { version, draining, .. } = &mut self.members.get_mut(&id)?.link
            && !std::mem::replace(draining, true)
        {
            no_longer(&mut self.versions, version);
            self.changed = true;
        }
        Some(id)
    }

    /// Whose link this is, if it is open.
    pub(crate) fn at(&self, link: LinkId) -> Option<ReplicaId> {
        let id = self.links.get(&link)?;
        matches!(self.members.get(id)?.link, Link::Open { .. }).then_some(*id)
    }

    /// The link to a replica, if it is open.
    pub(crate) fn link(&self, replica: ReplicaId) -> Option<LinkId> {
        match self.members.get(&replica)?.link {
            Link::Open { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Dials what it is time for.
    pub(crate) fn redial(&mut self, now: Time, actions: &mut Vec<Action>) {
        while let Some(&(_, id)) = self.redials.first().filter(|(again, _)| *again <= now) {
            self.redials.pop_first();
            self.dial(now, id, actions);
        }
    }

    /// When something is dialed again.
    pub(crate) fn wakes_at(&self) -> Option<Time> {
        self.redials.first().map(|(again, _)| *again)
    }

    /// Chooses the version that is served; what is, if that has changed.
    pub(crate) fn elect(&mut self) -> Option<&Serving> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let version = elect(self.serving.version.as_ref(), &self.versions);
        let ready = version.as_ref().and_then(|version| self.versions.get(version)).copied().unwrap_or_default();
        let standby = self.versions.values().sum::<usize>() - ready;
        let serving = Serving { version, ready, standby };
        (std::mem::replace(&mut self.serving, serving.clone()) != serving).then_some(&self.serving)
    }

    /// The replicas that are there.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = ReplicaView> {
        self.members.values().map(|member| ReplicaView { role: self.role(member), ..member.view.clone() })
    }

    fn role(&self, member: &Member) -> Role {
        match &member.link {
            Link::Ended { why, .. } => why.role(),
            Link::Dialing { .. } => Role::Dialing,
            Link::Open { draining: true, .. } => Role::Draining,
            Link::Open { version, .. } if self.serving.version.as_ref() == Some(version) => Role::Ready,
            Link::Open { .. } => Role::Standby,
            Link::None if member.view.model.is_empty() || *member.view.model == *self.terms.model => Role::Away,
            Link::None => Role::Refused(format!("the model {:?} is not served here", member.view.model)),
        }
    }
}

/// One replica fewer takes work.
fn no_longer(versions: &mut BTreeMap<Version, usize>, version: &Version) {
    if let Some(replicas) = versions.get_mut(version) {
        *replicas -= 1;
        if *replicas == 0 {
            versions.remove(version);
        }
    }
}

/// A wait that is shorter by up to a half, so that not all gateways come back at once.
fn shortened(wait: Duration, gateway: &str, link: LinkId) -> Duration {
    let mut hasher = DefaultHasher::new();
    (gateway, link).hash(&mut hasher);
    wait - wait.mul_f64(hasher.finish() as f64 / u64::MAX as f64 / 2.0)
}

// === impl Link ===

impl Link {
    fn id(&self) -> Option<LinkId> {
        match self {
            Self::Dialing { id, .. } | Self::Open { id, .. } => Some(*id),
            Self::None | Self::Ended { .. } => None,
        }
    }

    fn is_there(&self) -> bool {
        self.id().is_some()
    }
}

#[cfg(test)]
mod tests;
