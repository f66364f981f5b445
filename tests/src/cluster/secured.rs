//! A cluster that is closed to strangers, set up as docs/cluster.md says: etcd with TLS and users, mutual TLS between
//! gateways, leaders and workers, and for clients. Whoever lacks something of it stays outside, and the log says why.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use discovery::Credentials;
use discovery::etcd_cluster::{EtcdCluster, ServerTls};
use proto::v1 as wire;
use service::tls::ClientTls;
use tempfile::TempDir;
use tests::{golden, repo_root};
use wire::ReplicaState;
use wire::status_service_client::StatusServiceClient;

use super::processes::{MODEL, Process, STEP, free_port};
use super::turn;
use crate::assay::{assay, expected, messages, score};
use crate::authority::{Authority, Identity, read};

/// The machines: both are this one.
const MACHINES: [&str; 2] = ["127.0.0.1", "127.0.0.2"];
const START: Duration = Duration::from_secs(60);

/// Who signs for what, and etcd.
struct Site {
    etcd_ca: Authority,
    inner_ca: Authority,
    clients_ca: Authority,
    /// Signs for whom it pleases.
    other_ca: Authority,
    etcd: EtcdCluster,
    folder: TempDir,
}

/// What a process shows to whom.
#[derive(Clone)]
struct Papers {
    /// The authority that it believes about the others of the cluster.
    inner_ca: PathBuf,
    /// What it shows to them, if anything.
    inner: Option<Identity>,
    password: &'static str,
    /// What it shows to etcd, if anything.
    etcd: Option<Identity>,
}

// === impl Site ===

impl Site {
    async fn new() -> Self {
        let [etcd_ca, inner_ca, clients_ca, other_ca] = std::array::from_fn(|_| Authority::new());
        let node = etcd_ca.sign(MACHINES[0]);
        let Identity { certificate, key } = etcd_ca.sign("operator");
        let client = ClientTls { ca: Some(etcd_ca.ca()), certificate: Some(certificate), key: Some(key), domain: None };
        let (certificate, key) = (read(&node.certificate), read(&node.key));
        let tls = ServerTls { ca: read(&etcd_ca.ca()), certificate, key, client: client.load().unwrap() };
        let mut etcd = EtcdCluster::with_tls(1, Some(tls)).await;
        let user = Credentials { user: "assay".to_owned(), password: "secret".to_owned() };
        etcd.enable_auth(&user, "assay").await;
        let folder = tempfile::tempdir().unwrap();
        for password in ["secret", "guess"] {
            std::fs::write(folder.path().join(password), format!("{password}\n")).unwrap();
        }
        Self { etcd_ca, inner_ca, clients_ca, other_ca, etcd, folder }
    }

    /// What belongs to a machine.
    fn papers(&self, machine: &str) -> Papers {
        Papers {
            inner_ca: self.inner_ca.ca(),
            inner: Some(self.inner_ca.sign(machine)),
            password: "secret",
            etcd: Some(self.etcd_ca.sign(machine)),
        }
    }

    fn registry(&self, papers: &Papers) -> String {
        let (endpoints, password) = (self.etcd.endpoints(), self.folder.path().join(papers.password));
        let tls = client(&self.etcd_ca.ca(), papers.etcd.as_ref());
        format!(
            "[registry]\nendpoints = {endpoints:?}\nlease = \"4s\"\nattempt = \"1s\"\nuser = \"assay\"\n\
             password_file = {password:?}\n[registry.tls]\n{tls}"
        )
    }

    fn config(&self, name: &str, settings: &str) -> String {
        let path = self.folder.path().join(format!("{name}.toml"));
        std::fs::write(&path, settings).unwrap();
        path.display().to_string()
    }

    /// A worker on a machine, with some ranks of a replica.
    fn shard(&self, (replica, world_size, ranks): (&str, usize, &str), machine: &str, papers: &Papers) -> Process {
        let name = format!("{replica}-{}", ranks.replace("..", "-"));
        let server = self.inner_ca.sign(machine).server(&self.inner_ca);
        let dials = client(&papers.inner_ca, papers.inner.as_ref());
        let settings = format!("[tls.server]\n{server}[tls.client]\n{dials}{}", self.registry(papers));
        let line = format!(
            "shard --config {} --model {} --replica {replica} --tensor-parallel {world_size} --ranks {ranks} \
             --threads 1 --max-batch-tokens {STEP} --listen {machine}:0",
            self.config(&name, &settings),
            golden(MODEL).display()
        );
        Process::of_line(&name, &line, self.folder.path())
    }

    /// A gateway on a machine, and where it serves; `tls` is for clients and shards.
    fn gateway(&self, name: &str, machine: &str, (papers, tls): (&Papers, &str)) -> (Process, String) {
        let settings = format!("http = \"none\"\n{tls}{}", self.registry(papers));
        let address = format!("{machine}:{}", free_port());
        let line = format!(
            "gateway --config {} --model {} --max-length {STEP} --listen {address}",
            self.config(name, &settings),
            golden(MODEL).display()
        );
        (Process::of_line(name, &line, self.folder.path()), address)
    }
}

impl Identity {
    /// The settings of a server that shows this, and lets in who has a certificate of an authority.
    fn server(&self, of: &Authority) -> String {
        format!("certificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n", self.certificate, self.key, of.ca())
    }
}

/// The settings of a client.
fn client(ca: &Path, identity: Option<&Identity>) -> String {
    let shows = |it: &Identity| format!("certificate = {:?}\nkey = {:?}\n", it.certificate, it.key);
    format!("ca = {ca:?}\n{}", identity.map(shows).unwrap_or_default())
}

/// Waits until a process has said one of these.
async fn says(process: &mut Process, words: &[&str]) {
    let end = Instant::now() + START;
    while !words.iter().all(|word| process.log().contains(word)) {
        assert!(Instant::now() < end, "{}: no {words:?} in {}", process.name, process.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a gateway has given its replica up, and says why in these words.
async fn lost(name: &str, address: &str, words: &str) {
    let (end, mut last) = (Instant::now() + START, None);
    loop {
        if let Ok(mut client) = StatusServiceClient::connect(format!("http://{address}")).await {
            let response = client.get_status(wire::GetStatusRequest {}).await.unwrap().into_inner();
            let replica = response.replicas.iter().find(|replica| replica.name == "a");
            match replica.map(|replica| (replica.state(), replica.reason.clone())) {
                // while TLS fails, an attempt may end before the other side has said why
                Some((ReplicaState::Lost, reason)) if reason.contains(words) => return,
                Some((ReplicaState::Ready, _)) => panic!("{name} got in"),
                other => last = other.or(last),
            }
        }
        assert!(Instant::now() < end, "{name}: no {words:?} in {last:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// === tests ===

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_cluster_serves_those_who_belong_to_it_and_nobody_else() {
    let _turn = turn().await;
    let site = Site::new().await;
    let [first, second] = MACHINES.map(|machine| site.papers(machine));
    let _workers =
        [site.shard(("a", 2, "0..1"), MACHINES[0], &first), site.shard(("a", 2, "1..2"), MACHINES[1], &second)];
    let gateway = |machine: &str, papers: &Papers| {
        let tls = site.clients_ca.sign(machine).server(&site.clients_ca);
        let shards = client(&papers.inner_ca, papers.inner.as_ref());
        site.gateway(
            &format!("gateway-{machine}"),
            machine,
            (papers, &format!("[tls]\n{tls}[shards.client]\n{shards}")),
        )
    };
    let gateways = [gateway(MACHINES[0], &first), gateway(MACHINES[1], &second)];
    let strangers = strangers(&site, &first);
    let mut outside = outside_etcd(&site, &first);

    let endpoints = [0, 1].map(|number| format!("https://{}", gateways[number].1)).join(",");
    let me = site.clients_ca.sign("me");
    let [ca, certificate, key] =
        [&site.clients_ca.ca(), &me.certificate, &me.key].map(|path| path.display().to_string());
    let input = messages(&expected(MODEL)[..4]);
    let ask = |endpoint: &str| {
        let tls = ["--ca", &ca, "--certificate", &certificate, "--key", &key];
        let call = assay(&[&["score", "--endpoint", endpoint], &tls[..]].concat(), input.as_bytes());
        assert_eq!(call.status, Some(0), "{}", call.stderr);
        call.stdout
    };
    let local = score(&golden(MODEL), &["--tensor-parallel", "2", "--threads", "2"], &input);
    assert_eq!(local.call.status, Some(0), "{}", local.call.stderr);
    for endpoint in endpoints.split(',').chain([&*endpoints]) {
        assert_eq!(ask(endpoint), local.call.stdout, "{endpoint}");
    }
    let other_ca = site.other_ca.ca().display().to_string();
    let closed = format!("https://{}", gateways[0].1);
    for (tls, side) in [
        (["--ca", &ca, "", "", "", ""], "the other side refuses this one"),
        (
            ["--ca", &other_ca, "--certificate", &certificate, "--key", &key],
            "this side refuses the other's certificate",
        ),
    ] {
        let tls: Vec<_> = tls.into_iter().filter(|word| !word.is_empty()).collect();
        let start = Instant::now();
        let call = assay(&[&["score", "--endpoint", &closed], &tls[..]].concat(), input.as_bytes());
        assert!(call.status == Some(2) && call.stderr.contains(side), "{}", call.stderr);
        assert!(start.elapsed() < Duration::from_secs(10), "it was tried again");
    }
    for (stranger, address, why) in &strangers {
        lost(&stranger.name, address, why).await;
    }
    for (process, words) in &mut outside {
        says(process, words).await;
    }
    turned_away_workers(&site, &first).await;
}

/// Gateways that etcd lets in, and shards do not; with why.
fn strangers(site: &Site, papers: &Papers) -> Vec<(Process, String, &'static str)> {
    let other = &site.other_ca;
    let cases = [
        ("wrong-ca", client(&other.ca(), papers.inner.as_ref()), "invalid peer certificate"),
        ("no-certificate", client(&papers.inner_ca, None), "received fatal alert: CertificateRequired"),
        ("wrong-certificate", client(&papers.inner_ca, Some(&other.sign(MACHINES[0]))), "received fatal alert"),
    ];
    let stranger = |(name, tls, why): (&str, String, &'static str)| {
        let tls = format!("[shards.client]\n{tls}");
        let (process, address) = site.gateway(name, MACHINES[0], (papers, &tls));
        (process, address, why)
    };
    let mut strangers: Vec<_> = cases.into_iter().map(stranger).collect();
    let (process, address) = site.gateway("no-tls", MACHINES[0], (papers, ""));
    strangers.push((process, address, ""));
    strangers
}

/// Workers that etcd does not let in, with what they say about it.
fn outside_etcd(site: &Site, papers: &Papers) -> Vec<(Process, &'static [&'static str])> {
    let wrong = Papers { password: "guess", ..papers.clone() };
    let nobody = Papers { etcd: None, ..papers.clone() };
    vec![
        (
            site.shard(("wrong-password", 1, "0..1"), MACHINES[0], &wrong),
            &["error: the registry refused: etcdserver: authentication failed, invalid user ID or password\n"],
        ),
        (site.shard(("no-etcd-certificate", 1, "0..1"), MACHINES[0], &nobody), &["members cannot be listed"]),
    ]
}

/// Workers whose leader turns them away, or whom they do not believe.
async fn turned_away_workers(site: &Site, papers: &Papers) {
    let no_certificate = Papers { inner: None, ..papers.clone() };
    let wrong_ca = Papers { inner_ca: site.other_ca.ca(), ..papers.clone() };
    let _leader = site.shard(("b", 4, "0..2"), MACHINES[0], papers);
    let mut nobody = site.shard(("b", 4, "2..3"), MACHINES[1], &no_certificate);
    let mut doubter = site.shard(("b", 4, "3..4"), MACHINES[1], &wrong_ca);
    says(&mut nobody, &["the epoch is over", "ertificate"]).await;
    says(&mut doubter, &["the epoch is over", "invalid peer certificate"]).await;
}

#[test]
fn the_settings_in_the_documentation_are_good() {
    let documentation = std::fs::read_to_string(repo_root().join("docs/cluster.md")).unwrap();
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    for name in ["server", "gateway", "shard"] {
        let Identity { certificate, key } = authority.sign(name);
        std::fs::copy(certificate, folder.path().join(format!("{name}.pem"))).unwrap();
        std::fs::copy(key, folder.path().join(format!("{name}.key"))).unwrap();
    }
    for name in ["etcd-ca.pem", "clients-ca.pem", "shards-ca.pem"] {
        std::fs::copy(authority.ca(), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("etcd-password"), "secret\n").unwrap();
    let blocks = documentation.split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap());
    for (service, block) in ["gateway", "shard"].into_iter().zip(blocks) {
        let file = folder.path().join(format!("{service}.toml"));
        std::fs::write(&file, block.replace("/etc/assay", folder.path().to_str().unwrap())).unwrap();
        let checked = assay(&["config", "check", service, file.to_str().unwrap()], b"");
        assert_eq!(checked.status, Some(0), "{service}: {}", checked.stderr);
    }
    assert_eq!(documentation.matches("```toml").count(), 2);
}
