//! What the leader of a replica decides, as functions over values: which sequences form the next step, how much more
//! each gateway may send, and when a step is overdue. Nothing here reads a clock: time is how long since some start.
//!
//! | type | question |
//! |---|---|
//! | [`Planner`] | what is computed next |
//! | [`Credits`] | who may send how many tokens more |
//! | [`Watchdog`] | has a step taken too long |
//!
//! A step is filled by turns. The turn is always with the gateway that was served the fewest tokens, and goes to its
//! oldest sequence, or, within the look-ahead, to the one that shares the longest prefix with what is in the step, or,
//! if the oldest does not fit into the rest, to one that does. The first sequence of a step always fits, so what is too
//! long for the rest of one step opens another. What keeps being passed over becomes due, and what is due goes first;
//! then what its gateway calls urgent, for its tenant asks for less than its share. Gateways send little of that.

mod credits;
mod queue;
mod watchdog;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::{PackedBatch, Packer};
use score::Stamp;

pub use self::credits::{Change, Credits};
use self::queue::Queue;
pub use self::watchdog::{Allowance, Watchdog};

/// A gateway's connection; its number is the leader's choice, and never used again in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayId(pub u64);

/// A sequence, among all that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId {
    /// Where it came from.
    pub gateway: GatewayId,
    /// Its number, among all that wait from there.
    pub number: u64,
}

/// A sequence that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is called.
    pub id: ItemId,
    /// What is to be computed.
    pub tokens: Arc<[u32]>,
    /// When it arrived.
    pub arrived: Duration,
    /// When nobody waits for it any more.
    pub deadline: Option<Duration>,
    /// Whether it goes before what else of its gateway waits.
    pub urgent: bool,
}

/// How steps are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The most tokens that a step computes, and the most sequences in it.
    pub budget: usize,
    /// Among how many of the oldest sequences of a gateway its turn may choose.
    pub look_ahead: usize,
    /// When its gateway's oldest sequence has been passed over so often, it is due.
    pub overtakes: u32,
    /// When its gateway's oldest sequence has been that for so many steps, times the gateways that wait, it is due.
    pub patience: u64,
    /// How long a step that is not full waits for more after the last that came; not at all where somebody waits for it.
    pub linger: Duration,
}

/// Why a sequence is not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no last token to score.
    #[error("the sequence is empty")]
    Empty,
    /// No step can hold it.
    #[error("the sequence has {tokens} tokens, a step at most {budget}")]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// The most tokens of a step.
        budget: usize,
    },
    /// One of this name waits already.
    #[error("a sequence with this number is waiting")]
    Duplicate,
}

/// A step, ready to be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is called.
    pub stamp: Stamp,
    /// What it computes.
    pub batch: PackedBatch,
    /// Its sequences, in the order of the batch.
    pub items: Vec<Item>,
}

/// What is next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The step; None if nothing waits.
    pub step: Option<Step>,
    /// What will not be computed, for its deadline has passed.
    pub expired: Vec<Item>,
}

/// Holds what has arrived from all gateways in one epoch, and forms steps of it.
#[derive(Debug)]
pub struct Planner {
    settings: Settings,
    /// The last step.
    stamp: Stamp,
    queues: BTreeMap<GatewayId, Queue>,
    /// What the gateway that was served least had been served; who comes back starts here.
    clock: u64,
    arrivals: u64,
}

/// A step that is being filled.
#[derive(Default)]
struct Filling {
    packer: Packer,
    items: Vec<Item>,
}

/// No gateway falls behind another by more than so many steps: what it could not use is not saved up for ever.
const STEPS_BEHIND: u64 = 4;

// === impl Settings ===

impl Settings {
    /// What is right for steps of this size.
    pub const fn new(budget: usize) -> Self {
        Self { budget, look_ahead: 32, overtakes: 256, patience: 4, linger: Duration::ZERO }
    }
}

// === impl Planner ===

impl Planner {
    /// Nothing waits, and the first step has the number 1.
    pub fn new(settings: Settings, generation: u64, epoch: u64) -> Self {
        let stamp = Stamp { generation, epoch, step: 0 };
        Self { settings, stamp, queues: BTreeMap::new(), clock: 0, arrivals: 0 }
    }

    /// Takes in a sequence.
    ///
    /// # Errors
    /// If it cannot be computed, or is here already.
    pub fn push(&mut self, item: Item) -> Result<(), Refusal> {
        let (tokens, budget) = (item.tokens.len(), self.settings.budget);
        if tokens == 0 {
            return Err(Refusal::Empty);
        }
        if tokens > budget {
            return Err(Refusal::TooLong { tokens, budget });
        }
        let queue = self.queues.entry(item.id.gateway).or_default();
        if queue.is_empty() {
            queue.served = queue.served.max(self.clock);
        }
        self.arrivals += 1;
        queue.push(item, self.arrivals, self.stamp.step + 1)
    }

    /// Drops a sequence that nobody waits for any more; None if it is not here, or no longer.
    pub fn cancel(&mut self, id: ItemId) -> Option<Item> {
        let queue = self.queues.get_mut(&id.gateway)?;
        let place = queue.place(id.number)?;
        queue.remove(place, self.stamp.step + 1)
    }

    /// Drops all that waits of a gateway, and what is known about it.
    pub fn disconnect(&mut self, gateway: GatewayId) -> Vec<Item> {
        self.queues.remove(&gateway).map(Queue::into_items).unwrap_or_default()
    }

    /// Drops all whose deadline has passed.
    pub fn expire(&mut self, now: Duration) -> Vec<Item> {
        let next = self.stamp.step + 1;
        self.queues.values_mut().flat_map(|queue| queue.expire(now, next)).collect()
    }

    /// Forms the next step of what can still be in time.
    pub fn next_step(&mut self, now: Duration) -> Plan {
        let expired = self.expire(now);
        self.bring_forward();
        let filling = self.fill();
        let step = (!filling.items.is_empty()).then(|| {
            self.stamp.step += 1;
            Step { stamp: self.stamp, batch: filling.packer.pack(), items: filling.items }
        });
        Plan { step, expired }
    }

    /// The number of sequences that wait.
    pub fn len(&self) -> usize {
        self.queues.values().map(Queue::len).sum()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queues.values().all(Queue::is_empty)
    }

    /// The tokens that one step with all that waits of this gateway would compute.
    pub fn tokens(&self, gateway: GatewayId) -> u64 {
        self.queues.get(&gateway).map_or(0, Queue::tokens)
    }

    fn waiting(&self) -> impl Iterator<Item = (GatewayId, &Queue)> {
        self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(id, queue)| (*id, queue))
    }

    /// Moves the clock to whoever was served least, and lets nobody fall too far behind.
    fn bring_forward(&mut self) {
        let most = self.waiting().map(|(_, queue)| queue.served).max().unwrap_or_default();
        let least = most.saturating_sub(STEPS_BEHIND * self.settings.budget as u64);
        self.queues.values_mut().for_each(|queue| queue.served = queue.served.max(least));
        self.clock = self.waiting().map(|(_, queue)| queue.served).min().unwrap_or_default().max(self.clock);
    }

    fn fill(&mut self) -> Filling {
        let mut filling = Filling::default();
        let due = self.due();
        let urgent = self.queues.iter().flat_map(|(id, queue)| queue.urgent().map(|place| (*id, place)));
        let first: Vec<_> = due.into_iter().chain(urgent).collect();
        for (gateway, place) in first {
            let item = self.queues.get(&gateway).and_then(|queue| queue.get(place));
            if item.is_some_and(|item| filling.packer.fits(&item.tokens, self.settings.budget)) {
                self.take(gateway, place, &mut filling);
            }
        }
        let mut turns: BTreeSet<(u64, GatewayId)> = self.waiting().map(|(id, queue)| (queue.served, id)).collect();
        while let Some((_, gateway)) = turns.pop_first() {
            let choice = self.queues.get(&gateway).and_then(|queue| queue.choose(&filling.packer, &self.settings));
            // a gateway of which nothing fits has no more turns in this step
            if let Some(place) = choice {
                self.take(gateway, place, &mut filling);
                turns.extend(self.queues.get(&gateway).map(|queue| (queue.served, gateway)));
            }
        }
        filling
    }

    /// The oldest sequences of gateways that have waited too long, in the order in which they became due.
    fn due(&mut self) -> Vec<(GatewayId, u64)> {
        let next = self.stamp.step + 1;
        let patience = self.settings.patience * self.waiting().count() as u64;
        let overtakes = self.settings.overtakes;
        let due = |(id, queue): (&GatewayId, &mut Queue)| Some((queue.due(next, patience, overtakes)?, *id));
        let mut due: Vec<_> = self.queues.iter_mut().filter_map(due).collect();
        due.sort_unstable();
        due.into_iter().map(|((_, place), id)| (id, place)).collect()
    }

    /// Moves a sequence into the step, and charges its gateway for the tokens that it adds.
    fn take(&mut self, gateway: GatewayId, place: u64, filling: &mut Filling) {
        let Some(queue) = self.queues.get_mut(&gateway) else { return };
        let Some(item) = queue.take(place, self.stamp.step + 1) else { return };
        let before = filling.packer.tokens();
        filling.packer.push(Arc::clone(&item.tokens));
        // what is in the step already costs nothing, but a turn
        queue.served += (filling.packer.tokens() - before).max(1) as u64;
        filling.items.push(item);
    }
}

#[cfg(test)]
mod tests;
