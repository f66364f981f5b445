//! What is asked for: requests of items, an item one prompt with its responses, and the pieces in which items travel.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use score::{SHORTEST_SHARE, shared_prefix};

use crate::core::admission::Refusal;
use crate::core::{Share, Time};

/// Who a request is charged to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

/// What of a tenant takes turns with its other work: the number of a stream, or of a single call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u64);

/// A request; its number is the caller's choice, and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What is asked for at once, in time for one deadline.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its number.
    pub id: RequestId,
    /// Who it is charged to.
    pub tenant: TenantId,
    /// The tenant's share of the tokens, relative to others; what the last request says holds.
    pub weight: NonZeroU32,
    /// What it takes turns with.
    pub lane: LaneId,
    /// When the last answer must be out.
    pub deadline: Time,
    /// What to score.
    pub items: Vec<Item>,
}

/// Conversations that travel together, as far as a step can hold them: one, or a prompt with its responses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The tokens that all conversations begin with.
    pub(crate) prefix: Arc<[u32]>,
    /// The rest of each.
    pub(crate) tails: Vec<Arc<[u32]>>,
}

/// Conversations of one item that travel together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) item: usize,
    pub(crate) conversations: Range<usize>,
    /// What they cost: each tail, and the prefix once.
    pub(crate) tokens: u64,
}

// === impl TenantId ===

impl TenantId {
    /// The tenant of this name.
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl Item ===

impl Item {
    /// The conversations of one prompt. What they share is found out; for a single one, `prompt` says how many of its
    /// tokens come before the response (0 if nobody knows), which only serves to send it where the prompt was seen.
    pub fn new<S: AsRef<[u32]>>(conversations: &[S], prompt: usize) -> Self {
        let Some((first, others)) = conversations.split_first() else {
            return Self { prefix: Arc::default(), tails: Vec::new() };
        };
        let first = first.as_ref();
        let shared = others.iter().fold(first.len(), |shared, other| shared.min(shared_prefix(first, other.as_ref())));
        let shared = match others {
            [] => prompt.min(first.len()),
            _ => shared,
        };
        let tail = |conversation: &S| Arc::from(conversation.as_ref().get(shared..).unwrap_or_default());
        let tails = conversations.iter().map(tail).collect();
        // Arc::from allocates for nothing, too
        let prefix = if shared == 0 { Arc::default() } else { Arc::from(first.get(..shared).unwrap_or_default()) };
        Self { prefix, tails }
    }

    /// The tokens of each conversation.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = u64> {
        self.tails.iter().map(|tail| (self.prefix.len() + tail.len()) as u64)
    }

    /// Ranges of conversations, each as many as a step of `budget` tokens can hold, but at least one. A conversation
    /// counts as a token even if it shares all of them, as it does in a step.
    fn cut(&self, budget: u64) -> Vec<(Range<usize>, u64)> {
        let mut cuts: Vec<(Range<usize>, u64)> = Vec::new();
        let mut fill = 0;
        for (number, tail) in self.tails.iter().enumerate() {
            let (tokens, room) = (tail.len() as u64, (tail.len() as u64).max(1));
            match cuts.last_mut().filter(|_| fill + room <= budget) {
                Some((range, cost)) => {
                    *range = range.start..number + 1;
                    *cost += tokens;
                    fill += room;
                }
                None => {
                    let prefix = self.prefix.len() as u64;
                    cuts.push((number..number + 1, prefix + tokens));
                    fill = prefix + room;
                }
            }
        }
        cuts
    }
}

/// What a prompt is known by; None for no prompt.
pub(crate) fn prompt_hash(prefix: &[u32]) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    prefix.hash(&mut hasher);
    (prefix.len() >= SHORTEST_SHARE).then(|| hasher.finish())
}

// === impl Request ===

impl Request {
    /// How many conversations there are.
    pub fn conversations(&self) -> u64 {
        self.items.iter().map(|item| item.tails.len() as u64).sum()
    }

    pub(crate) fn share(&self) -> Share {
        Share { tenant: self.tenant.clone(), weight: self.weight, lane: self.lane }
    }

    /// Refuses what cannot be computed, however long it waits.
    pub(crate) fn check(&self, longest: u64) -> Result<(), Refusal> {
        if self.items.is_empty() {
            return Err(Refusal::Empty { item: 0 });
        }
        for (number, item) in self.items.iter().enumerate() {
            if item.lengths().min().unwrap_or_default() == 0 {
                return Err(Refusal::Empty { item: number });
            }
            if let Some(tokens) = item.lengths().max().filter(|&tokens| tokens > longest) {
                return Err(Refusal::TooLong { item: number, tokens, limit: longest });
            }
        }
        Ok(())
    }

    /// The pieces in which it travels, for steps of `budget` tokens.
    pub(crate) fn cut(&self, budget: u64) -> Vec<Cut> {
        let pieces = |(item, content): (usize, &Item)| {
            content.cut(budget).into_iter().map(move |(conversations, tokens)| Cut { item, conversations, tokens })
        };
        self.items.iter().enumerate().flat_map(pieces).collect()
    }
}

#[cfg(test)]
mod tests;
