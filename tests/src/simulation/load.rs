//! A cluster under load: who asks for what, and what is measured while the cluster copes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gateway::core::Limits;
use shard::leader::Stats;

use super::clients::{Conversations, group, words};
use super::world::{Message, Micros, SECOND, Shape, World};

/// What is put on a cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) gateways: usize,
    pub(crate) replicas: usize,
    /// Seconds of simulated time.
    pub(crate) seconds: u64,
    /// Tokens that are asked for, as a share of what the replicas can compute.
    pub(crate) share: f64,
    pub(crate) tenants: Tenants,
    /// One thing goes wrong each so many milliseconds; 0 for never.
    pub(crate) faults: u64,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tenants {
    /// Several, each through all gateways.
    Spread,
    /// One through a single gateway and one through all, of the same weight, and each asks for half.
    OneAndAll,
}

/// What was measured.
#[derive(Debug)]
#[allow(dead_code, reason = "the bench prints what the tests do not hold to a bound")]
pub(crate) struct Report {
    /// Shares of the replicas' time: computing, and idle while some gateway held work.
    pub(crate) busy: f64,
    pub(crate) idle: f64,
    /// How full steps are.
    pub(crate) fill: f64,
    /// How long a conversation takes, in full steps.
    pub(crate) median: f64,
    pub(crate) slowest_hundredth: f64,
    /// Tokens that were sent, by tenant.
    pub(crate) sent: BTreeMap<&'static str, u64>,
    /// Conversations with an answer and with a score, refused requests, and those that nobody answered.
    pub(crate) answers: u64,
    pub(crate) scores: u64,
    pub(crate) refusals: u64,
    pub(crate) lost: usize,
    /// Events of all gateways' cores, and how many of them one handles in a second.
    pub(crate) events: u64,
    pub(crate) events_per_second: f64,
}

/// Somebody who asks a gateway for so many tokens a second.
pub(super) struct Source {
    tenant: &'static str,
    gateway: usize,
    rate: f64,
}

/// What is counted on the way.
#[derive(Default)]
pub(super) struct Meter {
    /// Gateways that hold work, and how long some gateway did.
    holding: usize,
    since: Micros,
    held: Micros,
    /// Time in which replicas computed, idled while a gateway held work, and were there.
    began: Micros,
    busy: Micros,
    idle: Micros,
    lived: Micros,
    /// Of epochs that are over, less what was computed before.
    steps: i64,
    tokens: i64,
    /// Events of cores, and the time that a sample of them took.
    handled: u64,
    sample: (u64, Duration),
}

/// One event of so many is timed.
const SAMPLE: u64 = 16;
/// A step of 8,192 tokens of a large model, an eighth of the tokens.
const SHAPE: Shape = Shape {
    gateways: 0,
    replicas: 0,
    ranks: 1,
    per_worker: 1,
    budget: 1024,
    step: 10_000,
    token: 250,
    delay: 500,
    back: 10 * SECOND,
};
const PATIENCE: Micros = 120 * SECOND;

// === impl Load ===

impl Load {
    /// Lets it come over a cluster, and says how that went.
    ///
    /// # Panics
    /// If anything is wrong with an answer.
    pub(crate) fn run(&self, seed: u64) -> Report {
        let shape = Shape { gateways: self.gateways, replicas: self.replicas, ..SHAPE };
        let tokens = 40 * (shape.budget * shape.replicas.div_ceil(shape.gateways)) as u64;
        let limits = Limits { tokens: 4 * tokens.max(1 << 20), conversations: 1 << 24, longest: shape.budget as u64 };
        let mut world = World::new(seed, shape, limits);
        (world.thorough, world.books.skipped) = (false, 15);
        // all are connected, and idle credits are back
        world.run_for(2 * SECOND);
        self.open_sources(&mut world);
        let warm = self.seconds * SECOND / 10;
        world.run_for(warm);
        world.begin_measures();
        if self.faults > 0 {
            (world.trouble, world.slow) = (true, 2);
        }
        let mut left = self.seconds * SECOND - warm;
        while left > 0 {
            let pause = if self.faults > 0 { (self.faults * 1_000).min(left) } else { left };
            world.run_for(pause);
            left -= pause;
            if self.faults > 0 {
                world.hurt_somebody();
                world.cancel();
            }
        }
        self.report(&mut world)
    }

    fn open_sources(&self, world: &mut World) {
        let all = self.share * (self.replicas * world.shape.budget) as f64 / world.shape.full_step() as f64;
        let (tenants, share): (&[_], _) = match self.tenants {
            Tenants::Spread => (&["a", "b", "c", "d"], 1.0),
            Tenants::OneAndAll => (&["all"], 0.5),
        };
        let each = share * all / (self.gateways * tenants.len()) as f64;
        for gateway in 0..self.gateways {
            world.sources.extend(tenants.iter().map(|tenant| Source { tenant, gateway, rate: each }));
        }
        if self.tenants == Tenants::OneAndAll {
            world.sources.push(Source { tenant: "one", gateway: 0, rate: 0.5 * all });
        }
        (0..world.sources.len()).for_each(|source| world.post(0, Message::More(source)));
    }

    /// Lets everything calm down, and takes the measures.
    fn report(&self, world: &mut World) -> Report {
        let mut report = world.measures();
        world.sources.clear();
        world.calm_down();
        world.run_for(2 * PATIENCE);
        report.lost = world.books.unanswered();
        if report.lost == 0 {
            world.check_calm();
            world.books.skipped = 0;
            world.late_waits();
        }
        report
    }
}

// === impl Meter ===

impl Meter {
    /// How long some gateway has held work.
    pub(super) fn held(&mut self, now: Micros) -> Micros {
        let since = std::mem::replace(&mut self.since, now);
        if self.holding > 0 {
            self.held += now - since;
        }
        self.held
    }

    /// A replica computes for so long, after it has idled since gateways had held work for so long.
    pub(super) fn computes(&mut self, now: Micros, took: Micros, idle_since: Option<Micros>) {
        self.busy += took;
        self.idle += idle_since.map_or(0, |since| self.held(now) - since);
    }

    /// An epoch is over.
    pub(super) fn lived(&mut self, now: Micros, start: Micros, idle_since: Option<Micros>, stats: Stats) {
        self.lived += now - start.max(self.began);
        self.idle += idle_since.map_or(0, |since| self.held(now) - since);
        self.steps += stats.steps as i64;
        self.tokens += stats.computed_tokens as i64;
    }

    /// Lets a core handle something.
    pub(super) fn time<T>(&mut self, handle: impl FnOnce() -> T) -> T {
        self.handled += 1;
        if !self.handled.is_multiple_of(SAMPLE) {
            return handle();
        }
        let start = Instant::now();
        let handled = handle();
        self.sample = (self.sample.0 + 1, self.sample.1 + start.elapsed());
        handled
    }
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

// === impl World ===

impl World {
    /// A source asks, and will again.
    pub(super) fn more(&mut self, source: usize) {
        let Some(&Source { tenant, gateway, rate }) = self.sources.get(source) else { return };
        let item = self.mixed();
        let shared = item[1..].iter().map(|it| common(&item[0], it)).min().unwrap_or_default();
        let tokens = shared + item.iter().map(|it| it.len() - shared).sum::<usize>();
        let chance = (self.random.below(1 << 30) + 1) as f64 / f64::from(1 << 30);
        let after = -chance.ln() * tokens as f64 / rate;
        self.ask_at(gateway, (tenant, 1), PATIENCE, vec![item]);
        self.post(after as Micros, Message::More(source));
    }

    /// A conversation, or a prompt with responses, of which a step holds many or few.
    fn mixed(&mut self) -> Conversations {
        let random = &mut self.random;
        match random.below(10) {
            0..5 => {
                let tokens = random.between(10, 150);
                vec![words(random, tokens).into()]
            }
            5 => {
                let tokens = random.between(200, 800);
                vec![words(random, tokens).into()]
            }
            6..9 => group(random, 8, 60, 60),
            _ => group(random, 16, 100, 100),
        }
    }

    /// What is measured begins now.
    fn begin_measures(&mut self) {
        let held = self.meter.held(self.now);
        for epoch in self.replicas.iter_mut().filter_map(|it| it.epoch.as_mut()) {
            epoch.idle_since.iter_mut().for_each(|since| *since = held);
        }
        let (steps, tokens) = self.computed();
        let Meter { holding, since, held, .. } = self.meter;
        let (began, steps, tokens) = (self.now, -steps, -tokens);
        self.meter = Meter { holding, since, held, began, steps, tokens, ..Meter::default() };
        self.books.forget();
    }

    /// Steps and tokens of the epochs that go on.
    fn computed(&self) -> (i64, i64) {
        let stats = self.replicas.iter().filter_map(|it| Some(it.epoch.as_ref()?.leader.stats()));
        stats.fold((0, 0), |(steps, tokens), it| (steps + it.steps as i64, tokens + it.computed_tokens as i64))
    }

    fn measures(&mut self) -> Report {
        let (now, (steps, tokens)) = (self.now, self.computed());
        let held = self.meter.held(now);
        for epoch in self.replicas.iter().filter_map(|it| it.epoch.as_ref()) {
            self.meter.lived += now - epoch.start.max(self.meter.began);
            self.meter.idle += epoch.idle_since.map_or(0, |since| held - since);
            self.meter.busy -= epoch.free_at.saturating_sub(now).min(self.meter.busy);
        }
        let Meter { busy, idle, lived, handled, sample, .. } = self.meter;
        let (steps, tokens) = (self.meter.steps + steps, self.meter.tokens + tokens);
        let mut waits: Vec<Micros> = self.books.waits.values().flatten().copied().collect();
        waits.sort_unstable();
        let full = self.shape.full_step() as f64;
        let wait = |hundredths: usize| waits.get(waits.len() * hundredths / 100).map_or(0.0, |it| *it as f64 / full);
        Report {
            busy: busy as f64 / lived as f64,
            idle: idle as f64 / lived as f64,
            fill: tokens as f64 / (steps * self.shape.budget as i64) as f64,
            median: wait(50),
            slowest_hundredth: wait(99),
            sent: self.books.sent.clone(),
            answers: self.books.answers(),
            scores: self.books.scores,
            refusals: self.books.refusals,
            lost: 0,
            events: handled,
            events_per_second: sample.0 as f64 / sample.1.as_secs_f64(),
        }
    }

    /// Notes whether a gateway holds work that it has not sent.
    pub(super) fn note_waiting(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        let holds = gateway.core.as_ref().is_some_and(|core| core.stats().waiting_pieces > 0);
        if holds != gateway.holds {
            gateway.holds = holds;
            self.meter.held(self.now);
            self.meter.holding = if holds { self.meter.holding + 1 } else { self.meter.holding - 1 };
        }
    }
}
