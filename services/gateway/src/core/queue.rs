//! Whose turn it is: a queue that is fair by tokens between tenants, and takes turns within a tenant. What is tokenized
//! waits in one too, where bytes are the tokens.
//!
//! Between tenants it is start-time fair queueing. A tenant's next piece has a start on a virtual clock, in tokens by
//! weight; the earliest start goes first, moves the clock there, and puts off the tenant's next start by what the piece
//! cost. A tenant that comes back starts at the clock: it has saved up nothing while it was away, nor lost a debt.
//! Within a tenant, lanes take turns of about a step's tokens, so a huge request lets others in between its pieces.
//! Pieces that come back from a replica go before all lanes, and cost nothing again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;

use score::PieceId;

use crate::core::{LaneId, TenantId};

/// Virtual time that a token takes at weight 1.
const SCALE: u64 = 1 << 16;

/// Where a piece waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Who it is charged to.
    pub tenant: TenantId,
    /// The tenant's share of the tokens, relative to others.
    pub weight: NonZeroU32,
    /// What it takes turns with.
    pub lane: LaneId,
}

/// Pieces that wait, by tenant. All operations take logarithmic time.
#[derive(Debug, Default)]
pub(crate) struct FairQueue {
    tenants: HashMap<TenantId, Tenant>,
    /// Tenants with something waiting, by the start of their next piece.
    waiting: BTreeSet<(u64, TenantId)>,
    /// Tenants with nothing waiting that were served ahead of the clock, by when that is forgotten.
    ahead: BTreeSet<(u64, TenantId)>,
    /// The start of the piece that went last.
    clock: u64,
    tokens: u64,
    pieces: usize,
}

/// What waits of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backlog {
    pub(crate) tokens: u64,
    pub(crate) pieces: usize,
    /// What came in first.
    pub(crate) oldest: Option<PieceId>,
}

#[derive(Debug)]
struct Tenant {
    weight: NonZeroU32,
    start: u64,
    /// Whether it came back with nothing waiting while others wait, and has not been served since.
    behind: bool,
    /// Pieces that have been charged before.
    returned: BTreeMap<PieceId, u64>,
    lanes: HashMap<LaneId, Lane>,
    /// Lanes by their turn.
    turns: BTreeMap<u64, LaneId>,
    next_turn: u64,
    tokens: u64,
    pieces: usize,
}

#[derive(Debug, Default)]
struct Lane {
    pieces: BTreeMap<PieceId, u64>,
    turn: u64,
    /// What went out in this turn.
    spent: u64,
    tokens: u64,
}

// === impl FairQueue ===

impl FairQueue {
    /// The tokens that wait.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The pieces that wait.
    pub(crate) fn len(&self) -> usize {
        self.pieces
    }

    /// What waits, by tenant.
    pub(crate) fn by_tenant(&self) -> impl Iterator<Item = (&TenantId, Backlog)> {
        self.waiting.iter().filter_map(|(_, id)| Some((id, self.tenants.get(id)?.backlog())))
    }

    /// Puts a piece at the end of its lane. Pieces are pushed in the order of their numbers.
    pub(crate) fn push(&mut self, piece: PieceId, share: &Share, tokens: u64) {
        self.change(share, |tenant| tenant.push(share.lane, piece, tokens));
    }

    /// Puts a piece that has been charged before all others of its tenant.
    pub(crate) fn put_back(&mut self, piece: PieceId, share: &Share, tokens: u64) {
        self.change(share, |tenant| tenant.put_back(piece, tokens));
    }

    /// Takes out a piece, wherever it waits.
    pub(crate) fn remove(&mut self, piece: PieceId, share: &Share) {
        if self.tenants.contains_key(&share.tenant) {
            self.change(share, |tenant| tenant.remove(share.lane, piece));
        }
    }

    /// Whether the tenant whose turn it is had nothing waiting when it came, while others had: it was served less than
    /// they will be, and asks for little.
    pub(crate) fn is_behind(&self) -> bool {
        self.waiting.first().and_then(|(_, id)| self.tenants.get(id)).is_some_and(|tenant| tenant.behind)
    }

    /// The piece whose turn it is.
    pub(crate) fn first(&self) -> Option<PieceId> {
        let (_, id) = self.waiting.first()?;
        self.tenants.get(id)?.first()
    }

    /// Takes out the piece whose turn it is; a lane's turn ends when `turn` tokens have gone.
    pub(crate) fn pop(&mut self, turn: u64) -> Option<PieceId> {
        let (start, id) = self.waiting.first()?.clone();
        self.clock = start;
        let tenant = self.tenants.get(&id)?;
        let share = Share { tenant: id, weight: tenant.weight, lane: LaneId(0) };
        let mut popped = None;
        self.change(&share, |tenant| popped = tenant.pop(turn));
        popped
    }

    /// The tokens that go before the last of `tokens` more on this lane, and these, if nobody else comes.
    pub(crate) fn ahead_of(&self, share: &Share, tokens: u64, turn: u64) -> u64 {
        let own = self.tenants.get(&share.tenant).map_or(0, |tenant| tenant.ahead_of(share.lane, tokens, turn));
        let own = own.saturating_add(tokens);
        let weight = u128::from(share.weight.get());
        let others = self.waiting.iter().filter(|(_, id)| *id != share.tenant);
        let before = others.filter_map(|(_, id)| self.tenants.get(id)).map(|other| {
            let meanwhile = u128::from(own) * u128::from(other.weight.get()) / weight;
            other.tokens.min(u64::try_from(meanwhile).unwrap_or(u64::MAX))
        });
        before.fold(own, u64::saturating_add)
    }

    /// Changes what waits of a tenant and puts the tenant where it belongs after that.
    fn change(&mut self, share: &Share, how: impl FnOnce(&mut Tenant)) {
        let id = &share.tenant;
        let tenant = self.tenants.entry(id.clone()).or_insert_with(|| Tenant::new(share.weight));
        let place = (tenant.start, id.clone());
        if !self.waiting.remove(&place) {
            self.ahead.remove(&place);
            tenant.behind = !self.waiting.is_empty();
            tenant.start = tenant.start.max(self.clock);
        }
        let before = (tenant.tokens, tenant.pieces);
        tenant.weight = share.weight;
        how(tenant);
        self.tokens = self.tokens - before.0 + tenant.tokens;
        self.pieces = self.pieces - before.1 + tenant.pieces;
        let places = if tenant.pieces > 0 { &mut self.waiting } else { &mut self.ahead };
        places.insert((tenant.start, id.clone()));
        self.forget();
    }

    /// Forgets tenants that wait for nothing and are not ahead of the clock; all of them if nobody waits.
    fn forget(&mut self) {
        while let Some((start, id)) = self.ahead.first()
            && (*start <= self.clock || self.waiting.is_empty())
        {
            self.tenants.remove(id);
            self.ahead.pop_first();
        }
    }
}

// === impl Tenant ===

impl Tenant {
    fn new(weight: NonZeroU32) -> Self {
        let (returned, lanes, turns) = (BTreeMap::new(), HashMap::new(), BTreeMap::new());
        Self { weight, start: 0, behind: false, returned, lanes, turns, next_turn: 0, tokens: 0, pieces: 0 }
    }

    fn backlog(&self) -> Backlog {
        let fresh = self.lanes.values().filter_map(|lane| lane.pieces.keys().next());
        let oldest = fresh.chain(self.returned.keys().next()).min().copied();
        Backlog { tokens: self.tokens, pieces: self.pieces, oldest }
    }

    fn push(&mut self, id: LaneId, piece: PieceId, tokens: u64) {
        let lane = self.lanes.entry(id).or_default();
        if lane.pieces.is_empty() {
            lane.turn = self.next_turn;
            self.turns.insert(lane.turn, id);
            self.next_turn += 1;
        }
        lane.pieces.insert(piece, tokens);
        lane.tokens += tokens;
        self.tokens += tokens;
        self.pieces += 1;
    }

    fn put_back(&mut self, piece: PieceId, tokens: u64) {
        self.returned.insert(piece, tokens);
        self.tokens += tokens;
        self.pieces += 1;
    }

    fn remove(&mut self, id: LaneId, piece: PieceId) {
        let waiting = match self.returned.remove(&piece) {
            Some(tokens) => Some(tokens),
            None => self.remove_from_lane(id, piece),
        };
        if let Some(tokens) = waiting {
            self.tokens -= tokens;
            self.pieces -= 1;
        }
    }

    fn remove_from_lane(&mut self, id: LaneId, piece: PieceId) -> Option<u64> {
        let lane = self.lanes.get_mut(&id)?;
        let tokens = lane.pieces.remove(&piece)?;
        lane.tokens -= tokens;
        if lane.pieces.is_empty() {
            self.turns.remove(&lane.turn);
            self.lanes.remove(&id);
        }
        Some(tokens)
    }

    fn first(&self) -> Option<PieceId> {
        if let Some((piece, _)) = self.returned.first_key_value() {
            return Some(*piece);
        }
        let (_, id) = self.turns.first_key_value()?;
        self.lanes.get(id)?.pieces.first_key_value().map(|(piece, _)| *piece)
    }

    /// Takes out the next piece and charges for it, unless that has been done.
    fn pop(&mut self, turn: u64) -> Option<PieceId> {
        self.pieces = self.pieces.checked_sub(1)?;
        self.behind = false;
        if let Some((piece, tokens)) = self.returned.pop_first() {
            self.tokens -= tokens;
            return Some(piece);
        }
        let (_, &id) = self.turns.first_key_value()?;
        let lane = self.lanes.get_mut(&id)?;
        let (piece, tokens) = lane.pieces.pop_first()?;
        lane.tokens -= tokens;
        lane.spent += tokens;
        if lane.pieces.is_empty() {
            self.turns.remove(&lane.turn);
            self.lanes.remove(&id);
        } else if lane.spent >= turn {
            self.turns.remove(&lane.turn);
            (lane.turn, lane.spent) = (self.next_turn, 0);
            self.turns.insert(lane.turn, id);
            self.next_turn += 1;
        }
        self.tokens -= tokens;
        let cost = u128::from(tokens) * u128::from(SCALE) / u128::from(self.weight.get());
        self.start = self.start.saturating_add(u64::try_from(cost).unwrap_or(u64::MAX).max(1));
        Some(piece)
    }

    /// The tokens of this tenant that go before the last of `tokens` more on this lane.
    fn ahead_of(&self, id: LaneId, tokens: u64, turn: u64) -> u64 {
        let lane = self.lanes.get(&id).map_or(0, |lane| lane.tokens);
        let turn = turn.max(1);
        let turns = (lane + tokens).div_ceil(turn);
        let others = self.lanes.len() as u64 - u64::from(lane > 0);
        let returned: u64 = self.returned.values().sum();
        let in_between = others.saturating_mul(turns).saturating_mul(turn);
        (lane + returned).saturating_add(in_between).min(self.tokens)
    }
}

#[cfg(test)]
mod tests;
