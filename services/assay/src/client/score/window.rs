//! The lines that have no answer yet: which to send next, which again, and whether there is room for more. A value: what
//! time it is, it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::{Message as _, v1};
use tokio::time::Instant;

use crate::score::answers::Slot;

/// Lines that were read and are not answered, by the id under which they are sent.
pub(super) struct Window {
    lines: BTreeMap<u64, Unanswered>,
    /// What is to be sent, and when.
    due: BTreeSet<(Instant, u64)>,
    bytes: usize,
    most: usize,
}

/// A line without an answer.
pub(super) struct Unanswered {
    item: v1::Item,
    /// Where its answers belong.
    pub(super) slots: Vec<Slot>,
    bytes: usize,
    /// When it is to be sent; `None` while it is with a gateway.
    due: Option<Instant>,
    /// When it was first found that no replica could compute it, and how often since.
    unavailable: Option<(Instant, u32)>,
}

/// Bytes of lines without an answer; the last line that is taken in may go over it.
const ROOM: usize = 32 << 20;

// === impl Window ===

impl Window {
    /// Room for so many lines.
    pub(super) fn new(most: usize) -> Self {
        Self { lines: BTreeMap::new(), due: BTreeSet::new(), bytes: 0, most }
    }

    /// Whether another line may be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.lines.len() < self.most && self.bytes < ROOM
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Takes in a line, to be sent at once.
    pub(super) fn admit(&mut self, id: u64, item: v1::Item, slots: Vec<Slot>, now: Instant) {
        let bytes = item.encoded_len();
        self.bytes += bytes;
        self.due.insert((now, id));
        self.lines.insert(id, Unanswered { item, slots, bytes, due: Some(now), unavailable: None });
    }

    /// When the next line is to be sent.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The line that is to be sent first; it is with a gateway from here on.
    pub(super) fn send(&mut self) -> Option<v1::ScoreStreamRequest> {
        let (_, id) = self.due.pop_first()?;
        let line = self.lines.get_mut(&id)?;
        line.due = None;
        Some(v1::ScoreStreamRequest { id, item: Some(line.item.clone()), options: None })
    }

    /// Lets go of a line that has its answer; `None` if it had one before.
    pub(super) fn answered(&mut self, id: u64) -> Option<Unanswered> {
        let line = self.lines.remove(&id)?;
        self.bytes -= line.bytes;
        if let Some(due) = line.due {
            self.due.remove(&(due, id));
        }
        Some(line)
    }

    /// Has a line sent again.
    pub(super) fn again(&mut self, id: u64, at: Instant) {
        if let Some(line) = self.lines.get_mut(&id)
            && line.due.is_none()
        {
            line.due = Some(at);
            self.due.insert((at, id));
        }
    }

    /// Has everything sent again that is with a gateway, as that one is gone; says how many lines it is.
    pub(super) fn all_again(&mut self, now: Instant) -> u64 {
        let gone: Vec<u64> = self.lines.iter().filter(|(_, line)| line.due.is_none()).map(|(id, _)| *id).collect();
        for id in &gone {
            self.again(*id, now);
        }
        gone.len() as u64
    }

    /// When to send a line again that no replica could compute; `None` once that has gone on for so long, or if the line
    /// has its answer.
    pub(super) fn unavailable(&mut self, id: u64, now: Instant, patience: Duration) -> Option<Instant> {
        let line = self.lines.get_mut(&id)?;
        let (since, times) = line.unavailable.unwrap_or((now, 0));
        line.unavailable = Some((since, times + 1));
        let wait = (FIRST_WAIT * 2_u32.pow(times.min(8))).min(LONGEST_WAIT);
        (now + wait <= since + patience).then_some(now + wait)
    }

    /// The largest line.
    pub(super) fn largest(&self) -> Option<u64> {
        self.lines.iter().max_by_key(|(_, line)| line.bytes).map(|(id, _)| *id)
    }
}

/// How long a line waits that no replica could compute: twice as long each time.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests;
