//! One suite for both registries: each test runs over memory and over a real etcd, through a connection with faults.

mod faults;
mod proxy;
mod random;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::etcd_cluster::EtcdCluster;
use crate::{
    Claim, Error, EtcdOptions, Event, Incarnation, Key, MAX_KEYS, MAX_VALUE, Member, Memory, Prefix, Registry, Watch,
};
use proxy::Proxy;

const A: Incarnation = Incarnation::new(0xa);
const B: Incarnation = Incarnation::new(0xb);

/// Longer than anything should take.
const PATIENCE: Duration = Duration::from_secs(20);

// === the rig ===

/// A registry to test.
enum Rig {
    Memory(Memory),
    Etcd { cluster: Arc<EtcdCluster>, namespace: String },
}

/// A client with a connection of its own.
struct Client {
    registry: Registry,
    link: Link,
}

enum Link {
    Memory(Memory),
    Etcd(Proxy),
}

impl Rig {
    fn memory() -> Self {
        Self::Memory(Memory::new())
    }

    /// A namespace in an etcd of one node, which is there for as long as some test uses it.
    async fn etcd() -> Self {
        static SHARED: Mutex<Weak<EtcdCluster>> = Mutex::const_new(Weak::new());
        static NAMESPACES: AtomicUsize = AtomicUsize::new(0);
        let mut shared = SHARED.lock().await;
        let cluster = match shared.upgrade() {
            Some(cluster) => cluster,
            None => Arc::new(EtcdCluster::start(1).await),
        };
        *shared = Arc::downgrade(&cluster);
        Self::Etcd { cluster, namespace: format!("test/{}", NAMESPACES.fetch_add(1, Ordering::Relaxed)) }
    }

    /// A connection with faults.
    async fn client(&self) -> Client {
        match self {
            Self::Memory(memory) => {
                let memory = memory.another();
                Client { registry: memory.registry(), link: Link::Memory(memory) }
            }
            Self::Etcd { cluster, namespace } => {
                let proxy = Proxy::start(cluster.endpoint(0).rsplit('/').next().unwrap()).await;
                Client { registry: connect(cluster, namespace, proxy.url()).await, link: Link::Etcd(proxy) }
            }
        }
    }

    /// One without.
    async fn registry(&self) -> Registry {
        match self {
            Self::Memory(memory) => memory.another().registry(),
            Self::Etcd { cluster, namespace } => connect(cluster, namespace, cluster.endpoint(0)).await,
        }
    }

    /// Ends the lease of a claim, as if its holder had been away for too long.
    async fn expire(&self, key: &Key) {
        match self {
            Self::Memory(memory) => assert!(memory.expire(key)),
            Self::Etcd { cluster, namespace } => {
                let mut client = cluster.client(0).await;
                let lease = client.get(format!("{namespace}/{key}"), None).await.unwrap().kvs()[0].lease();
                client.lease_revoke(lease).await.unwrap();
            }
        }
    }

    async fn compact(&self) {
        match self {
            Self::Memory(memory) => memory.compact(),
            Self::Etcd { cluster, .. } => cluster.compact().await,
        }
    }
}

async fn connect(cluster: &EtcdCluster, namespace: &str, endpoint: String) -> Registry {
    let (namespace, endpoints) = (namespace.to_owned(), vec![endpoint]);
    Registry::etcd(EtcdOptions { namespace, endpoints, ..cluster.options() }).await.unwrap()
}

impl Client {
    fn cut(&self) {
        match &self.link {
            Link::Memory(memory) => memory.set_reachable(false),
            Link::Etcd(proxy) => proxy.cut(),
        }
    }

    fn mend(&self) {
        match &self.link {
            Link::Memory(memory) => memory.set_reachable(true),
            Link::Etcd(proxy) => proxy.mend(),
        }
    }

    /// Lets the next write of this value arrive, and its answer get lost.
    fn lose_answer_to(&self, value: &[u8]) {
        match &self.link {
            Link::Memory(memory) => memory.lose_answers(1),
            Link::Etcd(proxy) => proxy.lose_answer_to(value),
        }
    }
}

/// Both registries, one test each.
macro_rules! both {
    ($($test:ident),* $(,)?) => { $(
        mod $test {
            #[tokio::test]
            async fn memory() {
                super::soon(super::$test(super::Rig::memory())).await;
            }

            #[tokio::test]
            async fn etcd() {
                super::soon(super::$test(super::Rig::etcd().await)).await;
            }
        }
    )* };
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it takes too long")
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn keys(texts: &[&str]) -> Vec<Key> {
    texts.iter().map(|text| key(text)).collect()
}

#[track_caller]
fn check_claimed(result: Result<Claim, Error>, by: Incarnation) {
    match result {
        Err(Error::Claimed { holder, .. }) => assert_eq!(holder, by),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("claimed twice"),
    }
}

#[track_caller]
fn check_lost<T>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Lost { .. })), "not lost: {:?}", result.err());
}

async fn values(registry: &Registry, prefix: &Prefix) -> Vec<(String, String)> {
    texts(&registry.list(prefix).await.unwrap())
}

fn texts(members: &[Member]) -> Vec<(String, String)> {
    let text = |member: &Member| (member.key.to_string(), String::from_utf8(member.value.clone()).unwrap());
    members.iter().map(text).collect()
}

/// What a watch has said, in short.
async fn next(watch: &mut Watch) -> String {
    let short = |(key, value): (String, String)| format!("{key}={value}");
    match soon(watch.next()).await {
        Event::Reset(members) => {
            format!("reset {}", texts(&members).into_iter().map(short).collect::<Vec<_>>().join(" "))
        }
        Event::Add(member) => format!("add {}", texts(&[member]).into_iter().map(short).collect::<String>()),
        Event::Remove(key) => format!("remove {key}"),
    }
}

/// Nothing comes, for a while.
async fn quiet(watch: &mut Watch, time: Duration) {
    if let Ok(event) = timeout(time, watch.next()).await {
        panic!("{event:?}");
    }
}

/// Follows a watch until it has led to these members; returns how often it was reset.
async fn until(
    watch: &mut Watch,
    view: &mut BTreeMap<Key, Member>,
    wanted: impl Fn(&BTreeMap<Key, Member>) -> bool,
) -> usize {
    let mut resets = 0;
    soon(async {
        while !wanted(view) {
            match watch.next().await {
                Event::Reset(members) => {
                    resets += 1;
                    *view = members.into_iter().map(|member| (member.key.clone(), member)).collect();
                }
                Event::Add(member) => drop(view.insert(member.key.clone(), member)),
                Event::Remove(key) => drop(view.remove(&key).expect("only what is there is removed")),
            }
        }
    })
    .await;
    resets
}

// === the suite ===

both![
    one_holder,
    all_keys_or_none,
    values_change,
    a_lease_ends,
    epochs_grow,
    epochs_close,
    a_watch_follows,
    a_watch_goes_on_after_a_cut,
    a_watch_resets_after_compaction,
    a_cut_is_no_loss,
    a_long_cut_is_one,
    a_lost_answer_is_no_second_write,
    dropped_is_free,
    waiting_for_a_claim,
    many_members,
    limits,
];

async fn one_holder(rig: Rig) {
    let (one, two) = (rig.registry().await, rig.registry().await);
    let rank = keys(&["r/0"]);
    let claim = one.claim(&rank, A, b"x").await.unwrap();
    assert_eq!((claim.keys(), claim.incarnation()), (&*rank, A));
    check_claimed(two.claim(&rank, B, b"y").await, A);
    let held = two.list(&Prefix::all()).await.unwrap();
    assert_eq!((held[0].holder, texts(&held)), (A, vec![("r/0".to_owned(), "x".to_owned())]));
    claim.release().await.unwrap();
    assert_eq!(values(&two, &Prefix::all()).await, []);
    let claim = two.claim(&rank, B, b"y").await.unwrap();
    check_claimed(one.claim(&rank, A, b"x").await, B);
    drop(claim);
}

async fn all_keys_or_none(rig: Rig) {
    let registry = rig.registry().await;
    let first = registry.claim(&keys(&["r/1"]), A, b"a").await.unwrap();
    check_claimed(registry.claim(&keys(&["r/0", "r/1"]), B, b"b").await, A);
    assert_eq!(values(&registry, &Prefix::all()).await.len(), 1);
    first.release().await.unwrap();
    let both = registry.claim(&keys(&["r/0", "r/1"]), B, b"b").await.unwrap();
    let members = registry.list(&Prefix::all()).await.unwrap();
    assert_eq!(members.iter().map(|member| member.holder).collect::<Vec<_>>(), [B, B]);
    rig.expire(&key("r/1")).await;
    assert_eq!(values(&registry, &Prefix::all()).await, []);
    soon(both.lost()).await;
}

async fn values_change(rig: Rig) {
    let registry = rig.registry().await;
    let claim = registry.claim(&keys(&["r/0", "r/1"]), A, b"1").await.unwrap();
    let before = registry.list(&Prefix::all()).await.unwrap();
    for value in ["2", "2", ""] {
        claim.update(value.as_bytes()).await.unwrap();
        let members = registry.list(&Prefix::all()).await.unwrap();
        assert_eq!(texts(&members), [("r/0".to_owned(), value.to_owned()), ("r/1".to_owned(), value.to_owned())]);
        assert!(members[0].revision > before[0].revision && members[0].revision == members[1].revision);
    }
    // Updates that meet take turns.
    let updates = ["3", "4", "5"].map(|value| claim.update(value.as_bytes()));
    for update in updates.map(|update| async { update.await.unwrap() }) {
        update.await;
    }
    let (one, two) = tokio::join!(claim.update(b"6"), claim.update(b"7"));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(values(&registry, &key("r").below()).await[0].1, "7");
}

async fn a_lease_ends(rig: Rig) {
    let (one, two) = (rig.registry().await, rig.registry().await);
    let rank = keys(&["r/0"]);
    let claim = one.claim(&rank, A, b"x").await.unwrap();
    rig.expire(&rank[0]).await;
    soon(claim.lost()).await;
    check_lost(claim.update(b"y").await);
    check_lost(claim.open_epoch(&key("epoch"), b"z").await);
    let other = two.claim(&rank, B, b"other").await.unwrap();
    check_lost(claim.update(b"y").await);
    claim.release().await.unwrap();
    assert_eq!(values(&one, &Prefix::all()).await[0].1, "other");
    other.release().await.unwrap();
    let again = one.claim(&rank, A, b"again").await.unwrap();
    again.update(b"and again").await.unwrap();
    // A loss is also noticed by a write that comes before the news.
    rig.expire(&rank[0]).await;
    check_lost(again.update(b"late").await);
    soon(again.lost()).await;
}

async fn epochs_grow(rig: Rig) {
    let registry = rig.registry().await;
    let (rank, epoch) = (keys(&["r/0"]), key("epoch"));
    let mut watch = registry.watch(&epoch.folder());
    assert_eq!(next(&mut watch).await, "reset ");
    let claim = registry.claim(&rank, A, b"").await.unwrap();
    let first = claim.open_epoch(&epoch, b"here").await.unwrap();
    claim.update(b"leading").await.unwrap();
    let second = claim.open_epoch(&epoch, b"here").await.unwrap();
    assert!(second > first);
    let listed = registry.list(&Prefix::all()).await.unwrap();
    assert_eq!((&listed[0].key, listed[0].revision, listed[0].holder), (&epoch, second, A));
    for event in ["add r/0=", "add epoch=here", "add r/0=leading", "add epoch=here"] {
        assert_eq!(next(&mut watch).await, event);
    }
    // The epoch outlives the lease, and the next holder's is greater.
    rig.expire(&rank[0]).await;
    assert_eq!(next(&mut watch).await, "remove r/0");
    let claim = registry.claim(&rank, B, b"").await.unwrap();
    assert_eq!(values(&registry, &Prefix::all()).await[0], ("epoch".to_owned(), "here".to_owned()));
    assert!(claim.open_epoch(&epoch, b"there").await.unwrap() > second);
}

async fn epochs_close(rig: Rig) {
    let registry = rig.registry().await;
    let epoch = key("replicas/a/epoch");
    let claim = registry.claim(&keys(&["replicas/a/ranks/0"]), A, b"").await.unwrap();
    let first = claim.open_epoch(&epoch, b"1").await.unwrap();
    let second = claim.open_epoch(&epoch, b"2").await.unwrap();
    registry.close_epoch(&epoch, first).await.unwrap();
    assert_eq!(values(&registry, &Prefix::all()).await.len(), 2);
    registry.close_epoch(&epoch, second).await.unwrap();
    registry.close_epoch(&epoch, second).await.unwrap();
    assert_eq!(values(&registry, &Prefix::all()).await.len(), 1);
    assert!(claim.open_epoch(&epoch, b"2").await.unwrap() > second);
}

async fn a_watch_follows(rig: Rig) {
    let registry = rig.registry().await;
    let old = registry.claim(&keys(&["a/0", "ab/0"]), A, b"old").await.unwrap();
    let mut watch = registry.watch(&key("a").below());
    assert_eq!(next(&mut watch).await, "reset a/0=old");
    let new = registry.claim(&keys(&["a/1", "a/2/3"]), B, b"new").await.unwrap();
    assert_eq!(next(&mut watch).await, "add a/1=new");
    assert_eq!(next(&mut watch).await, "add a/2/3=new");
    old.update(b"older").await.unwrap();
    assert_eq!(next(&mut watch).await, "add a/0=older");
    old.release().await.unwrap();
    assert_eq!(next(&mut watch).await, "remove a/0");
    assert_eq!(next(&mut registry.watch(&Prefix::all())).await, "reset a/1=new a/2/3=new");
    assert_eq!(next(&mut registry.watch(&key("a/1").below())).await, "reset ");
    drop(new);
    let mut gone = [next(&mut watch).await, next(&mut watch).await];
    gone.sort();
    assert_eq!(gone, ["remove a/1", "remove a/2/3"]);
}

async fn a_watch_goes_on_after_a_cut(rig: Rig) {
    let (client, other) = (rig.client().await, rig.registry().await);
    let claim = other.claim(&keys(&["r/0"]), A, b"1").await.unwrap();
    let mut watch = client.registry.watch(&Prefix::all());
    assert_eq!(next(&mut watch).await, "reset r/0=1");
    claim.update(b"seen").await.unwrap();
    assert_eq!(next(&mut watch).await, "add r/0=seen");
    client.cut();
    claim.update(b"2").await.unwrap();
    let epoch = claim.open_epoch(&key("epoch"), b"e").await.unwrap();
    other.close_epoch(&key("epoch"), epoch).await.unwrap();
    quiet(&mut watch, Duration::from_millis(2500)).await;
    client.mend();
    for event in ["add r/0=2", "add epoch=e", "remove epoch"] {
        assert_eq!(next(&mut watch).await, event);
    }
}

async fn a_watch_resets_after_compaction(rig: Rig) {
    let (client, other) = (rig.client().await, rig.registry().await);
    let claim = other.claim(&keys(&["r/0"]), A, b"1").await.unwrap();
    let gone = other.claim(&keys(&["r/1"]), A, b"1").await.unwrap();
    let mut watch = client.registry.watch(&Prefix::all());
    assert_eq!(next(&mut watch).await, "reset r/0=1 r/1=1");
    client.cut();
    claim.update(b"2").await.unwrap();
    gone.release().await.unwrap();
    quiet(&mut watch, Duration::from_millis(2500)).await;
    rig.compact().await;
    if let Link::Etcd(proxy) = &client.link {
        proxy.forget(); // what etcd had already sent would be enough
    }
    client.mend();
    assert_eq!(next(&mut watch).await, "reset r/0=2");
    claim.update(b"3").await.unwrap();
    assert_eq!(next(&mut watch).await, "add r/0=3");
}

async fn a_cut_is_no_loss(rig: Rig) {
    let (client, other) = (rig.client().await, rig.registry().await);
    let mut watch = other.watch(&Prefix::all());
    assert_eq!(next(&mut watch).await, "reset ");
    let claim = client.registry.claim(&keys(&["r/0"]), A, b"1").await.unwrap();
    assert_eq!(next(&mut watch).await, "add r/0=1");
    client.cut();
    let late = tokio::join!(claim.update(b"2"), async {
        sleep(Duration::from_millis(1500)).await;
        client.mend();
    });
    late.0.unwrap();
    assert_eq!(next(&mut watch).await, "add r/0=2");
    // The lease is 3 s long: it is kept again.
    quiet(&mut watch, Duration::from_secs(4)).await;
    timeout(Duration::ZERO, claim.lost()).await.expect_err("not lost");
}

async fn a_long_cut_is_one(rig: Rig) {
    let (client, other) = (rig.client().await, rig.registry().await);
    let rank = keys(&["r/0"]);
    let claim = client.registry.claim(&rank, A, b"1").await.unwrap();
    client.cut();
    if matches!(rig, Rig::Memory(_)) {
        rig.expire(&rank[0]).await; // it has no clock
    }
    let taken = soon(other.claim_when_free(&rank, B, b"2")).await.unwrap();
    timeout(Duration::from_secs(2), claim.lost()).await.expect_err("nobody has told the holder yet");
    client.mend();
    soon(claim.lost()).await;
    check_lost(claim.update(b"3").await);
    taken.update(b"4").await.unwrap();
    assert_eq!(values(&other, &Prefix::all()).await[0].1, "4");
}

async fn a_lost_answer_is_no_second_write(rig: Rig) {
    let (client, other) = (rig.client().await, rig.registry().await);
    let (rank, epoch) = (keys(&["r/0", "r/1"]), key("epoch"));
    let mut watch = other.watch(&Prefix::all());
    assert_eq!(next(&mut watch).await, "reset ");
    client.lose_answer_to(b"claimed");
    let claim = client.registry.claim(&rank, A, b"claimed").await.unwrap();
    client.lose_answer_to(b"updated");
    claim.update(b"updated").await.unwrap();
    client.lose_answer_to(b"opened");
    let first = claim.open_epoch(&epoch, b"opened").await.unwrap();
    client.lose_answer_to(b"opened");
    let second = claim.open_epoch(&epoch, b"opened").await.unwrap();
    claim.update(b"end").await.unwrap();
    for event in ["r/0=claimed", "r/1=claimed", "r/0=updated", "r/1=updated"] {
        assert_eq!(next(&mut watch).await, format!("add {event}"));
    }
    for number in [first, second] {
        let Event::Add(opened) = soon(watch.next()).await else { panic!("no epoch") };
        assert_eq!((opened.key, opened.revision), (epoch.clone(), number));
    }
    assert_eq!(next(&mut watch).await, "add r/0=end");
}

async fn dropped_is_free(rig: Rig) {
    let (one, two) = (rig.registry().await, rig.registry().await);
    let rank = keys(&["r/0"]);
    drop(one.claim(&rank, A, b"").await.unwrap());
    let claim = soon(two.claim_when_free(&rank, B, b"")).await.unwrap();
    claim.release().await.unwrap();
    // A claim that is given up at any moment leaves nothing behind.
    for micros in (0..6000).step_by(400) {
        let _ = timeout(Duration::from_micros(micros), one.claim(&rank, A, b"")).await;
    }
    soon(two.claim_when_free(&rank, B, b"")).await.unwrap();
    // And so does an update: the next one goes on from what the registry has.
    let claim = soon(one.claim_when_free(&rank, A, b"")).await.unwrap();
    for micros in (0..6000).step_by(400) {
        let _ = timeout(Duration::from_micros(micros), claim.update(b"now or never")).await;
    }
    claim.update(b"last").await.unwrap();
    assert_eq!(values(&one, &Prefix::all()).await[0].1, "last");
}

async fn waiting_for_a_claim(rig: Rig) {
    let (one, two) = (rig.registry().await, rig.registry().await);
    let rank = keys(&["r/0", "r/1"]);
    let claim = one.claim(&keys(&["r/1"]), A, b"").await.unwrap();
    let waiting = tokio::spawn(async move { two.claim_when_free(&rank, B, b"mine").await });
    sleep(Duration::from_millis(300)).await;
    claim.update(b"still here").await.unwrap();
    assert!(!waiting.is_finished());
    claim.release().await.unwrap();
    let claim = soon(waiting).await.unwrap().unwrap();
    assert_eq!(values(&one, &Prefix::all()).await[0], ("r/0".to_owned(), "mine".to_owned()));
    claim.release().await.unwrap();
}

async fn many_members(rig: Rig) {
    let registry = rig.registry().await;
    let mut claims = Vec::new();
    for folder in 0..6 {
        let ranks: Vec<_> = (0..MAX_KEYS).map(|rank| key(&format!("m/{folder}/{rank:02}"))).collect();
        claims.push(registry.claim(&ranks, A, &[folder; 100]).await.unwrap());
    }
    let listed = registry.list(&key("m").below()).await.unwrap();
    assert_eq!(listed.len(), 6 * MAX_KEYS);
    assert!(listed.is_sorted_by_key(|member| &member.key));
    let mut watch = registry.watch(&Prefix::all());
    assert_eq!(watch.next().await, Event::Reset(listed));
    // A reader that is slow sees everything in the end.
    for round in 0..4 {
        for claim in &claims {
            claim.update(&[round; MAX_VALUE]).await.unwrap();
        }
    }
    let mut view = BTreeMap::new();
    let new = |member: &Member| member.value == [3; MAX_VALUE];
    until(&mut watch, &mut view, |view| view.len() == 6 * MAX_KEYS && view.values().all(new)).await;
    // The largest values, over several pages.
    assert_eq!(registry.list(&Prefix::all()).await.unwrap().len(), 6 * MAX_KEYS);
}

async fn limits(rig: Rig) {
    let registry = rig.registry().await;
    registry.check().await.unwrap();
    let rank = keys(&["r/0"]);
    let refused = |result: Result<Claim, Error>| result.map(drop).unwrap_err().to_string();
    assert_eq!(refused(registry.claim(&[], A, b"").await), "registry option keys: 0 keys, a claim has 1 to 64");
    let many: Vec<_> = (0..=MAX_KEYS).map(|n| key(&format!("k/{n}"))).collect();
    assert_eq!(refused(registry.claim(&many, A, b"").await), "registry option keys: 65 keys, a claim has 1 to 64");
    let large = vec![0; MAX_VALUE + 1];
    let message = "a value of 16385 bytes for r/0: the limit is 16384";
    assert_eq!(refused(registry.claim(&rank, A, &large).await), message);
    let claim = registry.claim(&rank, A, &large[1..]).await.unwrap();
    assert_eq!(claim.update(&large).await.unwrap_err().to_string(), message);
    assert!(matches!(claim.open_epoch(&key("e"), &large).await, Err(Error::TooLarge { .. })));
    claim.open_epoch(&key("e"), &large[1..]).await.unwrap();
    assert_eq!(registry.list(&rank[0].folder()).await.unwrap()[0].value.len(), MAX_VALUE);
}

// === without a registry ===

#[test]
fn keys_are_paths() {
    for text in ["a", "replicas/a/ranks/0", "Owner/Model-2.1_v0", "10.0.0.1:80", &"k".repeat(255)] {
        assert_eq!(text.parse::<Key>().unwrap().as_str(), text);
    }
    for (text, reason) in [
        ("", "has an empty segment"),
        ("/a", "has an empty segment"),
        ("a//b", "has an empty segment"),
        ("a/", "has an empty segment"),
        ("a b", "holds ' '"),
        ("a\0", "holds '\\0'"),
        ("ä", "holds 'ä'"),
        (&"k".repeat(256), "longer than 255 bytes"),
    ] {
        let error = Key::new(text).unwrap_err().to_string();
        assert!(error.ends_with(reason), "{error}");
    }
    let rank = key("replicas/a").join("ranks/0").unwrap();
    assert_eq!(rank.segments().collect::<Vec<_>>(), ["replicas", "a", "ranks", "0"]);
    assert_eq!((rank.folder().as_str(), key("a").folder()), ("replicas/a/ranks/", Prefix::all()));
    assert!(key("a").below().contains(&key("a/b")) && !key("a").below().contains(&key("ab")));
    assert!(!key("a").below().contains(&key("a")) && Prefix::all().contains(&key("a")));
}

#[test]
fn incarnations_differ() {
    assert_ne!(Incarnation::random(), Incarnation::random());
    assert_eq!(A.to_string(), "0000000000000000000000000000000a");
}

#[tokio::test]
async fn the_history_of_memory_is_bounded() {
    let memory = Memory::new();
    let (one, two) = (memory.registry(), memory.another());
    let mut watch = two.registry().watch(&Prefix::all());
    let mut view = BTreeMap::new();
    let claim = one.claim(&keys(&["r/0"]), A, b"0").await.unwrap();
    let is = |value: &'static [u8]| {
        move |view: &BTreeMap<Key, Member>| view.get(&key("r/0")).is_some_and(|m| m.value == value)
    };
    until(&mut watch, &mut view, is(b"0")).await;
    two.set_reachable(false);
    for _ in 0..3000 {
        claim.update(b"1").await.unwrap();
    }
    two.set_reachable(true);
    assert_eq!(until(&mut watch, &mut view, is(b"1")).await, 1);
    two.break_watches();
    claim.update(b"2").await.unwrap();
    assert_eq!(until(&mut watch, &mut view, is(b"2")).await, 1);
}

#[tokio::test(start_paused = true)]
async fn calls_fail_in_the_end() {
    let memory = Memory::new();
    let registry = memory.registry();
    let claim = registry.claim(&keys(&["r/0"]), A, b"0").await.unwrap();
    memory.set_reachable(false);
    let message = "the registry cannot be reached: the connection is cut";
    assert_eq!(claim.update(b"1").await.unwrap_err().to_string(), message);
    assert_eq!(registry.check().await.unwrap_err().to_string(), message);
    assert_eq!(registry.list(&Prefix::all()).await.unwrap_err().to_string(), message);
    assert_eq!(registry.claim(&keys(&["r/0"]), B, b"0").await.map(drop).unwrap_err().to_string(), message);
    memory.set_reachable(true);
    claim.update(b"2").await.unwrap();
}
