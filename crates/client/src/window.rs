//! The items that have no answer yet: which to send next, which again, and whether there is room for more. A value: what
//! time it is, it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use proto::{Message as _, v1};
use tokio::time::Instant;

/// Items that were taken in and are not answered, by the number under which they are sent.
pub(crate) struct Window<T> {
    items: BTreeMap<u64, Unanswered<T>>,
    /// What is to be sent, and when.
    due: BTreeSet<(Instant, u64)>,
    bytes: usize,
    most_items: usize,
    most_bytes: usize,
}

/// An item without an answer.
pub(crate) struct Unanswered<T> {
    pub(crate) item: v1::Item,
    /// What it is to its caller.
    pub(crate) token: T,
    bytes: usize,
    /// When it is to be sent; `None` while it is with a gateway.
    due: Option<Instant>,
    /// When it was first found that no replica could compute it, and how long to wait from then on.
    unavailable: Option<(Instant, ExponentialBackoff)>,
}

/// How long an item waits that no replica could compute: twice as long each time.
const WAITS: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(200))
    .with_max_delay(Duration::from_secs(3))
    .without_max_times();

// === impl Window ===

impl<T> Window<T> {
    /// Room for so many items, and so many bytes of them; the last that is taken in may go over it.
    pub(crate) fn new(most_items: usize, most_bytes: usize) -> Self {
        Self { items: BTreeMap::new(), due: BTreeSet::new(), bytes: 0, most_items, most_bytes }
    }

    /// Whether another item may be taken in.
    pub(crate) fn has_room(&self) -> bool {
        self.items.len() < self.most_items && self.bytes < self.most_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes in an item, to be sent at once.
    pub(crate) fn admit(&mut self, id: u64, token: T, item: v1::Item, now: Instant) {
        let bytes = item.encoded_len();
        self.bytes += bytes;
        self.due.insert((now, id));
        self.items.insert(id, Unanswered { item, token, bytes, due: Some(now), unavailable: None });
    }

    /// When the next item is to be sent.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The item that is to be sent first; it is with a gateway from here on.
    pub(crate) fn send(&mut self) -> Option<v1::ScoreStreamRequest> {
        let (_, id) = self.due.pop_first()?;
        let unanswered = self.items.get_mut(&id)?;
        unanswered.due = None;
        Some(v1::ScoreStreamRequest { id, item: Some(unanswered.item.clone()), options: None })
    }

    /// Lets go of an item that has its answer; `None` if it had one before.
    pub(crate) fn answered(&mut self, id: u64) -> Option<Unanswered<T>> {
        let unanswered = self.items.remove(&id)?;
        self.bytes -= unanswered.bytes;
        if let Some(due) = unanswered.due {
            self.due.remove(&(due, id));
        }
        Some(unanswered)
    }

    /// Has an item sent again; says whether it had been sent.
    pub(crate) fn again(&mut self, id: u64, at: Instant) -> bool {
        let Some(unanswered) = self.items.get_mut(&id).filter(|unanswered| unanswered.due.is_none()) else {
            return false;
        };
        unanswered.due = Some(at);
        self.due.insert((at, id));
        true
    }

    /// Has everything sent again that is with a gateway, as that one is gone; says how many items it is.
    pub(crate) fn all_again(&mut self, now: Instant) -> u64 {
        let ids: Vec<u64> = self.items.keys().copied().collect();
        ids.into_iter().filter(|id| self.again(*id, now)).count() as u64
    }

    /// When to send an item again that no replica could compute; `None` once that has gone on for so long, or if the item
    /// has its answer.
    pub(crate) fn unavailable(&mut self, id: u64, now: Instant, patience: Duration) -> Option<Instant> {
        let unanswered = self.items.get_mut(&id)?;
        let (since, waits) = unanswered.unavailable.get_or_insert_with(|| (now, WAITS.build()));
        let at = now + waits.next()?;
        (at <= *since + patience).then_some(at)
    }

    /// The largest item.
    pub(crate) fn largest(&self) -> Option<u64> {
        self.items.iter().max_by_key(|(_, unanswered)| unanswered.bytes).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests;
