//! Fetching from a hub on 127.0.0.1, whole and broken.

use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::hub_server::{Fault, HubServer};

const REPO: &str = "owner/name";
const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";
const MIB: usize = 1 << 20;

/// A hub with a sharded model, and an empty cache.
struct Scene {
    server: HubServer,
    home: TempDir,
    commit: String,
    shards: [Vec<u8>; 2],
}

impl Scene {
    fn new() -> Self {
        let shard =
            |seed: usize| -> Vec<u8> { (0..3 * MIB).map(|at| ((at * 31 + at / 253 + seed) % 251) as u8).collect() };
        let shards = [shard(1), shard(2)];
        let index = format!(r#"{{"weight_map": {{"b": "{TWO}", "a": "{ONE}"}}}}"#);
        let server = HubServer::start();
        let files: [(&str, &[u8]); 9] = [
            ("config.json", b"{}"),
            ("tokenizer.json", b"{\"first\": 1}"),
            ("tokenizer_config.json", b"{\"second\": 2}"),
            ("chat_template.jinja", b"template"),
            (INDEX, index.as_bytes()),
            (ONE, &shards[0]),
            (TWO, &shards[1]),
            ("pytorch_model.bin", b"not wanted"),
            ("README.md", b"not wanted either"),
        ];
        let commit = server.publish(REPO, "main", &files);
        Self { server, home: tempfile::tempdir().unwrap(), commit, shards }
    }

    fn options(&self) -> HubOptions {
        HubOptions {
            endpoint: Some(self.server.url.clone()),
            cache_dir: Some(self.home.path().join("hub")),
            timeout: Duration::from_secs(20),
            retries: 0,
            ..HubOptions::default()
        }
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("hub/models--owner--name")
    }

    #[track_caller]
    fn assert_whole(&self, checkpoint: &Checkpoint) {
        assert_eq!(checkpoint.weights.len(), 2);
        for (path, shard) in checkpoint.weights.iter().zip(&self.shards) {
            assert!(std::fs::read(path).unwrap() == *shard, "{}", path.display());
        }
    }

    /// The ranges in which a file's content was asked for.
    fn ranges(&self, file: &str) -> Vec<String> {
        let requests = self.server.requests().into_iter();
        let stored = requests.filter(|request| request.path.starts_with("/storage/") && request.path.ends_with(file));
        stored.filter_map(|request| request.range).filter(|range| range != "bytes=0-0").collect()
    }
}

#[track_caller]
fn says(result: Result<Checkpoint, Error>, parts: &[&str]) {
    let error = result.unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn fetches_what_is_needed_and_nothing_else() {
    let scene = Scene::new();
    let checkpoint = locate(REPO, &HubOptions { progress: true, ..scene.options() }).unwrap();
    scene.assert_whole(&checkpoint);
    assert_eq!(std::fs::read(checkpoint.chat_template.as_ref().unwrap()).unwrap(), b"template");
    assert_eq!(checkpoint.special_tokens_map, None);
    assert_eq!(
        checkpoint.source,
        Source::Hub { repo: REPO.into(), revision: "main".into(), commit: scene.commit.clone() }
    );
    assert!(!scene.server.requests().iter().any(|request| request.path.contains("README")));
    assert!(!scene.server.requests().iter().any(|request| request.path.contains(".bin")));
    // The layout of the cache: a link to a blob that is named by its hash, and the record of the revision.
    let link = std::fs::read_link(&checkpoint.weights[0]).unwrap();
    assert!(link.starts_with("../../blobs") && link.file_name().unwrap().len() == 64);
    assert_eq!(std::fs::read_to_string(scene.folder().join("refs/main")).unwrap(), scene.commit);
    // Once it is here, only the revision is looked up.
    let before = scene.server.requests().len();
    assert_eq!(locate(REPO, &scene.options()).unwrap(), checkpoint);
    assert_eq!(scene.server.requests().len(), before + 1);
}

#[test]
fn a_second_call_resumes_where_the_first_was_cut() {
    let scene = Scene::new();
    scene.server.fault(TWO, Fault::Cut(MIB), 1);
    says(locate(REPO, &scene.options()), &[TWO, "run again"]);
    assert!(!scene.folder().join("refs/main").exists());
    scene.assert_whole(&locate(REPO, &scene.options()).unwrap());
    assert_eq!(scene.ranges(ONE), ["bytes=0-"]);
    assert_eq!(scene.ranges(TWO), ["bytes=0-".to_owned(), format!("bytes={MIB}-")]);
}

#[test]
fn one_call_goes_on_as_long_as_there_is_progress() {
    let scene = Scene::new();
    scene.server.fault(ONE, Fault::Cut(MIB + 5), 2);
    scene.assert_whole(&locate(REPO, &HubOptions { retries: 1, ..scene.options() }).unwrap());
    assert_eq!(scene.ranges(ONE).len(), 3);
}

#[test]
fn a_part_that_was_complete_or_is_too_long_is_no_obstacle() {
    for extra in [0, 7] {
        let scene = Scene::new();
        let checkpoint = locate(REPO, &scene.options()).unwrap();
        let blob = std::fs::canonicalize(&checkpoint.weights[0]).unwrap();
        let mut bytes = std::fs::read(&blob).unwrap();
        bytes.extend(vec![0; extra]);
        std::fs::write(blob.with_extension("part"), bytes).unwrap();
        std::fs::remove_file(blob).unwrap();
        scene.assert_whole(&locate(REPO, &scene.options()).unwrap());
        assert_eq!(scene.ranges(ONE).len(), if extra == 0 { 1 } else { 2 });
    }
}

#[test]
fn a_server_without_ranges_starts_the_file_anew() {
    let scene = Scene::new();
    scene.server.fault(ONE, Fault::Cut(MIB), 1);
    locate(REPO, &scene.options()).unwrap_err();
    scene.server.fault(ONE, Fault::NoRange, 1);
    scene.assert_whole(&locate(REPO, &scene.options()).unwrap());
}

#[test]
fn damage_is_noticed_and_thrown_away() {
    let scene = Scene::new();
    scene.server.fault(ONE, Fault::Flip, 1);
    says(locate(REPO, &scene.options()), &[ONE, "damaged", "run again"]);
    scene.assert_whole(&locate(REPO, &scene.options()).unwrap());
}

#[test]
fn silence_ends_in_time_and_the_rest_is_fetched() {
    let scene = Scene::new();
    let quick = HubOptions { timeout: Duration::from_millis(400), ..scene.options() };
    scene.server.fault(ONE, Fault::Stall(MIB), 1);
    let begin = Instant::now();
    says(locate(REPO, &quick), &[ONE, "timeout", "run again"]);
    scene.server.fault("/revision/main", Fault::Hang, 1);
    says(locate(REPO, &quick), &["the list of files", "timeout"]);
    scene.server.fault("tokenizer.json", Fault::Close, 1);
    assert!(begin.elapsed() < Duration::from_secs(15));
    scene.assert_whole(&locate(REPO, &HubOptions { retries: 2, ..scene.options() }).unwrap());
    assert_eq!(scene.ranges(ONE)[1], format!("bytes={MIB}-"));
}

#[test]
fn what_may_pass_is_tried_again_and_no_longer() {
    let scene = Scene::new();
    scene.server.fault("/revision/main", Fault::Status(503), 1);
    scene.server.fault("config.json", Fault::Status(429), 1);
    locate(REPO, &HubOptions { retries: 1, ..scene.options() }).unwrap();
    let before = scene.server.requests().len();
    scene.server.fault("/revision/main", Fault::Status(500), 9);
    says(locate(REPO, &HubOptions { retries: 1, ..scene.options() }), &["status 500"]);
    assert_eq!(scene.server.requests().len(), before + 2);
    scene.server.heal();
    scene.server.fault("/revision/main", Fault::Status(400), 9);
    says(locate(REPO, &HubOptions { retries: 1, ..scene.options() }), &["status 400"]);
    assert_eq!(scene.server.requests().len(), before + 3);
}

#[test]
fn a_revision_pins_the_content() {
    let scene = Scene::new();
    let files = |config: &'static [u8]| -> [(&'static str, &'static [u8]); 3] {
        [("config.json", config), ("tokenizer.json", b"{}"), ("model.safetensors", b"weights")]
    };
    let old = scene.server.publish("owner/pinned", "v1", &files(b"old"));
    let new = scene.server.publish("owner/pinned", "feature/new", &files(b"new"));
    let at = |revision: &str| {
        let checkpoint =
            locate("owner/pinned", &HubOptions { revision: Some(revision.to_owned()), ..scene.options() }).unwrap();
        let Source::Hub { commit, .. } = &checkpoint.source else { panic!("not from the hub") };
        (std::fs::read(&checkpoint.config).unwrap(), commit.clone())
    };
    assert_eq!(at("v1"), (b"old".to_vec(), old.clone()));
    assert_eq!(at("feature/new"), (b"new".to_vec(), new.clone()));
    // The weights are the same in both, and were fetched once.
    assert_eq!(scene.ranges("model.safetensors").len(), 1);
    // A commit that is here as a whole needs no hub.
    assert_eq!(at(&old), (b"old".to_vec(), old.clone()));
    let before = scene.server.requests().len();
    assert_eq!(at(&old), (b"old".to_vec(), old));
    assert_eq!(scene.server.requests().len(), before);
    let revision = |revision: &str| HubOptions { revision: Some(revision.to_owned()), ..scene.options() };
    says(locate("owner/pinned", &revision("v3")), &["owner/pinned", "v3", "check the name"]);
    says(locate("owner/pinned", &revision("../../x")), &["cannot be a revision"]);
}

#[test]
fn a_mistyped_folder_is_not_asked_of_the_hub() {
    let scene = Scene::new();
    // the folder src is here
    says(crate::locate("src/model", &scene.options()), &["no directory \"src/model\"", "src is one", "hf://src/model"]);
    assert!(scene.server.requests().is_empty());
    says(crate::locate("hf://src/model", &scene.options()), &["the hub knows no repository src/model"]);
    assert_eq!(
        crate::locate(&format!("hf://{REPO}"), &scene.options()).unwrap(),
        crate::locate(REPO, &scene.options()).unwrap()
    );
    says(crate::locate("hf://model", &scene.options()), &["not of the form owner/name"]);
}

#[test]
fn offline_never_asks_the_hub() {
    let scene = Scene::new();
    let offline = HubOptions { offline: true, ..scene.options() };
    says(locate(REPO, &offline), &["the model", "not in the cache", "without offline"]);
    assert!(scene.server.requests().is_empty());

    let fetched = locate(REPO, &scene.options()).unwrap();
    let before = scene.server.requests().len();
    assert_eq!(locate(REPO, &offline).unwrap(), fetched);
    let pinned = HubOptions { revision: Some(scene.commit.clone()), ..offline.clone() };
    scene.assert_whole(&locate(REPO, &pinned).unwrap());
    std::fs::remove_file(&fetched.weights[1]).unwrap();
    says(locate(REPO, &offline), &[TWO, "not in the cache"]);
    says(
        locate(REPO, &HubOptions { revision: Some("other".into()), ..offline }),
        &["the model", "other", "not in the cache"],
    );
    assert_eq!(scene.server.requests().len(), before);
}

#[test]
fn a_token_opens_what_is_private_and_stays_with_the_hub() {
    let scene = Scene::new();
    scene.server.require_token("secret");
    says(locate(REPO, &scene.options()), &["401", "pass a token"]);
    let with = |token: &str| HubOptions { token: Some(token.to_owned()), ..scene.options() };
    says(locate(REPO, &with("wrong")), &["401", "token is not valid"]);
    scene.assert_whole(&locate(REPO, &with("secret")).unwrap());
    for request in scene.server.requests() {
        if request.path.starts_with("/storage/") {
            assert_eq!(request.authorization, None, "{}", request.path);
        }
    }
    scene.server.fault("/revision/main", Fault::Status(403), 1);
    says(locate(REPO, &with("secret")), &["403", "accept the model's terms"]);
    // The file that huggingface-cli writes beside the cache.
    std::fs::write(scene.home.path().join("token"), "secret\n").unwrap();
    locate(REPO, &scene.options()).unwrap();
}

#[test]
fn a_renamed_repository_is_followed() {
    let scene = Scene::new();
    scene.server.require_token("secret");
    scene.server.rename("before/name", REPO);
    let options = HubOptions { token: Some("secret".to_owned()), ..scene.options() };
    scene.assert_whole(&locate("before/name", &options).unwrap());
}

#[test]
fn a_hub_that_cannot_be_reached_or_does_not_know_says_what_to_do() {
    let scene = Scene::new();
    says(locate("owner/other", &scene.options()), &["owner/other", "main", "no directory", "token"]);
    let closed = HubOptions { endpoint: Some("http://127.0.0.1:9/".into()), ..scene.options() };
    says(locate(REPO, &closed), &["offline", "cache", scene.home.path().to_str().unwrap()]);
    let bad = HubOptions { endpoint: Some("no address".into()), ..scene.options() };
    says(locate(REPO, &bad), &["endpoint"]);
}

#[test]
fn a_repository_that_lacks_something_is_refused_before_anything_is_fetched() {
    let scene = Scene::new();
    let base: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("tokenizer.json", b"{}")];
    let with = |more: &[(&'static str, &'static [u8])]| [&base, more].concat();
    let publish = |name: &str, files: &[(&str, &[u8])]| scene.server.publish(name, "main", files);
    publish("a/bin", &with(&[("pytorch_model.bin", b"x")]));
    says(locate("a/bin", &scene.options()), &["a/bin at main", "pytorch_model.bin is not read"]);
    publish("a/bare", &base[1..]);
    says(locate("a/bare", &scene.options()), &["a/bare at main has no config.json"]);
    assert_eq!(scene.server.requests().len(), 2);
    publish("a/index", &with(&[(INDEX, b"{\"weight_map\": 3}")]));
    says(locate("a/index", &scene.options()), &[INDEX, "not an index"]);
    publish("a/escape", &with(&[(INDEX, b"{\"weight_map\": {\"x\": \"../../../x\"}}")]));
    says(locate("a/escape", &scene.options()), &[INDEX, "not inside"]);
    publish("a/shard", &with(&[(INDEX, b"{\"weight_map\": {\"x\": \"x.safetensors\"}}")]));
    says(locate("a/shard", &scene.options()), &["a/shard at main has no x.safetensors"]);
}

#[test]
fn many_at_once_fetch_everything_once() {
    let scene = Scene::new();
    std::thread::scope(|threads| {
        let fetches: Vec<_> = (0..4).map(|_| threads.spawn(|| locate(REPO, &scene.options()).unwrap())).collect();
        for fetch in fetches {
            scene.assert_whole(&fetch.join().unwrap());
        }
    });
    assert_eq!((scene.ranges(ONE).len(), scene.ranges(TWO).len()), (1, 1));
}
