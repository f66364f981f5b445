//! A replica that computes nothing: a small leader that makes up scores from the tokens, or misbehaves on demand.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use discovery::{Claim, Incarnation, Key, Registry};
use proto::Message as _;
use proto::shard::v1 as wire;
use proto::shard::v1::attach_request::Message as Asked;
use proto::shard::v1::attach_response::Message as Said;
use proto::shard::v1::leader_service_server::{LeaderService, LeaderServiceServer};
use service::Network;
use service::server::Limits;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

pub(super) const STEP: u64 = 16_384;
pub(super) const DIGEST: &str = "digest";
pub(super) const VOCAB: u32 = 768;

/// What a replica does with a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conduct {
    Answer,
    Hold,
    Die,
    NotFinite,
    OtherRows,
    NoStamp,
    OneLogit,
    Decline,
    Fail,
    Nonsense,
}

/// What a replica is, and what has happened to it.
pub(super) struct State {
    pub(super) conduct: Mutex<Conduct>,
    pub(super) epoch: AtomicU64,
    pub(super) text_digest: Mutex<String>,
    pub(super) fingerprint: Mutex<String>,
    pub(super) generation: AtomicU64,
    pub(super) protocol: AtomicU64,
    pub(super) step_tokens: AtomicU64,
    pub(super) outputs: AtomicU64,
    pub(super) attached: AtomicUsize,
    pub(super) pieces: Mutex<Vec<wire::Piece>>,
    pub(super) withdrawn: AtomicUsize,
    pub(super) cut: Mutex<CancellationToken>,
    pub(super) lines: Mutex<Vec<mpsc::UnboundedSender<Result<wire::AttachResponse, Status>>>>,
}

#[derive(Clone)]
struct Leader(Arc<State>);

pub(super) struct Fake {
    pub(super) state: Arc<State>,
    claim: Option<Claim>,
    name: String,
    registry: Registry,
    _server: tokio_util::task::AbortOnDropHandle<()>,
}

/// The score of a conversation: any number that depends on each token.
pub(super) fn score(ids: &[u32]) -> f32 {
    let sum = ids.iter().fold(7_u32, |sum, id| sum.wrapping_mul(31).wrapping_add(*id));
    (sum % 4096) as f32 / 16.0
}

// === impl Fake ===

impl Fake {
    /// A replica with a leader that serves, and no record.
    pub(super) async fn start(name: &str, registry: &Registry, network: &Network) -> Self {
        let state = Arc::new(State {
            conduct: Mutex::new(Conduct::Answer),
            epoch: AtomicU64::new(1),
            text_digest: Mutex::new(DIGEST.to_owned()),
            fingerprint: Mutex::new("fingerprint".to_owned()),
            generation: AtomicU64::new(3),
            protocol: AtomicU64::new(1),
            step_tokens: AtomicU64::new(STEP),
            outputs: AtomicU64::new(0),
            attached: AtomicUsize::new(0),
            pieces: Mutex::default(),
            withdrawn: AtomicUsize::new(0),
            cut: Mutex::default(),
            lines: Mutex::default(),
        });
        let listener = network.listen(name).await.unwrap();
        let leader = LeaderServiceServer::new(Leader(Arc::clone(&state))).max_decoding_message_size(usize::MAX);
        let routes = Routes::new(leader).into_axum_router();
        let server = network.server(Limits::default()).serve(listener, routes, CancellationToken::new());
        let server = tokio::spawn(server);
        let (name, registry) = (name.to_owned(), registry.clone());
        Self { state, claim: None, name, registry, _server: tokio_util::task::AbortOnDropHandle::new(server) }
    }

    /// Behaves like this from now on.
    pub(super) fn set(&self, conduct: Conduct) {
        *self.state.conduct.lock().unwrap() = conduct;
    }

    pub(super) fn record(&self) -> wire::RankRecord {
        wire::RankRecord {
            model: "m".to_owned(),
            state: wire::RankState::Serving.into(),
            address: self.name.clone(),
            world_size: 2,
            epoch: self.state.epoch.load(SeqCst),
            generation: self.state.generation.load(SeqCst),
            fingerprint: self.state.fingerprint.lock().unwrap().clone(),
        }
    }

    pub(super) fn key(&self) -> Key {
        Key::new(score::registry::rank(&self.name, 0)).unwrap()
    }

    /// Writes its record, as it is now.
    pub(super) async fn announce(&mut self) {
        let record = self.record();
        self.write(&record.encode_to_vec()).await;
    }

    pub(super) async fn write(&mut self, value: &[u8]) {
        match &self.claim {
            Some(claim) => claim.update(value).await.unwrap(),
            None => {
                let claim = self.registry.claim(&[self.key()], Incarnation::random(), value).await.unwrap();
                self.claim = Some(claim);
            }
        }
    }

    /// Its record goes away.
    pub(super) async fn forget(&mut self) {
        self.claim.take().unwrap().release().await.unwrap();
    }

    /// Opens an epoch.
    pub(super) async fn open(&mut self, epoch: u64) {
        self.state.epoch.store(epoch, SeqCst);
        self.announce().await;
    }

    /// Breaks all lines.
    pub(super) fn cut(&self) {
        self.state.lines.lock().unwrap().clear();
        std::mem::take(&mut *self.state.cut.lock().unwrap()).cancel();
    }

    /// Says something on all lines.
    pub(super) fn say(&self, said: &Said) {
        for line in self.state.lines.lock().unwrap().iter() {
            let _ = line.send(Ok(wire::AttachResponse { message: Some(said.clone()) }));
        }
    }

    pub(super) fn attached(&self) -> usize {
        self.state.attached.load(SeqCst)
    }

    pub(super) fn pieces(&self) -> usize {
        self.state.pieces.lock().unwrap().len()
    }
}

// === impl Leader ===

#[tonic::async_trait]
impl LeaderService for Leader {
    type AttachStream = UnboundedReceiverStream<Result<wire::AttachResponse, Status>>;
    type JoinStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<wire::JoinResponse, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut inbound = request.into_inner();
        let Some(Asked::Hello(hello)) = inbound.message().await?.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("no hello"));
        };
        self.0.attached.fetch_add(1, SeqCst);
        if hello.text_digest != *self.0.text_digest.lock().unwrap() {
            return Err(Status::failed_precondition("another tokenizer"));
        }
        let range = hello.protocol.unwrap();
        let protocol = u32::try_from(self.0.protocol.load(SeqCst)).unwrap();
        if !(range.lowest..=range.highest).contains(&protocol) {
            return Err(Status::failed_precondition("no common version"));
        }
        let (line, outbound) = mpsc::unbounded_channel();
        let say = |said| line.send(Ok(wire::AttachResponse { message: Some(said) }));
        let welcome = wire::ReplicaWelcome {
            protocol,
            epoch: self.0.epoch.load(SeqCst),
            generation: self.0.generation.load(SeqCst),
            fingerprint: self.0.fingerprint.lock().unwrap().clone(),
            ranks: 2,
            step_tokens: self.0.step_tokens.load(SeqCst),
            vocab: VOCAB,
            outputs: self.0.outputs.load(SeqCst) as u32,
        };
        let stamp = wire::Stamp { generation: welcome.generation, epoch: welcome.epoch, step: 1 };
        let _ = say(Said::Welcome(welcome));
        let _ = say(Said::Credits(wire::Credits { tokens: STEP as i64 }));
        self.0.lines.lock().unwrap().push(line.clone());
        let state = Arc::clone(&self.0);
        let cut = state.cut.lock().unwrap().clone();
        tokio::spawn(cut.run_until_cancelled_owned(async move {
            while let Ok(Some(request)) = inbound.message().await {
                let said = match request.message {
                    Some(Asked::Piece(piece)) => state.piece(piece, stamp),
                    Some(Asked::Withdrawal(_)) => {
                        state.withdrawn.fetch_add(1, SeqCst);
                        Some(Vec::new())
                    }
                    other => panic!("{other:?}"),
                };
                let Some(said) = said else {
                    state.lines.lock().unwrap().clear();
                    let _ = line.send(Err(Status::unavailable("dead")));
                    return;
                };
                for message in said {
                    let _ = line.send(Ok(wire::AttachResponse { message }));
                }
            }
        }));
        Ok(Response::new(UnboundedReceiverStream::new(outbound)))
    }

    async fn join(
        &self,
        _request: Request<Streaming<wire::JoinRequest>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        Err(Status::unimplemented("a fake"))
    }
}

// === impl State ===

impl State {
    /// What is said about a piece; None to die.
    fn piece(&self, piece: wire::Piece, stamp: wire::Stamp) -> Option<Vec<Option<Said>>> {
        self.pieces.lock().unwrap().push(piece.clone());
        let conduct = *self.conduct.lock().unwrap();
        let said = match conduct {
            Conduct::Hold => return Some(Vec::new()),
            Conduct::Die => return None,
            Conduct::Nonsense => return Some(vec![None]),
            Conduct::Decline => rejections(&piece, ""),
            Conduct::Fail => rejections(&piece, "no memory"),
            _ => results(&piece, stamp, (conduct, self.outputs.load(SeqCst).max(1) as usize)),
        };
        let tokens = piece.prefix.len() + piece.tails.iter().map(|tail| tail.ids.len()).sum::<usize>();
        let credits = Said::Credits(wire::Credits { tokens: tokens as i64 });
        Some(vec![Some(said), Some(credits)])
    }
}

fn rejections(piece: &wire::Piece, problem: &str) -> Said {
    let rejection = |tail: &wire::Tail| wire::Rejection {
        piece: piece.piece,
        attempt: piece.attempt,
        conversation: tail.conversation,
        problem: problem.to_owned(),
    };
    Said::Rejections(wire::Rejections { rejections: piece.tails.iter().map(rejection).collect() })
}

/// Outputs behind the first are their numbers, of which rank 0 contributes all.
fn results(piece: &wire::Piece, stamp: wire::Stamp, (conduct, outputs): (Conduct, usize)) -> Said {
    let computed = |tail: &wire::Tail| {
        let ids = [&piece.prefix[..], &tail.ids].concat();
        let logit = if conduct == Conduct::NotFinite { f32::NAN } else { 1.0 };
        let others = (1..outputs).map(|output| output as f32);
        let of_ranks = std::iter::once(score(&ids) - 1.0).chain(others).chain([logit]).chain((1..outputs).map(|_| 0.0));
        let logits = if conduct == Conduct::OneLogit { vec![1.0] } else { of_ranks.collect() };
        wire::Computed {
            piece: piece.piece,
            attempt: piece.attempt,
            conversation: tail.conversation,
            tokens: tail.ids.len() as u32,
            logits,
            checksums: vec![9, if conduct == Conduct::OtherRows { 8 } else { 9 }],
        }
    };
    let stamped = |rank| wire::RankStep { rank, stamp: (conduct != Conduct::NoStamp || rank == 0).then_some(stamp) };
    let computed = piece.tails.iter().map(computed).collect();
    Said::Results(wire::Results { ranks: (0..2).map(stamped).collect(), computed, micros: 1 })
}
