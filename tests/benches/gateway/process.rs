//! The gateway as a process, and what the system says of it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proto::v1::ListModelsRequest;
use proto::v1::reward_service_client::RewardServiceClient;
use tonic::transport::{Channel, Endpoint};

/// A gateway that can use the replica; it ends when it is dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) address: String,
}

/// The release build of the command, beside this bench.
pub(crate) fn binary() -> PathBuf {
    let bench = std::env::current_exe().expect("a path");
    bench.ancestors().nth(2).expect("the target folder").join("assay")
}

// === impl Gateway ===

impl Gateway {
    /// Starts it with default limits, and waits for the replica.
    pub(crate) async fn start(etcd: &str, model: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(binary());
        command.args(["gateway", "--http", "none", "--etcd", etcd, "--listen", &address, "--model"]).arg(model);
        let child = command.stderr(Stdio::null()).spawn().expect("the release binary");
        let gateway = Self { child, address };
        let start = Instant::now();
        while !gateway.is_ready().await {
            assert!(start.elapsed() < Duration::from_secs(30), "the gateway does not become ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        gateway
    }

    async fn is_ready(&self) -> bool {
        let Ok(channel) = self.endpoint().connect().await else { return false };
        let models = RewardServiceClient::new(channel).list_models(ListModelsRequest {}).await;
        models.is_ok_and(|models| models.into_inner().models.iter().all(|model| model.replicas_ready > 0))
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    /// A connection of its own.
    pub(crate) async fn dial(&self) -> Channel {
        self.endpoint().connect().await.unwrap()
    }

    /// The time that it has computed, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Its memory now, and the most that it was since the last call of [`forget_peak`](Self::forget_peak), in bytes.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
