//! Starts, hurts and ends processes of a cluster.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use discovery::etcd_cluster::EtcdCluster;
use proto::v1 as wire;
use tempfile::TempDir;
use tests::golden;
use tonic::transport::{Channel, Endpoint};
use wire::reward_service_client::RewardServiceClient;

use crate::assay::command;

/// The model that clusters serve.
pub(crate) const MODEL: &str = "gemma2-v4";
/// The most tokens of a step, and so of a conversation.
pub(crate) const STEP: &str = "2048";
/// How long a cluster may take to be whole.
const START: Duration = Duration::from_secs(60);
/// How long a claim outlives its holder.
pub(crate) const LEASE: Duration = Duration::from_secs(4);

/// A process that can be started again as it was.
pub(crate) struct Process {
    pub(crate) name: String,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    child: Option<Child>,
    folder: PathBuf,
    lives: usize,
}

/// Replicas of process ranks and gateways, over etcd.
pub(crate) struct Cluster {
    pub(crate) etcd: EtcdCluster,
    pub(crate) gateways: Vec<Process>,
    /// The workers of each replica, by rank.
    pub(crate) replicas: Vec<Vec<Process>>,
    pub(crate) ports: Vec<u16>,
    _folder: TempDir,
}

/// How many of what, and which ranks a process has.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) gateways: usize,
    pub(crate) replicas: usize,
    pub(crate) tensor_parallel: usize,
    /// The ranks of each worker of a replica.
    pub(crate) ranks: Vec<&'static str>,
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

// === impl Process ===

impl Process {
    /// Starts the binary with the arguments in a line, which has no spaces in them; what it says goes to files of the
    /// folder.
    pub(crate) fn of_line(name: &str, line: &str, folder: &Path) -> Self {
        Self::in_environment(name, line, &[], folder)
    }

    /// The same with variables.
    pub(crate) fn in_environment(name: &str, line: &str, variables: &[(&'static str, &str)], folder: &Path) -> Self {
        let (name, folder) = (name.to_owned(), folder.to_owned());
        let arguments = line.split_whitespace().map(str::to_owned).collect();
        let variables = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let mut process = Self { name, arguments, variables, child: None, folder, lives: 0 };
        process.restart();
        process
    }

    /// Starts it again, if it has ended.
    pub(crate) fn restart(&mut self) {
        self.wait();
        self.lives += 1;
        let log = File::create(self.folder.join(format!("{}.{}.log", self.name, self.lives))).unwrap();
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let mut command = command(&arguments);
        command.envs(self.variables.iter().cloned()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Sends a signal, as `kill` names it.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let status = std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(status.success(), "kill -{signal} {}", self.name);
    }

    /// Waits for its end, and says with which status it came.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.take().and_then(|mut child| child.wait().unwrap().code())
    }

    /// The status with which it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<Option<i32>> {
        let status = self.child.as_mut()?.try_wait().unwrap()?;
        Some(status.code())
    }

    /// What it has said in its last life.
    pub(crate) fn log(&self) -> String {
        let path = self.folder.join(format!("{}.{}.log", self.name, self.lives));
        std::fs::read_to_string(path).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(25).collect::<Vec<_>>();
            eprintln!("--- {}, the last of its log, newest first:\n{}", self.name, tail.join("\n"));
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts etcd, workers and gateways, and waits until every gateway can use every replica.
    pub(crate) async fn start(etcd: usize, shape: &Shape) -> Self {
        Self::with_settings(etcd, shape, ["", ""]).await
    }

    /// The same with more settings: of all workers and gateways, and of gateways alone.
    pub(crate) async fn with_settings(etcd: usize, shape: &Shape, [settings, more]: [&str; 2]) -> Self {
        let etcd = EtcdCluster::start(etcd).await;
        let folder = tempfile::tempdir().unwrap();
        let endpoints: Vec<String> = etcd.endpoints().iter().map(|endpoint| format!("{endpoint:?}")).collect();
        let registry = format!(
            "[registry]\nendpoints = [{}]\nlease = \"{LEASE:?}\"\nattempt = \"1s\"\n{settings}",
            endpoints.join(", ")
        );
        let model = golden(MODEL).display().to_string();
        let config = folder.path().join("shard.toml");
        let patience = "[patience]\nstep = \"3s\"\nforming = \"3s\"\n";
        std::fs::write(&config, format!("{registry}{patience}")).unwrap();
        let worker = |replica: usize, ranks: &str| {
            let name = format!("replica-{replica}-ranks-{}", ranks.replace("..", "-"));
            let (config, world_size) = (config.display(), shape.tensor_parallel);
            let line = format!(
                "shard --config {config} --model {model} --replica r{replica} --tensor-parallel {world_size} \
                 --ranks {ranks} --threads 1 --max-batch-tokens {STEP} --listen 127.0.0.1:0"
            );
            Process::of_line(&name, &line, folder.path())
        };
        let replica = |replica| shape.ranks.iter().map(|ranks| worker(replica, ranks)).collect();
        let replicas = (0..shape.replicas).map(replica).collect();
        let config = folder.path().join("gateway.toml");
        let routing = "http = \"none\"\n[routing]\nstalled_after = \"5s\"\n";
        std::fs::write(&config, format!("{routing}{registry}{more}")).unwrap();
        let ports: Vec<u16> = (0..shape.gateways).map(|_| free_port()).collect();
        let gateway = |(number, port): (usize, &u16)| {
            let config = config.display();
            let line =
                format!("gateway --config {config} --model {model} --max-length {STEP} --listen 127.0.0.1:{port}");
            Process::of_line(&format!("gateway-{number}"), &line, folder.path())
        };
        let gateways = ports.iter().enumerate().map(gateway).collect();
        let mut cluster = Self { etcd, gateways, replicas, ports, _folder: folder };
        let took = cluster.whole(START).await;
        println!("{} processes are whole after {took:.1?}", cluster.processes().count());
        cluster
    }

    /// Where clients reach a gateway.
    pub(crate) fn endpoint(&self, gateway: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[gateway])
    }

    /// Gateways, then workers.
    pub(crate) fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.gateways.iter_mut().chain(self.replicas.iter_mut().flatten())
    }

    /// Waits until every gateway can use every replica, and says how long that took.
    pub(crate) async fn whole(&mut self, patience: Duration) -> Duration {
        self.usable(self.replicas.len() as u32, patience).await
    }

    /// Waits until every gateway can use so many replicas, and says how long that took.
    pub(crate) async fn usable(&mut self, replicas: u32, patience: Duration) -> Duration {
        let start = Instant::now();
        let mut seen = Vec::new();
        while start.elapsed() < patience {
            seen.clear();
            for gateway in 0..self.ports.len() {
                seen.push(ready(self.endpoint(gateway)).await);
            }
            if seen.iter().all(|ready| *ready == Some(replicas)) {
                return start.elapsed();
            }
            for process in self.processes() {
                let ended = process.ended();
                assert_eq!(ended, None, "{} has ended: {}", process.name, process.log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("after {patience:?} the replicas that gateways can use are {seen:?}, expected {replicas} for each");
    }
}

/// A line to a gateway.
pub(crate) async fn dial(endpoint: String) -> Result<RewardServiceClient<Channel>, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(endpoint)?.connect_timeout(Duration::from_secs(1));
    Ok(RewardServiceClient::new(endpoint.connect().await?))
}

/// The replicas that a gateway can use; None if it cannot be asked.
async fn ready(endpoint: String) -> Option<u32> {
    let ask = async {
        let response = dial(endpoint).await.ok()?.list_models(wire::ListModelsRequest {}).await.ok()?;
        response.into_inner().models.first().map(|model| model.replicas_ready)
    };
    tokio::time::timeout(Duration::from_secs(1), ask).await.ok().flatten()
}
