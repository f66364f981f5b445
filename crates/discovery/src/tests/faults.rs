//! What happens to real etcd nodes: killed, hung, without a quorum, started again; and who may come in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use etcd_client::{Certificate, Identity};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{A, B, key, keys, next, quiet, soon, until, values};
use crate::etcd_cluster::{EtcdCluster, ServerTls};
use crate::{Credentials, Error, EtcdOptions, Key, Member, Prefix, Registry, TlsOptions, Watch};

/// A registry whose first node is this one, so that its faults are met.
async fn registry(cluster: &EtcdCluster, first: usize) -> Registry {
    let mut options = cluster.options();
    options.endpoints.rotate_left(first);
    Registry::etcd(options).await.unwrap()
}

/// Registries that together use every node.
async fn registries(cluster: &EtcdCluster) -> Vec<Registry> {
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(registry(cluster, 0).await);
    }
    all
}

/// Watches of the registries, which have seen one claim with the value `0`.
async fn watches(registries: &[Registry]) -> Vec<(Watch, BTreeMap<Key, Member>)> {
    let mut all = Vec::new();
    for registry in registries {
        let (mut watch, mut view) = (registry.watch(&Prefix::all()), BTreeMap::new());
        until(&mut watch, &mut view, |view| !view.is_empty()).await;
        all.push((watch, view));
    }
    all
}

/// All watches come to this value of `r/0`, without a reset and without a removal.
async fn all_see(watches: &mut [(Watch, BTreeMap<Key, Member>)], value: &str) {
    for (watch, view) in watches {
        let seen = |view: &BTreeMap<Key, Member>| {
            let member = view.get(&key("r/0")).expect("a working claim is never removed");
            member.value == value.as_bytes()
        };
        assert_eq!(until(watch, view, seen).await, 0, "a watch was reset");
    }
}

#[tokio::test]
async fn nodes_die_and_hang() {
    let mut cluster = EtcdCluster::start(3).await;
    let registries = registries(&cluster).await;
    let claim = registries[0].claim(&keys(&["r/0"]), A, b"0").await.unwrap();
    let mut watches = watches(&registries).await;
    let epoch = claim.open_epoch(&key("epoch"), b"here").await.unwrap();
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let start = Instant::now();
    soon(claim.update(b"1")).await.unwrap();
    all_see(&mut watches, "1").await;
    println!("the leader killed: {:?} until everybody has seen the next write", start.elapsed());
    cluster.restart(leader);
    assert!(cluster.wait_ready().await);
    drop((claim, watches));
    for behind_the_leader in [0, 1] {
        let victim = (cluster.leader().await + behind_the_leader) % 3;
        a_node_hangs(&mut cluster, &registries, victim).await;
    }
    let claim = soon(registries[0].claim_when_free(&keys(&["r/0"]), A, b"")).await.unwrap();
    assert!(soon(claim.open_epoch(&key("epoch"), b"here")).await.unwrap() > epoch);
}

async fn a_node_hangs(cluster: &mut EtcdCluster, registries: &[Registry], victim: usize) {
    let claim = soon(registries[0].claim_when_free(&keys(&["r/0"]), A, b"0")).await.unwrap();
    let mut watches = watches(registries).await;
    cluster.pause(victim);
    let start = Instant::now();
    soon(claim.update(b"1")).await.unwrap();
    all_see(&mut watches, "1").await;
    println!("node {victim} hangs: {:?} until everybody has seen the next write", start.elapsed());
    // Longer than the lease.
    timeout(Duration::from_secs(4), claim.lost()).await.expect_err("the claim is kept through another node");
    cluster.resume(victim);
    assert!(cluster.wait_ready().await);
    // A leader that wakes up revokes leases that its successor has kept (etcd #15247, in 3.4.23), so the claim
    // may be lost here. Its holder learns it, and it is free to be claimed again.
    match soon(claim.update(b"2")).await {
        Ok(()) | Err(Error::Lost { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn nobody_leaves_without_a_quorum() {
    let mut cluster = EtcdCluster::start(3).await;
    let registries = registries(&cluster).await;
    let claim = registries[0].claim(&keys(&["r/0"]), A, b"0").await.unwrap();
    let mut watches = watches(&registries).await;
    let epoch = claim.open_epoch(&key("epoch"), b"here").await.unwrap();
    for (watch, _) in &mut watches {
        assert_eq!(next(watch).await, "add epoch=here");
    }
    let (left, lost) = (cluster.leader().await, [1, 2].map(|n| (n + 5) % 3));
    let lost = if lost.contains(&left) { lost } else { [left, lost[0]] };
    for node in lost {
        cluster.kill(node);
    }
    // More than twice the lease.
    tokio::join!(quiet(&mut watches[0].0, Duration::from_secs(7)), async {
        timeout(Duration::from_secs(7), claim.lost()).await.expect_err("only the registry can say so");
    });
    for (watch, _) in &mut watches {
        quiet(watch, Duration::ZERO).await;
    }
    for node in lost {
        cluster.restart(node);
    }
    let start = Instant::now();
    soon(async { while claim.update(b"1").await.is_err() {} }).await;
    all_see(&mut watches, "1").await;
    println!("a quorum again: {:?} until everybody has seen the next write", start.elapsed());
    // And everything at once, on the same data.
    for node in 0..3 {
        cluster.kill(node);
    }
    for node in 0..3 {
        cluster.restart(node);
    }
    soon(async { while claim.update(b"2").await.is_err() {} }).await;
    all_see(&mut watches, "2").await;
    assert!(soon(claim.open_epoch(&key("epoch"), b"here")).await.unwrap() > epoch);
    claim.release().await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_lost_its_data_is_listed_again() {
    let mut cluster = EtcdCluster::start(1).await;
    let registry = registry(&cluster, 0).await;
    let claim = registry.claim(&keys(&["r/0"]), A, b"0").await.unwrap();
    for value in 0..20 {
        claim.update(&[b'a' + value]).await.unwrap();
    }
    let mut watch = registry.watch(&Prefix::all());
    assert_eq!(next(&mut watch).await, "reset r/0=t");
    cluster.kill(0);
    cluster.wipe(0);
    cluster.restart(0);
    assert_eq!(next(&mut watch).await, "reset ");
    soon(claim.lost()).await;
    let again = soon(registry.claim_when_free(&keys(&["r/0"]), A, b"1")).await.unwrap();
    assert_eq!(next(&mut watch).await, "add r/0=1");
    drop(again);
}

// === who may come in ===

#[tokio::test]
async fn users_and_passwords() {
    let mut cluster = EtcdCluster::start(1).await;
    let user = Credentials { user: "assay".to_owned(), password: "secret".to_owned() };
    cluster.enable_auth(&user, "assay").await;
    let with = |credentials: Option<Credentials>, namespace: &str| {
        let namespace = namespace.to_owned();
        let options = EtcdOptions { credentials, namespace, deadline: Duration::from_secs(3), ..cluster.options() };
        async { Registry::etcd(options).await.unwrap() }
    };
    let refused = |result: Result<(), Error>| match result {
        Err(Error::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let nobody = with(None, "assay").await;
    assert_eq!(refused(nobody.check().await), "etcdserver: user name is empty");
    let wrong = Credentials { password: "wrong".to_owned(), ..user.clone() };
    let wrong = with(Some(wrong), "assay").await;
    assert!(refused(wrong.check().await).contains("invalid user ID or password"));
    let elsewhere = with(Some(user.clone()), "other").await;
    assert_eq!(refused(elsewhere.check().await), "etcdserver: permission denied");

    let registry = with(Some(user), "assay").await;
    let mut watch = registry.watch(&Prefix::all());
    assert_eq!(next(&mut watch).await, "reset ");
    let claim = registry.claim(&keys(&["r/0"]), A, b"0").await.unwrap();
    assert_eq!(next(&mut watch).await, "add r/0=0");
    // Tokens are gone with the node, and old when roles change: the client logs in again.
    cluster.restart(0);
    soon(async { while claim.update(b"1").await.is_err() {} }).await;
    assert_eq!(next(&mut watch).await, "add r/0=1");
    cluster.client(0).await.role_add("another").await.unwrap();
    claim.update(b"2").await.unwrap();
    assert_eq!(next(&mut watch).await, "add r/0=2");
    timeout(Duration::from_secs(4), claim.lost()).await.expect_err("the lease is kept");
    claim.release().await.unwrap();
}

#[tokio::test]
async fn many_log_in_at_once() {
    let mut cluster = EtcdCluster::start(1).await;
    let user = Credentials { user: "assay".to_owned(), password: "secret".to_owned() };
    cluster.enable_auth(&user, "assay").await;
    // etcd hashes one password after another, and they all have to get in however long that takes
    let options = EtcdOptions { credentials: Some(user), attempt: Duration::from_millis(300), ..cluster.options() };
    let mut all = JoinSet::new();
    for number in 0..16 {
        let options = options.clone();
        all.spawn(async move {
            let registry = Registry::etcd(options).await.unwrap();
            let (mut watch, keys) = (registry.watch(&Prefix::all()), keys(&[&format!("r/{number}")]));
            let (_, claim) = tokio::join!(watch.next(), registry.claim_when_free(&keys, A, b"0"));
            claim.unwrap()
        });
    }
    let claims = timeout(Duration::from_secs(60), all.join_all()).await.expect("they all get in");
    assert_eq!(claims.len(), 16);
}

/// An authority, and certificates of it.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// Trust in this authority.
    fn trusted(&self) -> TlsOptions {
        TlsOptions::new().ca_certificate(Certificate::from_pem(self.0.pem()))
    }

    /// A certificate for these names, and its key.
    fn issue(&self, names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

#[tokio::test]
async fn mutual_tls() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue(&["127.0.0.1", "etcd.test"]);
    let shown = |(certificate, key): (String, String)| Identity::from_pem(certificate, key);
    let client = authority.trusted().identity(shown(authority.issue(&["client"])));
    let (certificate, key) = (certificate.into_bytes(), key.into_bytes());
    let tls = ServerTls { ca: authority.pem(), certificate, key, client: client.clone() };
    let cluster = EtcdCluster::with_tls(1, Some(tls)).await;
    let with = |tls: TlsOptions| {
        let options = EtcdOptions { tls: Some(tls), deadline: Duration::from_secs(1), ..cluster.options() };
        async { Registry::etcd(options).await }
    };
    let registry = with(client.clone()).await.unwrap();
    let mut watch = registry.watch(&Prefix::all());
    assert_eq!(next(&mut watch).await, "reset ");
    let claim = registry.claim(&keys(&["r/0"]), A, b"0").await.unwrap();
    assert_eq!(next(&mut watch).await, "add r/0=0");
    claim.release().await.unwrap();
    with(client.clone().domain_name("etcd.test")).await.unwrap().check().await.unwrap();

    let unreachable = |result: Result<(), Error>| match result {
        Err(Error::Unavailable(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let other = Authority::new();
    let stranger = with(other.trusted().identity(shown(authority.issue(&["client"])))).await.unwrap();
    let reason = unreachable(stranger.check().await);
    assert!(reason.contains("invalid peer certificate"), "{reason}");
    let name = with(client.clone().domain_name("elsewhere.test")).await.unwrap();
    let reason = unreachable(name.check().await);
    assert!(reason.contains("not valid for name"), "{reason}");
    let nobody = with(authority.trusted()).await.unwrap();
    unreachable(nobody.check().await);
    let forged = with(authority.trusted().identity(shown(other.issue(&["client"])))).await.unwrap();
    unreachable(forged.check().await);

    let another = (authority.issue(&["client"]).0, authority.issue(&["client"]).1);
    let refused = with(authority.trusted().identity(shown(another))).await.map(drop).unwrap_err().to_string();
    assert!(refused.starts_with("registry option endpoints or tls: "), "{refused}");
}

#[tokio::test]
async fn entries_of_others_are_let_be() {
    let cluster = EtcdCluster::start(1).await;
    let registry = registry(&cluster, 0).await;
    let mut etcd = cluster.client(0).await;
    etcd.put("assay/r/0", "something else", None).await.unwrap();
    etcd.put("assay/a key of others", "x", None).await.unwrap();
    etcd.put("assayed", "x", None).await.unwrap();
    let error = registry.claim(&keys(&["r/0"]), A, b"").await.map(drop).unwrap_err();
    assert_eq!(error.to_string(), "what is written under r/0 is not an entry of this registry");
    assert_eq!(values(&registry, &Prefix::all()).await, []);
    let mut watch = registry.watch(&Prefix::all());
    assert_eq!(next(&mut watch).await, "reset ");
    etcd.put("assay/r/0", "and else", None).await.unwrap();
    let claim = registry.claim(&keys(&["r/1"]), A, b"mine").await.unwrap();
    assert_eq!(next(&mut watch).await, "add r/1=mine");
    // Another namespace is another registry.
    let namespace = "assay/r".to_owned();
    let other = Registry::etcd(EtcdOptions { namespace, ..cluster.options() }).await.unwrap();
    let theirs = other.claim(&keys(&["r/1"]), B, b"theirs").await.unwrap();
    assert_eq!(values(&other, &key("r").below()).await, [("r/1".to_owned(), "theirs".to_owned())]);
    // What is written is text for etcdctl.
    let entry = etcd.get("assay/r/1", None).await.unwrap();
    assert_eq!(entry.kvs()[0].value_str().unwrap(), format!("1 {A}\nmine"));
    drop((claim, theirs));
}

#[tokio::test]
async fn options_are_checked() {
    let good = || EtcdOptions::new(["http://127.0.0.1:1"]);
    let refused = async |options: EtcdOptions| Registry::etcd(options).await.map(drop).unwrap_err().to_string();
    let tls = || Some(Authority::new().trusted());
    for (options, message) in [
        (EtcdOptions { endpoints: Vec::new(), ..good() }, "registry option endpoints: there are none"),
        (
            EtcdOptions { tls: tls(), ..good() },
            "registry option endpoints: \"http://127.0.0.1:1\" is not of the form https://host:port",
        ),
        (
            EtcdOptions::new(["https://a:1"]),
            "registry option endpoints: \"https://a:1\" is not of the form http://host:port (https needs tls options)",
        ),
        (
            EtcdOptions { lease: Duration::from_millis(1500), ..good() },
            "registry option lease: etcd counts leases in whole seconds, from 1 on",
        ),
        (
            EtcdOptions { attempt: Duration::from_secs(4), ..good() },
            "registry option attempt: more than 0, and at most a third of the lease",
        ),
        (
            EtcdOptions { deadline: Duration::from_secs(1), ..good() },
            "registry option deadline: at least as long as an attempt",
        ),
        (EtcdOptions { namespace: "/assay".to_owned(), ..good() }, "\"/assay\" is no key: it has an empty segment"),
    ] {
        assert_eq!(refused(options).await, message);
    }
    assert!(refused(EtcdOptions::new(["http://a b"])).await.starts_with("registry option endpoints: "));
    let secret = Credentials { user: "u".to_owned(), password: "hidden".to_owned() };
    let shown = format!("{:?}", EtcdOptions { credentials: Some(secret), tls: tls(), ..good() });
    assert!(!shown.contains("hidden") && !shown.contains("ca:"), "{shown}");
    // Nobody listens there, and that is no reason not to start.
    let registry = Registry::etcd(EtcdOptions { deadline: Duration::from_secs(2), ..good() }).await.unwrap();
    let error = registry.check().await.unwrap_err().to_string();
    assert!(error.starts_with("the registry cannot be reached: http://127.0.0.1:1: "), "{error}");
    assert!(error.contains("refused"), "{error}");
    sleep(Duration::ZERO).await;
}
