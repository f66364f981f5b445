//! Takes in gateways and workers for the epoch that is open: introductions are checked here, and what passes goes to
//! whoever leads the epoch. Without an epoch everybody is turned away with a status that says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use discovery::Incarnation;
use proto::shard::v1 as wire;
use score::Versions;
use service::net::Listener;
use service::server::{Intake, Server};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use wire::leader_service_server::{LeaderService, LeaderServiceServer};

use super::WorkerOptions;
use super::roster::Roster;
use crate::convert::to_gateway;

/// Where gateways and workers wait to be taken in.
pub(super) struct Lobby {
    generation: u64,
    fingerprint: String,
    text_digest: String,
    ranks: u32,
    step_tokens: u64,
    vocab: u32,
    outputs: u32,
    protocol: Versions,
    roster: watch::Receiver<Roster>,
    open: Mutex<Option<Open>>,
}

struct Open {
    epoch: u64,
    /// Gateways are taken in too.
    serving: bool,
    arrivals: mpsc::Sender<Arrival>,
}

/// The door of an epoch; it closes when this is dropped.
pub(super) struct Door {
    lobby: Arc<Lobby>,
    epoch: u64,
}

/// Somebody who was let in.
pub(super) enum Arrival {
    /// A gateway, which has been welcomed.
    Gateway(Call<wire::GatewayHello, wire::AttachRequest, wire::AttachResponse>),
    /// A worker, which has not.
    Worker(Call<wire::WorkerHello, wire::JoinRequest, wire::JoinResponse>),
}

/// A stream whose first message was good.
pub(super) struct Call<Hello, In, Out> {
    pub(super) hello: Hello,
    pub(super) version: u32,
    pub(super) requests: Streaming<In>,
    pub(super) outbox: Outbox<Out>,
}

/// What goes out on a stream.
pub(super) type Outbox<Out> = mpsc::Sender<Result<Out, Status>>;

/// Messages that may wait to go out on a stream; who does not read them is given up.
const OUTGOING: usize = 1024;
/// How long a caller may take to introduce itself.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// What a token takes on the wire, at most, where each is a segment or a response of its own.
const TOKEN: usize = 64;
/// And what a conversation's partial logits take, beside four bytes for each output.
const PARTIAL: usize = 24;
/// What a message may have whatever a step is, as a piece may be a conversation that is longer.
const LEAST: usize = 4 << 20;
/// Links that may send such a message at a time.
const LINKS: usize = 2048;

/// The largest message between this worker and others: what goes into a step of its replica, or what comes out of it.
pub(super) fn largest(options: &WorkerOptions) -> usize {
    let ranks = &options.ranks;
    let computed = ranks.world_size * (PARTIAL + 4 * ranks.config.outputs());
    LEAST.saturating_add(options.step_tokens.saturating_mul(TOKEN.max(computed)))
}

/// Serves until the handle is dropped; messages have so many bytes at most.
pub(super) fn serve(
    server: Server,
    listener: Listener,
    others: Routes,
    (lobby, largest): (Arc<Lobby>, usize),
) -> DropGuard {
    let held = largest.saturating_mul(LINKS);
    let server =
        server.with_intake(Intake { message: largest, setting: "max_batch_tokens", held, ..Intake::default() });
    let service = LeaderServiceServer::from_arc(lobby).max_decoding_message_size(largest);
    let (routes, end) = (others.add_service(service).into_axum_router(), CancellationToken::new());
    tokio::spawn(server.serve(listener, routes, end.clone()));
    end.drop_guard()
}

// === impl Lobby ===

impl Lobby {
    pub(super) fn new(options: &WorkerOptions, roster: watch::Receiver<Roster>) -> Self {
        Self {
            generation: options.generation,
            fingerprint: options.fingerprint.clone(),
            text_digest: options.text_digest.clone(),
            ranks: options.ranks.world_size as u32,
            step_tokens: options.step_tokens as u64,
            vocab: options.ranks.config.vocab as u32,
            outputs: options.ranks.config.outputs() as u32,
            protocol: options.protocol,
            roster,
            open: Mutex::new(None),
        }
    }

    /// Lets workers in for this epoch.
    pub(super) fn open(self: &Arc<Self>, epoch: u64, arrivals: mpsc::Sender<Arrival>) -> Door {
        *self.lock() = Some(Open { epoch, serving: false, arrivals });
        Door { lobby: Arc::clone(self), epoch }
    }

    /// Takes somebody in, if this epoch is open to them.
    async fn let_in(&self, epoch: u64, arrival: Arrival) -> Result<(), Status> {
        let is_worker = matches!(arrival, Arrival::Worker(_));
        let arrivals = match &*self.lock() {
            Some(open) if open.epoch == epoch && (open.serving || is_worker) => open.arrivals.clone(),
            Some(open) => {
                let doing = if open.serving { "is served" } else { "is being formed" };
                let other = format!("epoch {epoch} is not served here, epoch {} {doing}", open.epoch);
                return Err(Status::unavailable(other));
            }
            None => return Err(Status::unavailable("no epoch is served here now")),
        };
        arrivals.send(arrival).await.map_err(|_| Status::unavailable("the epoch has ended"))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn welcome(&self, version: u32, epoch: u64) -> wire::AttachResponse {
        to_gateway(wire::attach_response::Message::Welcome(wire::ReplicaWelcome {
            protocol: version,
            epoch,
            generation: self.generation,
            fingerprint: self.fingerprint.clone(),
            ranks: self.ranks,
            step_tokens: self.step_tokens,
            vocab: self.vocab,
            outputs: self.outputs,
        }))
    }

    /// The version that is spoken on a stream.
    fn common_version(&self, theirs: Option<wire::ProtocolRange>) -> Result<u32, Status> {
        let common = self.protocol.common(theirs.unwrap_or_default().into());
        common.map_err(|error| Status::failed_precondition(error.to_string()))
    }

    /// Holds a worker against the claims of its ranks: who has none of them has no business in the replica.
    fn check_claims(&self, hello: &wire::WorkerHello) -> Result<(), Status> {
        let number = hello.incarnation.as_slice().try_into().map(u128::from_be_bytes);
        let number = number.map_err(|_| Status::invalid_argument("an incarnation has 16 bytes"))?;
        let ranks = hello.first_rank..hello.first_rank.saturating_add(hello.ranks).min(self.ranks);
        let roster = self.roster.borrow();
        match ranks.into_iter().find(|&rank| !roster.is_held_by(rank, Incarnation::new(number))) {
            Some(rank) => Err(Status::unavailable(format!("this worker does not hold the claim of rank {rank}"))),
            None => Ok(()),
        }
    }

    fn check_worker(&self, hello: &wire::WorkerHello) -> Result<u32, Status> {
        let version = self.common_version(hello.protocol)?;
        if version >= 2 {
            self.check_claims(hello)?;
        }
        if (hello.generation, &hello.fingerprint) != (self.generation, &self.fingerprint) {
            return Err(Status::failed_precondition(format!(
                "ranks {} to {} have generation {} and fingerprint {}, the leader {} and {}: they would compute another model",
                hello.first_rank,
                hello.first_rank.saturating_add(hello.ranks).saturating_sub(1),
                hello.generation,
                hello.fingerprint,
                self.generation,
                self.fingerprint
            )));
        }
        Ok(version)
    }
}

#[tonic::async_trait]
impl LeaderService for Lobby {
    type AttachStream = ReceiverStream<Result<wire::AttachResponse, Status>>;
    type JoinStream = ReceiverStream<Result<wire::JoinResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut requests = request.into_inner();
        let hello = match introduction(&mut requests).await?.message {
            Some(wire::attach_request::Message::Hello(hello)) => hello,
            _ => return Err(Status::invalid_argument("the first message is to be a hello")),
        };
        let version = self.common_version(hello.protocol)?;
        if hello.text_digest != self.text_digest {
            return Err(Status::failed_precondition(format!(
                "gateway {} makes token ids with another config, tokenizer or template than this replica",
                hello.gateway
            )));
        }
        let (epoch, (outbox, outgoing)) = (hello.epoch, mpsc::channel(OUTGOING));
        let _ = outbox.try_send(Ok(self.welcome(version, epoch)));
        self.let_in(epoch, Arrival::Gateway(Call { hello, version, requests, outbox })).await?;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    async fn join(&self, request: Request<Streaming<wire::JoinRequest>>) -> Result<Response<Self::JoinStream>, Status> {
        let mut requests = request.into_inner();
        let hello = match introduction(&mut requests).await?.message {
            Some(wire::join_request::Message::Hello(hello)) => hello,
            _ => return Err(Status::invalid_argument("the first message is to be a hello")),
        };
        let version = self.check_worker(&hello)?;
        let (epoch, (outbox, outgoing)) = (hello.epoch, mpsc::channel(OUTGOING));
        self.let_in(epoch, Arrival::Worker(Call { hello, version, requests, outbox })).await?;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

async fn introduction<In>(requests: &mut Streaming<In>) -> Result<In, Status> {
    let first = tokio::time::timeout(INTRODUCTION, requests.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
    first.ok_or_else(|| Status::invalid_argument("the stream ended before a hello"))
}

// === impl Door ===

impl Door {
    /// Lets gateways in too.
    pub(super) fn serve(&self) {
        if let Some(open) = self.lobby.lock().as_mut().filter(|open| open.epoch == self.epoch) {
            open.serving = true;
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let mut open = self.lobby.lock();
        if open.as_ref().is_some_and(|open| open.epoch == self.epoch) {
            *open = None;
        }
    }
}
