//! What the registry says about a replica: how far its ranks are, and which epoch is open.

use std::collections::BTreeMap;

use discovery::{Event, Incarnation, Key, Member, Registry};
use proto::Message as _;
use proto::shard::v1::{EpochRecord, RankRecord, RankState};
use score::registry::{self, Entry};
use tokio::sync::watch;

/// What is written about a replica.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Roster {
    ranks: BTreeMap<u32, (Incarnation, RankRecord)>,
    /// The number of the epoch that is open, and where its leader is.
    pub(super) epoch: Option<(u64, String)>,
}

/// Watches the replica of this folder, in a task that ends with the last receiver.
pub(super) fn watch(registry: &Registry, folder: &Key) -> watch::Receiver<Roster> {
    let (sender, receiver) = watch::channel(Roster::default());
    let mut events = registry.watch(&folder.below());
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = sender.closed() => return,
            };
            sender.send_modify(|roster| roster.apply(event));
        }
    });
    receiver
}

// === impl Roster ===

impl Roster {
    /// Whether all ranks of a replica of this size wait for an epoch, as far as the registry knows.
    pub(super) fn is_complete(&self, world_size: usize) -> bool {
        let waits = |rank: u32| {
            let state = self.ranks.get(&rank).map(|(_, record)| record.state());
            matches!(state, Some(RankState::Ready | RankState::Serving))
        };
        (0..world_size as u32).all(waits)
    }

    /// Whether a worker of this incarnation holds the claim of a rank, as far as the registry knows.
    pub(super) fn is_held_by(&self, rank: u32, incarnation: Incarnation) -> bool {
        self.ranks.get(&rank).is_some_and(|(holder, _)| *holder == incarnation)
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Reset(members) => {
                *self = Self::default();
                members.iter().for_each(|member| self.add(member));
            }
            Event::Add(member) => self.add(&member),
            Event::Remove(key) => match registry::read(key.as_str()) {
                Some(Entry::Rank { rank, .. }) => drop(self.ranks.remove(&rank)),
                Some(Entry::Epoch { .. }) => self.epoch = None,
                None => {}
            },
        }
    }

    fn add(&mut self, member: &Member) {
        match registry::read(member.key.as_str()) {
            Some(Entry::Rank { rank, .. }) => match RankRecord::decode(&*member.value) {
                Ok(record) => drop(self.ranks.insert(rank, (member.holder, record))),
                Err(error) => tracing::warn!(key = %member.key, %error, "no record of a rank"),
            },
            Some(Entry::Epoch { .. }) => match EpochRecord::decode(&*member.value) {
                Ok(record) => self.epoch = Some((member.revision, record.address)),
                Err(error) => tracing::warn!(key = %member.key, %error, "no record of an epoch"),
            },
            None => {}
        }
    }
}
