//! How many tokens each gateway may send: about the next step in all, split among gateways by how they use them.
//!
//! What a gateway may still send and what of it waits is its holding; what is in a step counts no more, so its room is
//! granted again while the step is computed. Room is shared out so that the smallest holdings grow first: up to a small
//! floor for a gateway that has credits left, so that it can start at once, and without a limit of its own for one that
//! has run dry. What nobody has touched for a whole round goes back. A gateway may send as long as its balance is
//! positive and is debited for whole pieces, so the last one may overdraw the balance. As that makes its holding no
//! larger, it takes nothing away from others. Both sides only add up, in any order: a change and a piece that cross on
//! the way need no agreement.

use std::collections::BTreeMap;

use super::GatewayId;

/// One part of so many of the budget is kept for the floors.
const FLOORS: u64 = 4;

/// A change of what a gateway may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub gateway: GatewayId,
    /// How many tokens more; less than none are taken back.
    pub tokens: i64,
}

/// What gateways may send.
#[derive(Debug)]
pub struct Credits {
    budget: u64,
    accounts: BTreeMap<GatewayId, Account>,
}

#[derive(Debug)]
struct Account {
    /// What was granted and not used; below zero if the last piece took more.
    balance: i64,
    /// The least it was in this round, and in the one before; the most there is before the first grant is used, for a
    /// gateway that has used nothing has not run dry.
    lowest: i64,
    lowest_before: i64,
    /// The largest piece of this round, and of the one before.
    largest: i64,
    largest_before: i64,
}

/// What a gateway has, and how far it may grow.
struct Holding {
    gateway: GatewayId,
    tokens: i64,
    most: i64,
}

// === impl Credits ===

impl Credits {
    /// Nobody is connected. `budget` is the most tokens of a step.
    pub fn new(budget: u64) -> Self {
        Self { budget, accounts: BTreeMap::new() }
    }

    /// The most that is granted or waits in all, overdrafts apart: a step, and the floors of all but one.
    pub fn limit(&self) -> u64 {
        let others = (self.accounts.len() as u64).saturating_sub(1);
        self.budget.saturating_add(others.saturating_mul(self.floor()))
    }

    /// The credits that a gateway keeps without using them.
    pub fn floor(&self) -> u64 {
        (self.budget / FLOORS / (self.accounts.len() as u64).max(1)).max(1)
    }

    /// Credits granted and not used, of all gateways; overdrafts apart.
    pub fn granted(&self) -> u64 {
        self.accounts.values().filter_map(|account| u64::try_from(account.balance).ok()).sum()
    }

    /// How many tokens have to be free in a step that waits for more: gateways send no piece without as many credits.
    pub fn reach(&self) -> u64 {
        let reach = self.accounts.values().map(|account| account.reach(signed(self.budget / 2))).max();
        reach.unwrap_or(1).unsigned_abs()
    }

    /// What a gateway may send; below zero if its last piece took more than it had.
    pub fn balance(&self, gateway: GatewayId) -> Option<i64> {
        self.accounts.get(&gateway).map(|account| account.balance)
    }

    /// A gateway is there, with no credits yet.
    pub fn connect(&mut self, gateway: GatewayId) {
        let account = Account { balance: 0, lowest: i64::MAX, lowest_before: i64::MAX, largest: 0, largest_before: 0 };
        self.accounts.entry(gateway).or_insert(account);
    }

    /// A gateway is gone, and its credits with it.
    pub fn disconnect(&mut self, gateway: GatewayId) {
        self.accounts.remove(&gateway);
    }

    /// A gateway has sent a piece for which it debits itself so many tokens.
    pub fn spent(&mut self, gateway: GatewayId, tokens: u64) {
        if let Some(account) = self.accounts.get_mut(&gateway) {
            account.balance = account.balance.saturating_sub_unsigned(tokens);
            account.lowest = account.lowest.min(account.balance);
            account.largest = account.largest.max(signed(tokens));
        }
    }

    /// Grants what there is room for, given the tokens that wait of each gateway.
    #[must_use]
    pub fn grant(&mut self, waiting: impl Fn(GatewayId) -> u64) -> Vec<Change> {
        let (limit, floor, half) = (signed(self.limit()), signed(self.floor()), signed(self.budget / 2));
        let holding = |(&gateway, account): (&GatewayId, &Account)| {
            let tokens = account.balance.saturating_add(signed(waiting(gateway)));
            Holding { gateway, tokens, most: if account.ran_dry(half) { limit } else { floor } }
        };
        let holdings: Vec<Holding> = self.accounts.iter().map(holding).collect();
        let level = level(&holdings, limit);
        let mut changes = Vec::new();
        for holding in &holdings {
            let (gateway, tokens) = (holding.gateway, holding.missing(level));
            if let Some(account) = self.accounts.get_mut(&gateway).filter(|_| tokens > 0) {
                account.balance += tokens;
                changes.push(Change { gateway, tokens });
            }
        }
        changes
    }

    /// Ends a round, which is when a step has been formed, and now and then while there is nothing to compute: takes
    /// back what has not been touched since the last round began, and grants what there is room for.
    #[must_use]
    pub fn end_round(&mut self, waiting: impl Fn(GatewayId) -> u64) -> Vec<Change> {
        let floor = signed(self.floor());
        let mut changes = Vec::new();
        for (&gateway, account) in &mut self.accounts {
            let untouched = account.lowest.min(account.balance) - floor;
            if untouched > 0 {
                account.balance -= untouched;
                changes.push(Change { gateway, tokens: -untouched });
            }
            account.lowest_before = account.lowest;
            account.largest_before = std::mem::take(&mut account.largest);
            if account.balance != 0 || account.lowest != i64::MAX {
                account.lowest = account.balance;
            }
        }
        changes.extend(self.grant(waiting));
        changes
    }
}

/// The highest level to which the holdings can be raised within the limit.
fn level(holdings: &[Holding], limit: i64) -> i64 {
    let held = holdings.iter().fold(0, |sum: i64, holding| sum.saturating_add(holding.tokens));
    let missing = |level: i64| holdings.iter().fold(0, |sum: i64, it| sum.saturating_add(it.missing(level)));
    let lowest = holdings.iter().map(|holding| holding.tokens).min().unwrap_or_default();
    let (mut low, mut high) = (lowest.min(limit), limit);
    while low < high {
        let middle = high - (high - low) / 2;
        if missing(middle) <= limit.saturating_sub(held) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

// === impl Account ===

impl Account {
    /// Whether it has lately had too little left for another piece like the largest: a gateway overdraws its balance
    /// only if `half` a step is free.
    fn ran_dry(&self, half: i64) -> bool {
        self.lowest.min(self.lowest_before) < self.reach(half)
    }

    /// The credits that it takes to send another piece like the largest.
    fn reach(&self, half: i64) -> i64 {
        self.largest.max(self.largest_before).min(half).max(1)
    }
}

// === impl Holding ===

impl Holding {
    /// What it takes to raise it to this level, as far as it may be raised.
    fn missing(&self, level: i64) -> i64 {
        level.min(self.most).saturating_sub(self.tokens).max(0)
    }
}
