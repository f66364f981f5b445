//! Clients: what they ask, the books that they keep, and everything that must be true of an answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use gateway::core::{Answer, Dispatch, Event, Failure, Item, LaneId, Outcome, Refusal, Request, RequestId, TenantId};
use score::{Disagreement, PieceId, Tag, Tail};

use super::score::{POISON, VOCAB, fingerprint, score};
use super::world::{LATE, Message, Micros, Random, SECOND, World, at};

/// What a client wants, through whatever gateway.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) tenant: &'static str,
    pub(super) weight: u32,
    pub(super) lane: u64,
    pub(super) since: Micros,
    pub(super) deadline: Micros,
    /// In each item one conversation, or several that begin with the same prompt.
    pub(super) items: Vec<Conversations>,
}

pub(super) type Conversations = Vec<Arc<[u32]>>;

/// A request that a gateway has taken.
struct Asked {
    ask: Ask,
    gateway: usize,
    answered: BTreeSet<(usize, usize)>,
    /// Where each conversation was sent last.
    places: HashMap<(usize, usize), Place>,
    pieces: Vec<PieceId>,
}

/// A conversation at a replica.
struct Place {
    link: usize,
    tag: Tag,
    /// Whether the replica has said something of it.
    spoken: bool,
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
    /// The last reason.
    pub(super) refused: Option<Refusal>,
    /// The lane of what is asked; None for any.
    pub(super) lane: Option<u64>,
    /// How often something rare was seen.
    pub(super) seen: BTreeMap<&'static str, u64>,
    /// Tokens that were sent, by tenant; and how long each conversation with a score took.
    pub(super) sent: BTreeMap<&'static str, u64>,
    pub(super) waits: BTreeMap<&'static str, Vec<Micros>>,
    /// Only one wait of so many is kept, beside the first.
    pub(super) skipped: u64,
}

/// So many tokens that share nothing with others.
pub(super) fn words(random: &mut Random, tokens: u64) -> Vec<u32> {
    (0..tokens).map(|_| 1000 + random.below(u64::from(VOCAB) - 1000) as u32).collect()
}

/// So many conversations of one prompt.
pub(super) fn group(random: &mut Random, responses: u64, prompt: u64, longest: u64) -> Conversations {
    let prompt = words(random, prompt);
    let response = |_| {
        let tokens = random.between(1, longest);
        [&prompt[..], &words(random, tokens)].concat().into()
    };
    (0..responses).map(response).collect()
}

// === impl Ask ===

impl Ask {
    fn conversations(&self) -> u64 {
        self.items.iter().map(|item| item.len() as u64).sum()
    }
}

// === impl Books ===

impl Books {
    /// Requests that nobody has answered.
    pub(super) fn unanswered(&self) -> usize {
        self.open.len() + self.looking
    }

    /// Forgets what was counted, but not what is open.
    pub(super) fn forget(&mut self) {
        (self.scores, self.refusals) = (0, 0);
        self.failures.clear();
        self.sent.clear();
        self.waits.clear();
    }

    pub(super) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub(super) fn answers(&self) -> u64 {
        self.scores + self.failures.values().sum::<u64>()
    }
}

// === impl World ===

impl World {
    /// Asks some gateway.
    pub(super) fn ask(&mut self, tenant: (&'static str, u32), patience: Micros, items: Vec<Conversations>) {
        let gateway = self.random.below(self.gateways.len() as u64) as usize;
        self.ask_at(gateway, tenant, patience, items);
    }

    /// Asks this gateway, if it is alive.
    pub(super) fn ask_at(
        &mut self,
        gateway: usize,
        (tenant, weight): (&'static str, u32),
        patience: Micros,
        items: Vec<Conversations>,
    ) {
        let lane = self.books.lane.unwrap_or_else(|| self.random.below(3));
        let (since, deadline) = (self.now, self.now + patience);
        self.books.looking += 1;
        self.submit_at(gateway, Ask { tenant, weight, lane, since, deadline, items });
    }

    /// Everything has been answered, everybody is back, and nobody remembers anything.
    pub(super) fn check_calm(&mut self) {
        assert_eq!(self.books.unanswered(), 0, "not all is answered");
        for gateway in &self.gateways {
            let stats = gateway.core.as_ref().expect("it is back").stats();
            assert_eq!((stats.requests, stats.conversations, stats.tokens), (0, 0, 0));
            assert_eq!((stats.waiting_tokens, stats.waiting_pieces, stats.sent_tokens), (0, 0, 0));
        }
        let now = self.now;
        for replica in &mut self.replicas {
            replica.epoch.as_mut().expect("it is back").check_idle(now);
        }
    }

    /// How long what is asked now takes, one after another.
    pub(super) fn late_waits(&mut self) -> Vec<Micros> {
        self.books.forget();
        for _ in 0..6 {
            let what = vec![words(&mut self.random, 100).into()];
            self.ask(("late", 1), SECOND, vec![what]);
            self.run_for(SECOND / 20);
        }
        self.run_for(SECOND);
        let waits = self.books.waits.remove("late").unwrap_or_default();
        assert_eq!(waits.len(), 6, "not all is answered");
        waits
    }

    /// Goes to a gateway that is alive, as soon as there is one.
    pub(super) fn submit(&mut self, ask: Ask) {
        let first = self.random.below(self.gateways.len() as u64) as usize;
        self.submit_at(first, ask);
    }

    fn submit_at(&mut self, first: usize, ask: Ask) {
        let numbers = (0..self.gateways.len()).map(|number| (first + number) % self.gateways.len());
        let alive = numbers.into_iter().find(|number| self.gateways[*number].core.is_some());
        match alive {
            _ if self.now >= ask.deadline => {
                assert!(self.troubled);
                self.books.looking -= 1;
                *self.books.failures.entry("given up".to_owned()).or_default() += ask.conversations();
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
            items: ask.items.iter().map(|item| Item::new(item, item[0].len() / 2)).collect(),
        };
        self.gateways[gateway].unanswered += ask.conversations();
        let (answered, places, pieces) = (BTreeSet::new(), HashMap::new(), Vec::new());
        self.books.open.insert(id, Asked { ask, gateway, answered, places, pieces });
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
        let Asked { ask, gateway, answered, pieces, .. } = self.books.open.remove(&id).unwrap();
        let it = &mut self.gateways[gateway];
        it.unanswered -= ask.conversations() - answered.len() as u64;
        for piece in pieces {
            it.pieces.remove(&piece);
        }
        gateway
    }

    pub(super) fn refused(&mut self, id: RequestId, refusal: Refusal) {
        let asked = &self.books.open[&id];
        assert!(asked.answered.is_empty() && asked.places.is_empty(), "refused after it came in");
        assert!(matches!(refusal, Refusal::Full { .. } | Refusal::Deadline { .. }), "{refusal}");
        self.close(id);
        self.books.refused = Some(refusal);
        self.books.refusals += 1;
    }

    pub(super) fn note_sent(&mut self, gateway: usize, link: usize, dispatch: &Dispatch) {
        let score::Piece { tag, prefix, tails, .. } = &dispatch.piece;
        let asked = self.books.open.get_mut(&dispatch.request).expect("what is sent was asked for");
        let same = |item: &Conversations, tail: &Tail| {
            let tokens = prefix.iter().chain(tail.ids.iter());
            item.get(tail.conversation as usize).is_some_and(|it| tokens.eq(it.iter()))
        };
        let found = || asked.ask.items.iter().position(|item| same(item, &tails[0])).expect("it was asked for");
        let pieces = &mut self.gateways[gateway].pieces;
        let (_, item) = *pieces.entry(tag.piece).or_insert_with(|| (dispatch.request, found()));
        if tag.attempt == 1 {
            asked.pieces.push(tag.piece);
            *self.books.sent.entry(asked.ask.tenant).or_default() += dispatch.tokens;
        }
        for tail in tails {
            assert!(same(&asked.ask.items[item], tail));
            let conversation = (item, tail.conversation as usize);
            assert!(!asked.answered.contains(&conversation), "sent after it was answered");
            let place = Place { link, tag: *tag, spoken: false };
            if let Some(before) = asked.places.insert(conversation, place) {
                let over = before.spoken || !self.links[before.link].gateway_end;
                assert!(over, "{:?} is sent again while it may still be answered", before.tag);
            }
        }
    }

    /// A replica has said something of these conversations.
    pub(super) fn spoken(&mut self, gateway: usize, link: usize, answers: &[Answer]) {
        for Answer { tag, conversation, .. } in answers {
            let Some((request, item)) = self.gateways[gateway].pieces.get(&tag.piece) else { continue };
            let asked = self.books.open.get_mut(request).expect("its pieces are forgotten with it");
            let place = asked.places.get_mut(&(*item, *conversation));
            place.filter(|it| (it.link, it.tag) == (link, *tag)).into_iter().for_each(|it| it.spoken = true);
        }
    }

    pub(super) fn answered(&mut self, gateway: usize, outcome: Outcome) {
        let Outcome { request, item, conversation, result, .. } = outcome;
        let asked = self.books.open.get_mut(&request).expect("answered after its end");
        assert_eq!(asked.gateway, gateway);
        assert!(asked.answered.insert((item, conversation)), "answered twice");
        self.gateways[gateway].unanswered -= 1;
        let Ask { tenant, since, deadline, .. } = asked.ask;
        let tokens = &asked.ask.items[item][conversation];
        let poisoned = tokens.contains(&POISON);
        match &result {
            Ok(it) => {
                let expected = score(tokens, it.stamp.generation, self.shape.ranks);
                assert_eq!(it.outputs.score.to_bits(), expected.to_bits(), "a wrong score");
                assert_eq!(it.fingerprint, fingerprint(it.stamp.generation));
                let link = &self.links[asked.places[&(item, conversation)].link];
                assert_eq!(
                    (self.replicas[link.replica].id, link.epoch),
                    (it.replica, it.stamp.epoch),
                    "of another life"
                );
                assert!(self.now < deadline, "a score after the deadline");
                self.books.scores += 1;
                if self.books.scores.is_multiple_of(self.books.skipped + 1) {
                    self.books.waits.entry(tenant).or_default().push(self.now - since);
                }
            }
            Err(failure) => {
                let allowed = match failure {
                    Failure::DeadlineExceeded => {
                        (deadline..=deadline + LATE).contains(&self.now) && deadline < self.recovered_at
                    }
                    Failure::Unavailable => self.troubled,
                    Failure::Disagreement(Disagreement::NotFinite) => poisoned || self.books.wronged,
                    Failure::Disagreement(_) => self.books.wronged,
                    Failure::Replica(_) => self.books.wronged,
                };
                assert!(allowed, "{failure} at {} with a deadline at {deadline}", self.now);
                *self.books.failures.entry(failure.to_string()).or_default() += 1;
            }
        }
        if asked.answered.len() as u64 == asked.ask.conversations() {
            self.close(request);
        }
    }
}
