//! Holds the code to its map: which crate may depend on which, who may link what, and the habits that no lint checks.
//!
//! ARCHITECTURE.md explains the map; the tables here are the same map for the machine. A change of the map changes
//! both, and its commit says why.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::{GOLDEN, golden, repo_root};

// === the map ===

/// A crate of the workspace, its folder, and the crates of the workspace that it may depend on.
type Place = (&'static str, &'static str, &'static [&'static str]);

/// The two services meet only on the wire; inside crates/ the only edges are model -> collective, model and proto -> score,
/// and client -> proto and service.
const MAP: &[Place] = &[
    ("score", "crates/score", &[]),
    ("proto", "crates/proto", &["score"]),
    ("prompt", "crates/prompt", &[]),
    ("collective", "crates/collective", &[]),
    ("model", "crates/model", &["collective", "score"]),
    ("discovery", "crates/discovery", &[]),
    ("checkpoint", "crates/checkpoint", &[]),
    ("service", "crates/service", &[]),
    ("client", "crates/client", &["proto", "service"]),
    ("gateway", "services/gateway", &["proto", "score", "prompt", "checkpoint", "discovery", "service"]),
    ("shard", "services/shard", &["proto", "score", "model", "collective", "checkpoint", "discovery", "service"]),
    (
        "assay",
        "services/assay",
        &["client", "gateway", "shard", "proto", "score", "prompt", "checkpoint", "model", "discovery", "service"],
    ),
];

/// Crates of others that only some may link. Dev-dependencies are free; deny.toml guards the ways around this list.
const LINKS: &[(&str, &[&str])] = &[
    ("tokio", &["discovery", "service", "client", "gateway", "shard", "assay"]),
    ("tonic", &["proto", "service", "client", "gateway", "shard", "assay"]),
    ("tonic-health", &["service"]),
    ("prost", &["proto"]),
    ("etcd-client", &["discovery"]),
    ("candle-core", &["collective", "model"]),
    ("candle-nn", &["model"]),
    ("candle-transformers", &[]),
    ("cudarc", &["collective", "model"]),
    ("libloading", &["collective"]),
    ("cc", &["model"]),
    ("tokenizers", &["prompt"]),
    ("minijinja", &["prompt"]),
    ("hf-hub", &["checkpoint"]),
    ("ureq", &["checkpoint"]),
    ("clap", &["assay"]),
    ("anyhow", &["assay"]),
    ("indicatif", &["checkpoint", "assay"]),
    ("tracing-subscriber", &["service"]),
    ("opentelemetry", &["service"]),
    ("opentelemetry_sdk", &["service"]),
    ("opentelemetry-otlp", &["service"]),
    ("tracing-opentelemetry", &["service"]),
    ("axum", &["service"]),
    ("hyper", &["service"]),
    ("tokio-rustls", &["service"]),
    ("metrics", &["service", "gateway", "shard"]),
    ("metrics-exporter-prometheus", &["service"]),
    ("tonic-reflection", &["gateway"]),
    ("toml", &["service", "assay"]),
    ("comfy-table", &["assay"]),
    ("hdrhistogram", &["assay"]),
];

/// The crate that may depend on everything.
const TESTS: &str = "tests";

// === what files may say ===

/// Text that only some places may hold: the text, the places (prefixes of paths), and why.
struct Rule {
    needle: &'static str,
    extensions: &'static [&'static str],
    in_comments: bool,
    allowed: &'static [&'static str],
    why: &'static str,
}

impl Rule {
    const fn code(needle: &'static str, allowed: &'static [&'static str], why: &'static str) -> Self {
        Self { needle, extensions: &["rs"], in_comments: false, allowed, why }
    }

    const fn anywhere(needle: &'static str, extensions: &'static [&'static str], why: &'static str) -> Self {
        Self { needle, extensions, in_comments: true, allowed: &[], why }
    }
}

const TEXT: &[&str] = &["rs", "toml", "py", "sh", "yml", "yaml", "md", "proto", "cu", "cpp", "h"];
const UNSAFE_IS_FOR: &[&str] = &[
    "crates/collective/src/library.rs",
    "crates/collective/src/nccl/",
    "crates/model/src/device/cuda/",
    "crates/model/src/device/host.rs",
];

const RULES: &[Rule] = &[
    Rule::code(
        "feature = \"cuda\"",
        &["crates/collective/", "crates/model/", "tests/"],
        "only collective and model know what device they run on",
    ),
    Rule::code(
        "std::env",
        &["services/assay/", "tests/", "crates/proto/build.rs", "crates/model/build"],
        "environment and flags are read in services/assay; everything below takes structs",
    ),
    Rule::code("unsafe ", UNSAFE_IS_FOR, "unsafe needs a place in the list of this test, and a reason beside it"),
    Rule::code("(unsafe_code", UNSAFE_IS_FOR, "unsafe needs a place in the list of this test, and a reason beside it"),
    Rule::code("#[ignore", &[], "a test runs, or it goes"),
    Rule::anywhere("[patch", &["toml"], "a forked foundation is nobody's: fix it upstream or do without"),
    Rule::anywhere("TODO", TEXT, "what is left to do belongs in an issue"),
    Rule::anywhere("FIXME", TEXT, "what is left to do belongs in an issue"),
    Rule::anywhere("XXX", TEXT, "what is left to do belongs in an issue"),
];

/// This file spells out what the others may not.
const SELF: &str = "tests/src/tidy.rs";

// === the workspace, as cargo sees it ===

/// What the map speaks about: a crate, and the dependencies that end up in its build.
struct Package {
    name: String,
    folder: String,
    version: String,
    published: bool,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    dev: bool,
}

fn workspace() -> Vec<Package> {
    let root = repo_root();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(&root)
        .output()
        .expect("cargo metadata starts");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    metadata["packages"].as_array().unwrap().iter().map(|package| package_of(package, &root)).collect()
}

fn package_of(package: &Value, root: &Path) -> Package {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let manifest = PathBuf::from(text(&package["manifest_path"]));
    let dependency =
        |value: &Value| Dependency { name: text(&value["name"]), dev: value["kind"].as_str() == Some("dev") };
    Package {
        name: text(&package["name"]),
        folder: relative(manifest.parent().unwrap(), root),
        version: text(&package["version"]),
        published: package["publish"].as_array().is_none_or(|registries| !registries.is_empty()),
        dependencies: package["dependencies"].as_array().unwrap().iter().map(dependency).collect(),
    }
}

fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

// === the checks ===

/// Everything in which these crates leave the map.
fn off_the_map(packages: &[Package]) -> Vec<String> {
    let places: BTreeMap<_, _> = MAP.iter().map(|(name, folder, edges)| (*name, (*folder, *edges))).collect();
    let mut found = Vec::new();
    for package in packages.iter().filter(|package| package.name != TESTS) {
        let Some((folder, edges)) = places.get(package.name.as_str()) else {
            found.push(format!("{} is not in the table in ARCHITECTURE.md", package.name));
            continue;
        };
        if package.folder != *folder {
            found.push(format!("{} lies in {}, its place is {folder}", package.name, package.folder));
        }
        let refused = |dependency: &&Dependency| refusal(&package.name, edges, dependency).is_some();
        found.extend(package.dependencies.iter().filter(refused).map(|dependency| {
            let why = refusal(&package.name, edges, dependency).unwrap_or_default();
            format!("{} -> {}: {why} (see the table in ARCHITECTURE.md)", package.name, dependency.name)
        }));
    }
    found
}

/// Why this edge is not on the map; None if it is.
fn refusal(from: &str, edges: &[&str], to: &Dependency) -> Option<String> {
    let name = to.name.as_str();
    let place = MAP.iter().find(|(known, ..)| *known == name);
    if to.dev {
        let service = place.is_some_and(|(_, folder, _)| folder.starts_with("services/"));
        return (service && name != from).then(|| "services are tested from the tests crate".to_owned());
    }
    if name == TESTS {
        return Some("the tests are no part of the product".to_owned());
    }
    if place.is_some() {
        let may = if edges.is_empty() { "no other crate of ours".to_owned() } else { edges.join(", ") };
        return (!edges.contains(&name)).then(|| format!("{from} may depend on {may}"));
    }
    let (_, linkers) = LINKS.iter().find(|(known, _)| *known == name)?;
    let may = if linkers.is_empty() { "nobody".to_owned() } else { linkers.join(", ") };
    (!linkers.contains(&from)).then(|| format!("{name} may be linked by {may}"))
}

/// Everything that this file says and may not.
fn out_of_place(path: &str, text: &str) -> Vec<String> {
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    let in_test = path.ends_with("/tests.rs");
    let mut found = Vec::new();
    for rule in RULES.iter().filter(|rule| rule.extensions.contains(&extension) && path != SELF) {
        if rule.allowed.iter().any(|place| path.starts_with(place)) || (rule.needle == "std::env" && in_test) {
            continue;
        }
        let lines = text.lines().enumerate();
        let hits = lines.filter(|(_, line)| {
            line.contains(rule.needle) && (rule.in_comments || !line.trim_start().starts_with("//"))
        });
        found.extend(hits.map(|(n, _)| format!("{path}:{}: {:?}: {}", n + 1, rule.needle, rule.why)));
    }
    if extension == "rs" && !opens_with_a_paragraph(text) {
        found.push(format!("{path}:1: a file opens with a paragraph (//!) that says what it is for"));
    }
    found
}

fn opens_with_a_paragraph(text: &str) -> bool {
    let paragraph = text.lines().map_while(|line| line.strip_prefix("//! "));
    paragraph.map(str::len).sum::<usize>() > 20
}

/// The files that people wrote, with their paths from the root.
fn files() -> Vec<(String, PathBuf)> {
    let root = repo_root();
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = relative(&path, &root);
            let hidden = name.starts_with('.') && !matches!(name.as_str(), ".ci" | ".github" | ".cargo");
            let made = name == "target" || path.join("pyvenv.cfg").exists() || path.join("CACHEDIR.TAG").exists();
            let data = GOLDEN.iter().any(|checkpoint| path == golden(checkpoint));
            match path.is_dir() {
                _ if hidden || made || data => {}
                true => folders.push(path),
                false => found.push((name, path)),
            }
        }
    }
    found
}

#[track_caller]
fn none(found: &[String]) {
    assert!(found.is_empty(), "\n  {}\n", found.join("\n  "));
}

// === tests ===

#[test]
fn every_edge_is_on_the_map() {
    none(&off_the_map(&workspace()));
}

#[test]
fn every_crate_is_private_and_takes_the_workspace_lints() {
    let mut found = Vec::new();
    for package in workspace() {
        let manifest = format!("{}/Cargo.toml", package.folder);
        let text = fs::read_to_string(repo_root().join(&manifest)).unwrap();
        if !text.contains("[lints]\nworkspace = true") {
            found.push(format!("{manifest}: [lints] workspace = true is missing"));
        }
        if package.published {
            found.push(format!("{manifest}: publish.workspace = true is missing"));
        }
        if package.version != "0.0.0" {
            found.push(format!("{manifest}: version is {}, crates of the workspace are 0.0.0", package.version));
        }
    }
    none(&found);
}

#[test]
fn every_file_keeps_to_its_place() {
    let mut found = Vec::new();
    let mut read = 0;
    for (name, path) in files() {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        read += 1;
        found.extend(out_of_place(&name, &text));
    }
    assert!(read > 20, "the walk found only {read} files");
    none(&found);
}

#[test]
fn the_architecture_is_one_short_page_that_names_every_crate() {
    let text = fs::read_to_string(repo_root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md exists");
    let mut found = Vec::new();
    if text.lines().count() >= 200 {
        found.push(format!("ARCHITECTURE.md has {} lines, a map has under 200", text.lines().count()));
    }
    let unnamed = workspace().into_iter().filter(|package| package.name != TESTS && !text.contains(&package.folder));
    found.extend(unnamed.map(|package| format!("ARCHITECTURE.md does not name {}", package.folder)));
    none(&found);
}

#[test]
fn an_edge_off_the_map_is_found() {
    let offences = |name: &str, folder: &str, dependency: &str, dev: bool| {
        let dependencies = vec![Dependency { name: dependency.to_owned(), dev }];
        let (name, folder, version) = (name.to_owned(), folder.to_owned(), "0.0.0".to_owned());
        off_the_map(&[Package { name, folder, version, published: false, dependencies }])
    };
    let expected =
        "prompt -> model: prompt may depend on no other crate of ours (see the table in ARCHITECTURE.md)".to_owned();
    assert_eq!(offences("prompt", "crates/prompt", "model", false), [expected]);
    assert_eq!(offences("model", "crates/model", "collective", false), [""; 0]);
    assert_eq!(offences("model", "crates/model", "prompt", true), [""; 0]);
    assert_eq!(offences("model", "crates/model", "shard", true).len(), 1);
    assert_eq!(offences("model", "crates/model", "tests", false).len(), 1);
    assert_eq!(offences("gateway", "services/gateway", "shard", false).len(), 1);
    assert_eq!(offences("gateway", "services/gateway", "candle-core", false).len(), 1);
    assert_eq!(offences("model", "crates/model", "tokio", false).len(), 1);
    assert_eq!(offences("model", "crates/model", "rayon", false), [""; 0]);
    assert_eq!(offences("model", "crates/models", "rayon", false).len(), 1);
    assert_eq!(offences("utils", "crates/utils", "rayon", false).len(), 1);
}

#[test]
fn a_file_out_of_place_is_found() {
    let opening = "//! Says at some length what this file is for.\n";
    let offences = |path: &str, line: &str| out_of_place(path, &format!("{opening}{line}\n")).len();
    assert_eq!(offences("crates/prompt/src/lib.rs", "#[cfg(feature = \"cuda\")]"), 1);
    assert_eq!(offences("crates/model/src/lib.rs", "#[cfg(feature = \"cuda\")]"), 0);
    assert_eq!(offences("crates/model/src/lib.rs", "let home = std::env::var(\"HOME\");"), 1);
    assert_eq!(offences("crates/model/src/lib.rs", "// std::env is not read here"), 0);
    assert_eq!(offences("services/assay/src/main.rs", "let home = std::env::var(\"HOME\");"), 0);
    assert_eq!(offences("crates/model/src/lib.rs", "let x = unsafe { *p };"), 1);
    assert_eq!(offences("crates/model/src/lib.rs", "// TODO: the rest"), 1);
    assert_eq!(offences("Cargo.toml", "[patch.crates-io]"), 1);
    assert_eq!(out_of_place("crates/model/src/lib.rs", "use std::fs;\n").len(), 1);
    assert_eq!(out_of_place("crates/model/src/lib.rs", "//! placeholder\n").len(), 1);
}
