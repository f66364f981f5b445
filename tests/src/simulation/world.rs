//! The world in simulated time: what is about to happen, in order, and the links between gateways and replicas.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use gateway::core::{Event, Limits, LinkId, News, Time, Welcome};
use score::{Piece, Tag};
use shard::leader::{Answers, Rejection};

use super::clients::{Ask, Books};
use super::gateways::Gateway;
use super::load::{Meter, Source};
use super::replicas::{Internal, Replica};

pub(super) type Micros = u64;

/// How late a process may wake, at most.
pub(super) const LATE: Micros = 2_000;
pub(super) const SECOND: Micros = 1_000_000;

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
    /// A process that is gone is back after this at most.
    pub(super) back: Micros,
}

/// A link from a gateway to one life of a replica. In each direction everything arrives in order.
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) gateway: usize,
    pub(super) replica: usize,
    pub(super) epoch: u64,
    /// Which ends are open.
    pub(super) gateway_end: bool,
    pub(super) replica_end: bool,
    /// Whether the gateway has heard the welcome, and what it may send since then.
    pub(super) welcomed: bool,
    pub(super) balance: i64,
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
    Welcome(Welcome),
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
    /// Something that a gateway hears from the registry, in this life.
    News(usize, u64, News),
    /// A gateway has waited long enough for a welcome.
    Unwelcome(usize),
    Ask(Ask),
    /// A source asks for more, again and again.
    More(usize),
    Form(usize),
    Resume(usize),
    StartGateway(usize),
    /// A gateway, or a leader in this epoch, wakes.
    WakeGateway(usize),
    WakeLeader(usize, u64),
}

/// When something is to happen; of the same moment, in the order of posting.
struct Posted {
    at: Micros,
    number: u64,
    message: Message,
}

pub(super) struct World {
    pub(super) now: Micros,
    pub(super) random: Random,
    pub(super) shape: Shape,
    pub(super) limits: Limits,
    pub(super) gateways: Vec<Gateway>,
    pub(super) replicas: Vec<Replica>,
    pub(super) links: Vec<Link>,
    pub(super) books: Books,
    /// Whether things go wrong, and whether they ever have.
    pub(super) trouble: bool,
    pub(super) troubled: bool,
    /// When all that was left behind by then must have been made good.
    pub(super) recovered_at: Micros,
    /// In so many of a thousand steps a rank is wrong.
    pub(super) wrong: u64,
    /// So many of a thousand steps take three times as long.
    pub(super) slow: u64,
    /// The registry's; the next epoch has this number.
    pub(super) revision: u64,
    pub(super) generation: u64,
    /// Replicas that are to be restarted, one after another.
    pub(super) rolling: VecDeque<usize>,
    pub(super) events: u64,
    /// Whether what waits at leaders is checked, sequence by sequence.
    pub(super) thorough: bool,
    pub(super) sources: Vec<Source>,
    pub(super) meter: Meter,
    agenda: BinaryHeap<Reverse<Posted>>,
    posted: u64,
}

/// As a gateway has it.
pub(super) fn at(micros: Micros) -> Time {
    Time::new(Duration::from_micros(micros))
}

// === impl Shape ===

impl Shape {
    pub(super) fn full_step(&self) -> Micros {
        self.step + self.token * self.budget as Micros
    }
}

// === impl Posted ===

impl PartialEq for Posted {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Posted {}

impl PartialOrd for Posted {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Posted {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

// === impl World ===

impl World {
    pub(super) fn new(seed: u64, shape: Shape, limits: Limits) -> Self {
        let mut world = Self {
            now: 0,
            random: Random(seed),
            shape,
            limits,
            gateways: (0..shape.gateways).map(|_| Gateway::default()).collect(),
            replicas: (0..shape.replicas).map(Replica::new).collect(),
            links: Vec::new(),
            books: Books::default(),
            trouble: false,
            troubled: false,
            recovered_at: Micros::MAX,
            wrong: 0,
            slow: 0,
            revision: 1,
            generation: 1,
            rolling: VecDeque::new(),
            events: 0,
            thorough: true,
            sources: Vec::new(),
            meter: Meter::default(),
            agenda: BinaryHeap::new(),
            posted: 0,
        };
        (0..shape.gateways).for_each(|gateway| world.post(0, Message::StartGateway(gateway)));
        (0..shape.replicas).for_each(|replica| world.post(0, Message::Form(replica)));
        world
    }

    /// Lets something happen after so long.
    pub(super) fn post(&mut self, after: Micros, message: Message) {
        self.posted += 1;
        self.agenda.push(Reverse(Posted { at: self.now + after, number: self.posted, message }));
    }

    /// Lets time pass.
    pub(super) fn run_for(&mut self, time: Micros) {
        let end = self.now + time;
        while self.agenda.peek().is_some_and(|Reverse(next)| next.at < end) {
            let Some(Reverse(next)) = self.agenda.pop() else { break };
            self.now = next.at;
            self.events += 1;
            self.deliver(next.message);
        }
        self.now = end;
    }

    pub(super) fn deliver(&mut self, message: Message) {
        match message {
            Message::Up(link, up) if !self.links[link].cut || matches!(up, Up::Closed) => self.hear_gateway(link, up),
            Message::Down(link, down) if !self.links[link].cut || matches!(down, Down::Closed) => {
                self.hear_replica(link, down);
            }
            Message::Up(..) | Message::Down(..) => {}
            Message::Within(replica, epoch, what) => self.within(replica, epoch, what),
            Message::News(gateway, life, news) => {
                if self.gateways[gateway].life == life {
                    self.tell(gateway, Event::Registry(news));
                }
            }
            Message::Unwelcome(link) => self.unwelcome(link),
            Message::Ask(ask) => self.submit(ask),
            Message::More(source) => self.more(source),
            Message::Form(replica) => self.form(replica),
            Message::Resume(replica) => self.resume(replica),
            Message::StartGateway(gateway) => self.start_gateway(gateway),
            Message::WakeGateway(gateway) => self.wake_gateway(gateway),
            Message::WakeLeader(replica, epoch) => self.wake_leader(replica, epoch),
        }
    }

    /// Somebody who wants to wake then does so somewhat later.
    pub(super) fn late(&self, wake: Micros) -> Micros {
        (wake + 1 + Random(wake).below(LATE)).max(self.now)
    }

    // --- links ---

    pub(super) fn delay(&mut self) -> Micros {
        let long = self.trouble && self.random.chance(10);
        self.random.below(self.shape.delay + 1) * if long { 20 } else { 1 }
    }

    /// A new link, of which the gateway's end is open; in trouble, some are slow.
    pub(super) fn lay(&mut self, id: LinkId, gateway: usize, replica: usize, epoch: u64) -> usize {
        let slow = self.trouble && self.random.chance(150);
        let lag = if slow { self.random.between(20_000, 140_000) } else { 0 };
        let (gateway_end, replica_end, welcomed, cut, balance) = (true, false, false, false, 0);
        let (up_until, down_until) = (0, 0);
        let ends = Link {
            id,
            gateway,
            replica,
            epoch,
            gateway_end,
            replica_end,
            welcomed,
            balance,
            cut,
            lag,
            up_until,
            down_until,
        };
        self.links.push(ends);
        self.links.len() - 1
    }

    pub(super) fn send_up(&mut self, link: usize, up: Up) {
        let arrives = self.now + self.delay();
        let it = &mut self.links[link];
        it.up_until = it.up_until.max(arrives);
        let after = it.up_until - self.now;
        self.post(after, Message::Up(link, up));
    }

    pub(super) fn send_down(&mut self, link: usize, down: Down) {
        let arrives = self.now + self.delay() + self.links[link].lag;
        let it = &mut self.links[link];
        it.down_until = it.down_until.max(arrives);
        let after = it.down_until - self.now;
        self.post(after, Message::Down(link, down));
    }

    /// Nothing passes from now on, not even what is on its way; both ends hear of it within so long.
    pub(super) fn cut(&mut self, link: usize, notice: Micros) {
        self.links[link].cut = true;
        let (up, down) = (self.random.below(notice + 1), self.random.below(notice + 1));
        self.post(up, Message::Up(link, Up::Closed));
        self.post(down, Message::Down(link, Down::Closed));
    }
}
