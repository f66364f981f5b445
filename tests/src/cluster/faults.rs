//! Faults under load: three etcd nodes, two gateways, two replicas of two process ranks. No score is wrong, no answer is
//! lost or late, and the cluster is whole again soon after each fault ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::load::{Items, Load, Seen};
use super::processes::{Cluster, Shape};
use super::turn;

/// The cluster is whole so soon after a fault has ended.
const BACK: Duration = Duration::from_secs(15);
/// How long there is load before and after a fault.
const STEADY: Duration = Duration::from_secs(1);
const CLIENTS: usize = 6;

struct Rig {
    cluster: Cluster,
    load: Load,
}

impl Rig {
    async fn start() -> Self {
        let shape = Shape { gateways: 2, replicas: 2, tensor_parallel: 2, ranks: vec!["0..1", "1..2"] };
        let cluster = Cluster::start(3, &shape).await;
        let endpoints: Vec<String> = (0..2).map(|gateway| cluster.endpoint(gateway)).collect();
        let load = Load::start(&endpoints, Arc::new(Items::new(2)), CLIENTS);
        Self { cluster, load }
    }

    /// Puts the cluster through a fault, which is over when `fault` returns.
    async fn through(&mut self, name: &str, fault: impl AsyncFnOnce(&mut Cluster)) {
        tokio::time::sleep(STEADY).await;
        let before = self.load.seen();
        let start = Instant::now();
        fault(&mut self.cluster).await;
        let lasted = start.elapsed();
        let back = self.cluster.whole(BACK).await;
        tokio::time::sleep(STEADY).await;
        let after = self.load.seen();
        let (right, moved) = (after.right - before.right, after.moved - before.moved);
        let refused = refusals(&after) - refusals(&before);
        println!(
            "{name}: lasted {lasted:.1?}, whole again {back:.1?} later, so degraded for at most {:.1?}; \
             {right} right, {refused} refused, {moved} calls moved, longest call {:.1?}",
            lasted + back,
            after.longest
        );
        assert!(after.wrong.is_empty(), "{name}: {:?}", after.wrong);
        assert!(right > 0, "{name}: nothing was answered");
    }
}

fn refusals(seen: &Seen) -> usize {
    seen.refused.values().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_lose_nothing() {
    let _turn = turn().await;
    let mut rig = Rig::start().await;
    rig.through("kill -9 of a follower", async |cluster| kill(cluster, 0, 1)).await;
    rig.through("kill -9 of a leader", async |cluster| kill(cluster, 1, 0)).await;
    rig.through("kill -9 of a gateway", async |cluster| {
        cluster.gateways[0].signal("KILL");
        cluster.gateways[0].restart();
    })
    .await;
    rig.through("kill -9 of the etcd leader", async |cluster| {
        let leader = cluster.etcd.leader().await;
        cluster.etcd.kill(leader);
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.etcd.restart(leader);
    })
    .await;
    for (name, rank) in [("SIGSTOP of a follower", 1), ("SIGSTOP of a leader", 0)] {
        rig.through(name, async |cluster| {
            cluster.replicas[0][rank].signal("STOP");
            tokio::time::sleep(Duration::from_secs(6)).await;
            cluster.replicas[0][rank].signal("CONT");
        })
        .await;
    }
    rig.through("SIGSTOP of an etcd node", async |cluster| {
        let leader = cluster.etcd.leader().await;
        cluster.etcd.pause(leader);
        tokio::time::sleep(Duration::from_secs(5)).await;
        cluster.etcd.resume(leader);
    })
    .await;
    rig.through("loss of etcd's quorum", async |cluster| {
        cluster.etcd.kill(0);
        cluster.etcd.kill(1);
        tokio::time::sleep(Duration::from_secs(20)).await;
        cluster.etcd.restart(0);
        cluster.etcd.restart(1);
    })
    .await;
    rig.through("rolling restart of everything", async |cluster| rolling_restart(cluster).await).await;
    let seen = rig.load.end().await;
    println!("in all: {} right, refused {:?}, {} calls moved", seen.right, seen.refused, seen.moved);
    assert!(seen.wrong.is_empty(), "{:?}", seen.wrong);
    assert!(refusals(&seen) * 100 < seen.right, "too much was refused: {:?}", seen.refused);
}

fn kill(cluster: &mut Cluster, replica: usize, rank: usize) {
    let process = &mut cluster.replicas[replica][rank];
    process.signal("KILL");
    process.restart();
}

/// One process after another is asked to leave and started again, when the cluster is whole.
async fn rolling_restart(cluster: &mut Cluster) {
    for gateway in 0..cluster.gateways.len() {
        cluster.gateways[gateway].signal("TERM");
        assert_eq!(cluster.gateways[gateway].wait(), Some(0), "{}", cluster.gateways[gateway].log());
        cluster.gateways[gateway].restart();
        cluster.whole(BACK).await;
    }
    for replica in 0..cluster.replicas.len() {
        for rank in 0..cluster.replicas[replica].len() {
            let process = &mut cluster.replicas[replica][rank];
            process.signal("TERM");
            assert_eq!(process.wait(), Some(0), "{}", process.log());
            process.restart();
            cluster.whole(BACK).await;
        }
    }
}
