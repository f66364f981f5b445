//! A real worker and peers of other versions of the inner protocol: neighbours are served in the version that they share,
//! who speaks none of them is turned away with a code, and a replica of two versions computes the same bits.

use std::time::Duration;

use checkpoint::HubOptions;
use discovery::etcd_cluster::EtcdCluster;
use discovery::{EtcdOptions, Incarnation, Registry};
use proto::shard::v1 as wire;
use score::Versions;
use shard::WorkerOptions;
use tests::golden;
use tonic::{Code, Status};
use wire::attach_response::Message as FromReplica;

use super::processes::{MODEL, Process, STEP};
use crate::replica;
use crate::worker::{self, OLD};

const BOTH: Versions = Versions { lowest: 2, highest: 3 };
const NEXT: Versions = Versions { lowest: 3, highest: 3 };
const NONE_IN_COMMON: &str = "no common version of the inner protocol: 1 to 2 here, 3 to 3 there";
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
async fn a_gateway_of_another_version_is_served_if_it_speaks_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let (_etcd, registry, _worker) = start("0..1", 1, folder.path()).await;
    let record = worker::serving(&registry, 0).await;
    let located = checkpoint::locate(golden(MODEL).to_str().unwrap(), &HubOptions::default()).unwrap();
    let hello = |protocol: Versions| wire::GatewayHello {
        protocol: Some(protocol.into()),
        gateway: "other".to_owned(),
        epoch: record.epoch,
        text_digest: located.text_digest().unwrap().to_string(),
    };
    refused(worker::introduce(&record, hello(NEXT)).await);
    let sequences = worker::sequences();
    let expected = replica::scores(&replica::load(MODEL, 1, 1), &sequences);
    for (speaks, spoken) in [(OLD, 1), (BOTH, 2)] {
        let (line, mut answers) = worker::introduce(&record, hello(speaks)).await.unwrap();
        match answers.message().await.unwrap().unwrap().message.unwrap() {
            FromReplica::Welcome(welcome) => assert_eq!((welcome.protocol, welcome.outputs), (spoken, 1)),
            other => panic!("{other:?}"),
        }
        for (number, sequence) in sequences.iter().enumerate() {
            worker::say(&line, worker::piece(number as u64, &[sequence])).await;
        }
        let sums = tokio::time::timeout(LONG, worker::sums(&mut answers, sequences.len())).await.unwrap();
        assert_eq!(sums, expected, "version {spoken}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_version_is_taken_in_if_it_speaks_this_one_and_has_its_claim() {
    let folder = tempfile::tempdir().unwrap();
    let (_etcd, registry, _leader) = start("0..1", 2, folder.path()).await;
    let speaking = |versions: Versions| move |hello| wire::WorkerHello { protocol: Some(versions.into()), ..hello };
    refused(worker::claim_and_join(&registry, speaking(NEXT)).await);
    let stranger =
        |hello| wire::WorkerHello { incarnation: Incarnation::random().number().to_be_bytes().to_vec(), ..hello };
    let status = worker::claim_and_join(&registry, stranger).await.unwrap_err();
    assert_eq!(status.message(), "this worker does not hold the claim of rank 1");
    let welcome = worker::claim_and_join(&registry, speaking(BOTH)).await.unwrap();
    assert_eq!((welcome.protocol, welcome.checksum()), (2, wire::Checksum::Path));
    assert!(welcome.collective.starts_with("127.0.0.1:") && welcome.nccl.is_none(), "{welcome:?}");
    // version 1 proves nothing, and checks the pooled row
    let old = |hello| wire::WorkerHello { protocol: Some(OLD.into()), incarnation: Vec::new(), ..hello };
    let welcome = worker::claim_and_join(&registry, old).await.unwrap();
    assert_eq!((welcome.protocol, welcome.checksum()), (1, wire::Checksum::Row));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_and_a_worker_of_version_1_are_a_replica_whoever_leads() {
    let expected = replica::scores(&replica::load(MODEL, 2, 2), &worker::sequences());
    for (own, others) in [(0..1, "1..2"), (1..2, "0..1")] {
        let folder = tempfile::tempdir().unwrap();
        let (_etcd, registry, _process) = start(others, 2, folder.path()).await;
        let fingerprint = worker::record(&registry, if own.start == 0 { 1 } else { 0 }).await.fingerprint;
        let located = checkpoint::locate(golden(MODEL).to_str().unwrap(), &HubOptions::default()).unwrap();
        let text_digest = located.text_digest().unwrap().to_string();
        let options = WorkerOptions {
            protocol: OLD,
            fingerprint,
            text_digest: text_digest.clone(),
            step_tokens: STEP.parse().unwrap(),
            ..worker::options(own.clone(), 2)
        };
        let old = worker::start(&registry, options).await;
        let scores = worker::score(&worker::serving(&registry, 0).await, &text_digest).await;
        assert_eq!(scores, expected, "{own:?} of version 1");
        old.abort();
    }
}
