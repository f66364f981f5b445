//! A replica that computes nothing: it answers what has come at once, or grants no credit.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use checkpoint::HubOptions;
use discovery::{Claim, Incarnation, Key, Registry};
use futures_util::StreamExt as _;
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

/// Tokens of a step: more than is ever open, so that credits are no limit.
const STEP: u64 = 1 << 22;
/// Pieces that are answered with one message, as those of a step are.
const PIECES: usize = 256;
const STAMP: wire::Stamp = wire::Stamp { generation: 1, epoch: 1, step: 1 };

/// What it does with gateways that attach from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    Answer,
    NoCredit,
}

pub(crate) struct Replica {
    leader: Leader,
    _claim: Claim,
}

#[derive(Clone)]
struct Leader {
    text_digest: Arc<str>,
    vocab: u32,
    grants: Arc<AtomicBool>,
}

// === impl Replica ===

impl Replica {
    /// Serves over TCP, and writes its record.
    pub(crate) async fn start(registry: &Registry, model: &Path) -> Self {
        let checkpoint = checkpoint::locate(model.to_str().unwrap(), &HubOptions::default()).unwrap();
        let config = std::fs::read_to_string(&checkpoint.config).unwrap();
        let config = model::Config::parse(&checkpoint.config, &config).unwrap();
        let text_digest = checkpoint.text_digest().unwrap().to_string().into();
        let leader = Leader { text_digest, vocab: config.vocab as u32, grants: Arc::new(AtomicBool::new(true)) };
        let network = Network::tcp(None, None);
        let listener = network.listen("127.0.0.1:0").await.unwrap();
        let record = wire::RankRecord {
            model: model.file_name().unwrap().to_str().unwrap().to_owned(),
            state: wire::RankState::Serving.into(),
            address: listener.address().to_owned(),
            world_size: 2,
            epoch: STAMP.epoch,
            generation: STAMP.generation,
            fingerprint: "0123456789abcdef".repeat(4),
        };
        let service = LeaderServiceServer::new(leader.clone()).max_decoding_message_size(usize::MAX);
        let routes = Routes::new(service).into_axum_router();
        tokio::spawn(network.server(Limits::default()).serve(listener, routes, CancellationToken::new()));
        let key = Key::new(score::registry::rank("made-up", 0)).unwrap();
        let claim = registry.claim(&[key], Incarnation::random(), &record.encode_to_vec()).await.unwrap();
        Self { leader, _claim: claim }
    }

    pub(crate) fn set(&self, conduct: Conduct) {
        self.leader.grants.store(conduct == Conduct::Answer, SeqCst);
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
        let (line, outbound) = mpsc::unbounded_channel();
        let say = move |said| line.send(Ok(wire::AttachResponse { message: Some(said) }));
        let _ = say(Said::Welcome(wire::ReplicaWelcome {
            protocol: 1,
            epoch: STAMP.epoch,
            generation: STAMP.generation,
            fingerprint: "0123456789abcdef".repeat(4),
            ranks: 2,
            step_tokens: STEP,
            vocab: self.vocab,
            outputs: 1,
        }));
        if self.grants.load(SeqCst) {
            let _ = say(Said::Credits(wire::Credits { tokens: STEP as i64 }));
        }
        let text_digest = Arc::clone(&self.text_digest);
        let mut inbound = request.into_inner().ready_chunks(PIECES);
        tokio::spawn(async move {
            while let Some(requests) = inbound.next().await {
                let mut pieces = Vec::new();
                for request in requests {
                    match request.ok().and_then(|request| request.message) {
                        Some(Asked::Piece(piece)) => pieces.push(piece),
                        Some(Asked::Hello(hello)) => assert_eq!(hello.text_digest, *text_digest),
                        _ => {}
                    }
                }
                let tokens = pieces.iter().map(tokens).sum();
                if tokens > 0 {
                    let _ = say(results(&pieces));
                    let _ = say(Said::Credits(wire::Credits { tokens }));
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(outbound)))
    }

    async fn join(
        &self,
        _request: Request<Streaming<wire::JoinRequest>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        Err(Status::unimplemented("it has no workers"))
    }
}

fn tokens(piece: &wire::Piece) -> i64 {
    (piece.prefix.len() + piece.tails.iter().map(|tail| tail.ids.len()).sum::<usize>()) as i64
}

fn results(pieces: &[wire::Piece]) -> Said {
    let computed = |(piece, tail): (&wire::Piece, &wire::Tail)| wire::Computed {
        piece: piece.piece,
        attempt: piece.attempt,
        conversation: tail.conversation,
        tokens: tail.ids.len() as u32,
        logits: vec![1.0, 2.0],
        checksums: vec![9, 9],
    };
    let tails = pieces.iter().flat_map(|piece| piece.tails.iter().map(move |tail| (piece, tail)));
    let ranks = (0..2).map(|rank| wire::RankStep { rank, stamp: Some(STAMP) }).collect();
    Said::Results(wire::Results { ranks, computed: tails.map(computed).collect(), micros: 1 })
}
