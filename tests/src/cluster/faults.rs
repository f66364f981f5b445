//! Faults under load, a test for each: three etcd nodes, two gateways, two replicas of two process ranks. No score is
//! wrong, no answer is lost or late, next to nothing is refused, and the cluster is whole again soon after the fault ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::load::{Items, Load};
use super::processes::{Cluster, LEASE, Shape};
use super::turn;

/// The cluster is whole so soon after a fault has ended.
const BACK: Duration = Duration::from_secs(15);
/// A fault is noticed, and the load gets through, within this.
const SOON: Duration = Duration::from_secs(60);
/// So many conversations are scored before a fault and after it.
const STEADY: usize = 250;
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

    /// Waits until clients have so many more right scores.
    async fn answered(&self, more: usize) {
        let (start, before) = (Instant::now(), self.load.seen().right);
        while self.load.seen().right < before + more {
            assert!(start.elapsed() < SOON, "not {more} scores in {SOON:?}: {:?}", self.load.seen());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Hangs a worker until all gateways have given its replica up.
    async fn hang(&mut self, replica: usize, rank: usize) {
        self.cluster.replicas[replica][rank].signal("STOP");
        self.cluster.usable(1, SOON).await;
        self.cluster.replicas[replica][rank].signal("CONT");
    }
}

/// Puts a cluster under load through a fault, which is over when `fault` returns.
async fn survives(fault: impl AsyncFnOnce(&mut Rig)) {
    let _turn = turn().await;
    let mut rig = Rig::start().await;
    rig.answered(STEADY).await;
    let start = Instant::now();
    fault(&mut rig).await;
    let lasted = start.elapsed();
    let back = rig.cluster.whole(BACK).await;
    rig.answered(STEADY).await;
    let seen = rig.load.end().await;
    println!(
        "lasted {lasted:.1?}, whole again {back:.1?} later; {} right, refused {:?}, {} calls moved, longest call {:.1?}",
        seen.right, seen.refused, seen.moved, seen.longest
    );
    assert!(seen.wrong.is_empty(), "{:?}", seen.wrong);
    let refused: usize = seen.refused.values().sum();
    assert!(refused * 100 < seen.right, "too much was refused: {:?} beside {} scores", seen.refused, seen.right);
}

fn kill(cluster: &mut Cluster, replica: usize, rank: usize) {
    let process = &mut cluster.replicas[replica][rank];
    process.signal("KILL");
    process.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_follower_costs_no_answer() {
    survives(async |rig| kill(&mut rig.cluster, 0, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_costs_no_answer() {
    survives(async |rig| kill(&mut rig.cluster, 1, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_costs_no_answer() {
    survives(async |rig| {
        rig.cluster.gateways[0].signal("KILL");
        rig.cluster.gateways[0].restart();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_of_etcd_costs_no_answer() {
    survives(async |rig| {
        let leader = rig.cluster.etcd.leader().await;
        rig.cluster.etcd.kill(leader);
        assert_ne!(rig.cluster.etcd.leader().await, leader);
        rig.cluster.etcd.restart(leader);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_hangs_costs_no_answer() {
    survives(async |rig| rig.hang(0, 1).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hangs_costs_no_answer() {
    survives(async |rig| rig.hang(0, 0).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_of_etcd_that_hangs_costs_no_answer() {
    survives(async |rig| {
        let leader = rig.cluster.etcd.leader().await;
        rig.cluster.etcd.pause(leader);
        assert_ne!(rig.cluster.etcd.leader().await, leader);
        rig.cluster.etcd.resume(leader);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_scores_go_on_for_longer_than_two_leases() {
    survives(async |rig| {
        rig.cluster.etcd.kill(0);
        rig.cluster.etcd.kill(1);
        // nobody says when leases would have ended
        tokio::time::sleep(2 * LEASE).await;
        rig.answered(STEADY).await;
        rig.cluster.etcd.restart(0);
        rig.cluster.etcd.restart(1);
    })
    .await;
}

/// One process after another is asked to leave and started again, when the cluster is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_everything_costs_no_answer() {
    survives(async |rig| {
        let cluster = &mut rig.cluster;
        for number in 0..cluster.processes().count() {
            let process = cluster.processes().nth(number).unwrap();
            process.signal("TERM");
            assert_eq!(process.wait(), Some(0), "{}", process.log());
            process.restart();
            cluster.whole(BACK).await;
        }
    })
    .await;
}
