//! What a gateway costs, adds and holds, with a replica that answers at once: `make bench`.
//!
//! The gateway is a process of the release binary, over a real etcd, and the only one that is measured (Linux: /proc).
//! The load is `assay bench`, a process too; the replica is made up, in this one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints, and ends at the first surprise"
)]

mod load;
mod memory;
mod process;
mod replica;

use discovery::etcd_cluster::EtcdCluster;
use tests::golden;

use self::process::Gateway;
use self::replica::{Conduct, Replica};

/// The model whose tokenizer the gateway has.
const MODEL: &str = "gemma2-v4";

#[tokio::main]
async fn main() {
    let etcd = EtcdCluster::start(1).await;
    let registry = discovery::Registry::etcd(etcd.options()).await.unwrap();
    let replica = Replica::start(&registry, &golden(MODEL)).await;
    let gateway = Gateway::start(&etcd.endpoint(0), &golden(MODEL)).await;
    println!("\nload of the machine: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    load::cost(&gateway);
    load::latency(&gateway);
    drop(gateway);
    replica.set(Conduct::NoCredit);
    memory::bench(&etcd.endpoint(0), &golden(MODEL)).await;
}
