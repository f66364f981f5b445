//! The gateway of one model: events in, actions out.
//!
//! Models share nothing but the registry, and a replica belongs to one of them; so each has a gateway of its own, and a
//! flood for one does not hold up the others.

use std::time::Duration;

use score::{Disagreement, Expected, PieceId, add_up};

use crate::core::admission::{Admission, DrainRate, Size};
use crate::core::ledger::{Freed, Ledger, Piece};
use crate::core::membership::Membership;
use crate::core::queue::FairQueue;
use crate::core::replica::Announcement;
use crate::core::request::Cut;
use crate::core::routing::Fleet;
use crate::core::{
    Action, Answer, Event, Failure, Limits, NoLink, Refusal, ReplicaId, ReplicaView, Reply, Request, RequestId,
    Routing, Score, TenantId, Terms, Time,
};

/// What a gateway is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How much it holds at most.
    pub limits: Limits,
    /// How it chooses replicas.
    pub routing: Routing,
    /// The tokens of a step, as long as no replica has said what its are.
    pub step_tokens: u64,
}

/// Follows replicas, admits requests, queues them, sends them to replicas and answers them.
#[derive(Debug)]
pub struct Gateway {
    settings: Settings,
    membership: Membership,
    admission: Admission,
    queue: FairQueue,
    ledger: Ledger,
    fleet: Fleet,
    rate: DrainRate,
    discarded: u64,
    retried: u64,
}

/// How a gateway is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Requests that are not answered.
    pub requests: usize,
    /// Conversations that are not answered.
    pub conversations: u64,
    /// Tokens that are held for them.
    pub tokens: u64,
    /// Of these, tokens that wait for credits.
    pub waiting_tokens: u64,
    /// Pieces that wait for credits.
    pub waiting_pieces: usize,
    /// Tokens that replicas have and have not answered.
    pub sent_tokens: u64,
    /// Credits of all replicas that are not used.
    pub credits: i64,
    /// Tokens computed a second, while there was something to compute.
    pub tokens_per_second: Option<f64>,
    /// Answers that nobody waited for, since the start.
    pub discarded: u64,
    /// Pieces that were sent again, since the start.
    pub retried: u64,
}

/// What is larger than one part of so many of a step is not urgent.
const URGENT: u64 = 8;

/// What waits for credits, of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting<'a> {
    /// Whose.
    pub tenant: &'a TenantId,
    /// Tokens.
    pub tokens: u64,
    /// Pieces.
    pub pieces: usize,
    /// How long ago the oldest of them came in.
    pub oldest: Duration,
}

// === impl Gateway ===

impl Gateway {
    /// A gateway with nothing in it.
    pub fn new(settings: Settings, terms: Terms) -> Self {
        Self {
            settings,
            membership: Membership::new(terms),
            admission: Admission::new(settings.limits),
            queue: FairQueue::default(),
            ledger: Ledger::default(),
            fleet: Fleet::new(settings.routing),
            rate: DrainRate::default(),
            discarded: 0,
            retried: 0,
        }
    }

    /// Takes in what happens at `now`, which never goes back, and says what to do, in this order.
    #[must_use]
    pub fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.rate.advance(now, self.fleet.tokens() > 0);
        self.expire(now, &mut actions);
        match event {
            Event::Admit(request) => self.admit(now, &request, &mut actions),
            Event::Cancel(request) => drop(self.drop_request(now, request, &mut actions)),
            Event::Registry(news) => {
                for replica in self.membership.hear(now, news, &mut actions) {
                    self.leave(now, replica, &mut actions);
                }
            }
            Event::Welcomed { link, welcome } => {
                let lost = self.membership.at(link);
                match self.membership.welcomed(now, link, welcome, &mut actions) {
                    Some(announced) => self.fleet.join(now, announced),
                    None => lost.into_iter().for_each(|replica| self.leave(now, replica, &mut actions)),
                }
            }
            Event::Draining(link) => self.membership.drain(link).into_iter().for_each(|it| self.fleet.drain(it)),
            Event::Ended { link, why } => {
                if let Some(replica) = self.membership.ended(now, link, why, &mut actions) {
                    self.leave(now, replica, &mut actions);
                }
            }
            Event::Granted { link, tokens } => {
                self.membership.at(link).into_iter().for_each(|replica| self.fleet.grant(now, replica, tokens));
            }
            Event::Answered { link, answers } => match self.membership.at(link) {
                Some(from) => self.answered(now, from, answers, &mut actions),
                None => self.discarded += answers.len() as u64,
            },
            Event::Tick => {}
        }
        if let Some(serving) = self.membership.elect() {
            self.fleet.serve(serving.version.clone());
            actions.push(Action::Serving(serving.clone()));
        }
        self.send(now, &mut actions);
        actions
    }

    /// When to call with a [`Event::Tick`] if nothing happens before.
    pub fn wakes_at(&self) -> Option<Time> {
        let (deadline, dial) = (self.ledger.next_deadline(), self.membership.wakes_at());
        deadline.into_iter().chain(dial).chain(self.fleet.wakes_at()).min()
    }

    /// The replicas that are there, whatever model they are of.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaView> {
        self.membership.replicas()
    }

    /// How it is doing.
    pub fn stats(&self) -> Stats {
        let Size { tokens, conversations } = self.admission.held();
        Stats {
            requests: self.ledger.requests(),
            conversations,
            tokens,
            waiting_tokens: self.queue.tokens(),
            waiting_pieces: self.queue.len(),
            sent_tokens: self.fleet.tokens(),
            credits: self.fleet.balance(),
            tokens_per_second: self.rate.per_second(),
            discarded: self.discarded,
            retried: self.retried,
        }
    }

    /// What waits for credits, by tenant.
    pub fn waiting(&self, now: Time) -> impl Iterator<Item = Waiting<'_>> {
        let age = move |piece| self.ledger.admitted(piece).map_or(Duration::ZERO, |admitted| now.since(admitted));
        self.queue.by_tenant().map(move |(tenant, backlog)| Waiting {
            tenant,
            tokens: backlog.tokens,
            pieces: backlog.pieces,
            oldest: backlog.oldest.map_or(Duration::ZERO, age),
        })
    }

    fn step_tokens(&self) -> u64 {
        self.fleet.step_tokens().unwrap_or(self.settings.step_tokens)
    }

    // --- requests ---

    fn admit(&mut self, now: Time, request: &Request, actions: &mut Vec<Action>) {
        match self.check(now, request) {
            Ok((cuts, size)) => {
                self.admission.hold(&request.tenant, size);
                let share = request.share();
                for (piece, tokens) in self.ledger.open(now, request, cuts) {
                    self.queue.push(piece, &share, tokens);
                }
            }
            Err(refusal) => actions.push(Action::Refuse { request: request.id, refusal }),
        }
    }

    fn check(&self, now: Time, request: &Request) -> Result<(Vec<Cut>, Size), Refusal> {
        if self.ledger.knows(request.id) {
            return Err(Refusal::Duplicate);
        }
        request.check(self.admission.limits().longest)?;
        let cuts = request.cut(self.step_tokens());
        let tokens = cuts.iter().map(|cut| cut.tokens).sum();
        let size = Size { tokens, conversations: request.conversations() };
        self.admission.check(&request.tenant, size, &self.rate)?;
        self.check_deadline(now, request, tokens)?;
        Ok((cuts, size))
    }

    /// Refuses a request that will not be answered in time, as far as can be told. With nothing before it, it may try.
    fn check_deadline(&self, now: Time, request: &Request, tokens: u64) -> Result<(), Refusal> {
        let left = request.deadline.since(now);
        if left.is_zero() {
            return Err(Refusal::Deadline { left, wait: Duration::ZERO, retry_after: None });
        }
        let sent = self.fleet.tokens();
        let all = sent + self.queue.tokens();
        let known = |tokens: u64| if self.rate.is_settled() { self.rate.time_for(tokens as f64) } else { None };
        let late = |tokens: u64| known(tokens).filter(|&wait| wait > left);
        if all == 0 || late(all + tokens).is_none() {
            return Ok(());
        }
        let before = sent.saturating_add(self.queue.ahead_of(&request.share(), tokens, self.step_tokens() / 2));
        match late(before) {
            None => Ok(()),
            Some(wait) => {
                let possible = late(tokens).is_none();
                Err(Refusal::Deadline { left, wait, retry_after: possible.then(|| wait.saturating_sub(left)) })
            }
        }
    }

    fn expire(&mut self, now: Time, actions: &mut Vec<Action>) {
        while let Some(request) = self.ledger.expired(now) {
            let answers = self.drop_request(now, request, actions);
            actions.extend(answers);
        }
        for replica in self.fleet.stalled(now) {
            self.membership.hang_up(now, replica, NoLink::Stalled, actions);
            self.leave(now, replica, actions);
        }
        self.membership.redial(now, actions);
    }

    /// Takes a request out of everything, and says what it would have to hear.
    fn drop_request(&mut self, now: Time, request: RequestId, actions: &mut Vec<Action>) -> Vec<Action> {
        let mut answers = Vec::new();
        for piece in self.ledger.pieces_of(request) {
            let Some(freed) = self.remove(now, piece, &Failure::DeadlineExceeded) else { continue };
            match freed.sent {
                None => self.queue.remove(piece, &freed.share),
                Some((replica, _)) => {
                    let link = self.membership.link(replica);
                    actions.extend(link.map(|link| Action::Withdraw { link, tag: freed.tag }));
                }
            }
            answers.extend(freed.outcomes.into_iter().map(Action::Answer));
        }
        answers
    }

    /// Takes a piece out of the books.
    fn remove(&mut self, now: Time, piece: PieceId, failure: &Failure) -> Option<Freed> {
        let freed = self.ledger.remove(now, piece, failure)?;
        self.admission.release(&freed.share.tenant, freed.size);
        if let Some((replica, tokens)) = freed.sent {
            self.fleet.closed(replica, tokens);
        }
        Some(freed)
    }

    // --- replicas ---

    /// A replica is gone, and what it had is wanted elsewhere.
    fn leave(&mut self, now: Time, replica: ReplicaId, actions: &mut Vec<Action>) {
        let pieces = self.ledger.sent_to(replica);
        if !pieces.is_empty() {
            self.fleet.failed(now, replica);
        }
        for piece in pieces {
            self.settle(now, piece, true, actions);
        }
        self.fleet.leave(replica);
    }

    fn answered(&mut self, now: Time, from: ReplicaId, answers: Vec<Answer>, actions: &mut Vec<Action>) {
        let Some(from) = self.fleet.announced(from).cloned() else { return };
        let (mut scored, mut failed) = (false, false);
        for Answer { tag, conversation, reply } in answers {
            if !self.ledger.expects(from.replica, tag, conversation) {
                self.discarded += 1;
                continue;
            }
            match judge(&from, reply) {
                Ok(score) => {
                    scored = true;
                    // what this replica can compute was the fault of the one that could not
                    let before = self.ledger.not_finite_at(tag.piece, conversation);
                    if let Some(before) = before.filter(|before| *before != from.replica) {
                        self.fleet.failed(now, before);
                    }
                    self.answer(now, (tag.piece, conversation), Ok(score), actions);
                }
                Err(failure) => {
                    failed |= self.is_to_blame(from.replica, &failure);
                    let not_finite = failure == Failure::Disagreement(Disagreement::NotFinite);
                    // the same weights make the same bits: a second opinion is enough
                    let attempts = self.settings.routing.attempts.min(if not_finite { 2 } else { u32::MAX });
                    if tag.attempt < attempts {
                        self.ledger.failed(tag.piece, conversation, not_finite);
                    } else {
                        self.answer(now, (tag.piece, conversation), Err(failure), actions);
                    }
                }
            }
            self.settle(now, tag.piece, false, actions);
        }
        match (failed, scored) {
            (true, _) => self.fleet.failed(now, from.replica),
            (false, true) => self.fleet.succeeded(from.replica),
            (false, false) => {}
        }
        self.fleet.made_progress(now, from.replica);
    }

    /// Whether a failure speaks against the replica.
    fn is_to_blame(&mut self, replica: ReplicaId, failure: &Failure) -> bool {
        match failure {
            Failure::Unavailable => {
                self.fleet.drain(replica);
                false
            }
            // all ranks agree: more likely the weights
            Failure::Disagreement(Disagreement::NotFinite) => false,
            _ => true,
        }
    }

    fn answer(
        &mut self,
        now: Time,
        conversation: (PieceId, usize),
        result: Result<Score, Failure>,
        actions: &mut Vec<Action>,
    ) {
        let computed = result.is_ok();
        let Some(freed) = self.ledger.answer(now, conversation, result) else { return };
        self.admission.release(&freed.share.tenant, freed.size);
        if computed {
            self.rate.record(freed.size.tokens);
        }
        actions.extend(freed.outcomes.into_iter().map(Action::Answer));
    }

    /// Decides what becomes of a piece of which a replica has nothing more to say: done, again, or given up.
    fn settle(&mut self, now: Time, id: PieceId, gone: bool, actions: &mut Vec<Action>) {
        let Some((replica, tokens)) = self.ledger.take_back(id, gone) else { return };
        self.fleet.closed(replica, tokens);
        let (Some(piece), Some(share)) = (self.ledger.piece(id), self.ledger.share(id)) else { return };
        let rest = piece.size();
        if rest.conversations == 0 {
            self.rate.record(rest.tokens);
        } else if piece.attempts() < self.settings.routing.attempts {
            self.retried += 1;
            self.queue.put_back(id, share, rest.tokens);
            return;
        }
        // what the replica spoke about and may not be sent again has been answered
        if let Some(freed) = self.remove(now, id, &Failure::Unavailable) {
            actions.extend(freed.outcomes.into_iter().map(Action::Answer));
        }
    }

    /// Sends what has its turn, as long as somebody has room for it.
    fn send(&mut self, now: Time, actions: &mut Vec<Action>) {
        // half a step, so that a piece of a huge request is a turn
        let turn = self.step_tokens() / 2;
        while let Some(id) = self.queue.first() {
            let Some(mut wanted) = self.ledger.piece(id).map(Piece::wanted) else { return };
            wanted.urgent = self.queue.is_behind() && wanted.tokens <= self.step_tokens() / URGENT;
            let Some(replica) = self.fleet.choose(wanted) else { return };
            let Some(link) = self.membership.link(replica) else { return };
            let Some(dispatch) = self.ledger.send(now, id, (replica, wanted.urgent)) else { return };
            self.queue.pop(turn);
            self.fleet.sent(now, replica, wanted);
            actions.push(Action::Send { link, dispatch });
        }
    }
}

/// The score that a replica's reply makes, or why it makes none.
fn judge(from: &Announcement, reply: Reply) -> Result<Score, Failure> {
    let (steps, partials, tokens) = match reply {
        Reply::Computed { ranks, partials, tokens } => (ranks, partials, tokens),
        Reply::Failed(problem) => return Err(Failure::Replica(problem)),
        Reply::Declined => return Err(Failure::Unavailable),
    };
    let Announcement { replica, epoch, ref version, ranks, outputs, .. } = *from;
    let expected = Expected { ranks, outputs, generation: version.generation, epoch };
    let (outputs, stamp) = add_up(expected, steps.iter().copied().zip(partials.iter()))?;
    Ok(Score { outputs, stamp, fingerprint: version.fingerprint.clone(), tokens, replica })
}

#[cfg(test)]
mod tests;
