//! Replicas: the leader of each epoch, the ranks that compute for it, and how epochs begin and end.

use std::collections::BTreeSet;
use std::time::Duration;

use gateway::core::{News, ReplicaId, Version, Welcome};
use model::Packer;
use score::{Partials, Piece, Stamp, Tag};
use shard::leader::{Action, Ending, Event, Leader, Report, Settings, Submission, Work};
use shard::plan::{self, Allowance, Change, GatewayId};

use super::gateways::{name, record};
use super::score::{VOCAB, fingerprint, partial, sequences};
use super::world::{Down, Message, Micros, Up, World};

pub(super) struct Replica {
    pub(super) id: ReplicaId,
    /// None between two epochs.
    pub(super) epoch: Option<Epoch>,
    /// Its leader does nothing, and this is what it will hear.
    pub(super) hung: bool,
    stash: Vec<Message>,
}

pub(super) struct Epoch {
    pub(super) number: u64,
    pub(super) start: Micros,
    pub(super) leader: Leader,
    /// When the leader goes on with what it has taken in.
    due: Option<Micros>,
    generation: u64,
    actions: Vec<Action>,
    links: BTreeSet<usize>,
    draining: bool,
    /// When its leader wakes.
    wakes: Option<Micros>,
    /// Something was done to it.
    pub(super) hurt: bool,
    /// A rank that does not answer any more, and one that leaves out a step.
    pub(super) silent: Option<usize>,
    pub(super) skips: Option<usize>,
    /// What waits here.
    waiting: Vec<Waiting>,
    /// How long gateways had held work when it began to idle.
    pub(super) idle_since: Option<Micros>,
    /// When the ranks will have computed what they have, and when what each worker has said arrives.
    pub(super) free_at: Micros,
    heard: Vec<Micros>,
}

/// A sequence that has arrived, and that no step has held.
struct Waiting {
    link: usize,
    tag: Tag,
    tokens: Vec<u32>,
    deadline: Micros,
}

pub(super) enum Internal {
    Computed(Report),
    /// The ranks have computed all that they have.
    Free,
    Drain,
    Die(Death),
}

/// How the gateways learn that an epoch is over.
#[derive(Clone, Copy)]
pub(super) enum Death {
    /// What was said before arrives, then the lines end.
    Orderly,
    /// The lines break at once.
    Broken,
    /// The lines break, and nobody says so for a while.
    Silent,
}

// === impl Replica ===

impl Replica {
    pub(super) fn new(number: usize) -> Self {
        Self { id: ReplicaId::of(&name(number)), epoch: None, hung: false, stash: Vec::new() }
    }
}

// === impl World ===

impl World {
    /// Begins an epoch.
    pub(super) fn form(&mut self, replica: usize) {
        assert!(self.replicas[replica].epoch.is_none());
        let (number, generation) = (self.revision, self.generation);
        self.revision += 1;
        let full = self.shape.full_step();
        let settings = Settings {
            plan: plan::Settings::new(self.shape.budget),
            stamp: Stamp { generation, epoch: number, step: 0 },
            ranks: self.shape.ranks,
            vocab: VOCAB as usize,
            allowance: Allowance { least: Duration::from_micros(14 * full), factor: 4.0, slowest: 1000.0 },
        };
        let epoch = Epoch {
            number,
            start: self.now,
            leader: Leader::new(settings, Some((32, Duration::from_micros(self.shape.step)))),
            due: None,
            generation,
            actions: Vec::new(),
            links: BTreeSet::new(),
            draining: false,
            wakes: None,
            idle_since: Some(self.meter.held(self.now)),
            hurt: false,
            silent: None,
            skips: None,
            waiting: Vec::new(),
            free_at: 0,
            heard: vec![0; self.shape.ranks],
        };
        self.replicas[replica] = Replica { epoch: Some(epoch), ..Replica::new(replica) };
        self.wake_in_time(replica);
        for gateway in 0..self.gateways.len() {
            self.announce(gateway, News::Written(record(replica, Some(number))));
        }
        if let Some(next) = self.rolling.pop_front() {
            self.drain(next);
        }
    }

    pub(super) fn drain(&mut self, replica: usize) {
        match self.replicas[replica].epoch.as_ref().map(|epoch| epoch.number) {
            Some(epoch) => self.post(10_000, Message::Within(replica, epoch, Internal::Drain)),
            // it is about to begin another anyway
            None => self.rolling.clear(),
        }
    }

    /// Ends the epoch, and begins another after a while.
    pub(super) fn end(&mut self, replica: usize, death: Death) {
        let it = std::mem::replace(&mut self.replicas[replica], Replica::new(replica));
        let Some(epoch) = it.epoch else { return };
        self.meter.lived(self.now, epoch.start, epoch.idle_since, epoch.leader.stats());
        for link in epoch.links {
            self.links[link].replica_end = false;
            match death {
                Death::Orderly => self.send_down(link, Down::Closed),
                Death::Broken => self.cut(link, 3_000),
                Death::Silent => self.cut(link, 300_000),
            }
        }
        for gateway in 0..self.gateways.len() {
            if !matches!(death, Death::Silent) {
                let record = record(replica, None);
                let gone = News::Removed { replica: record.replica.clone(), rank: 0 };
                let news = if self.random.chance(500) { gone } else { News::Written(record) };
                self.announce(gateway, news);
            }
        }
        let back = self.random.between(self.shape.back / 30, self.shape.back);
        self.post(back, Message::Form(replica));
    }

    pub(super) fn resume(&mut self, replica: usize) {
        if std::mem::take(&mut self.replicas[replica].hung) {
            let (held, now) = (self.meter.held(self.now), self.now);
            let idle = self.replicas[replica].epoch.as_mut().filter(|epoch| epoch.free_at <= now);
            idle.into_iter().for_each(|epoch| epoch.idle_since = Some(held));
            for message in std::mem::take(&mut self.replicas[replica].stash) {
                self.deliver(message);
            }
            self.wake_in_time(replica);
        }
    }

    pub(super) fn within(&mut self, replica: usize, number: u64, what: Internal) {
        let it = &mut self.replicas[replica];
        let Some(epoch) = it.epoch.as_mut().filter(|epoch| epoch.number == number) else { return };
        match what {
            Internal::Free if epoch.free_at == self.now && !it.hung => {
                epoch.idle_since = Some(self.meter.held(self.now))
            }
            Internal::Free => {}
            Internal::Die(death) => {
                self.troubled = true;
                self.end(replica, death);
            }
            what if it.hung => it.stash.push(Message::Within(replica, number, what)),
            Internal::Computed(report) => self.lead(replica, Event::Computed(report)),
            Internal::Drain => {
                epoch.draining = true;
                self.lead(replica, Event::Drain);
            }
        }
    }

    /// Something comes from a gateway.
    pub(super) fn hear_gateway(&mut self, link: usize, up: Up) {
        let (replica, number) = (self.links[link].replica, self.links[link].epoch);
        let it = &mut self.replicas[replica];
        if it.hung {
            it.stash.push(Message::Up(link, up));
            return;
        }
        let Some(epoch) = it.epoch.as_mut().filter(|epoch| epoch.number == number) else {
            if matches!(up, Up::Hello) {
                self.send_down(link, Down::Closed);
            }
            return;
        };
        let gateway = GatewayId(link as u64);
        match up {
            Up::Hello => {
                epoch.links.insert(link);
                self.links[link].replica_end = true;
                self.welcome(link);
                self.lead(replica, Event::Attached(gateway));
            }
            Up::Closed if std::mem::take(&mut self.links[link].replica_end) => {
                epoch.links.remove(&link);
                epoch.waiting.retain(|it| it.link != link);
                self.lead(replica, Event::Detached(gateway));
            }
            _ if !self.links[link].replica_end => {}
            Up::Piece(piece, patience) => {
                let deadline = self.now + patience;
                if self.thorough && !epoch.draining {
                    epoch.note_waiting(link, &piece, deadline);
                }
                let deadline = Some(Duration::from_micros(deadline - epoch.start));
                let submission = Submission { tokens: piece.tokens(), piece, deadline, trace: None };
                self.lead(replica, Event::Arrived(gateway, submission));
            }
            Up::Withdraw(tag) => {
                epoch.waiting.retain(|it| (it.link, it.tag) != (link, tag));
                self.lead(replica, Event::Withdrawn(gateway, tag));
            }
            Up::Closed => {}
        }
    }

    fn welcome(&mut self, link: usize) {
        let (replica, epoch) = (self.links[link].replica, self.links[link].epoch);
        let Some(generation) = self.replicas[replica].epoch.as_ref().map(|epoch| epoch.generation) else { return };
        let version = Version { generation, fingerprint: fingerprint(generation) };
        let (ranks, step_tokens) = (self.shape.ranks as u32, self.shape.budget as u64);
        self.send_down(
            link,
            Down::Welcome(Welcome { protocol: 1, epoch, version, ranks, outputs: 1, step_tokens, vocab: VOCAB }),
        );
    }

    fn lead(&mut self, replica: usize, event: Event) {
        let Some(epoch) = &mut self.replicas[replica].epoch else { return };
        let now = Duration::from_micros(self.now - epoch.start);
        epoch.leader.handle(now, event, &mut epoch.actions);
        let soon = self.now + self.random.below(50);
        epoch.due.get_or_insert(soon);
        self.wake_in_time(replica);
    }

    /// The leader will wake when it has to.
    fn wake_in_time(&mut self, replica: usize) {
        let Some(epoch) = &self.replicas[replica].epoch else { return };
        let wake = self.late(epoch.start + epoch.leader.wakes_at().as_micros() as Micros);
        let wake = epoch.due.map_or(wake, |due| due.min(wake)).max(self.now);
        if epoch.wakes.is_none_or(|before| wake < before) {
            let number = epoch.number;
            self.replicas[replica].epoch.as_mut().into_iter().for_each(|epoch| epoch.wakes = Some(wake));
            self.post(wake - self.now, Message::WakeLeader(replica, number));
        }
    }

    pub(super) fn wake_leader(&mut self, replica: usize, number: u64) {
        let it = &mut self.replicas[replica];
        let Some(epoch) = it.epoch.as_mut().filter(|epoch| epoch.number == number) else { return };
        // an earlier wake was posted after this one
        if epoch.wakes == Some(self.now) {
            epoch.wakes = None;
            if !it.hung {
                self.advance(replica);
                self.wake_in_time(replica);
            }
        }
    }

    /// The leader goes on with all that it has taken in.
    fn advance(&mut self, replica: usize) {
        let budget = self.shape.budget;
        let Some(epoch) = &mut self.replicas[replica].epoch else { return };
        epoch.due = None;
        if self.thorough {
            epoch.check_waiting(self.now, budget);
        }
        let now = Duration::from_micros(self.now - epoch.start);
        epoch.leader.advance(now, &mut epoch.actions);
        for action in std::mem::take(&mut epoch.actions) {
            match action {
                Action::Compute(work) => self.compute(replica, &work),
                Action::Credit(Change { gateway, tokens }) => self.send_down(gateway.0 as usize, Down::Credits(tokens)),
                Action::Answer(gateway, answers) => self.send_down(gateway.0 as usize, Down::Answers(answers)),
                Action::Reject(gateway, those) => self.send_down(gateway.0 as usize, Down::Rejections(those)),
                Action::Draining(gateway) => self.send_down(gateway.0 as usize, Down::Draining),
                Action::Detach(gateway, problem) => panic!("{gateway:?} does not keep to the rules: {problem}"),
                Action::End(ending) => {
                    let epoch = self.replicas[replica].epoch.as_ref().unwrap();
                    let known = if ending == Ending::Drained { epoch.draining } else { epoch.hurt };
                    assert!(known, "replica {replica} ends its epoch for no reason: {ending}");
                    self.books.saw(match ending {
                        Ending::Drained => "drained",
                        Ending::Overdue(_) => "overdue",
                        Ending::OutOfStep { .. } | Ending::Rows { .. } => "out of step",
                    });
                    return self.end(replica, Death::Orderly);
                }
            }
        }
    }

    /// The ranks begin together, are done together, and are heard one after another.
    fn compute(&mut self, replica: usize, work: &Work) {
        let begin = self.now + self.delay();
        let slow = if self.slow > 0 && self.random.chance(self.slow) { 3 } else { 1 };
        let took = slow * (self.shape.step + self.shape.token * work.batch.tokens.len() as Micros);
        let now = self.now;
        assert!(work.batch.tokens.len().max(work.batch.ends.len()) <= self.shape.budget);
        let epoch = self.replicas[replica].epoch.as_mut().unwrap();
        self.meter.computes(now, took, epoch.idle_since.take());
        epoch.free_at = epoch.free_at.max(begin) + took;
        let (free_at, number, generation) = (epoch.free_at, epoch.number, epoch.generation);
        let sequences = sequences(&work.batch);
        if self.thorough {
            sequences.iter().for_each(|tokens| epoch.take_waiting(now, tokens));
        }
        let (silent, skips) = (epoch.silent, epoch.skips);
        self.post(free_at - now, Message::Within(replica, number, Internal::Free));
        // if two were wrong in the same way, nobody could know
        let wrong = self.random.chance(self.wrong).then(|| self.random.below(self.shape.ranks as u64) as usize);
        for first_rank in (0..self.shape.ranks).step_by(self.shape.per_worker) {
            let ranks = first_rank..(first_rank + self.shape.per_worker).min(self.shape.ranks);
            if silent.is_some_and(|rank| ranks.contains(&rank)) {
                continue;
            }
            let of_rank = |rank| {
                let (logits, checksums) = sequences.iter().map(|tokens| partial(tokens, generation, rank)).unzip();
                Partials::new(1, logits, checksums).unwrap()
            };
            let mut report = Report { first_rank, stamp: work.stamp, ranks: ranks.clone().map(of_rank).collect() };
            report.stamp.step += u64::from(skips.is_some_and(|rank| ranks.contains(&rank)));
            if let Some(rank) = wrong.filter(|rank| ranks.contains(rank)) {
                self.tamper(rank, &mut report);
                // the leader does not go on with ranks that cannot count
                let short = report.ranks.iter().any(|of_rank| of_rank.len() < sequences.len());
                self.replicas[replica].epoch.as_mut().unwrap().hurt |= short;
            }
            let arrives = free_at + self.delay();
            let heard = &mut self.replicas[replica].epoch.as_mut().unwrap().heard[first_rank];
            *heard = arrives.max(*heard);
            let after = *heard - now;
            self.post(after, Message::Within(replica, number, Internal::Computed(report)));
        }
    }

    /// A rank computes something else, or says so.
    fn tamper(&mut self, rank: usize, report: &mut Report) {
        self.books.wronged = true;
        let kinds = if self.shape.ranks > 1 { 5 } else { 3 };
        let of_rank = &mut report.ranks[rank - report.first_rank];
        let (mut logits, mut checksums) = of_rank.clone().into_parts();
        let place = self.random.below(of_rank.len() as u64) as usize;
        match self.random.below(kinds) {
            0 => logits[place] = f32::NAN,
            1 => drop((logits.pop(), checksums.pop())),
            // of another life, which nothing else gives away
            2 => {
                report.stamp.epoch -= 1;
                logits.iter_mut().for_each(|logit| *logit += 1.0);
            }
            // another row; only with another rank can that be known
            3 => (logits[place], checksums[place]) = (1.0, checksums[place] ^ 1),
            _ => {
                logits.rotate_left(1);
                checksums.rotate_left(1);
            }
        }
        *of_rank = Partials::new(1, logits, checksums).unwrap();
    }
}

// === impl Epoch ===

impl Epoch {
    fn note_waiting(&mut self, link: usize, piece: &Piece, deadline: Micros) {
        for tail in &piece.tails {
            let tokens = [&piece.prefix[..], &tail.ids].concat();
            self.waiting.push(Waiting { link, tag: piece.tag, tokens, deadline });
        }
    }

    /// What is computed has arrived, was not computed before, and somebody still waits for it.
    fn take_waiting(&mut self, now: Micros, tokens: &[u32]) {
        self.waiting.retain(|it| it.deadline > now);
        let place = self.waiting.iter().position(|it| it.tokens == tokens);
        self.waiting.remove(place.expect("what is computed waits here"));
    }

    /// No more waits than credits allow: a step, the floors of idle gateways, and the last piece of each.
    fn check_waiting(&mut self, now: Micros, budget: usize) {
        self.waiting.retain(|it| it.deadline > now);
        let of_link = |link: &usize| {
            let mut packer = Packer::default();
            let waiting = self.waiting.iter().filter(|it| it.link == *link);
            waiting.for_each(|it| packer.push(it.tokens.as_slice().into()));
            packer.tokens()
        };
        let waiting: usize = self.links.iter().map(of_link).sum();
        let most = budget * 5 / 4 + self.links.len() * budget;
        assert!(waiting <= most, "{waiting} tokens wait at {} links, at most {most} may", self.links.len());
    }

    /// Nothing waits, and the leader remembers nobody's sequence.
    pub(super) fn check_idle(&mut self, now: Micros) {
        self.waiting.retain(|it| it.deadline > now);
        assert!(self.waiting.is_empty() && self.leader.stats().waiting == 0);
        let leader = format!("{:?}", self.leader);
        assert!(leader.contains("origins: {}") && !leader.contains("Origin {"), "{leader}");
    }
}
