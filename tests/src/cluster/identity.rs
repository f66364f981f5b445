//! Workers that are told nothing but where their pods are: two pods of a StatefulSet are a replica.

use discovery::etcd_cluster::EtcdCluster;
use discovery::{EtcdOptions, Registry};
use tests::golden;

use super::processes::{MODEL, Process, STEP, free_port};
use super::turn;
use crate::worker;

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_stateful_set_are_replicas_by_their_ordinals() {
    let _turn = turn().await;
    let (etcd, folder) = (EtcdCluster::start(1).await, tempfile::tempdir().unwrap());
    let pod = |ordinal: usize| {
        let name = format!("reward-{ordinal}");
        let line = format!(
            "shard --model {} --identity statefulset --workers 2 --tensor-parallel 2 --threads 1 \
             --max-batch-tokens {STEP} --listen 127.0.0.1:{} --etcd {}",
            golden(MODEL).display(),
            free_port(),
            etcd.endpoint(0)
        );
        let variables = [("POD_NAME", name.as_str()), ("POD_IP", "127.0.0.1")];
        Process::in_environment(&name, &line, &variables, folder.path())
    };
    let _pods = [pod(2), pod(3)];
    let registry = Registry::etcd(EtcdOptions::new(etcd.endpoints())).await.unwrap();
    let record = worker::serving_in(&registry, "reward-1", 0).await;
    assert_eq!(record.world_size, 2);
    assert!(record.address.starts_with("127.0.0.1:"), "{record:?}");
    let mut stray = Process::in_environment(
        "stray",
        &format!("shard --model {} --identity leaderworkerset --etcd {}", golden(MODEL).display(), etcd.endpoint(0)),
        &[("LWS_LEADER_ADDRESS", "a-0.a.b"), ("LWS_GROUP_SIZE", "two")],
        folder.path(),
    );
    assert_eq!(stray.wait(), Some(2));
    assert!(stray.log().contains("identity leaderworkerset: LWS_GROUP_SIZE \"two\""), "{}", stray.log());
}
