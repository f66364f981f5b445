//! A leader on the bench: gateways that keep their balance, ranks whose partial logits say where they come from, and
//! random events for all of them.

use score::PieceId;

use super::*;

pub(super) const RANKS: usize = 2;
pub(super) const BUDGET: usize = 64;
pub(super) const VOCAB: u32 = 1000;
pub(super) const STAMP: Stamp = Stamp { generation: 3, epoch: 7, step: 0 };
pub(super) const A: GatewayId = GatewayId(1);
pub(super) const B: GatewayId = GatewayId(2);

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn tag(piece: u64) -> Tag {
    Tag { piece: PieceId(piece), attempt: 1 }
}

/// Tokens that share nothing with those of another number, as long as there are no more than 49 of those.
pub(super) fn tokens(number: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|position| (number % 50 * 20 + position % 20) % VOCAB).collect()
}

pub(super) fn piece(number: u64, prefix: Vec<u32>, tails: Vec<(u32, Vec<u32>)>) -> Submission {
    let tails = tails.into_iter().map(|(conversation, ids)| Tail { conversation, ids: ids.into() }).collect();
    let piece = Piece { tag: tag(number), prefix: prefix.into(), tails, urgent: false };
    Submission { tokens: piece.tokens(), piece, deadline: None, trace: None }
}

/// What a rank contributes to each of so many sequences of a step.
pub(super) fn partials(rank: usize, step: u64, sequences: usize) -> Partials {
    let values = (0..sequences).map(|place| (1000 * rank + place) as f32).collect();
    Partials::new(1, values, (0..sequences as u64).map(|place| step * 1000 + place).collect()).unwrap()
}

pub(super) fn settings() -> Settings {
    let allowance = Allowance { least: Duration::from_secs(2), factor: 4.0, slowest: 1.0 };
    let plan = plan::Settings::new(BUDGET);
    Settings { plan, stamp: STAMP, ranks: RANKS, vocab: VOCAB as usize, allowance }
}

pub(super) struct Bench {
    pub(super) leader: Leader,
    pub(super) now: Duration,
    /// What credits say that each gateway may send.
    balances: BTreeMap<GatewayId, i64>,
    /// Steps that each rank has to compute, and the number of sequences of each step.
    pub(super) ready: [VecDeque<u64>; RANKS],
    sequences: HashMap<u64, usize>,
    pub(super) answered: Vec<(GatewayId, Tag)>,
    /// Gateways pay nothing.
    pub(super) endless_credit: bool,
}

// === impl Bench ===

impl Bench {
    pub(super) fn new(leader: Leader) -> Self {
        let (balances, ready, sequences) = (BTreeMap::new(), Default::default(), HashMap::new());
        let (now, answered) = (Duration::from_secs(100), Vec::new());
        Self { leader, now, balances, ready, sequences, answered, endless_credit: false }
    }

    /// With gateways from 1 on that have credits.
    pub(super) fn with_gateways(gateways: u64) -> Self {
        let mut bench = Self::new(Leader::new(settings(), None));
        for gateway in 1..=gateways {
            bench.handle(Event::Attached(GatewayId(gateway)));
        }
        assert_eq!(bench.advance(), []);
        bench
    }

    /// Takes something in without what follows.
    pub(super) fn handle(&mut self, event: Event) -> Vec<Action> {
        if let Event::Arrived(gateway, submission) = &event {
            *self.balances.entry(*gateway).or_default() -= submission.tokens as i64;
        }
        let mut actions = Vec::new();
        self.leader.handle(self.now, event, &mut actions);
        actions
    }

    /// What follows, without credits.
    pub(super) fn advance(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        self.leader.advance(self.now, &mut actions);
        let rest = actions.into_iter().filter(|action| match action {
            Action::Credit(Change { gateway, tokens }) => {
                *self.balances.entry(*gateway).or_default() += tokens;
                false
            }
            _ => true,
        });
        let rest: Vec<Action> = rest.collect();
        for action in &rest {
            if let Action::Compute(work) = action {
                self.sequences.insert(work.stamp.step, work.batch.ends.len());
            }
        }
        rest
    }

    pub(super) fn happens(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.handle(event);
        actions.extend(self.advance());
        actions
    }

    pub(super) fn arrives(&mut self, gateway: GatewayId, mut submission: Submission) -> Vec<Action> {
        if self.endless_credit {
            submission.tokens = 0;
        }
        self.happens(Event::Arrived(gateway, submission))
    }

    /// Something happens, and a step follows.
    pub(super) fn compute(&mut self, event: Event) -> Work {
        match <[Action; 1]>::try_from(self.happens(event)) {
            Ok([Action::Compute(work)]) => work,
            other => panic!("not one step: {other:?}"),
        }
    }

    /// A rank has computed a step.
    pub(super) fn computed(&mut self, rank: usize, step: u64) -> Vec<Action> {
        let sequences = self.sequences.get(&step).copied().unwrap_or_default();
        let ranks = vec![partials(rank, step, sequences)];
        self.happens(Event::Computed(Report { first_rank: rank, stamp: Stamp { step, ..STAMP }, ranks }))
    }

    /// All ranks have computed a step.
    pub(super) fn finish_step(&mut self, step: u64) -> BTreeMap<GatewayId, Answers> {
        let actions: Vec<Action> = (0..RANKS).flat_map(|rank| self.computed(rank, step)).collect();
        let answer = |action| match action {
            Action::Answer(gateway, answers) => Some((gateway, answers)),
            Action::Compute(_) => None,
            other => panic!("not an answer: {other:?}"),
        };
        actions.into_iter().filter_map(answer).collect()
    }

    /// Notes steps and answers, and checks that these belong together.
    pub(super) fn note(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Compute(work) => self.ready.iter_mut().for_each(|steps| steps.push_back(work.stamp.step)),
                Action::Answer(gateway, answers) => {
                    let step = answers.ranks[0].0.stamp.step;
                    for Computed { tag, place, .. } in &answers.computed {
                        for (rank, (said, of_rank)) in answers.ranks.iter().enumerate() {
                            assert_eq!(*said, RankStep { rank, stamp: Stamp { step, ..STAMP } });
                            let expected = partials(rank, step, place + 1);
                            assert_eq!(of_rank.get(*place), expected.get(*place));
                        }
                        assert!(!self.answered.contains(&(*gateway, *tag)), "{tag:?} is answered twice");
                        self.answered.push((*gateway, *tag));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Lets time pass in which nothing happens.
    pub(super) fn idle(&mut self, rounds: usize) {
        for _ in 0..rounds {
            assert!(self.leader.wakes_at() > self.now);
            self.now = self.leader.wakes_at();
            assert_eq!(self.advance(), []);
        }
    }

    pub(super) fn balance(&self, gateway: GatewayId) -> i64 {
        self.balances[&gateway]
    }

    /// Nothing is computed, nothing waits, and nobody's sequence is remembered.
    #[track_caller]
    pub(super) fn nothing_is_left(&self) {
        assert!(self.leader.flying.is_empty() && self.leader.planner.is_empty());
        for (gateway, attached) in &self.leader.gateways {
            assert!(attached.origins.is_empty(), "{gateway:?}: {:?}", attached.origins);
            assert!(attached.pieces.is_empty(), "{gateway:?}: {:?}", attached.pieces);
        }
    }
}

/// Gateways that come, send what they may, take back and go, while ranks compute.
pub(super) struct Storm {
    bench: Bench,
    random: u64,
    next: u64,
    connected: Vec<GatewayId>,
    sent: Vec<(GatewayId, Tag)>,
}

// === impl Storm ===

impl Storm {
    pub(super) fn new(seed: u64) -> Self {
        let bench = Bench::with_gateways(0);
        Self { bench, random: seed, next: 0, connected: Vec::new(), sent: Vec::new() }
    }

    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % limit
    }

    pub(super) fn run(mut self) {
        for _ in 0..300 {
            let before = self.held();
            let event = self.event();
            let actions = event.map(|event| self.bench.handle(event)).unwrap_or_default();
            assert!(
                actions.iter().all(|action| matches!(action, Action::Answer(..) | Action::Reject(..))),
                "{actions:?}"
            );
            let actions = self.bench.advance();
            self.note(&actions);
            let limit = self.bench.leader.credits.limit() as i64;
            assert!(self.held() <= before.max(limit), "{} of {limit} are held", self.held());
            self.check_waiting();
            let pause = self.below(40);
            self.bench.now += millis(pause as u64);
        }
        while let Some(rank) = (0..RANKS).find(|rank| !self.bench.ready[*rank].is_empty()) {
            let step = self.bench.ready[rank].pop_front().unwrap();
            let actions = self.bench.computed(rank, step);
            self.note(&actions);
        }
        self.bench.nothing_is_left();
        for gateway in &self.connected {
            assert_eq!(self.bench.leader.credits.balance(*gateway), Some(self.bench.balance(*gateway)));
        }
    }

    fn note(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Compute(work) => {
                    assert!(work.batch.tokens.len() <= BUDGET);
                    self.bench.ready.iter_mut().for_each(|steps| steps.push_back(work.stamp.step));
                }
                Action::End(_) | Action::Detach(..) => panic!("{action:?}"),
                _ => {}
            }
        }
    }

    /// What is granted or waits, overdrafts apart.
    fn held(&self) -> i64 {
        let leader = &self.bench.leader;
        let holding = |id: &GatewayId| leader.credits.balance(*id).unwrap() + leader.planner.tokens(*id) as i64;
        leader.gateways.keys().map(holding).sum()
    }

    /// What waits is what credits allowed, and the last piece of each gateway.
    fn check_waiting(&self) {
        let leader = &self.bench.leader;
        let waiting: u64 = leader.gateways.keys().map(|gateway| leader.planner.tokens(*gateway)).sum();
        let most = leader.credits.limit() + (self.connected.len() * BUDGET) as u64;
        assert!(waiting <= most, "{waiting} tokens wait, at most {most} may");
        let waiting: usize = leader.gateways.values().map(|attached| attached.origins.len()).sum();
        let flying: usize = leader.flying.iter().map(|flying| flying.items.len()).sum();
        assert!(waiting <= leader.stats().waiting + flying);
    }

    fn event(&mut self) -> Option<Event> {
        let connected = self.connected.len();
        match self.below(20) {
            0 if connected < 4 => {
                self.next += 1;
                self.connected.push(GatewayId(self.next));
                Some(Event::Attached(GatewayId(self.next)))
            }
            1 if connected > 0 && self.below(4) == 0 => {
                let place = self.below(connected);
                Some(Event::Detached(self.connected.swap_remove(place)))
            }
            2 if !self.sent.is_empty() => {
                let place = self.below(self.sent.len());
                let (gateway, tag) = self.sent.swap_remove(place);
                Some(Event::Withdrawn(gateway, tag))
            }
            3..10 => {
                let rank = self.below(RANKS);
                let step = self.bench.ready[rank].pop_front()?;
                let sequences = self.bench.sequences[&step];
                let ranks = vec![partials(rank, step, sequences)];
                Some(Event::Computed(Report { first_rank: rank, stamp: Stamp { step, ..STAMP }, ranks }))
            }
            10.. if connected > 0 => {
                let place = self.below(connected);
                let gateway = self.connected[place];
                if self.bench.balances.get(&gateway).is_none_or(|balance| *balance <= 0) {
                    return None;
                }
                let submission = self.submission();
                self.sent.push((gateway, submission.piece.tag));
                Some(Event::Arrived(gateway, submission))
            }
            _ => None,
        }
    }

    /// A piece of at most a step's tokens, some of it beyond the vocabulary, some of it soon too late.
    fn submission(&mut self) -> Submission {
        self.next += 1;
        let number = self.next as u32;
        // as a gateway does: what is too short to be shared is part of the tails
        let shared = self.below(2) * (16 + self.below(BUDGET / 4));
        let prefix = tokens(number, shared);
        let mut tails: Vec<(u32, Vec<u32>)> = Vec::new();
        for conversation in 0..1 + self.below(3) as u32 {
            let len = self.below(BUDGET / 6);
            tails.push((conversation, tokens(number + conversation + 1, len)));
        }
        if self.below(20) == 0 {
            tails[0].1.push(VOCAB);
        }
        let deadline = (self.below(6) == 0).then(|| self.bench.now + millis(self.below(60) as u64));
        Submission { deadline, ..piece(self.next, prefix, tails) }
    }
}
