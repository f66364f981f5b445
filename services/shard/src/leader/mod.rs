//! What the leader of a replica does in one epoch, as a function over values: [`Event`]s go in with the time at which
//! they happen, [`Action`]s come out. It joins the planner, the credits and the watchdog, and remembers which sequence
//! belongs to whom. It reads no clock and opens no connection.
//!
//! A step is planned when nothing is computed, and one more ahead when what waits fills it: a step that is planned early
//! and is not full would only be smaller than it could be.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use model::PackedBatch;
use score::{Partial, Partials, Piece, RankStep, Stamp, Tag, Tail};

use crate::plan::{self, Allowance, Change, Credits, GatewayId, Item, ItemId, Planner, Watchdog};

/// What a leader is set to in an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// How steps are filled.
    pub plan: plan::Settings,
    /// The generation of the weights, and the life of the replica; steps count up from here.
    pub stamp: Stamp,
    /// The number of ranks.
    pub ranks: usize,
    /// Ids of tokens are below this.
    pub vocab: usize,
    /// How long a step may take.
    pub allowance: Allowance,
}

/// A piece that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// What is to be computed.
    pub piece: Piece,
    /// Credits that it takes.
    pub tokens: u64,
    /// When nobody waits for it any more.
    pub deadline: Option<Duration>,
    /// The trace that it belongs to.
    pub trace: Option<Arc<str>>,
}

/// What some consecutive ranks computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The first of the ranks.
    pub first_rank: usize,
    /// The step that they say it was.
    pub stamp: Stamp,
    /// What each rank contributes to each sequence.
    pub ranks: Vec<Partials>,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A gateway is there.
    Attached(GatewayId),
    /// A gateway is gone.
    Detached(GatewayId),
    /// A gateway sends a piece.
    Arrived(GatewayId, Submission),
    /// A gateway takes a piece back.
    Withdrawn(GatewayId, Tag),
    /// Ranks have computed a step.
    Computed(Report),
    /// No more work is to be accepted.
    Drain,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Give this to all ranks.
    Compute(Work),
    /// Tell a gateway what it may send.
    Credit(Change),
    /// Tell a gateway what was computed for it.
    Answer(GatewayId, Answers),
    /// Tell a gateway what will not be computed.
    Reject(GatewayId, Vec<Rejection>),
    /// Tell a gateway that no more work is accepted.
    Draining(GatewayId),
    /// Close the line to a gateway that does not keep to the rules.
    Detach(GatewayId, String),
    /// The epoch is over.
    End(Ending),
}

/// A step for the ranks.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    /// What it is called.
    pub stamp: Stamp,
    /// What it computes.
    pub batch: Arc<PackedBatch>,
    /// The trace that it belongs to.
    pub trace: Option<Arc<str>>,
}

/// What a step computed for one gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// The step that each rank says it was, and what it contributes to each sequence of the step; in rank order.
    pub ranks: Arc<[(RankStep, Partials)]>,
    /// The sequences of the gateway.
    pub computed: Vec<Computed>,
    /// How long the ranks took.
    pub took: Duration,
}

/// A sequence that was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Computed {
    /// Its piece.
    pub tag: Tag,
    /// The number of its conversation in the item.
    pub conversation: u32,
    /// Tokens of the step that no other sequence shares.
    pub tokens: usize,
    /// Its place in the step.
    pub place: usize,
}

/// A sequence that will not be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its piece.
    pub tag: Tag,
    /// The number of its conversation in the item.
    pub conversation: u32,
    /// What is wrong with it; None if it was not looked at, because no more work is accepted.
    pub problem: Option<String>,
}

/// Why an epoch is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    /// All that was accepted is done.
    #[error("drained")]
    Drained,
    /// The ranks made no progress.
    #[error("step {0} is overdue")]
    Overdue(u64),
    /// A rank answered for another number of sequences than the step has.
    #[error("rank {rank} answered for {found} sequences of {expected}")]
    Rows {
        /// The rank.
        rank: usize,
        /// For how many it answered.
        found: usize,
        /// How many there are.
        expected: usize,
    },
    /// Ranks answered another step than the one that was asked of them.
    #[error("rank {rank} answered step {found}, expected {expected:?}")]
    OutOfStep {
        /// The first of the ranks.
        rank: usize,
        /// What they answered.
        found: u64,
        /// What is computed.
        expected: Option<u64>,
    },
}

/// What a leader has done in this epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Steps that were computed.
    pub steps: u64,
    /// Tokens that they computed.
    pub computed_tokens: u64,
    /// Tokens that these would have been without shared prefixes.
    pub input_tokens: u64,
    /// Sequences that wait.
    pub waiting: usize,
    /// Tokens computed a second, while there was something to compute.
    pub rate: Option<f64>,
}

/// Leads a replica through one epoch.
#[derive(Debug)]
pub struct Leader {
    settings: Settings,
    planner: Planner,
    credits: Credits,
    watchdog: Watchdog,
    gateways: BTreeMap<GatewayId, Attached>,
    /// What is computed, the oldest first.
    flying: VecDeque<Flying>,
    draining: bool,
    /// When the next round of credits ends if nothing is computed.
    round_ends: Duration,
    /// When something came while nothing waited, and when something came last.
    waits_since: Duration,
    came: Duration,
    next_number: u64,
    stats: Stats,
}

/// A gateway that is there.
#[derive(Debug, Default)]
struct Attached {
    /// Where each sequence that waits or is computed belongs, by its number.
    origins: HashMap<u64, Origin>,
    /// The numbers of a piece's sequences.
    pieces: HashMap<Tag, Vec<u64>>,
}

#[derive(Debug)]
struct Origin {
    tag: Tag,
    conversation: u32,
    trace: Option<Arc<str>>,
}

/// A step that the ranks have.
#[derive(Debug)]
struct Flying {
    stamp: Stamp,
    items: Vec<ItemId>,
    batch: Arc<PackedBatch>,
    /// What each rank has answered.
    ranks: Vec<Option<(RankStep, Partials)>>,
}

/// A step waits at most so many times as long as for one more sequence.
const LONGEST_LINGER: u32 = 10;
/// How often credits that nobody uses are taken back while nothing is computed.
const IDLE_ROUND: Duration = Duration::from_millis(200);
/// Steps that the ranks have at most.
const AHEAD: usize = 2;
/// A gateway that sends so many steps more than it may does not keep count.
const OVERDRAFT: i64 = 8;

// === impl Answers ===

impl Answers {
    /// What each rank contributes to a sequence, in rank order.
    pub fn contributions(&self, computed: &Computed) -> impl Iterator<Item = (RankStep, Partial<'_>)> {
        let place = computed.place;
        self.ranks.iter().filter_map(move |(step, partials)| Some((*step, partials.get(place)?)))
    }
}

// === impl Leader ===

impl Leader {
    /// Nobody is there, and nothing waits. `probe` is a number of tokens and how long the ranks took for them.
    pub fn new(settings: Settings, probe: Option<(usize, Duration)>) -> Self {
        let Stamp { generation, epoch, .. } = settings.stamp;
        let mut watchdog = Watchdog::new(settings.allowance);
        if let Some((tokens, took)) = probe {
            watchdog.started(Duration::ZERO, 0, tokens);
            watchdog.finished(took, 0);
        }
        Self {
            settings,
            planner: Planner::new(settings.plan, generation, epoch),
            credits: Credits::new(settings.plan.budget as u64),
            watchdog,
            gateways: BTreeMap::new(),
            flying: VecDeque::new(),
            draining: false,
            round_ends: Duration::ZERO,
            waits_since: Duration::ZERO,
            came: Duration::ZERO,
            next_number: 0,
            stats: Stats::default(),
        }
    }

    /// Takes in what happens at `now`, which never goes back. What follows is said by [`advance`](Self::advance), so
    /// that all that has happened by then counts.
    pub fn handle(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Attached(gateway) => {
                self.gateways.insert(gateway, Attached::default());
                self.credits.connect(gateway);
                if self.draining {
                    actions.push(Action::Draining(gateway));
                }
            }
            Event::Detached(gateway) => self.detach(gateway),
            Event::Arrived(gateway, submission) => self.take_in(now, gateway, submission, actions),
            Event::Withdrawn(gateway, tag) => self.withdraw(gateway, tag),
            Event::Computed(report) => self.computed(now, report, actions),
            Event::Drain => {
                if !self.draining {
                    actions.extend(self.gateways.keys().map(|gateway| Action::Draining(*gateway)));
                }
                self.draining = true;
            }
        }
    }

    /// Plans what can be planned, grants what there is room for, and notices what is overdue.
    pub fn advance(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let mut round_ended = false;
        while self.wants_step(now) {
            let plan = self.planner.next_step(now);
            for item in &plan.expired {
                self.forget(item.id);
            }
            let Some(step) = plan.step else { break };
            round_ended = true;
            actions.push(Action::Compute(self.start(now, step)));
        }
        if round_ended || now >= self.round_ends {
            self.round_ends = now + IDLE_ROUND;
            let changes = self.credits.end_round(|gateway| self.planner.tokens(gateway));
            actions.extend(changes.into_iter().map(Action::Credit));
        } else {
            let changes = self.credits.grant(|gateway| self.planner.tokens(gateway));
            actions.extend(changes.into_iter().map(Action::Credit));
        }
        if let Some(step) = self.watchdog.overdue(now) {
            actions.push(Action::End(Ending::Overdue(step)));
        } else if self.draining && self.flying.is_empty() && self.planner.is_empty() {
            actions.push(Action::End(Ending::Drained));
        }
    }

    /// When to call [`advance`](Self::advance) if nothing happens before.
    pub fn wakes_at(&self) -> Duration {
        let lingers = self.flying.is_empty() && !self.planner.is_empty();
        let lingers_until = lingers.then(|| self.lingers_until());
        self.watchdog.overdue_at().into_iter().chain(lingers_until).fold(self.round_ends, Duration::min)
    }

    /// What it has done.
    pub fn stats(&self) -> Stats {
        Stats { waiting: self.planner.len(), rate: self.watchdog.rate(), ..self.stats }
    }

    fn wants_step(&self, now: Duration) -> bool {
        let budget = self.settings.plan.budget as u64;
        match self.flying.len() {
            0 if self.planner.is_empty() => false,
            // gateways would not send more
            0 => self.draining || now >= self.lingers_until() || self.waiting() + self.credits.reach() > budget,
            flying => flying < AHEAD && self.waiting() >= budget,
        }
    }

    /// The tokens that one step with all that waits would compute, at most.
    fn waiting(&self) -> u64 {
        self.gateways.keys().map(|gateway| self.planner.tokens(*gateway)).sum()
    }

    /// Until when a step that is not full waits for more: where a little comes again and again, not for ever.
    fn lingers_until(&self) -> Duration {
        let linger = self.settings.plan.linger;
        (self.came + linger).min(self.waits_since + linger * LONGEST_LINGER)
    }

    fn detach(&mut self, gateway: GatewayId) {
        self.gateways.remove(&gateway);
        self.credits.disconnect(gateway);
        self.planner.disconnect(gateway);
    }

    fn take_in(&mut self, now: Duration, gateway: GatewayId, submission: Submission, actions: &mut Vec<Action>) {
        let Some(attached) = self.gateways.get_mut(&gateway) else { return };
        let Submission { piece: Piece { tag, prefix, tails, urgent }, tokens, deadline, trace } = submission;
        self.credits.spent(gateway, tokens);
        let lowest = -OVERDRAFT.saturating_mul(self.settings.plan.budget as i64);
        let problem = if attached.pieces.contains_key(&tag) {
            Some(format!("piece {} was sent twice with attempt {}", tag.piece.0, tag.attempt))
        } else if self.credits.balance(gateway).is_some_and(|balance| balance < lowest) {
            Some("more was sent than was granted".to_owned())
        } else {
            None
        };
        if let Some(problem) = problem {
            self.detach(gateway);
            actions.push(Action::Detach(gateway, problem));
            return;
        }
        if self.planner.is_empty() {
            self.waits_since = now;
        }
        self.came = now;
        let mut rejections = Vec::new();
        for Tail { conversation, ids } in tails {
            self.next_number += 1;
            let tokens: Arc<[u32]> = prefix.iter().chain(&*ids).copied().collect();
            let id = ItemId { gateway, number: self.next_number };
            let problem = match tokens.iter().find(|id| **id as usize >= self.settings.vocab) {
                _ if self.draining => Some(None),
                Some(id) => Some(Some(format!("token id {id} is outside the vocabulary of {}", self.settings.vocab))),
                None => {
                    let refused = self.planner.push(Item { id, tokens, arrived: now, deadline, urgent }).err();
                    refused.map(|refusal| Some(refusal.to_string()))
                }
            };
            match problem {
                Some(problem) => rejections.push(Rejection { tag, conversation, problem }),
                None => {
                    attached.origins.insert(id.number, Origin { tag, conversation, trace: trace.clone() });
                    attached.pieces.entry(tag).or_default().push(id.number);
                }
            }
        }
        if !rejections.is_empty() {
            actions.push(Action::Reject(gateway, rejections));
        }
    }

    fn withdraw(&mut self, gateway: GatewayId, tag: Tag) {
        let numbers = self.gateways.get(&gateway).and_then(|attached| attached.pieces.get(&tag));
        for number in numbers.cloned().unwrap_or_default() {
            let id = ItemId { gateway, number };
            // what is computed already is answered, and its gateway no longer cares
            if self.planner.cancel(id).is_some() {
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: ItemId) -> Option<Origin> {
        let attached = self.gateways.get_mut(&id.gateway)?;
        let origin = attached.origins.remove(&id.number)?;
        if let Some(numbers) = attached.pieces.get_mut(&origin.tag) {
            numbers.retain(|number| *number != id.number);
            if numbers.is_empty() {
                attached.pieces.remove(&origin.tag);
            }
        }
        Some(origin)
    }

    fn start(&mut self, now: Duration, step: plan::Step) -> Work {
        let plan::Step { stamp, batch, items } = step;
        let batch = Arc::new(batch);
        self.watchdog.started(now, stamp.step, batch.tokens.len());
        self.stats.input_tokens += items.iter().map(|item| item.tokens.len() as u64).sum::<u64>();
        let items: Vec<ItemId> = items.into_iter().map(|item| item.id).collect();
        let trace_of = |id: &ItemId| self.gateways.get(&id.gateway)?.origins.get(&id.number)?.trace.clone();
        let trace = items.iter().find_map(trace_of);
        let ranks = vec![None; self.settings.ranks];
        self.flying.push_back(Flying { stamp, items, batch: Arc::clone(&batch), ranks });
        Work { stamp, batch, trace }
    }

    fn computed(&mut self, now: Duration, report: Report, actions: &mut Vec<Action>) {
        let Report { first_rank, stamp, ranks } = report;
        let empty = |flying: &&mut Flying| flying.ranks.get(first_rank).is_some_and(Option::is_none);
        // ranks answer in order: this is about the oldest step of which they have not spoken
        let expected = self.flying.iter_mut().find(empty);
        let found = stamp.step;
        let flying = match expected {
            Some(flying) if flying.stamp.step == found && first_rank + ranks.len() <= flying.ranks.len() => flying,
            other => {
                let expected = other.map(|flying| flying.stamp.step);
                actions.push(Action::End(Ending::OutOfStep { rank: first_rank, found, expected }));
                return;
            }
        };
        let expected = flying.items.len();
        for (rank, partials) in (first_rank..).zip(ranks) {
            if partials.len() != expected {
                actions.push(Action::End(Ending::Rows { rank, found: partials.len(), expected }));
                return;
            }
            flying.ranks[rank] = Some((RankStep { rank, stamp }, partials));
        }
        while let Some(flying) = self.flying.pop_front_if(|flying| flying.ranks.iter().all(Option::is_some)) {
            self.finish(now, flying, actions);
        }
    }

    /// Answers the gateways of a step that all ranks have computed.
    fn finish(&mut self, now: Duration, flying: Flying, actions: &mut Vec<Action>) {
        let took = self.watchdog.finished(now, flying.stamp.step).unwrap_or_default();
        self.stats.steps += 1;
        self.stats.computed_tokens += flying.batch.tokens.len() as u64;
        let ranks: Arc<[(RankStep, Partials)]> = flying.ranks.into_iter().flatten().collect();
        let mut answers: BTreeMap<GatewayId, Answers> = BTreeMap::new();
        for ((place, id), tokens) in flying.items.into_iter().enumerate().zip(flying.batch.unshared()) {
            // its gateway is gone
            let Some(Origin { tag, conversation, .. }) = self.forget(id) else { continue };
            let answers = answers.entry(id.gateway);
            let answers = answers.or_insert_with(|| Answers { ranks: Arc::clone(&ranks), computed: Vec::new(), took });
            answers.computed.push(Computed { tag, conversation, tokens, place });
        }
        actions.extend(answers.into_iter().map(|(gateway, answers)| Action::Answer(gateway, answers)));
    }
}

#[cfg(test)]
mod tests;
