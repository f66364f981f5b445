//! Directories in every state of completeness.

use std::path::Path;

use super::*;
use crate::{HubOptions, locate};

fn write(directory: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

fn found(files: &[(&str, &str)]) -> Result<Checkpoint, String> {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), files);
    locate(directory.path().to_str().unwrap(), &HubOptions::default()).map_err(|error| error.to_string())
}

fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.weights.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect()
}

#[track_caller]
fn refused(files: &[(&str, &str)], parts: &[&str]) {
    let error = found(files).unwrap_err();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

const BASE: [(&str, &str); 2] = [("config.json", "{}"), ("tokenizer.json", "{}")];

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    BASE.iter().chain(more).copied().collect()
}

#[test]
fn a_single_file_is_found_with_what_is_optional() {
    let checkpoint = found(&with(&[("model.safetensors", ""), ("chat_template.jinja", "")])).unwrap();
    assert_eq!(names(&checkpoint), ["model.safetensors"]);
    assert!(checkpoint.chat_template.is_some());
    assert_eq!((checkpoint.index, checkpoint.tokenizer_config, checkpoint.special_tokens_map), (None, None, None));
    assert!(matches!(checkpoint.source, Source::Directory(_)));
}

#[test]
fn shards_come_once_and_sorted() {
    let index = r#"{"metadata": {}, "weight_map": {"z": "b.safetensors", "a": "b.safetensors", "y": "a.safetensors"}}"#;
    let files = with(&[("a.safetensors", ""), ("b.safetensors", ""), (INDEX, index)]);
    let checkpoint = found(&files).unwrap();
    assert_eq!(names(&checkpoint), ["a.safetensors", "b.safetensors"]);
    assert!(checkpoint.index.is_some());
}

#[test]
fn a_single_file_comes_before_an_index() {
    let checkpoint = found(&with(&[("model.safetensors", ""), (INDEX, "nonsense")])).unwrap();
    assert_eq!(names(&checkpoint), ["model.safetensors"]);
    assert_eq!(checkpoint.index, None);
}

#[test]
fn what_is_missing_is_named() {
    refused(&BASE[1..], &["has no config.json"]);
    refused(&BASE[..1], &["has no tokenizer.json", "save_pretrained"]);
    refused(&BASE, &["has no model.safetensors or model.safetensors.index.json"]);
    refused(&with(&[("pytorch_model.bin", "")]), &["pytorch_model.bin is not read", "safetensors"]);
    let index = r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#;
    refused(&with(&[("a.safetensors", ""), (INDEX, index)]), &["has no b.safetensors", INDEX]);
}

#[test]
fn what_transformers_would_read_besides_is_refused() {
    let weights = ("model.safetensors", "");
    let merge = ["adapter_config.json", "merge_and_unload"];
    refused(&with(&[weights, ("adapter_config.json", "{}"), ("adapter_model.safetensors", "")]), &merge);
    refused(
        &[("adapter_config.json", "{}"), ("tokenizer.json", "{}")],
        &["no config.json", "adapter", "merge_and_unload"],
    );
    refused(&with(&[weights, ("value_head.safetensors", "")]), &["value_head.safetensors", "score.weight"]);
}

#[test]
fn a_pointer_is_no_file() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    refused(&with(&[("model.safetensors", pointer)]), &["model.safetensors", "git lfs pull"]);
    refused(
        &[("config.json", "{}"), ("tokenizer.json", pointer), ("model.safetensors", "")],
        &["tokenizer.json", "git lfs pull"],
    );
}

#[test]
fn a_bad_index_is_refused() {
    for index in ["", "{", "[]", "{}", r#"{"weight_map": []}"#, r#"{"weight_map": {"x": 1}}"#, "\u{feff}{}", "null"] {
        refused(&with(&[(INDEX, index)]), &[INDEX, "not an index"]);
    }
    refused(&with(&[(INDEX, r#"{"weight_map": {}}"#)]), &[INDEX, "names no shard"]);
    for shard in ["../a.safetensors", "/etc/passwd", "x/../../y", "", ".", "./a"] {
        let index = format!(r#"{{"weight_map": {{"x": {shard:?}}}}}"#);
        let mut files = BASE.to_vec();
        files.push((INDEX, &index));
        refused(&files, &[INDEX, "not inside"]);
    }
}

#[test]
fn a_name_that_is_nothing_says_what_was_looked_for() {
    let refuse = |model: &str| locate(model, &HubOptions::default()).unwrap_err().to_string();
    for model in ["nowhere", "a/b/c", "/not/there", "../x", "./x", "a/..", "", "a/", "a b/c", "-x/y"] {
        assert!(refuse(model).contains("not of the form owner/name"), "{model}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(refuse(file.path().to_str().unwrap()).contains("is a file"));
}

proptest::proptest! {
    #[test]
    fn no_index_panics(text in ".{0,200}", keys in proptest::collection::vec(".{0,20}", 0..4)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(INDEX);
        std::fs::write(&path, &text).unwrap();
        let _ = shards(&path);
        let map: std::collections::BTreeMap<_, _> = keys.iter().enumerate().map(|(n, key)| (n.to_string(), key)).collect();
        std::fs::write(&path, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
        for shard in shards(&path).unwrap_or_default() {
            proptest::prop_assert!(directory.path().join(&shard).starts_with(directory.path()));
            proptest::prop_assert!(!shard.split('/').any(|part| part == ".."));
        }
    }
}
