//! May it come in: bounds on what is held, a fair share of them, and whether a deadline can be met.
//!
//! A tenant may hold at most as much as it leaves free. So one that floods gets half of the room, two get a third each,
//! and however many they are, the next one finds room.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::core::{TenantId, Time};

/// How much may be held at a time, waiting or sent, until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens; a prompt counts once for each piece it travels in.
    pub tokens: u64,
    /// Conversations, however short.
    pub conversations: u64,
    /// Tokens of one conversation.
    pub longest: u64,
}

/// Whose room is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everybody's.
    Queue,
    /// The tenant's share, the rest is for others.
    Tenant,
}

/// Why a request may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something has nothing to score in it.
    #[error("item {item} is empty")]
    Empty {
        /// Its place in the request.
        item: usize,
    },
    /// A conversation is too long.
    #[error("a conversation of item {item} has {tokens} tokens, at most {limit} can be computed")]
    TooLong {
        /// Its place in the request.
        item: usize,
        /// Its length.
        tokens: u64,
        /// The longest.
        limit: u64,
    },
    /// The request would not come in even if nothing else were there.
    #[error("{tokens} tokens in {conversations} conversations at once are more than the queue takes")]
    TooLarge {
        /// Its tokens.
        tokens: u64,
        /// Its conversations.
        conversations: u64,
    },
    /// There is no room now.
    #[error("{scope} is full")]
    Full {
        /// Whose.
        scope: Scope,
        /// When there should be.
        retry_after: Duration,
    },
    /// The deadline has passed, or will have before its turn has come.
    #[error("the deadline is in {left:?} and what is queued takes {wait:?}")]
    Deadline {
        /// The time left.
        left: Duration,
        /// The time it would take.
        wait: Duration,
        /// When a request with as much time left should have enough; None if it never would.
        retry_after: Option<Duration>,
    },
    /// A request of this number is there.
    #[error("a request with the same number is not answered yet")]
    Duplicate,
}

/// An amount of work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) tokens: u64,
    pub(crate) conversations: u64,
}

/// What is held, by tenant.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: Limits,
    held: Size,
    tenants: HashMap<TenantId, Size>,
}

/// How fast tokens are computed: those of the last seconds in which there was something to compute.
#[derive(Debug, Default)]
pub(crate) struct DrainRate {
    tokens: f64,
    busy_seconds: f64,
    last: Time,
}

/// When to come back if the speed is not known.
const SOME_TIME: Duration = Duration::from_secs(1);
const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(60);
/// How many seconds of work the speed is an average of.
const MEMORY: f64 = 5.0;
/// How many seconds of work it takes to believe in a speed.
const SETTLED: f64 = 1.0;

// === impl Scope ===

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue => "the queue",
            Self::Tenant => "the tenant's share of the queue",
        })
    }
}

// === impl Admission ===

impl Admission {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, held: Size::default(), tenants: HashMap::new() }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn held(&self) -> Size {
        self.held
    }

    /// Refuses what there is no room for.
    pub(crate) fn check(&self, tenant: &TenantId, size: Size, rate: &DrainRate) -> Result<(), Refusal> {
        let Size { tokens, conversations } = size;
        let of_tenant = self.tenants.get(tenant).copied().unwrap_or_default();
        let by_tokens = missing(self.limits.tokens, self.held.tokens, of_tenant.tokens, tokens);
        let limit = self.limits.conversations;
        let by_number = missing(limit, self.held.conversations, of_tenant.conversations, conversations);
        if tokens > self.limits.tokens / 2 || conversations > limit / 2 {
            return Err(Refusal::TooLarge { tokens, conversations });
        }
        if by_tokens.max(by_number) == 0 {
            return Ok(());
        }
        let fits = self.held.tokens + tokens <= self.limits.tokens && self.held.conversations + conversations <= limit;
        let scope = if fits { Scope::Tenant } else { Scope::Queue };
        // conversations in tokens, by the average of those that are held
        let average = self.held.tokens as f64 / self.held.conversations.max(1) as f64;
        let missing = (by_tokens as f64).max(by_number as f64 * average);
        Err(Refusal::Full { scope, retry_after: rate.time_for(missing).unwrap_or(SOME_TIME).clamp(SOONEST, LATEST) })
    }

    pub(crate) fn hold(&mut self, tenant: &TenantId, size: Size) {
        self.held = self.held.plus(size);
        let held = self.tenants.entry(tenant.clone()).or_default();
        *held = held.plus(size);
    }

    pub(crate) fn release(&mut self, tenant: &TenantId, size: Size) {
        self.held = self.held.minus(size);
        if let Some(held) = self.tenants.get_mut(tenant) {
            *held = held.minus(size);
            if *held == Size::default() {
                self.tenants.remove(tenant);
            }
        }
    }
}

/// How much has to go before a tenant that holds `of_tenant` leaves as much free as it holds, `more` included.
fn missing(limit: u64, held: u64, of_tenant: u64, more: u64) -> u64 {
    // of the tenant's own work, each token counts twice: it is given up, and it is free
    held.saturating_add(of_tenant).saturating_add(more.saturating_mul(2)).saturating_sub(limit)
}

// === impl Size ===

impl Size {
    pub(crate) fn plus(self, other: Self) -> Self {
        let conversations = self.conversations + other.conversations;
        Self { tokens: self.tokens + other.tokens, conversations }
    }

    fn minus(self, other: Self) -> Self {
        debug_assert!(self.tokens >= other.tokens && self.conversations >= other.conversations, "released twice");
        let conversations = self.conversations.saturating_sub(other.conversations);
        Self { tokens: self.tokens.saturating_sub(other.tokens), conversations }
    }
}

// === impl DrainRate ===

impl DrainRate {
    /// Lets time pass; `busy` if there was something to compute.
    pub(crate) fn advance(&mut self, now: Time, busy: bool) {
        let seconds = now.since(self.last).as_secs_f64();
        self.last = self.last.max(now);
        if busy {
            let kept = (-seconds / MEMORY).exp();
            self.tokens *= kept;
            self.busy_seconds = self.busy_seconds * kept + MEMORY * (1.0 - kept);
        }
    }

    /// Notes that tokens have been computed.
    pub(crate) fn record(&mut self, tokens: u64) {
        self.tokens += tokens as f64;
    }

    /// Tokens a second; None before the first.
    pub(crate) fn per_second(&self) -> Option<f64> {
        (self.tokens > 0.0 && self.busy_seconds > 0.0).then(|| self.tokens / self.busy_seconds)
    }

    /// Whether it was measured for long enough to refuse work by it: after a start the first small steps say little.
    pub(crate) fn is_settled(&self) -> bool {
        self.busy_seconds >= SETTLED
    }

    /// How long so many tokens take, if that is known.
    pub(crate) fn time_for(&self, tokens: f64) -> Option<Duration> {
        let seconds = tokens / self.per_second()?;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests;
