//! Models by name: fetched from a hub, pinned to a revision, resumed, and found again without a network.

use std::path::Path;
use std::time::{Duration, Instant};

use checkpoint::hub_server::{Fault, HubServer};
use tempfile::TempDir;
use tests::golden;

use crate::assay::{Scored, expected, messages, score};

const REPO: &str = "owner/name";

/// A hub, and an empty cache.
struct Scene {
    server: HubServer,
    cache: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { server: HubServer::start(), cache: tempfile::tempdir().unwrap() }
    }

    /// Publishes a golden checkpoint, and returns the commit.
    fn publish(&self, name: &str, revision: &str) -> String {
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
        };
        let files: Vec<(String, Vec<u8>)> = std::fs::read_dir(golden(name)).unwrap().map(read).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        self.server.publish(REPO, revision, &files)
    }

    fn score(&self, flags: &[&str]) -> Scored {
        let cache = self.cache.path().to_str().unwrap();
        let flags = [&["--hub-endpoint", &self.server.url, "--cache-dir", cache], flags].concat();
        score(Path::new(REPO), &flags, input())
    }

    /// How often the hub was asked for anything.
    fn requests(&self) -> usize {
        self.server.requests().len()
    }
}

/// Conversations that every golden template takes.
fn input() -> String {
    messages(&expected("gemma2-v4")[..3])
}

fn local(name: &str) -> Vec<f32> {
    score(&golden(name), &[], input()).all_scores()
}

#[test]
fn a_model_of_the_hub_scores_as_its_copy_on_disk() {
    for name in ["gemma2-v5", "llama-sharded"] {
        let scene = Scene::new();
        scene.publish(name, "main");
        let fetched = scene.score(&[]);
        assert_eq!(fetched.all_scores(), local(name), "{name}");
        let fingerprint = &score(&golden(name), &[], "").stats["fingerprint"];
        assert_eq!(fetched.stats["fingerprint"], *fingerprint, "{name}: a model is the same wherever it lies");
        let unread = |path: &str| path.contains("expected.json");
        assert!(!scene.server.requests().iter().any(|request| unread(&request.path)));
    }
}

#[test]
fn a_revision_pins_the_model() {
    let scene = Scene::new();
    let commit = scene.publish("gemma2-v4", "v1");
    scene.publish("qwen3", "main");
    assert_eq!(scene.score(&["--revision", "v1"]).all_scores(), local("gemma2-v4"));
    assert_eq!(scene.score(&[]).all_scores(), local("qwen3"));
    assert_eq!(scene.score(&["--revision", &commit]).all_scores(), local("gemma2-v4"));
    // the branch goes on, the commit does not
    scene.publish("gemma2-v5", "v1");
    assert_eq!(scene.score(&["--revision", "v1"]).all_scores(), local("gemma2-v5"));
    assert_eq!(scene.score(&["--revision", &commit]).all_scores(), local("gemma2-v4"));
    let unknown = scene.score(&["--revision", "v9"]).call;
    assert_eq!(unknown.status, Some(2));
    assert!(unknown.stderr.contains(REPO) && unknown.stderr.contains("v9"), "{}", unknown.stderr);
}

#[test]
fn offline_asks_nobody() {
    let scene = Scene::new();
    scene.publish("qwen3", "main");
    let refused = scene.score(&["--offline"]).call;
    assert_eq!((refused.status, scene.requests()), (Some(2), 0));
    for word in [REPO, "is not in the cache", "offline was asked for"] {
        assert!(refused.stderr.contains(word), "no {word:?} in {}", refused.stderr);
    }
    let online = scene.score(&[]).all_scores();
    let asked = scene.requests();
    assert!(asked > 0);
    assert_eq!(scene.score(&["--offline"]).all_scores(), online);
    assert_eq!(scene.requests(), asked, "offline asked the hub");
    let other = scene.score(&["--offline", "--revision", "v2"]).call;
    assert_eq!((other.status, scene.requests()), (Some(2), asked));
    assert!(other.stderr.contains("v2"), "{}", other.stderr);
}

#[test]
fn a_download_that_was_cut_goes_on_where_it_stopped() {
    const PART: usize = 300_000;
    let scene = Scene::new();
    scene.publish("gemma2-v4", "main");
    scene.server.fault("model.safetensors", Fault::Cut(PART), 1);
    assert_eq!(scene.score(&[]).all_scores(), local("gemma2-v4"));
    let storage = scene.server.requests().into_iter().filter(|request| request.path.starts_with("/storage/"));
    let ranges: Vec<String> =
        storage.filter_map(|request| request.range).filter(|range| range != "bytes=0-0").collect();
    assert_eq!(ranges, ["bytes=0-".to_owned(), format!("bytes={PART}-")]);
}

#[test]
fn another_run_goes_on_with_the_download_of_one_that_was_killed() {
    const PART: usize = 500_000;
    let scene = Scene::new();
    scene.publish("gemma2-v4", "main");
    scene.server.fault("model.safetensors", Fault::Stall(PART), 1);
    let model = ["score", "--model", REPO, "--hub-endpoint", &scene.server.url];
    let arguments = [&model[..], &["--cache-dir", scene.cache.path().to_str().unwrap()]].concat();
    let mut first = crate::assay::command(&arguments).spawn().unwrap();
    let blobs = scene.cache.path().join("models--owner--name/blobs");
    let start = Instant::now();
    let part = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.metadata().is_ok_and(|it| it.len() == PART as u64))
    };
    while !std::fs::read_dir(&blobs).is_ok_and(|mut entries| entries.any(part)) {
        assert!(start.elapsed() < Duration::from_secs(60), "the part never came");
        std::thread::sleep(Duration::from_millis(5));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(scene.score(&["--offline"]).call.status, Some(2), "half a model is none");
    assert_eq!(scene.score(&[]).all_scores(), local("gemma2-v4"));
    let resumed = format!("bytes={PART}-");
    assert!(scene.server.requests().iter().any(|request| request.range.as_ref() == Some(&resumed)));
}

#[test]
fn a_model_that_nobody_knows_is_an_error_that_says_what_to_do() {
    let scene = Scene::new();
    let unknown = scene.score(&[]).call;
    assert_eq!((unknown.status, unknown.stdout.as_str()), (Some(2), ""));
    assert!(unknown.stderr.contains(REPO) && unknown.stderr.contains("check the name"), "{}", unknown.stderr);
}
