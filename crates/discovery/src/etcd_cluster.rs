//! Real etcd nodes on 127.0.0.1 for tests, with real faults: kill, pause, restart on the same data.
//!
//! The nodes are found on PATH (`scripts/deps.sh test` installs them) and end with the [`EtcdCluster`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a part of the tests")]

use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions};
use tempfile::TempDir;

use crate::{Credentials, EtcdOptions, TlsOptions};

/// Nodes that know each other.
pub struct EtcdCluster {
    nodes: Vec<Node>,
    tls: Option<ServerTls>,
    credentials: Option<Credentials>,
    folder: TempDir,
}

/// What the nodes of a cluster with TLS need, in PEM; clients must show a certificate of the same authority.
#[derive(Clone)]
pub struct ServerTls {
    /// The authority's certificate.
    pub ca: Vec<u8>,
    /// The nodes' certificate, for 127.0.0.1, good for servers and clients.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// How clients are to connect.
    pub client: TlsOptions,
}

struct Node {
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

/// How long the nodes may take to agree on a leader.
const START: Duration = Duration::from_secs(30);

// === impl EtcdCluster ===

impl EtcdCluster {
    /// Starts nodes and waits until they have a leader.
    pub async fn start(nodes: usize) -> Self {
        Self::with_tls(nodes, None).await
    }

    /// The same, with mutual TLS for clients.
    pub async fn with_tls(nodes: usize, tls: Option<ServerTls>) -> Self {
        // A port may be taken by another between looking and starting; nodes that failed to start leave data behind
        // that they cannot start from, so everything is made anew.
        for _ in 0..3 {
            let mut cluster = Self::new(nodes, tls.clone());
            for node in 0..nodes {
                cluster.launch(node);
            }
            if cluster.wait_ready().await {
                return cluster;
            }
        }
        panic!("etcd does not start");
    }

    fn new(nodes: usize, tls: Option<ServerTls>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some(tls) = &tls {
            for (name, pem) in [("ca.pem", &tls.ca), ("node.pem", &tls.certificate), ("node.key", &tls.key)] {
                std::fs::write(folder.path().join(name), pem).unwrap();
            }
        }
        let node = |_| Node { client_port: free_port(), peer_port: free_port(), child: None };
        Self { nodes: (0..nodes).map(node).collect(), tls, credentials: None, folder }
    }

    /// The addresses for clients.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.nodes.len()).map(|node| self.endpoint(node)).collect()
    }

    /// The address of a node for clients.
    pub fn endpoint(&self, node: usize) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.nodes[node].client_port)
    }

    /// Options for these nodes with short times: leases of 3 s, attempts of 1 s.
    pub fn options(&self) -> EtcdOptions {
        EtcdOptions {
            tls: self.tls.as_ref().map(|tls| tls.client.clone()),
            credentials: self.credentials.clone(),
            lease: Duration::from_secs(3),
            attempt: Duration::from_secs(1),
            ..EtcdOptions::new(self.endpoints())
        }
    }

    /// A client of etcd itself, of one node.
    pub async fn client(&self, node: usize) -> Client {
        Client::connect([self.endpoint(node)], Some(self.connect())).await.unwrap()
    }

    fn connect(&self) -> ConnectOptions {
        self.options().connect().with_timeout(Duration::from_secs(5))
    }

    /// Asks for a password from now on: makes the user `root`, and one who may do everything in a namespace.
    pub async fn enable_auth(&mut self, user: &Credentials, namespace: &str) {
        use etcd_client::{Permission, PermissionType};
        let mut client = self.client(0).await;
        client.user_add("root", "root", None).await.unwrap();
        client.role_add("root").await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.user_add(&*user.user, &*user.password, None).await.unwrap();
        client.role_add("members").await.unwrap();
        let all = Permission::new(PermissionType::Readwrite, format!("{namespace}/")).with_prefix();
        client.role_grant_permission("members", all).await.unwrap();
        client.user_grant_role(&*user.user, "members").await.unwrap();
        client.auth_enable().await.unwrap();
        self.credentials = Some(Credentials { user: "root".to_owned(), password: "root".to_owned() });
    }

    /// The node that leads, of those that run.
    pub async fn leader(&self) -> usize {
        let start = Instant::now();
        while start.elapsed() < START {
            for node in (0..self.nodes.len()).filter(|node| self.nodes[*node].child.is_some()) {
                let status =
                    async { Client::connect([self.endpoint(node)], Some(self.connect())).await?.status().await };
                if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(1), status).await
                    && status.header().map(etcd_client::ResponseHeader::member_id) == Some(status.leader())
                {
                    return node;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("etcd has no leader");
    }

    /// Forgets all changes up to now.
    pub async fn compact(&self) {
        let mut client = self.client(self.leader().await).await;
        let head = client.get("head", None).await.unwrap().header().unwrap().revision();
        client.compact(head, None).await.unwrap();
    }

    /// Kills a node: SIGKILL.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].child.take() {
            // A process that has ended by itself is as dead.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Hangs a node: SIGSTOP. Its connections stay open and new ones are accepted.
    pub fn pause(&self, node: usize) {
        self.signal(node, "STOP");
    }

    /// Lets a paused node go on.
    pub fn resume(&self, node: usize) {
        self.signal(node, "CONT");
    }

    fn signal(&self, node: usize, signal: &str) {
        let pid = self.nodes[node].child.as_ref().expect("the node runs").id();
        let status = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap();
        assert!(status.success(), "kill -{signal} {pid}");
    }

    /// Starts a node that was killed, on the data that it had; does not wait for it.
    pub fn restart(&mut self, node: usize) {
        self.kill(node);
        self.launch(node);
    }

    /// Removes the data of a node that was killed.
    pub fn wipe(&self, node: usize) {
        assert!(self.nodes[node].child.is_none(), "the node runs");
        std::fs::remove_dir_all(self.path(&format!("n{node}"))).unwrap();
    }

    /// Waits until the nodes answer, all that run; false if they do not, or one has ended.
    pub async fn wait_ready(&mut self) -> bool {
        let start = Instant::now();
        for node in 0..self.nodes.len() {
            if self.nodes[node].child.is_none() {
                continue;
            }
            loop {
                let get = async {
                    Client::connect([self.endpoint(node)], Some(self.connect())).await?.get("ready", None).await
                };
                if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(1), get).await {
                    break;
                }
                let child = self.nodes[node].child.as_mut().unwrap();
                if start.elapsed() > START || child.try_wait().unwrap().is_some() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        true
    }

    fn launch(&mut self, node: usize) {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let peer = |node: &Node| format!("http://127.0.0.1:{}", node.peer_port);
        let peers = self.nodes.iter().enumerate().map(|(i, node)| format!("n{i}={}", peer(node)));
        let client = format!("{scheme}://127.0.0.1:{}", self.nodes[node].client_port);
        let name = format!("n{node}");
        let log = std::fs::File::create(self.path(&format!("{name}.log"))).unwrap();
        let mut command = Command::new("etcd");
        command
            .args(["--name", &name, "--data-dir"])
            .arg(self.path(&name))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer(&self.nodes[node])])
            .args(["--initial-advertise-peer-urls", &peer(&self.nodes[node])])
            .args(["--initial-cluster", &peers.collect::<Vec<_>>().join(",")])
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000"]);
        if self.tls.is_some() {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(self.path("ca.pem"));
            command.arg("--cert-file").arg(self.path("node.pem")).arg("--key-file").arg(self.path("node.key"));
        }
        if cfg!(target_arch = "aarch64") {
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64"); // 3.4 wants to be asked twice
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.nodes[node].child = Some(child.unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => {
                panic!("etcd is not on PATH: run scripts/deps.sh test (apt: etcd-server, brew: etcd)")
            }
            _ => panic!("etcd does not start: {error}"),
        }));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            self.kill(node);
        }
    }
}

/// A port that nobody listens on, below those that the system gives to outgoing connections: a node that is killed and
/// started again finds it free.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 600) as u16 * 20;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
