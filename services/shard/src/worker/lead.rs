//! One epoch, as its leader: open it, gather the workers, let the ranks meet, probe them with one step, and then serve
//! gateways until something breaks or all is done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use collective::Session;
use discovery::Claim;
use model::{Device, PackedBatch, Packer};
use proto::Message as _;
use proto::shard::v1::{EpochRecord, RankState};
use score::{Checksum, Partials, Stamp};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use super::crew::{Crew, News};
use super::gateways::Gateways;
use super::server::{Arrival, Door};
use super::{Context, Local, Locals, Reason, WorkerOptions};
use crate::leader::{Action, Ending, Event, Leader, Report, Settings, Work};
use crate::plan;
use crate::{RanksOptions, metrics};

/// What gateways and ranks may have said before the leader listens.
const INBOX: usize = 1024;
/// Messages that are taken in before the next step is planned.
const BATCH: usize = 4096;

/// Leads one epoch; None if the worker is to leave and all that was accepted is done.
pub(super) async fn lead(context: &Context, locals: &mut Locals<'_>) -> Option<Reason> {
    let opened = async {
        let claim = context.membership.claim().await;
        let world_size = context.options.ranks.world_size;
        let mut roster = context.roster.clone();
        // the roster outlives the context
        let _ = roster.wait_for(|roster| roster.is_complete(world_size)).await;
        open(context, &claim).await
    };
    let number = tokio::select! {
        number = opened => match number {
            Ok(number) => number,
            Err(reason) => return Some(reason),
        },
        () = context.stop.cancelled() => return None,
    };
    let outcome = Epoch::new(context, locals, number).run().await;
    let closing = context.registry.close_epoch(&context.epoch_key, number);
    if timeout(context.options.patience.silence, closing).await.is_err() {
        tracing::warn!(epoch = number, "the registry is away and does not know that the epoch is over");
    }
    outcome.err()
}

async fn open(context: &Context, claim: &Arc<Claim>) -> Result<u64, Reason> {
    let record = EpochRecord { address: context.address.clone() };
    let number = claim.open_epoch(&context.epoch_key, &record.encode_to_vec()).await;
    number.map_err(|error| format!("cannot open an epoch: {error}"))
}

/// An epoch that this worker leads.
struct Epoch<'a, 'b> {
    context: &'a Context,
    locals: &'a mut Locals<'b>,
    number: u64,
    door: Door,
    arrivals: mpsc::Receiver<Arrival>,
    crew: Crew,
    started: Instant,
}

/// What an epoch that serves is made of.
struct Serving<'a, 'b> {
    epoch: Epoch<'a, 'b>,
    leader: Leader,
    gateways: Gateways,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    draining: bool,
}

// === impl Epoch ===

impl<'a, 'b> Epoch<'a, 'b> {
    fn new(context: &'a Context, locals: &'a mut Locals<'b>, number: u64) -> Self {
        let (sender, arrivals) = mpsc::channel(INBOX);
        let door = context.lobby.open(number, sender);
        let RanksOptions { world_size, config, .. } = &context.options.ranks;
        let crew = Crew::new(*world_size, locals.ranks.numbers(), config.outputs());
        Self { context, locals, number, door, arrivals, crew, started: Instant::now() }
    }

    async fn run(mut self) -> Result<(), Reason> {
        let patience = self.context.options.patience;
        let stop = self.context.stop.clone();
        let formed = async {
            timeout(patience.forming, self.gather()).await.map_err(|_| "not all workers came".to_owned())?;
            self.meet().await?;
            self.probe().await
        };
        let probe = tokio::select! {
            probe = formed => probe?,
            () = stop.cancelled() => return Ok(()),
        };
        tracing::info!(epoch = self.number, replica = self.context.options.replica, "the replica serves");
        self.context.set_state(RankState::Serving, self.number);
        self.door.serve();
        Serving::new(self, probe).run().await
    }

    /// Waits until every rank has its worker.
    async fn gather(&mut self) {
        while !self.crew.is_complete() {
            // the door holds a sender
            if let Some(Arrival::Worker(call)) = self.arrivals.recv().await {
                self.crew.join(call);
            }
        }
    }

    /// Lets the ranks meet.
    async fn meet(&mut self) -> Result<(), Reason> {
        let patience = self.context.options.patience;
        let world_size = self.context.options.ranks.world_size;
        let session = Session { id: self.number, world_size, forming: patience.forming, silence: patience.meeting };
        let host = host_of(&self.context.address);
        let version = self.crew.version(self.context.options.protocol.highest);
        self.locals.checksum = Checksum::of_version(version);
        let by_nccl = version >= 2 && !self.crew.is_alone();
        let nccl = if by_nccl { self.context.nccl_version()? } else { None };
        let collectives = self.crew.meet(&host, session, (self.locals.checksum, nccl)).await?;
        self.locals.ranks.take_seats(collectives);
        let seated = async {
            while !self.crew.is_seated() {
                self.crew.next().await?;
            }
            Ok(())
        };
        timeout(patience.forming, seated).await.map_err(|_| "not all workers met the others".to_owned())?
    }

    /// Has all ranks compute one step, before anybody relies on them. Says of how many tokens, and how long it took.
    async fn probe(&mut self) -> Result<(usize, Duration), Reason> {
        let batch = probe(&self.context.options);
        let tokens = batch.tokens.len();
        let stamp = Stamp { step: 0, ..self.first_stamp() };
        let start = Instant::now();
        self.compute(&Work { stamp, batch: Arc::new(batch), trace: None })?;
        let allowance = self.context.options.patience.allowance();
        let most = allowance.least.as_secs_f64() + allowance.factor * tokens as f64 / allowance.slowest;
        let most = Duration::try_from_secs_f64(most).unwrap_or(Duration::MAX);
        let mut ranks: BTreeMap<usize, Partials> = BTreeMap::new();
        let world_size = self.context.options.ranks.world_size;
        let answers = async {
            let mut beat = interval(self.context.options.patience.heartbeat);
            while ranks.len() < world_size {
                let report = tokio::select! {
                    local = self.locals.results.recv() => local.map(Local::report).transpose()?,
                    news = self.crew.next() => match news? {
                        News::Computed(report) => Some(report),
                        _ => None,
                    },
                    _ = beat.tick() => {
                        self.crew.beat(self.context.options.patience.silence)?;
                        None
                    }
                };
                if let Some(Report { first_rank, ranks: computed, .. }) = report.filter(|it| it.stamp == stamp) {
                    ranks.extend((first_rank..).zip(computed));
                }
            }
            Ok::<_, Reason>(())
        };
        timeout(most, answers).await.map_err(|_| "the first step is overdue".to_owned())??;
        let mut checksums = ranks.values().map(|partials| partials.get(0).map(|partial| partial.checksum));
        let first = checksums.next().flatten().ok_or("a rank computed nothing")?;
        if let Some(rank) = checksums.position(|checksum| checksum != Some(first)) {
            return Err(format!("ranks 0 and {} computed different rows in the first step", rank + 1));
        }
        Ok((tokens, start.elapsed()))
    }

    fn first_stamp(&self) -> Stamp {
        Stamp { generation: self.context.options.generation, epoch: self.number, step: 0 }
    }

    fn compute(&self, work: &Work) -> Result<(), Reason> {
        self.crew.compute(work)?;
        self.locals.compute(work).map_err(|error| error.to_string())
    }
}

/// The step that begins an epoch: a small one on CPUs, on GPUs as large as any, so that it is known before anybody relies
/// on them that their memory holds it.
fn probe(options: &WorkerOptions) -> PackedBatch {
    let RanksOptions { config, computes, .. } = &options.ranks;
    let tokens = match computes.iter().all(|compute| compute.device == Device::Cpu) {
        true => options.probe.min(options.step_tokens),
        false => options.step_tokens,
    };
    let mut packer = Packer::default();
    for first in (0..tokens).step_by(config.max_positions) {
        let last = tokens.min(first + config.max_positions);
        packer.push((first..last).map(|token| (token % config.vocab) as u32).collect());
    }
    packer.pack()
}

/// The host of `host:port`; a name without a port is of this process.
fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

// === impl Serving ===

impl<'a, 'b> Serving<'a, 'b> {
    fn new(epoch: Epoch<'a, 'b>, probe: (usize, Duration)) -> Self {
        let options = &epoch.context.options;
        let settings = Settings {
            plan: plan::Settings { linger: options.linger, ..plan::Settings::new(options.step_tokens) },
            stamp: epoch.first_stamp(),
            ranks: options.ranks.world_size,
            vocab: options.ranks.config.vocab,
            allowance: options.patience.allowance(),
        };
        let (sender, events) = mpsc::channel(INBOX);
        let gateways = Gateways::new(epoch.started);
        let leader = Leader::new(settings, Some(probe));
        Self { epoch, leader, gateways, events, sender, draining: false }
    }

    async fn run(mut self) -> Result<(), Reason> {
        let patience = self.epoch.context.options.patience;
        let mut beat = interval(patience.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.epoch.context.stop.clone();
        let mut drained_by: Option<Instant> = None;
        loop {
            let mut actions = Vec::new();
            let wakes_at = self.epoch.started + self.leader.wakes_at();
            tokio::select! {
                event = self.events.recv() => self.take_in(event, &mut actions),
                Some(arrival) = self.epoch.arrivals.recv() => self.arrive(arrival, &mut actions),
                Some(local) = self.epoch.locals.results.recv() => {
                    self.handle(Event::Computed(local.report()?), &mut actions);
                }
                news = self.epoch.crew.next() => self.hear(news?, &mut actions),
                _ = beat.tick() => self.epoch.crew.beat(patience.silence)?,
                () = sleep_until(wakes_at.into()) => {}
                () = stop.cancelled(), if !self.draining => {
                    self.drain(&mut actions);
                    drained_by = Some(Instant::now() + patience.drain);
                }
            }
            if drained_by.is_some_and(|by| Instant::now() > by) {
                return Err(format!("what was accepted took longer than {:?}", patience.drain));
            }
            let now = self.epoch.started.elapsed();
            self.leader.advance(now, &mut actions);
            if let Some(ending) = self.carry_out(actions)? {
                return match ending {
                    Ending::Drained if stop.is_cancelled() => Ok(()),
                    ending => Err(ending.to_string()),
                };
            }
        }
    }

    fn handle(&mut self, event: Event, actions: &mut Vec<Action>) {
        if let Event::Detached(id) = event {
            self.gateways.detached(id);
        }
        let now = self.epoch.started.elapsed();
        self.leader.handle(now, event, actions);
    }

    /// Takes in all that gateways have said by now.
    fn take_in(&mut self, first: Option<Event>, actions: &mut Vec<Action>) {
        let mut next = first;
        for _ in 0..BATCH {
            let Some(event) = next else { return };
            self.handle(event, actions);
            next = self.events.try_recv().ok();
        }
        if let Some(event) = next {
            self.handle(event, actions);
        }
    }

    fn arrive(&mut self, arrival: Arrival, actions: &mut Vec<Action>) {
        match arrival {
            Arrival::Gateway(call) => {
                let event = self.gateways.attach(call, self.sender.clone());
                self.handle(event, actions);
            }
            // all ranks are taken, and the crew says so
            Arrival::Worker(call) => self.epoch.crew.join(call),
        }
    }

    fn hear(&mut self, news: News, actions: &mut Vec<Action>) {
        match news {
            News::Computed(report) => self.handle(Event::Computed(report), actions),
            News::Leaving(ranks) => {
                tracing::info!(?ranks, "a worker wants to leave");
                self.drain(actions);
            }
            News::Seated | News::None => {}
        }
    }

    /// Accepts no more work: the registry knows first.
    fn drain(&mut self, actions: &mut Vec<Action>) {
        self.draining = true;
        self.epoch.context.set_state(RankState::Draining, self.epoch.number);
        self.handle(Event::Drain, actions);
    }

    /// Does what the leader says; Some if the epoch is over.
    fn carry_out(&mut self, actions: Vec<Action>) -> Result<Option<Ending>, Reason> {
        for action in actions {
            match action {
                Action::Compute(work) => {
                    let options = &self.epoch.context.options;
                    let (sequences, tokens) = (work.batch.ends.len(), work.batch.tokens.len());
                    self.epoch.context.computed.add(tokens);
                    metrics::step(&options.replica, sequences, tokens, options.step_tokens);
                    metrics::waiting(&options.replica, self.leader.stats().waiting);
                    self.epoch.compute(&work)?;
                }
                Action::End(ending) => return Ok(Some(ending)),
                action => {
                    if let Action::Answer(_, answers) = &action {
                        metrics::step_took(&self.epoch.context.options.replica, answers.took);
                    }
                    if let Some(gone) = self.gateways.tell(action) {
                        self.handle(gone, &mut Vec::new());
                    }
                }
            }
        }
        Ok(None)
    }
}
