//! What waits of one gateway, in the order of arrival, and what its oldest sequence has put up with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use model::Packer;
use score::{SHORTEST_SHARE, shared_prefix};

use super::{Item, Refusal, Settings};

/// Sequences by place: the number of their arrival.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The tokens that its gateway was charged for.
    pub(super) served: u64,
    items: BTreeMap<u64, Item>,
    /// Places by the number of the sequence.
    places: HashMap<u64, u64>,
    /// In the order of their tokens: neighbours share the most.
    sorted: BTreeSet<(Arc<[u32]>, u64)>,
    /// Places of those that are urgent.
    urgent: BTreeSet<u64>,
    /// What all of them cost together.
    tokens: u64,
    head: Head,
}

/// The oldest sequence.
#[derive(Debug, Default)]
struct Head {
    /// The step that was to be formed when it became the oldest.
    since: u64,
    /// How many went before it from then on.
    passed: u32,
    /// The step for which it was due first.
    due: Option<u64>,
}

// === impl Queue ===

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    pub(super) fn urgent(&self) -> impl Iterator<Item = u64> {
        self.urgent.iter().copied()
    }

    pub(super) fn get(&self, place: u64) -> Option<&Item> {
        self.items.get(&place)
    }

    pub(super) fn place(&self, number: u64) -> Option<u64> {
        self.places.get(&number).copied()
    }

    pub(super) fn into_items(self) -> Vec<Item> {
        self.items.into_values().collect()
    }

    /// Adds a sequence behind all others, while `step` is the next to be formed.
    pub(super) fn push(&mut self, item: Item, place: u64, step: u64) -> Result<(), Refusal> {
        if self.places.contains_key(&item.id.number) {
            return Err(Refusal::Duplicate);
        }
        if self.items.is_empty() {
            self.head = Head { since: step, ..Head::default() };
        }
        let key = (Arc::clone(&item.tokens), place);
        self.tokens += self.cost(&key);
        self.sorted.insert(key);
        self.places.insert(item.id.number, place);
        if item.urgent {
            self.urgent.insert(place);
        }
        self.items.insert(place, item);
        Ok(())
    }

    pub(super) fn remove(&mut self, place: u64, step: u64) -> Option<Item> {
        let item = self.items.remove(&place)?;
        if self.items.first_key_value().is_none_or(|(first, _)| *first > place) {
            self.head = Head { since: step, ..Head::default() };
        }
        self.places.remove(&item.id.number);
        self.urgent.remove(&place);
        let key = (Arc::clone(&item.tokens), place);
        self.sorted.remove(&key);
        self.tokens -= self.cost(&key);
        Some(item)
    }

    /// Removes a sequence that goes into a step, which passes over the oldest if it is another.
    pub(super) fn take(&mut self, place: u64, step: u64) -> Option<Item> {
        if self.items.first_key_value().is_some_and(|(first, _)| *first < place) {
            self.head.passed = self.head.passed.saturating_add(1);
        }
        self.remove(place, step)
    }

    pub(super) fn expire(&mut self, now: Duration, step: u64) -> Vec<Item> {
        let late = |item: &Item| item.deadline.is_some_and(|deadline| deadline <= now);
        let places: Vec<u64> = self.items.iter().filter(|(_, item)| late(item)).map(|(place, _)| *place).collect();
        places.into_iter().filter_map(|place| self.remove(place, step)).collect()
    }

    /// The sequence that takes this turn: within the look-ahead, of those that fit, the one that shares the most tokens
    /// with the step; of those, the oldest.
    pub(super) fn choose(&self, step: &Packer, settings: &Settings) -> Option<u64> {
        let mut best = None;
        for (place, Item { tokens, .. }) in self.items.iter().take(settings.look_ahead.max(1)) {
            let shared = if tokens.len() < SHORTEST_SHARE { 0 } else { tokens.len() - step.cost(tokens) };
            if best.is_none_or(|(most, _)| shared > most) && step.fits(tokens, settings.budget) {
                best = Some((shared, *place));
            }
        }
        best.map(|(_, place)| place)
    }

    /// Since which step the oldest sequence is due, and its place, if it is.
    pub(super) fn due(&mut self, step: u64, patience: u64, overtakes: u32) -> Option<(u64, u64)> {
        let (&place, _) = self.items.first_key_value()?;
        let head = &mut self.head;
        if head.passed >= overtakes || step.saturating_sub(head.since) >= patience {
            head.due.get_or_insert(step);
        }
        Some((head.due?, place))
    }

    /// What a sequence that is not here would add to the tokens, as [`Packer::cost`] has it.
    fn cost(&self, key: &(Arc<[u32]>, u64)) -> u64 {
        let neighbours = [self.sorted.range(..key).next_back(), self.sorted.range(key..).next()];
        let shared = neighbours.into_iter().flatten().map(|(other, _)| shared_prefix(other, &key.0)).max();
        (key.0.len() - shared.unwrap_or_default()) as u64
    }
}
