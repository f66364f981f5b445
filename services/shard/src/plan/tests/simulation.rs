//! A leader and its gateways in simulated time: planner, credits and watchdog together, at the ends of wires that delay.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::*;

const BUDGET: usize = 1024;

/// Microseconds.
type Micros = u64;

/// What a gateway does with itself.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// It always has more to send, of lengths between these.
    Flood(u64, u64),
    /// It has something to send each so many microseconds.
    Every(Micros),
    Idle,
}

struct Gateway {
    mode: Mode,
    delay: Micros,
    balance: i64,
    /// Pieces that wait for credits: their sequences and when they came.
    queue: VecDeque<(Vec<ItemId>, Micros)>,
    connected: bool,
}

enum Message {
    Changed(Change),
    Arrived(GatewayId, Vec<ItemId>),
    Withdrawn(ItemId),
    StepEnds(u64),
    Due(GatewayId),
    IdleTick,
}

struct Sequence {
    tokens: Vec<u32>,
    came: Micros,
    deadline: Option<Micros>,
    /// Withdrawn, or of a gateway that is gone: it may be answered or not.
    forgotten: bool,
}

struct Simulation {
    now: Micros,
    random: Random,
    ahead: bool,
    planner: Planner,
    credits: Credits,
    watchdog: Watchdog,
    running: Option<Step>,
    planned: Option<Step>,
    gateways: BTreeMap<GatewayId, Gateway>,
    sequences: HashMap<ItemId, Sequence>,
    done: HashSet<ItemId>,
    expired: usize,
    /// Tokens computed, by gateway; and all steps.
    computed: BTreeMap<GatewayId, usize>,
    steps: Vec<usize>,
    /// How long each answered sequence took, by gateway.
    waits: BTreeMap<GatewayId, Vec<Micros>>,
    messages: BinaryHeap<Reverse<(Micros, u64)>>,
    contents: HashMap<u64, Message>,
    posted: u64,
    deadlines: bool,
}

fn micros(micros: Micros) -> Duration {
    Duration::from_micros(micros)
}

/// How long a step takes.
fn duration(tokens: usize) -> Micros {
    500 + 10 * tokens as Micros
}

// === impl Simulation ===

impl Simulation {
    fn new(seed: u64, ahead: bool) -> Self {
        let allowance = Allowance { least: Duration::from_millis(5), factor: 3.0, slowest: 1000.0 };
        let mut simulation = Self {
            now: 0,
            random: Random(seed),
            ahead,
            planner: Planner::new(Settings::new(BUDGET), 1, 1),
            credits: Credits::new(BUDGET as u64),
            watchdog: Watchdog::new(allowance),
            running: None,
            planned: None,
            gateways: BTreeMap::new(),
            sequences: HashMap::new(),
            done: HashSet::new(),
            expired: 0,
            computed: BTreeMap::new(),
            steps: Vec::new(),
            waits: BTreeMap::new(),
            messages: BinaryHeap::new(),
            contents: HashMap::new(),
            posted: 0,
            deadlines: false,
        };
        simulation.post(0, Message::IdleTick);
        simulation
    }

    fn connect(&mut self, id: u64, delay: Micros, mode: Mode) {
        let (id, queue) = (GatewayId(id), VecDeque::new());
        self.gateways.insert(id, Gateway { mode, delay, balance: 0, queue, connected: true });
        self.credits.connect(id);
        self.proceed(false);
        self.post(0, Message::Due(id));
    }

    fn disconnect(&mut self, id: GatewayId) {
        self.credits.disconnect(id);
        self.planner.disconnect(id);
        self.gateways.get_mut(&id).unwrap().connected = false;
        let of_it = self.sequences.iter_mut().filter(|(item, _)| item.gateway == id);
        of_it.for_each(|(_, sequence)| sequence.forgotten = true);
        self.proceed(false);
    }

    fn post(&mut self, after: Micros, message: Message) {
        self.posted += 1;
        self.messages.push(Reverse((self.now + after, self.posted)));
        self.contents.insert(self.posted, message);
    }

    fn run_until(&mut self, end: Micros) {
        while let Some(Reverse((at, number))) = self.messages.peek().copied().filter(|Reverse((at, _))| *at < end) {
            self.messages.pop();
            self.now = at;
            assert_eq!(self.watchdog.overdue(micros(self.now)), None);
            let message = self.contents.remove(&number).unwrap();
            self.deliver(message);
        }
        self.now = end;
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Changed(Change { gateway, tokens }) => {
                self.gateways.get_mut(&gateway).unwrap().balance += tokens;
                self.send(gateway);
            }
            Message::Arrived(gateway, items) => self.arrived(gateway, items),
            Message::Withdrawn(item) => {
                if self.gateways[&item.gateway].connected {
                    self.planner.cancel(item);
                    self.proceed(false);
                }
            }
            Message::StepEnds(step) => self.step_ends(step),
            Message::Due(gateway) => {
                self.produce(gateway);
                self.send(gateway);
            }
            Message::IdleTick => {
                if self.running.is_none() {
                    self.proceed(true);
                }
                self.post(20_000, Message::IdleTick);
            }
        }
    }

    // --- gateways ---

    /// A piece comes from the clients: one sequence, or a prompt with responses.
    fn produce(&mut self, id: GatewayId) {
        let gateway = &self.gateways[&id];
        let (low, high) = match gateway.mode {
            Mode::Flood(low, high) => (low, high),
            Mode::Every(period) => {
                self.post(period, Message::Due(id));
                (50, 150)
            }
            Mode::Idle => return,
        };
        let len = self.random.between(low, high) as usize;
        let responses = if self.random.below(4) == 0 { self.random.between(2, 4) } else { 1 };
        let prompt = if responses > 1 { tokens(1000 + self.random.next() % 1000, len / 2) } else { Vec::new() };
        let deadline = (self.deadlines && self.random.below(10) == 0).then(|| self.now + self.random.below(40_000));
        let mut piece = Vec::new();
        for _ in 0..responses {
            let number = self.sequences.len() as u64;
            let item = ItemId { gateway: id, number };
            let tokens = [&prompt[..], &tokens(5000 + number, len - prompt.len())].concat();
            self.sequences.insert(item, Sequence { tokens, came: self.now, deadline, forgotten: false });
            piece.push(item);
        }
        self.gateways.get_mut(&id).unwrap().queue.push_back((piece, self.now));
    }

    /// Sends as long as the balance is positive.
    fn send(&mut self, id: GatewayId) {
        loop {
            let gateway = &self.gateways[&id];
            if matches!(gateway.mode, Mode::Flood(..)) && gateway.queue.is_empty() && gateway.balance > 0 {
                self.produce(id);
            }
            let gateway = self.gateways.get_mut(&id).unwrap();
            if gateway.balance <= 0 || !gateway.connected {
                return;
            }
            let Some((piece, _)) = gateway.queue.pop_front() else { return };
            let delay = gateway.delay;
            let cost = self.debit(&piece);
            self.gateways.get_mut(&id).unwrap().balance -= cost as i64;
            self.post(delay, Message::Arrived(id, piece));
        }
    }

    /// What a piece costs its gateway: what all its sequences begin with, and the rest of each.
    fn debit(&self, piece: &[ItemId]) -> u64 {
        let mut packer = Packer::default();
        piece.iter().for_each(|item| packer.push(self.sequences[item].tokens.clone().into()));
        packer.tokens() as u64
    }

    // --- the leader ---

    fn arrived(&mut self, gateway: GatewayId, items: Vec<ItemId>) {
        if !self.gateways[&gateway].connected {
            return;
        }
        self.credits.spent(gateway, self.debit(&items));
        for id in items {
            let Sequence { tokens, deadline, .. } = &self.sequences[&id];
            let (tokens, deadline) = (tokens.as_slice().into(), deadline.map(micros));
            self.planner.push(Item { id, tokens, arrived: micros(self.now), deadline, urgent: false }).unwrap();
        }
        self.proceed(false);
    }

    /// Starts a step if none runs, plans the next, and grants what there is room for.
    fn proceed(&mut self, mut round: bool) {
        if self.running.is_none() {
            let planned = self.planned.take();
            self.running = planned.or_else(|| self.plan(&mut round));
            if let Some(Step { stamp, batch, .. }) = &self.running {
                let (step, tokens) = (stamp.step, batch.tokens.len());
                self.watchdog.started(micros(self.now), step, tokens);
                self.post(duration(tokens), Message::StepEnds(step));
            }
        }
        if self.ahead && self.running.is_some() && self.planned.is_none() {
            self.planned = self.plan(&mut round);
        }
        let planner = &self.planner;
        let held = self.held();
        let changes = match round {
            true => self.credits.end_round(|gateway| planner.tokens(gateway)),
            false => self.credits.grant(|gateway| planner.tokens(gateway)),
        };
        assert!(self.held() <= held.max(self.credits.limit() as i64));
        assert!(self.credits.limit() <= BUDGET as u64 * 5 / 4);
        for change in changes {
            let delay = self.gateways[&change.gateway].delay;
            self.post(delay, Message::Changed(change));
        }
    }

    /// What is granted or waits, overdrafts apart.
    fn held(&self) -> i64 {
        let holding = |id: &GatewayId| Some(self.credits.balance(*id)? + self.planner.tokens(*id) as i64);
        self.gateways.keys().filter_map(holding).sum()
    }

    fn plan(&mut self, round: &mut bool) -> Option<Step> {
        let Plan { step, expired } = self.planner.next_step(micros(self.now));
        for item in expired {
            assert!(item.deadline.unwrap() <= micros(self.now));
            self.expired += 1;
            assert!(self.done.insert(item.id), "expired after it was answered");
        }
        *round |= step.is_some();
        step
    }

    fn step_ends(&mut self, step: u64) {
        let ended = self.running.take().unwrap();
        assert_eq!(ended.stamp.step, step);
        assert!(self.watchdog.finished(micros(self.now), step).is_some());
        self.steps.push(ended.batch.tokens.len());
        let mut packer = Packer::default();
        for item in ended.items {
            *self.computed.entry(item.id.gateway).or_default() += packer.cost(&item.tokens);
            packer.push(Arc::clone(&item.tokens));
            assert!(self.done.insert(item.id), "{:?} is answered twice", item.id);
            let wait = self.now + self.gateways[&item.id.gateway].delay - self.sequences[&item.id].came;
            self.waits.entry(item.id.gateway).or_default().push(wait);
        }
        self.proceed(false);
    }

    /// Lets all go idle, and checks that all is answered and all credit is back.
    fn finish(&mut self) {
        self.gateways.values_mut().for_each(|gateway| gateway.mode = Mode::Idle);
        while self.gateways.values().any(|gateway| gateway.connected && !gateway.queue.is_empty()) {
            self.run_until(self.now + 100_000);
        }
        self.run_until(self.now + 500_000);
        assert!(self.planner.is_empty() && self.running.is_none() && self.planned.is_none());
        for (item, sequence) in &self.sequences {
            let gone = !self.gateways[&item.gateway].connected;
            assert!(self.done.contains(item) || sequence.forgotten || gone, "{item:?} is lost");
        }
        let floor = self.credits.floor() as i64;
        for (id, gateway) in self.gateways.iter().filter(|(_, gateway)| gateway.connected) {
            assert_eq!(self.credits.balance(*id), Some(gateway.balance), "both sides add up to the same");
            assert!((1..=floor).contains(&gateway.balance), "{id:?} keeps {} credits", gateway.balance);
        }
    }
}

#[test]
fn in_any_order_nothing_is_lost_and_all_credit_comes_back() {
    for seed in 0..60 {
        let mut simulation = Simulation::new(seed, seed % 2 == 0);
        simulation.deadlines = true;
        let mut next = 0;
        for _ in 0..60 {
            let connected: Vec<GatewayId> =
                simulation.gateways.iter().filter(|(_, gateway)| gateway.connected).map(|(id, _)| *id).collect();
            let chosen = connected.get(simulation.random.below(5) as usize).copied();
            match (simulation.random.below(6), chosen) {
                (0, Some(id)) => simulation.disconnect(id),
                (1, Some(id)) => {
                    let of_it = |item: &&ItemId| item.gateway == id;
                    let mut items: Vec<ItemId> = simulation.sequences.keys().filter(of_it).copied().collect();
                    items.sort_unstable();
                    for item in items.into_iter().rev().take(20) {
                        simulation.sequences.get_mut(&item).unwrap().forgotten = true;
                        // it may be on its way, so it comes after it
                        let delay = simulation.gateways[&id].delay;
                        simulation.post(delay, Message::Withdrawn(item));
                    }
                }
                (2..=4, Some(id)) => {
                    let period = simulation.random.between(500, 20_000);
                    let (low, high) = (simulation.random.between(1, 300), simulation.random.between(300, 1024));
                    let modes = [Mode::Flood(low, high), Mode::Every(period), Mode::Idle];
                    let mode = modes[simulation.random.below(3) as usize];
                    simulation.gateways.get_mut(&id).unwrap().mode = mode;
                    simulation.post(0, Message::Due(id));
                }
                _ if connected.len() < 4 => {
                    let delay = simulation.random.between(10, 5000);
                    simulation.connect(next, delay, Mode::Flood(10, 300));
                    next += 1;
                }
                _ => {}
            }
            let pause = simulation.random.below(100_000);
            simulation.run_until(simulation.now + pause);
        }
        simulation.finish();
        assert!(simulation.steps.len() > 20, "seed {seed}: {} steps", simulation.steps.len());
        assert!(simulation.expired > 0, "seed {seed}");
    }
}

#[test]
fn gateways_that_flood_get_the_same_whatever_they_send_and_however_far_away() {
    for ahead in [false, true] {
        let sizes = [(20, 100), (300, 700), (900, 1024)];
        for (a, b) in sizes.into_iter().flat_map(|a| sizes.map(|b| (a, b))) {
            let mut simulation = Simulation::new(1, ahead);
            simulation.connect(0, 100, Mode::Flood(a.0, a.1));
            simulation.connect(1, 3000, Mode::Flood(b.0, b.1));
            simulation.run_until(10_000_000);
            let parts: Vec<f64> = simulation.computed.values().map(|computed| *computed as f64).collect();
            assert!((parts[0] / parts[1] - 1.0).abs() < 0.05, "{a:?} and {b:?}, ahead {ahead}: {parts:?}");
            simulation.finish();
        }
    }
}

#[test]
fn who_rarely_asks_is_answered_within_two_steps_of_a_flood() {
    for ahead in [false, true] {
        let mut simulation = Simulation::new(2, ahead);
        simulation.connect(0, 100, Mode::Flood(100, 400));
        simulation.connect(1, 100, Mode::Every(40_000));
        simulation.run_until(10_000_000);
        let longest = simulation.waits[&GatewayId(1)].iter().max().unwrap();
        let steps = if ahead { 3 } else { 2 };
        assert!(*longest <= steps * duration(BUDGET) + 200, "{longest} us, ahead {ahead}");
        assert!(simulation.waits[&GatewayId(1)].len() > 240);
        simulation.finish();
    }
}

#[test]
fn a_single_gateway_fills_the_steps_however_many_are_idle() {
    for (ahead, idle) in [(false, 0), (false, 7), (true, 0), (true, 7)] {
        let mut simulation = Simulation::new(3, ahead);
        (1..=idle).for_each(|id| simulation.connect(id, 1000, Mode::Idle));
        simulation.connect(0, 1000, Mode::Flood(20, 100));
        simulation.run_until(5_000_000);
        let steps = &simulation.steps[4..];
        let average = steps.iter().sum::<usize>() / steps.len();
        assert!(average > BUDGET * 95 / 100, "{average} of {BUDGET} tokens, ahead {ahead}, {idle} idle");
        simulation.finish();
    }
}
