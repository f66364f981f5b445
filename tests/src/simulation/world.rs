//! The world in simulated time: what is about to happen, in order, and the lines between gateways and replicas.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use gateway::core::{Announcement, Time};
use score::{Piece, Tag};
use shard::leader::{Answers, Rejection};

use super::clients::{Ask, Books};
use super::gateways::{Gateway, News};
use super::replicas::{Internal, Replica};

pub(super) type Micros = u64;

/// How late a process may wake, at most.
pub(super) const LATE: Micros = 2_000;

/// Numbers that look random and follow from a seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `limit`, without `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True so often of a thousand times.
    pub(super) fn chance(&mut self, of_a_thousand: u64) -> bool {
        self.below(1000) < of_a_thousand
    }
}

/// What the cluster is made of.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) gateways: usize,
    pub(super) replicas: usize,
    pub(super) ranks: usize,
    /// Ranks of a worker.
    pub(super) per_worker: usize,
    /// Tokens of a step.
    pub(super) budget: usize,
    /// What a step takes, and each token in it.
    pub(super) step: Micros,
    pub(super) token: Micros,
    /// What a message takes at most.
    pub(super) delay: Micros,
}

impl Shape {
    pub(super) fn full_step(&self) -> Micros {
        self.step + self.token * self.budget as Micros
    }
}

/// A line from a gateway to one life of a replica. In each direction everything arrives in order.
pub(super) struct Line {
    pub(super) gateway: usize,
    pub(super) replica: usize,
    pub(super) epoch: u64,
    /// Which ends are open.
    pub(super) gateway_end: bool,
    pub(super) replica_end: bool,
    /// Nothing passes any more.
    cut: bool,
    /// How much longer the way down takes.
    pub(super) lag: Micros,
    up_until: Micros,
    down_until: Micros,
}

/// From a gateway to a leader.
pub(super) enum Up {
    Hello,
    /// With how long somebody waits for it.
    Piece(Piece, Micros),
    Withdraw(Tag),
    Closed,
}

/// From a leader to a gateway.
pub(super) enum Down {
    Welcome(Announcement),
    Credits(i64),
    Answers(Answers),
    Rejections(Vec<Rejection>),
    Draining,
    Closed,
}

pub(super) enum Message {
    Up(usize, Up),
    Down(usize, Down),
    /// Something within a replica, in this epoch.
    Within(usize, u64, Internal),
    /// Something that a gateway hears in this life, other than from replicas.
    News(usize, u64, News),
    Ask(Ask),
    Form(usize),
    Resume(usize),
    StartGateway(usize),
}

pub(super) struct World {
    pub(super) now: Micros,
    pub(super) random: Random,
    pub(super) shape: Shape,
    pub(super) gateways: Vec<Gateway>,
    pub(super) replicas: Vec<Replica>,
    pub(super) lines: Vec<Line>,
    pub(super) books: Books,
    /// Whether things go wrong, and whether they ever have.
    pub(super) trouble: bool,
    pub(super) troubled: bool,
    /// When all that was left behind by then must have been made good.
    pub(super) recovered_at: Micros,
    /// In so many of a thousand steps a rank is wrong.
    pub(super) wrong: u64,
    /// The registry's; the next epoch has this number.
    pub(super) revision: u64,
    pub(super) generation: u64,
    /// Replicas that are to be restarted, one after another.
    pub(super) rolling: VecDeque<usize>,
    pub(super) events: u64,
    agenda: BTreeMap<(Micros, u64), Message>,
    posted: u64,
}

/// Who wakes.
enum Sleeper {
    Gateway(usize),
    Leader(usize),
}

/// As a gateway has it.
pub(super) fn at(micros: Micros) -> Time {
    Time::new(Duration::from_micros(micros))
}

// === impl World ===

impl World {
    pub(super) fn new(seed: u64, shape: Shape, limits: gateway::core::Limits) -> Self {
        let mut world = Self {
            now: 0,
            random: Random(seed),
            shape,
            gateways: Vec::new(),
            replicas: (0..shape.replicas).map(|_| Replica::default()).collect(),
            lines: Vec::new(),
            books: Books::default(),
            trouble: false,
            troubled: false,
            recovered_at: Micros::MAX,
            wrong: 0,
            revision: 1,
            generation: 1,
            rolling: VecDeque::new(),
            events: 0,
            agenda: BTreeMap::new(),
            posted: 0,
        };
        world.gateways = (0..shape.gateways).map(|_| Gateway::new(limits)).collect();
        (0..shape.gateways).for_each(|gateway| world.post(0, Message::StartGateway(gateway)));
        (0..shape.replicas).for_each(|replica| world.post(0, Message::Form(replica)));
        world
    }

    /// Lets something happen after so long.
    pub(super) fn post(&mut self, after: Micros, message: Message) {
        self.posted += 1;
        self.agenda.insert((self.now + after, self.posted), message);
    }

    /// Lets time pass.
    pub(super) fn run_for(&mut self, time: Micros) {
        let end = self.now + time;
        loop {
            let message = self.agenda.first_key_value().map_or(end, |((at, _), _)| *at);
            let (wake, sleeper) = self.next_wake().unwrap_or((end, Sleeper::Gateway(0)));
            let next = message.min(wake.max(self.now));
            if next >= end {
                self.now = end;
                return;
            }
            self.now = next;
            self.events += 1;
            assert!(self.events < 5_000_000, "it goes round in circles");
            if message <= next {
                let (_, message) = self.agenda.pop_first().unwrap();
                self.deliver(message);
            } else {
                match sleeper {
                    Sleeper::Gateway(gateway) => self.tell(gateway, gateway::core::Event::Tick),
                    Sleeper::Leader(replica) => self.advance(replica),
                }
            }
        }
    }

    fn next_wake(&self) -> Option<(Micros, Sleeper)> {
        let late = |wake: Micros| wake + Random(wake).below(LATE);
        let gateway = |(number, gateway): (usize, &Gateway)| {
            let wake = gateway.core.as_ref()?.wakes_at(at(self.now))?.since(at(0));
            Some((late(wake.as_micros() as Micros + 1), Sleeper::Gateway(number)))
        };
        let leader = |(number, replica): (usize, &Replica)| {
            let epoch = replica.epoch.as_ref().filter(|_| !replica.hung)?;
            let wake = late(epoch.start + epoch.leader.wakes_at().as_micros() as Micros + 1);
            Some((epoch.due.map_or(wake, |due| due.min(wake)), Sleeper::Leader(number)))
        };
        let gateways = self.gateways.iter().enumerate().filter_map(gateway);
        gateways.chain(self.replicas.iter().enumerate().filter_map(leader)).min_by_key(|(wake, _)| *wake)
    }

    pub(super) fn deliver(&mut self, message: Message) {
        match message {
            Message::Up(line, up) if !self.lines[line].cut || matches!(up, Up::Closed) => self.hear_gateway(line, up),
            Message::Down(line, down) if !self.lines[line].cut || matches!(down, Down::Closed) => {
                self.hear_replica(line, down);
            }
            Message::Up(..) | Message::Down(..) => {}
            Message::Within(replica, epoch, what) => self.within(replica, epoch, what),
            Message::News(gateway, life, news) => self.hear(gateway, life, news),
            Message::Ask(ask) => self.submit(ask),
            Message::Form(replica) => self.form(replica),
            Message::Resume(replica) => self.resume(replica),
            Message::StartGateway(gateway) => self.start_gateway(gateway),
        }
    }

    // --- lines ---

    pub(super) fn delay(&mut self) -> Micros {
        let long = self.trouble && self.random.chance(10);
        self.random.below(self.shape.delay + 1) * if long { 20 } else { 1 }
    }

    /// A new line, of which the gateway's end is open; in trouble, some are slow.
    pub(super) fn lay_line(&mut self, gateway: usize, replica: usize, epoch: u64) -> usize {
        let slow = self.trouble && self.random.chance(150);
        let lag = if slow { self.random.between(20_000, 140_000) } else { 0 };
        let (gateway_end, replica_end, cut) = (true, false, false);
        let (up_until, down_until) = (0, 0);
        let line = Line { gateway, replica, epoch, gateway_end, replica_end, cut, lag, up_until, down_until };
        self.lines.push(line);
        self.lines.len() - 1
    }

    pub(super) fn send_up(&mut self, line: usize, up: Up) {
        let arrives = self.now + self.delay();
        let it = &mut self.lines[line];
        it.up_until = it.up_until.max(arrives);
        let after = it.up_until - self.now;
        self.post(after, Message::Up(line, up));
    }

    pub(super) fn send_down(&mut self, line: usize, down: Down) {
        let arrives = self.now + self.delay() + self.lines[line].lag;
        let it = &mut self.lines[line];
        it.down_until = it.down_until.max(arrives);
        let after = it.down_until - self.now;
        self.post(after, Message::Down(line, down));
    }

    /// Nothing passes from now on, not even what is on its way; both ends hear of it within so long.
    pub(super) fn cut(&mut self, line: usize, notice: Micros) {
        self.lines[line].cut = true;
        let (up, down) = (self.random.below(notice + 1), self.random.below(notice + 1));
        self.post(up, Message::Up(line, Up::Closed));
        self.post(down, Message::Down(line, Down::Closed));
    }
}
