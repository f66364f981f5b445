//! Shard workers over loopback, without a gateway: ranks in one process or in several compute the same bits, epochs end
//! when a worker is gone and begin again when it is back, and who does not fit is turned away with a reason.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use discovery::{Incarnation, Key, Registry};
use model::{Compute, Config};
use proto::Message as _;
use proto::shard::v1::{self as wire, RankRecord, RankState};
use score::Versions;
use service::Network;
use service::server::Limits;
use shard::{Patience, RanksOptions, Worker, WorkerOptions};
use tests::golden;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use wire::attach_request::Message as ToReplica;
use wire::attach_response::Message as FromReplica;
use wire::leader_service_client::LeaderServiceClient;

use crate::assay::{expected, ids};
use crate::replica;

const MODEL: &str = "gemma2-v4";
const STEP_TOKENS: usize = 2048;
const LONG: Duration = Duration::from_secs(20);

/// A worker that runs in this process.
pub(crate) struct Running {
    task: JoinHandle<Result<(), shard::Error>>,
    stop: CancellationToken,
}

impl Running {
    pub(crate) fn abort(&self) {
        self.task.abort();
    }
}

/// What only a worker of version 1 of the inner protocol speaks.
pub(crate) const OLD: Versions = Versions { lowest: 1, highest: 1 };

pub(crate) fn options(ranks: std::ops::Range<usize>, world_size: usize) -> WorkerOptions {
    let folder = golden(MODEL);
    let file = folder.join("config.json");
    let config = Config::parse(&file, &std::fs::read_to_string(&file).unwrap()).unwrap();
    let weights = vec![folder.join("model.safetensors")];
    let computes = vec![Compute { step_tokens: STEP_TOKENS, ..Compute::default() }; ranks.len()];
    WorkerOptions {
        connections: Limits::default(),
        model: MODEL.to_owned(),
        replica: "a".to_owned(),
        ranks: RanksOptions { config, weights, threads: ranks.len(), computes, ranks, world_size },
        generation: 1,
        fingerprint: "f".to_owned(),
        text_digest: "t".to_owned(),
        step_tokens: STEP_TOKENS,
        linger: Duration::ZERO,
        probe: shard::PROBE,
        advertise: None,
        protocol: Versions::CURRENT,
        patience: Patience { silence: Duration::from_secs(1), ..Patience::default() },
    }
}

pub(crate) async fn start(registry: &Registry, options: WorkerOptions) -> Running {
    let network = Network::tcp(None, None);
    let listener = network.listen("127.0.0.1:0").await.unwrap();
    let stop = CancellationToken::new();
    let worker = Worker::new(options, registry.clone(), network);
    Running { task: tokio::spawn(worker.run(listener, tonic::service::Routes::default(), stop.clone())), stop }
}

/// Rank 0's record of the replica `a`, once it serves a later epoch than this.
pub(crate) async fn serving(registry: &Registry, after: u64) -> RankRecord {
    serving_in(registry, "a", after).await
}

/// The same of any replica.
pub(crate) async fn serving_in(registry: &Registry, replica: &str, after: u64) -> RankRecord {
    let folder = Key::new(format!("replicas/{replica}")).unwrap().below();
    let end = tokio::time::Instant::now() + LONG;
    loop {
        let members = registry.list(&folder).await.unwrap();
        let leader = members.iter().find(|member| member.key.as_str().ends_with("ranks/0"));
        let record = leader.map(|member| RankRecord::decode(&*member.value).unwrap());
        match record {
            Some(record) if record.state() == RankState::Serving && record.epoch > after => return record,
            record => assert!(tokio::time::Instant::now() < end, "not serving: {record:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A rank's record, as soon as there is one.
pub(crate) async fn record(registry: &Registry, rank: u32) -> RankRecord {
    let key = Key::new(score::registry::rank("a", rank)).unwrap();
    let end = tokio::time::Instant::now() + LONG;
    loop {
        let members = registry.list(&key.folder()).await.unwrap();
        if let Some(member) = members.iter().find(|member| member.key == key) {
            return RankRecord::decode(&*member.value).unwrap();
        }
        assert!(tokio::time::Instant::now() < end, "no record of rank {rank}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) type Line = (mpsc::Sender<wire::AttachRequest>, Streaming<wire::AttachResponse>);

async fn attach(record: &RankRecord, digest: &str, epoch: u64) -> Result<Line, Status> {
    let protocol = Some(Versions::CURRENT.into());
    let (gateway, text_digest) = ("test".to_owned(), digest.to_owned());
    introduce(record, wire::GatewayHello { protocol, gateway, epoch, text_digest }).await
}

/// A line to a leader, of a gateway that introduces itself like this.
pub(crate) async fn introduce(record: &RankRecord, hello: wire::GatewayHello) -> Result<Line, Status> {
    let channel = Network::tcp(None, None).dial(&record.address, LONG).await.unwrap();
    let (line, outgoing) = mpsc::channel(1024);
    say(&line, ToReplica::Hello(hello)).await;
    let answers = LeaderServiceClient::new(channel).attach(ReceiverStream::new(outgoing)).await?.into_inner();
    Ok((line, answers))
}

pub(crate) async fn say(line: &mpsc::Sender<wire::AttachRequest>, message: ToReplica) {
    line.send(wire::AttachRequest { message: Some(message) }).await.unwrap();
}

pub(crate) fn piece(number: u64, tails: &[&[u32]]) -> ToReplica {
    let tail =
        |(conversation, ids): (usize, &&[u32])| wire::Tail { conversation: conversation as u32, ids: ids.to_vec() };
    ToReplica::Piece(wire::Piece {
        piece: number,
        attempt: 1,
        prefix: Vec::new(),
        tails: tails.iter().enumerate().map(tail).collect(),
        timeout_micros: 60_000_000,
        traceparent: String::new(),
        urgent: false,
    })
}

/// The sums of the partial logits of so many sequences, one to a piece, by the number of the piece.
pub(crate) async fn sums(answers: &mut Streaming<wire::AttachResponse>, count: usize) -> Vec<f32> {
    let mut sums = vec![None; count];
    while sums.iter().any(Option::is_none) {
        let results = match answers.message().await.unwrap().unwrap().message.unwrap() {
            FromReplica::Results(results) => results,
            FromReplica::Rejections(rejections) => panic!("{rejections:?}"),
            _ => continue,
        };
        for computed in results.computed {
            assert_eq!(computed.logits.len(), results.ranks.len());
            assert!(computed.checksums.iter().all(|checksum| *checksum == computed.checksums[0]));
            let before = sums[computed.piece as usize].replace(computed.logits.iter().fold(0.0, |sum, it| sum + it));
            assert_eq!(before, None, "answered twice");
        }
    }
    sums.into_iter().map(Option::unwrap).collect()
}

pub(crate) fn sequences() -> Vec<Arc<[u32]>> {
    expected(MODEL).iter().map(|row| ids(row).into()).collect()
}

pub(crate) async fn score(record: &RankRecord, digest: &str) -> Vec<f32> {
    let (line, mut answers) = attach(record, digest, record.epoch).await.unwrap();
    let sequences = sequences();
    for (number, sequence) in sequences.iter().enumerate() {
        say(&line, piece(number as u64, &[sequence])).await;
    }
    tokio::time::timeout(LONG, sums(&mut answers, sequences.len())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_in_one_process_and_in_several_compute_the_same_bits() {
    for (world_size, splits) in
        [(1, vec![vec![0..1]]), (2, vec![vec![0..2], vec![0..1, 1..2]]), (4, vec![vec![0..2, 2..4]])]
    {
        let expected = replica::scores(&replica::load(MODEL, world_size, world_size), &sequences());
        for split in splits {
            let registry = Registry::memory();
            let mut running = Vec::new();
            for ranks in split.clone() {
                running.push(start(&registry, options(ranks, world_size)).await);
            }
            let scores = score(&serving(&registry, 0).await, "t").await;
            assert_eq!(scores, expected, "{split:?}");
            // a worker that leaves takes its claims with it
            for worker in &running {
                worker.stop.cancel();
            }
            for worker in running {
                let left = tokio::time::timeout(LONG, worker.task).await;
                left.unwrap_or_else(|_| panic!("{split:?}: a worker does not leave")).unwrap().unwrap();
            }
            assert_eq!(registry.list(&Key::new("replicas").unwrap().below()).await.unwrap(), []);
        }
    }
}

/// Rank 0 and rank 1 in workers of their own, and what they scored together.
pub(crate) async fn score_of_two(leader: WorkerOptions, follower: WorkerOptions) -> Vec<f32> {
    let registry = Registry::memory();
    let workers = [start(&registry, leader).await, start(&registry, follower).await];
    let scores = score(&serving(&registry, 0).await, "t").await;
    workers.iter().for_each(|worker| worker.stop.cancel());
    for worker in workers {
        tokio::time::timeout(LONG, worker.task).await.expect("it leaves").unwrap().unwrap();
    }
    scores
}

/// What a leader says to a worker that introduces itself like this.
pub(crate) async fn join(record: &RankRecord, hello: wire::WorkerHello) -> Result<wire::LeaderWelcome, Status> {
    let channel = Network::tcp(None, None).dial(&record.address, LONG).await.unwrap();
    let (line, outgoing) = mpsc::channel(8);
    let hello = wire::join_request::Message::Hello(hello);
    line.send(wire::JoinRequest { message: Some(hello) }).await.unwrap();
    let mut messages = LeaderServiceClient::new(channel).join(ReceiverStream::new(outgoing)).await?.into_inner();
    match messages.message().await?.and_then(|first| first.message) {
        Some(wire::join_response::Message::Welcome(welcome)) => Ok(welcome),
        None => Err(Status::unavailable("the epoch has ended")),
        other => panic!("{other:?}"),
    }
}

/// How a worker introduces itself that has rank 1 of a replica of this leader, for whose claim it has this incarnation.
pub(crate) fn worker_hello(record: &RankRecord, epoch: u64, incarnation: Incarnation) -> wire::WorkerHello {
    wire::WorkerHello {
        protocol: Some(Versions::CURRENT.into()),
        epoch,
        first_rank: 1,
        ranks: 1,
        generation: record.generation,
        fingerprint: record.fingerprint.clone(),
        incarnation: incarnation.number().to_be_bytes().to_vec(),
        nccl: None,
    }
}

/// What a leader of two ranks says to who claims rank 1 and introduces itself as `hello` has it, once an epoch is open.
pub(crate) async fn claim_and_join(
    registry: &Registry,
    hello: impl Fn(wire::WorkerHello) -> wire::WorkerHello,
) -> Result<wire::LeaderWelcome, Status> {
    let member = |key: String| async move {
        let key = Key::new(key).unwrap();
        registry.list(&key.folder()).await.unwrap().into_iter().find(|member| member.key == key)
    };
    let end = tokio::time::Instant::now() + LONG;
    let record = loop {
        let record = member(score::registry::rank("a", 0)).await.map(|it| RankRecord::decode(&*it.value).unwrap());
        match record {
            Some(record) if matches!(record.state(), RankState::Ready | RankState::Serving) => break record,
            record => assert!(tokio::time::Instant::now() < end, "not ready: {record:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // rank 1 is ready too, as far as the registry knows
    let (key, incarnation) = (Key::new(score::registry::rank("a", 1)).unwrap(), Incarnation::random());
    let claim = registry.claim(&[key], incarnation, &record.encode_to_vec()).await.unwrap();
    let answer = loop {
        if let Some(epoch) = member(score::registry::epoch("a")).await.map(|member| member.revision) {
            match join(&record, hello(worker_hello(&record, epoch, incarnation))).await {
                // the epoch that was open is over, and there is another
                Err(status) if status.message().contains("epoch") => {}
                answer => break answer,
            }
        }
        assert!(tokio::time::Instant::now() < end, "nobody is taken in");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    claim.release().await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_two_versions_compute_the_same_bits() {
    let expected = replica::scores(&replica::load(MODEL, 2, 2), &sequences());
    for versions in [[Versions::CURRENT, OLD], [OLD, Versions::CURRENT], [OLD, OLD]] {
        let [leader, follower] = versions;
        let leader = WorkerOptions { protocol: leader, ..options(0..1, 2) };
        let follower = WorkerOptions { protocol: follower, ..options(1..2, 2) };
        assert_eq!(score_of_two(leader, follower).await, expected, "{versions:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_version_1_says_so_to_those_who_speak_it_alone() {
    let registry = Registry::memory();
    let strict = WorkerOptions { protocol: Versions::CURRENT.without_1(), ..options(0..1, 1) };
    let _worker = start(&registry, strict).await;
    let record = serving(&registry, 0).await;
    let hello = |versions: Versions| wire::GatewayHello {
        protocol: Some(versions.into()),
        gateway: "test".to_owned(),
        epoch: record.epoch,
        text_digest: "t".to_owned(),
    };
    let refused = introduce(&record, hello(OLD)).await.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), "no common version of the inner protocol: 2 to 2 here, 1 to 1 there");
    assert_eq!(score(&record, "t").await.len(), sequences().len(), "the others are served");
}

/// For each sequence, whether the ranks' checksums agree, when rank 1 has another row for a token than rank 0.
async fn agreements(follower: Versions, weights: PathBuf) -> Vec<bool> {
    let registry = Registry::memory();
    let mut other = WorkerOptions { protocol: follower, ..options(1..2, 2) };
    other.ranks.weights = vec![weights];
    let workers = [start(&registry, options(0..1, 2)).await, start(&registry, other).await];
    let record = serving(&registry, 0).await;
    let (line, mut answers) = attach(&record, "t", record.epoch).await.unwrap();
    let sequences = sequences();
    let tails: Vec<&[u32]> = sequences.iter().map(|sequence| &**sequence).collect();
    say(&line, piece(0, &tails)).await;
    let mut agree = vec![None; sequences.len()];
    while agree.iter().any(Option::is_none) {
        let message = tokio::time::timeout(LONG, answers.message()).await.unwrap().unwrap().unwrap();
        let Some(FromReplica::Results(results)) = message.message else { continue };
        for computed in results.computed {
            agree[computed.conversation as usize] = Some(computed.checksums[0] == computed.checksums[1]);
        }
    }
    workers.iter().for_each(Running::abort);
    agree.into_iter().map(Option::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_embedding_on_one_rank_is_noticed_by_those_that_saw_it_in_version_2() {
    let folder = tempfile::tempdir().unwrap();
    // the first step of an epoch has the lowest ids
    let counts = |token: &u32| sequences().iter().filter(|sequence| sequence.contains(token)).count();
    let all = sequences().len();
    let token = (100..700).find(|token| (1..all).contains(&counts(token))).unwrap();
    let weights = crate::checksums::with_another_row(MODEL, token, folder.path());
    let unseen: Vec<bool> = sequences().iter().map(|sequence| !sequence.contains(&token)).collect();
    assert_eq!(agreements(Versions::CURRENT, weights.clone()).await, unseen);
    // the pooled row alone does not show it: what one rank adds wrongly is summed for all
    assert_eq!(agreements(OLD, weights).await, vec![true; all]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_ends_the_epoch_and_the_next_one_gives_the_same_bits() {
    let registry = Registry::memory();
    let leader = start(&registry, options(0..1, 2)).await;
    let mut follower = start(&registry, options(1..2, 2)).await;
    let mut record = serving(&registry, 0).await;
    let scores = score(&record, "t").await;
    for _ in 0..3 {
        let (_line, mut answers) = attach(&record, "t", record.epoch).await.unwrap();
        follower.task.abort();
        // the line to the gateway ends with the epoch
        let ended = async { while let Ok(Some(_)) = answers.message().await {} };
        tokio::time::timeout(LONG, ended).await.unwrap();
        follower = start(&registry, options(1..2, 2)).await;
        record = serving(&registry, record.epoch).await;
        assert_eq!(score(&record, "t").await, scores);
    }
    leader.stop.cancel();
    tokio::time::timeout(LONG, leader.task).await.unwrap().unwrap().unwrap();
    drop(follower);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_turned_away_with_a_reason() {
    let registry = Registry::memory();
    let _worker = start(&registry, options(0..1, 1)).await;
    let record = serving(&registry, 0).await;
    let refused = |digest: &'static str, epoch| {
        let record = record.clone();
        async move { attach(&record, digest, epoch).await.err().unwrap() }
    };
    let other = refused("another", record.epoch).await;
    assert_eq!(other.code(), Code::FailedPrecondition);
    assert!(other.message().contains("tokenizer"), "{other}");
    let past = refused("t", record.epoch + 7).await;
    assert_eq!(past.code(), Code::Unavailable);

    // what is wrong with a piece is said of its conversations alone
    let (line, mut answers) = attach(&record, "t", record.epoch).await.unwrap();
    let good = &*sequences()[0];
    say(&line, piece(3, &[good, &[9_999_999], &vec![5; 2049], &[]])).await;
    let (mut rejected, mut scored) = (Vec::new(), 0);
    while rejected.len() < 3 || scored < 1 {
        match answers.message().await.unwrap().unwrap().message.unwrap() {
            FromReplica::Rejections(of_piece) => rejected.extend(of_piece.rejections),
            FromReplica::Results(results) => scored += results.computed.len(),
            _ => {}
        }
    }
    let problems: Vec<_> = rejected.iter().map(|it| (it.conversation, it.problem.as_str())).collect();
    assert_eq!(problems.len(), 3);
    assert!(problems[0].0 == 1 && problems[0].1.contains("outside the vocabulary"), "{problems:?}");
    assert!(problems[1].0 == 2 && problems[1].1.contains("2049 tokens"), "{problems:?}");
    assert!(problems[2].0 == 3 && problems[2].1.contains("empty"), "{problems:?}");
    // the same piece twice is a gateway that lost count
    say(&line, piece(7, &[good])).await;
    say(&line, piece(7, &[good])).await;
    let turned_out = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the line ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(turned_out.code(), Code::InvalidArgument);
}
