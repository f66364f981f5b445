//! A real worker and a peer of the next version: who speaks both versions is served in the one that they share, who speaks
//! the next one alone is turned away with a code.

use std::time::{Duration, Instant};

use checkpoint::HubOptions;
use discovery::etcd_cluster::EtcdCluster;
use discovery::{EtcdOptions, Incarnation, Key, Registry};
use proto::Message as _;
use proto::shard::v1 as wire;
use tests::golden;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use wire::attach_response::Message as FromReplica;
use wire::join_response::Message as FromLeader;
use wire::leader_service_client::LeaderServiceClient;
use wire::{ProtocolRange, RankRecord, RankState};

use super::processes::{MODEL, Process, STEP};
use crate::{replica, worker};

const BOTH: ProtocolRange = ProtocolRange { lowest: 1, highest: 2 };
const NEXT: ProtocolRange = ProtocolRange { lowest: 2, highest: 2 };
const NONE_IN_COMMON: &str = "no common version of the inner protocol: 1 to 1 here, 2 to 2 there";
const LONG: Duration = Duration::from_secs(30);

/// A worker with some ranks of the replica `a`, and the registry in which it is.
async fn start(ranks: &str, world_size: usize, folder: &std::path::Path) -> (EtcdCluster, Registry, Process) {
    let etcd = EtcdCluster::start(1).await;
    let model = golden(MODEL);
    let line = format!(
        "shard --model {} --replica a --tensor-parallel {world_size} --ranks {ranks} --threads 1 \
         --max-batch-tokens {STEP} --listen 127.0.0.1:0 --etcd {}",
        model.display(),
        etcd.endpoint(0)
    );
    let process = Process::of_line("worker", &line, folder);
    let registry = Registry::etcd(EtcdOptions::new(etcd.endpoints())).await.unwrap();
    (etcd, registry, process)
}

#[track_caller]
fn refused<T>(result: Result<T, Status>) {
    let status = result.err().expect("it is refused");
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, NONE_IN_COMMON));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_of_the_next_version_is_served_if_it_speaks_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let (_etcd, registry, _worker) = start("0..1", 1, folder.path()).await;
    let record = worker::serving(&registry, 0).await;
    let located = checkpoint::locate(golden(MODEL).to_str().unwrap(), &HubOptions::default()).unwrap();
    let hello = |protocol| wire::GatewayHello {
        protocol: Some(protocol),
        gateway: "next".to_owned(),
        epoch: record.epoch,
        text_digest: located.text_digest().unwrap().to_string(),
    };
    refused(worker::introduce(&record, hello(NEXT)).await);
    let (line, mut answers) = worker::introduce(&record, hello(BOTH)).await.unwrap();
    match answers.message().await.unwrap().unwrap().message.unwrap() {
        FromReplica::Welcome(welcome) => assert_eq!(welcome.protocol, 1),
        other => panic!("{other:?}"),
    }
    let sequences = worker::sequences();
    for (number, sequence) in sequences.iter().enumerate() {
        worker::say(&line, worker::piece(number as u64, &[sequence])).await;
    }
    let sums = tokio::time::timeout(LONG, worker::sums(&mut answers, sequences.len())).await.unwrap();
    assert_eq!(sums, replica::scores(&mut replica::load(MODEL, 1, 1), &sequences));
}

/// What a leader says to a worker that owns rank 1.
async fn join(record: &RankRecord, epoch: u64, protocol: ProtocolRange) -> Result<wire::LeaderWelcome, Status> {
    let mut leader = LeaderServiceClient::connect(format!("http://{}", record.address)).await.unwrap();
    let (line, outgoing) = mpsc::channel(8);
    let hello = wire::WorkerHello {
        protocol: Some(protocol),
        epoch,
        first_rank: 1,
        ranks: 1,
        generation: record.generation,
        fingerprint: record.fingerprint.clone(),
    };
    let hello = wire::join_request::Message::Hello(hello);
    line.send(wire::JoinRequest { message: Some(hello) }).await.unwrap();
    let mut messages = leader.join(ReceiverStream::new(outgoing)).await?.into_inner();
    match messages.message().await?.and_then(|first| first.message) {
        Some(FromLeader::Welcome(welcome)) => Ok(welcome),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_the_next_version_is_taken_in_if_it_speaks_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let (_etcd, registry, _leader) = start("0..1", 2, folder.path()).await;
    let replica = Key::new("replicas/a").unwrap();
    let record_of = |key: Key, registry: Registry| async move {
        let members = registry.list(&key.folder()).await.unwrap();
        members.into_iter().find(|member| member.key == key)
    };
    let end = Instant::now() + LONG;
    let leader = loop {
        let member = record_of(replica.join("ranks/0").unwrap(), registry.clone()).await;
        let record = member.map(|member| RankRecord::decode(&*member.value).unwrap());
        match record {
            Some(record) if record.state() == RankState::Ready => break record,
            record => assert!(Instant::now() < end, "not ready: {record:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // rank 1 is ready too, as far as the registry knows
    let keys = [replica.join("ranks/1").unwrap()];
    let _claim = registry.claim(&keys, Incarnation::random(), &leader.encode_to_vec()).await.unwrap();
    let welcome = loop {
        let member = record_of(replica.join("epoch").unwrap(), registry.clone()).await;
        if let Some(epoch) = member.map(|member| member.revision) {
            refused(join(&leader, epoch, NEXT).await);
            match join(&leader, epoch, BOTH).await {
                Ok(welcome) => break welcome,
                // the epoch that was open is over, and there is another
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        }
        assert!(Instant::now() < end, "nobody is taken in");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(welcome.protocol, 1);
    assert!(welcome.collective.starts_with("127.0.0.1:"), "{welcome:?}");
}
