//! Clients: what they ask, the books that they keep, and everything that must be true of an answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use gateway::core::{
    Dispatch, Event, Failure, Item, LaneId, Outcome, Refusal, ReplicaId, Request, RequestId, TenantId,
};
use score::{Disagreement, Tail};

use super::score::{POISON, VOCAB, fingerprint, score};
use super::world::{LATE, Message, Micros, Random, World, at};

/// What a client wants, through whatever gateway.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) tenant: &'static str,
    pub(super) weight: u32,
    pub(super) lane: u64,
    pub(super) since: Micros,
    pub(super) deadline: Micros,
    /// One conversation, or several that begin with the same prompt.
    pub(super) conversations: Vec<Arc<[u32]>>,
}

/// A request that a gateway has taken.
struct Asked {
    ask: Ask,
    gateway: usize,
    answered: BTreeSet<usize>,
    /// Where each conversation was sent last.
    places: HashMap<usize, (ReplicaId, u64)>,
}

#[derive(Default)]
pub(super) struct Books {
    next: u64,
    open: HashMap<RequestId, Asked>,
    /// Whether a rank has ever said something wrong.
    pub(super) wronged: bool,
    /// Asks that look for a gateway.
    pub(super) looking: usize,
    pub(super) scores: u64,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) refusals: u64,
    /// How often something rare was seen.
    pub(super) seen: BTreeMap<&'static str, u64>,
    /// Tokens that were sent, by tenant; and how long each conversation with a score took.
    pub(super) sent: BTreeMap<&'static str, u64>,
    pub(super) waits: BTreeMap<&'static str, Vec<Micros>>,
}

/// So many tokens that share nothing with others.
pub(super) fn words(random: &mut Random, tokens: u64) -> Vec<u32> {
    (0..tokens).map(|_| 1000 + random.below(u64::from(VOCAB) - 1000) as u32).collect()
}

/// So many conversations of one prompt.
pub(super) fn group(random: &mut Random, responses: u64, prompt: u64, longest: u64) -> Vec<Arc<[u32]>> {
    let prompt = words(random, prompt);
    let response = |_| {
        let tokens = random.between(1, longest);
        [&prompt[..], &words(random, tokens)].concat().into()
    };
    (0..responses).map(response).collect()
}

// === impl Books ===

impl Books {
    /// Nobody waits for anything.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty() && self.looking == 0
    }

    pub(super) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub(super) fn conversations(&self) -> u64 {
        self.scores + self.failures.values().sum::<u64>()
    }
}

// === impl World ===

impl World {
    pub(super) fn ask(&mut self, (tenant, weight): (&'static str, u32), patience: Micros, what: Vec<Arc<[u32]>>) {
        let lane = self.random.below(3);
        let (since, deadline) = (self.now, self.now + patience);
        self.books.looking += 1;
        self.submit(Ask { tenant, weight, lane, since, deadline, conversations: what });
    }

    /// Goes to a gateway that is alive, as soon as there is one.
    pub(super) fn submit(&mut self, ask: Ask) {
        let first = self.random.below(self.gateways.len() as u64) as usize;
        let numbers = (0..self.gateways.len()).map(|number| (first + number) % self.gateways.len());
        let alive = numbers.into_iter().find(|number| self.gateways[*number].core.is_some());
        match alive {
            _ if self.now >= ask.deadline => {
                assert!(self.troubled);
                self.books.looking -= 1;
                *self.books.failures.entry("given up".to_owned()).or_default() += ask.conversations.len() as u64;
            }
            None => self.post(10_000, Message::Ask(ask)),
            Some(gateway) => {
                self.books.looking -= 1;
                self.admit(gateway, ask);
            }
        }
    }

    pub(super) fn admit(&mut self, gateway: usize, ask: Ask) {
        let id = RequestId(self.books.next);
        self.books.next += 1;
        let request = Request {
            id,
            tenant: TenantId::new(ask.tenant),
            weight: ask.weight.try_into().unwrap(),
            lane: LaneId(ask.lane),
            deadline: at(ask.deadline),
            items: vec![Item::new(&ask.conversations, ask.conversations[0].len() / 2)],
        };
        self.gateways[gateway].unanswered += ask.conversations.len() as u64;
        let (answered, places) = (BTreeSet::new(), HashMap::new());
        self.books.open.insert(id, Asked { ask, gateway, answered, places });
        self.tell(gateway, Event::Admit(request));
    }

    /// Cancels something that is not answered, and still may be.
    pub(super) fn cancel(&mut self) {
        let skip = self.random.below(20);
        let in_time = |id: &RequestId| self.books.open.get(id).is_some_and(|asked| asked.ask.deadline > self.now);
        let newest = (0..self.books.next).rev().map(RequestId).filter(in_time);
        let Some(id) = newest.take(skip as usize + 1).last() else { return };
        let gateway = self.close(id);
        self.tell(gateway, Event::Cancel(id));
    }

    /// What a dead gateway had is asked of another.
    pub(super) fn ask_elsewhere(&mut self, gateway: usize) {
        let of_it = |(id, asked): (&RequestId, &Asked)| (asked.gateway == gateway).then_some(*id);
        let lost: BTreeSet<RequestId> = self.books.open.iter().filter_map(of_it).collect();
        for id in lost {
            let ask = self.books.open.remove(&id).unwrap().ask;
            self.books.saw("asked elsewhere");
            self.books.looking += 1;
            let after = self.random.below(20_000);
            self.post(after, Message::Ask(ask));
        }
        self.gateways[gateway].unanswered = 0;
    }

    fn close(&mut self, id: RequestId) -> usize {
        let Asked { ask, gateway, answered, .. } = self.books.open.remove(&id).unwrap();
        let rest = (ask.conversations.len() - answered.len()) as u64;
        self.gateways[gateway].unanswered -= rest;
        gateway
    }

    pub(super) fn refused(&mut self, id: RequestId, refusal: Refusal) {
        let asked = &self.books.open[&id];
        assert!(asked.answered.is_empty() && asked.places.is_empty(), "refused after it came in");
        assert!(matches!(refusal, Refusal::Full { .. } | Refusal::Deadline { .. }), "{refusal}");
        self.close(id);
        self.books.refusals += 1;
    }

    pub(super) fn note_sent(&mut self, dispatch: &Dispatch, place: (ReplicaId, u64)) {
        let asked = self.books.open.get_mut(&dispatch.request).expect("what is sent was asked for");
        for Tail { conversation, ids } in &dispatch.piece.tails {
            let number = *conversation as usize;
            let tokens = dispatch.piece.prefix.iter().chain(ids.iter());
            assert!(tokens.eq(asked.ask.conversations[number].iter()));
            assert!(!asked.answered.contains(&number), "sent after it was answered");
            asked.places.insert(number, place);
        }
        *self.books.sent.entry(asked.ask.tenant).or_default() += dispatch.tokens;
    }

    pub(super) fn answered(&mut self, gateway: usize, outcome: Outcome) {
        let Outcome { request, conversation, result, .. } = outcome;
        let asked = self.books.open.get_mut(&request).expect("answered after its end");
        assert_eq!(asked.gateway, gateway);
        assert!(asked.answered.insert(conversation), "answered twice");
        self.gateways[gateway].unanswered -= 1;
        let Ask { tenant, since, deadline, .. } = asked.ask;
        let tokens = &asked.ask.conversations[conversation];
        let poisoned = tokens.contains(&POISON);
        match &result {
            Ok(it) => {
                let expected = score(tokens, it.stamp.generation, self.shape.ranks);
                assert_eq!(it.outputs.score.to_bits(), expected.to_bits(), "a wrong score");
                assert_eq!(it.fingerprint, fingerprint(it.stamp.generation));
                assert_eq!(asked.places[&conversation], (it.replica, it.stamp.epoch), "of another life");
                assert!(self.now < deadline, "a score after the deadline");
                self.books.scores += 1;
                self.books.waits.entry(tenant).or_default().push(self.now - since);
            }
            Err(failure) => {
                let allowed = match failure {
                    Failure::DeadlineExceeded => {
                        (deadline..=deadline + LATE).contains(&self.now) && deadline < self.recovered_at
                    }
                    Failure::Unavailable => self.troubled,
                    Failure::Disagreement(Disagreement::NotFinite) => poisoned || self.books.wronged,
                    Failure::Disagreement(_) => self.books.wronged,
                    Failure::Replica(_) => false,
                };
                assert!(allowed, "{failure} at {} with a deadline at {deadline}", self.now);
                *self.books.failures.entry(failure.to_string()).or_default() += 1;
            }
        }
        if asked.answered.len() == asked.ask.conversations.len() {
            self.books.open.remove(&request);
        }
    }
}
