//! The other workers of an epoch, as the leader sees them: who owns which ranks, what goes out to them, what they say,
//! and whether they are still there.

use std::net::TcpListener;
use std::ops::Range;
use std::time::{Duration, Instant};

use collective::{Session, Ticket};
use proto::shard::v1 as wire;
use score::Checksum;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;
use wire::join_request::Message as FromWorker;
use wire::join_response::Message as ToWorker;

use super::Reason;
use super::meeting::{self, Ends};
use super::server::{Call, Outbox};
use crate::convert;
use crate::leader::{Report, Work};

/// The workers that have joined.
pub(super) struct Crew {
    world_size: usize,
    /// The ranks of the leader's own process.
    own: Range<usize>,
    /// The outputs of the head.
    outputs: usize,
    mates: Vec<Mate>,
    said: mpsc::Sender<(usize, Said)>,
    inbox: mpsc::Receiver<(usize, Said)>,
    readers: JoinSet<()>,
}

/// A worker that has joined.
struct Mate {
    ranks: Range<usize>,
    outbox: Outbox<wire::JoinResponse>,
    version: u32,
    /// The version of its NCCL, if its ranks are on GPUs.
    nccl: Option<u32>,
    heard: Instant,
    seated: bool,
}

/// What a worker said, or that it is gone.
enum Said {
    Message(FromWorker),
    Gone(String),
}

/// What the leader has to know of it.
pub(super) enum News {
    /// Ranks have computed a step.
    Computed(Report),
    /// A worker wants to leave.
    Leaving(Range<usize>),
    /// All workers have met.
    Seated,
    /// Nothing.
    None,
}

/// What workers may have said before the leader listens.
const INBOX: usize = 256;

// === impl Crew ===

impl Crew {
    /// Nobody has joined.
    pub(super) fn new(world_size: usize, own: Range<usize>, outputs: usize) -> Self {
        let (said, inbox) = mpsc::channel(INBOX);
        Self { world_size, own, outputs, mates: Vec::new(), said, inbox, readers: JoinSet::new() }
    }

    /// Whether all ranks are of the leader's own process.
    pub(super) fn is_alone(&self) -> bool {
        self.mates.is_empty()
    }

    /// Whether every rank has its worker.
    pub(super) fn is_complete(&self) -> bool {
        self.own.len() + self.mates.iter().map(|mate| mate.ranks.len()).sum::<usize>() == self.world_size
    }

    /// Whether all workers have met the other ranks.
    pub(super) fn is_seated(&self) -> bool {
        self.mates.iter().all(|mate| mate.seated)
    }

    /// Takes a worker in, or turns it away.
    pub(super) fn join(&mut self, call: Call<wire::WorkerHello, wire::JoinRequest, wire::JoinResponse>) {
        let Call { hello, version, mut requests, outbox } = call;
        let first = hello.first_rank as usize;
        let ranks = first..first.saturating_add(hello.ranks as usize);
        let free = |taken: &Range<usize>| ranks.end <= taken.start || taken.end <= ranks.start;
        let fits = !ranks.is_empty() && ranks.end <= self.world_size;
        if !fits || !free(&self.own) || !self.mates.iter().all(|mate| free(&mate.ranks)) {
            let problem = format!("ranks {} to {} are none of the free ranks of this epoch", first, ranks.end);
            tracing::warn!(problem, "a worker is turned away");
            let _ = outbox.try_send(Err(Status::failed_precondition(problem)));
            return;
        }
        let number = self.mates.len();
        let said = self.said.clone();
        self.readers.spawn(async move {
            let gone = loop {
                match requests.message().await {
                    Ok(Some(wire::JoinRequest { message: Some(message) })) => {
                        if said.send((number, Said::Message(message))).await.is_err() {
                            return;
                        }
                    }
                    // a message of a later version
                    Ok(Some(wire::JoinRequest { message: None })) => {}
                    Ok(None) => break "the stream has ended".to_owned(),
                    Err(status) => break service::net::status_in_full(&status),
                }
            };
            let _ = said.send((number, Said::Gone(gone))).await;
        });
        let nccl = hello.nccl.map(|nccl| nccl.version);
        self.mates.push(Mate { ranks, outbox, version, nccl, heard: Instant::now(), seated: false });
    }

    /// The version of the epoch: the highest that all workers speak.
    pub(super) fn version(&self, own: u32) -> u32 {
        self.mates.iter().map(|mate| mate.version).fold(own, u32::min)
    }

    /// Welcomes all workers and lets the ranks of this process meet theirs. Ranks on GPUs meet by NCCL alone, if that is
    /// `nccl` here and everywhere.
    pub(super) async fn meet(
        &mut self,
        host: &str,
        session: Session,
        (checksum, nccl): (Checksum, Option<u32>),
    ) -> Result<Ends, Reason> {
        if self.is_alone() {
            return Ok(meeting::by_threads(self.world_size));
        }
        if let Some(ticket) = self.ticket(nccl)? {
            self.welcome(String::new(), checksum, Some(&ticket))?;
            return Ok(meeting::by_nccl(self.own.clone(), self.world_size, &ticket));
        }
        let failed = |error: std::io::Error| format!("cannot listen for the other ranks at {host}: {error}");
        let listener = TcpListener::bind((host, 0)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        self.welcome(address.to_string(), checksum, None)?;
        meeting::over_tcp(self.own.clone(), address, Some(listener), session).await
    }

    /// What all ranks meet by, if they are on GPUs and all workers know how to.
    fn ticket(&self, nccl: Option<u32>) -> Result<Option<Ticket>, Reason> {
        let Some(own) = nccl.filter(|_| self.mates.iter().all(|mate| mate.nccl.is_some())) else { return Ok(None) };
        if let Some(mate) = self.mates.iter().find(|mate| mate.nccl != Some(own)) {
            return Err(format!("{} has NCCL {}, the leader {own}", mate.name(), mate.nccl.unwrap_or_default()));
        }
        Ticket::issue().map(Some).map_err(|error| error.to_string())
    }

    fn welcome(&self, collective: String, checksum: Checksum, ticket: Option<&Ticket>) -> Result<(), Reason> {
        self.mates.iter().try_for_each(|mate| {
            mate.tell(ToWorker::Welcome(wire::LeaderWelcome {
                protocol: mate.version,
                collective: collective.clone(),
                checksum: wire::Checksum::from(checksum).into(),
                nccl: ticket.map(convert::nccl),
            }))
        })
    }

    /// What a worker says next. With nobody in it, this waits for ever.
    pub(super) async fn next(&mut self) -> Result<News, Reason> {
        // this crew holds a sender, so there is always one
        let Some((number, said)) = self.inbox.recv().await else { return std::future::pending().await };
        let Some(mate) = self.mates.get_mut(number) else { return Ok(News::None) };
        let message = match said {
            Said::Message(message) => message,
            Said::Gone(problem) => return Err(format!("{} left: {problem}", mate.name())),
        };
        mate.heard = Instant::now();
        match message {
            FromWorker::Partials(partials) => {
                let report = convert::report(partials, &mate.ranks, self.outputs);
                Ok(News::Computed(report.map_err(|problem| format!("{}: {problem}", mate.name()))?))
            }
            FromWorker::Failed(failed) => Err(format!("{} failed: {}", mate.name(), failed.problem)),
            FromWorker::Leaving(_) => Ok(News::Leaving(mate.ranks.clone())),
            FromWorker::Seated(_) => {
                mate.seated = true;
                Ok(if self.is_seated() { News::Seated } else { News::None })
            }
            FromWorker::Heartbeat(_) | FromWorker::Hello(_) => Ok(News::None),
        }
    }

    /// Gives a step to all workers.
    pub(super) fn compute(&self, work: &Work) -> Result<(), Reason> {
        if self.mates.is_empty() {
            return Ok(());
        }
        let step = convert::step(work);
        self.mates.iter().try_for_each(|mate| mate.tell(ToWorker::Step(step.clone())))
    }

    /// Lets all workers hear something, and notices who was not heard for too long.
    pub(super) fn beat(&self, silence: Duration) -> Result<(), Reason> {
        for mate in &self.mates {
            mate.tell(ToWorker::Heartbeat(wire::Heartbeat {}))?;
            if mate.heard.elapsed() > silence {
                return Err(format!("{} has been silent for {:.1?}", mate.name(), mate.heard.elapsed()));
            }
        }
        Ok(())
    }
}

// === impl Mate ===

impl Mate {
    fn name(&self) -> String {
        match self.ranks.len() {
            1 => format!("rank {}", self.ranks.start),
            _ => format!("ranks {} to {}", self.ranks.start, self.ranks.end - 1),
        }
    }

    fn tell(&self, message: ToWorker) -> Result<(), Reason> {
        let sent = self.outbox.try_send(Ok(convert::to_worker(message)));
        sent.map_err(|_| format!("{} does not read what it is told", self.name()))
    }
}
