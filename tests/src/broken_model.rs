//! Checkpoints that are damaged: every call ends with status 2 and an error that names the file and what is wrong in it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;
use tests::golden;

use crate::assay::{Call, assay, expected, messages, score};

const WEIGHTS: &str = "model.safetensors";

/// How a copy of a golden checkpoint is damaged.
enum Damage {
    /// This text of a file becomes another.
    Text(&'static str, &'static str, &'static str),
    /// A file has this content.
    Content(&'static str, &'static [u8]),
    /// A file is gone.
    Gone(&'static str),
    /// A file lacks its last bytes.
    Cut(&'static str, u64),
    /// The last number of a bf16 tensor in `WEIGHTS` is this one.
    Number(&'static str, u16),
}

use Damage::{Content, Cut, Gone, Number, Text};

/// The checkpoint, the damage, and what the error says.
const CASES: &[(&str, Damage, &[&str])] = &[
    ("gemma2-v4", Number("model.layers.1.mlp.down_proj.weight", 0x7fc0), &[WEIGHTS, "layers.1.mlp.down_proj", "NaN"]),
    ("gemma2-v4", Number("model.embed_tokens.weight", 0x7f80), &[WEIGHTS, "embed_tokens", "not finite"]),
    ("gemma2-v4", Number("score.weight", 0xff80), &[WEIGHTS, "score.weight", "not finite"]),
    ("gemma2-v4", Number("model.norm.weight", 0x7fc1), &[WEIGHTS, "model.norm.weight", "not finite"]),
    ("gemma2-v4", Cut(WEIGHTS, 1), &[WEIGHTS, "cut short"]),
    ("gemma2-v4", Cut(WEIGHTS, 500_000), &[WEIGHTS, "tensor model.", "cut short"]),
    ("llama-sharded", Cut("model-00002-of-00004.safetensors", 1), &["model-00002-of-00004.safetensors", "cut short"]),
    ("gemma2-v4", Content(WEIGHTS, b""), &[WEIGHTS]),
    ("gemma2-v4", Content(WEIGHTS, b"version https://git-lfs.github.com/spec/v1"), &[WEIGHTS]),
    ("gemma2-v4", Text(WEIGHTS, "\"score.weight\"", "\"scare.weight\""), &["tensor score.weight", WEIGHTS]),
    (
        "gemma2-v4",
        Text(WEIGHTS, "layers.2.self_attn.k_proj", "layers.2.self_attn.k_prob"),
        &["layers.2.self_attn.k_proj"],
    ),
    (
        "gemma2-v4",
        Text(WEIGHTS, "\"shape\":[1,64]", "\"shape\":[64,1]"),
        &[WEIGHTS, "score.weight", "[64, 1]", "[1, 64]"],
    ),
    ("gemma2-v4", Text("config.json", "\"vocab_size\": 768", "\"vocab_size\": 769"), &[WEIGHTS, "embed_tokens", "769"]),
    ("gemma2-v4", Content("config.json", b"{\"hidden_size\": "), &["config.json", "not a JSON object"]),
    ("gemma2-v4", Content("config.json", b"\xff"), &["config.json"]),
    (
        "gemma2-v4",
        Text("config.json", "\"hidden_size\": 64", "\"hidden_size\": \"64\""),
        &["config.json", "hidden_size"],
    ),
    ("gemma2-v4", Text("config.json", "\"hidden_size\": 64,", ""), &["config.json", "hidden_size"]),
    (
        "gemma2-v4",
        Text("config.json", "\"0\": \"LABEL_0\"", "\"0\": \"A\", \"1\": \"B\""),
        &["config.json", "num_labels is 2"],
    ),
    ("gemma2-v4", Text("config.json", "Gemma2For", "Gemma9For"), &["config.json", "Gemma9ForSequenceClassification"]),
    ("gemma2-v4", Gone("config.json"), &["has no config.json"]),
    ("gemma2-v4", Gone("tokenizer.json"), &["has no tokenizer.json"]),
    ("gemma2-v4", Gone(WEIGHTS), &["has no model.safetensors"]),
    ("gemma2-v4", Content("tokenizer.json", b"{}"), &["tokenizer.json"]),
    ("gemma2-v4", Content("tokenizer_config.json", b"[]"), &["tokenizer_config.json"]),
    ("gemma2-v5", Content("chat_template.jinja", b"{% if %}"), &["chat_template.jinja", "does not compile"]),
    ("llama-sharded", Gone("model-00003-of-00004.safetensors"), &["has no model-00003-of-00004.safetensors"]),
    ("llama-sharded", Content("model.safetensors.index.json", b"{}"), &["model.safetensors.index.json", "weight_map"]),
];

// === damage ===

fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

fn damage(folder: &Path, damage: &Damage) {
    let path = |file: &str| folder.join(file);
    match *damage {
        Content(file, content) => fs::write(path(file), content).unwrap(),
        Gone(file) => fs::remove_file(path(file)).unwrap(),
        Cut(file, bytes) => {
            let file = fs::File::options().write(true).open(path(file)).unwrap();
            file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
        }
        Text(file, old, new) => {
            let mut content = fs::read(path(file)).unwrap();
            let at = content.windows(old.len()).position(|window| window == old.as_bytes());
            let at = at.unwrap_or_else(|| panic!("no {old} in {file}"));
            content.splice(at..at + old.len(), new.bytes());
            fs::write(path(file), content).unwrap();
        }
        Number(tensor, number) => {
            let end = tensor_end(&path(WEIGHTS), tensor);
            let file = fs::File::options().write(true).open(path(WEIGHTS)).unwrap();
            file.write_all_at(&number.to_le_bytes(), end - 2).unwrap();
        }
    }
}

/// A copy of a bf16 checkpoint with a head so large that no score is finite. Each of its weights is.
pub(crate) fn overflowing(name: &str) -> TempDir {
    let folder = copy(name);
    let path = folder.path().join(WEIGHTS);
    let content = fs::read(&path).unwrap();
    let head = SafeTensors::deserialize(&content).unwrap().tensor("score.weight").unwrap().data().len() as u64;
    let end = tensor_end(&path, "score.weight");
    // the largest finite number of bf16
    let largest = 0x7f7f_u16.to_le_bytes().repeat(head as usize / 2);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&largest, end - head).unwrap();
    folder
}

/// A copy that makes other token ids of characters that its vocabulary lacks.
pub(crate) fn with_another_tokenizer(name: &str) -> TempDir {
    let folder = copy(name);
    damage(folder.path(), &Text("tokenizer.json", "\"byte_fallback\": true", "\"byte_fallback\": false"));
    folder
}

/// A copy with another final norm: the digest reads that tensor whole.
pub(crate) fn with_another_norm(name: &str) -> TempDir {
    let folder = copy(name);
    damage(folder.path(), &Number("model.norm.weight", 0x3f00));
    folder
}

/// A copy that embeds one token differently, where the digest does not look.
pub(crate) fn with_another_embedding(name: &str, token: u64) -> TempDir {
    let folder = copy(name);
    let path = folder.path().join(WEIGHTS);
    let content = fs::read(&path).unwrap();
    let embedding = SafeTensors::deserialize(&content).unwrap();
    let embedding = embedding.tensor("model.embed_tokens.weight").unwrap();
    let (bytes, row) = (embedding.data().len() as u64, 2 * embedding.shape()[1] as u64);
    let start = tensor_end(&path, "model.embed_tokens.weight") - bytes;
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&0x3f80_u16.to_le_bytes(), start + token * row).unwrap();
    folder
}

/// Where a tensor ends in its file.
fn tensor_end(path: &PathBuf, tensor: &str) -> u64 {
    let content = fs::read(path).unwrap();
    let length = u64::from_le_bytes(content[..8].try_into().unwrap());
    let header: Value = serde_json::from_slice(&content[8..8 + length as usize]).unwrap();
    8 + length + header[tensor]["data_offsets"][1].as_u64().unwrap()
}

fn call(folder: &Path, flags: &[&str]) -> Call {
    let mut arguments = vec!["score", "--model", folder.to_str().unwrap()];
    arguments.extend_from_slice(flags);
    assay(&arguments, b"{\"text\": \"hello\"}\n")
}

// === tests ===

#[test]
fn a_damaged_checkpoint_is_refused_by_file_and_tensor() {
    for (name, done, words) in CASES {
        let folder = copy(name);
        damage(folder.path(), done);
        for ranks in ["1", "2"] {
            let call = call(folder.path(), &["--tensor-parallel", ranks]);
            assert_eq!((call.status, call.stdout.as_str()), (Some(2), ""), "{words:?}: {}", call.stderr);
            for word in *words {
                assert!(call.stderr.contains(word), "{ranks} ranks: no {word:?} in {}", call.stderr);
            }
            assert_eq!(call.stderr.lines().count(), 1, "{words:?}: {}", call.stderr);
        }
    }
}

#[test]
fn a_tensor_that_nobody_reads_is_a_warning() {
    let folder = copy("gemma2-v4");
    let path = folder.path().join(WEIGHTS);
    let content = fs::read(&path).unwrap();
    let weights = SafeTensors::deserialize(&content).unwrap();
    let extra = [0; 8];
    let mut tensors = weights.tensors();
    tensors.push(("lm_head.extra".to_owned(), TensorView::new(Dtype::F32, vec![2], &extra).unwrap()));
    fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let input = messages(&expected("gemma2-v4")[..2]);
    let scored = score(folder.path(), &[], &input);
    assert_eq!(scored.all_scores(), score(&golden("gemma2-v4"), &[], &input).all_scores());
    assert!(
        scored.call.stderr.contains("WARN") && scored.call.stderr.contains("lm_head.extra"),
        "{}",
        scored.call.stderr
    );
    assert_eq!(call(folder.path(), &["--log", "error"]).stderr, "");
}

#[test]
fn a_field_that_nobody_knows_is_an_error_unless_it_is_off() {
    let folder = copy("qwen3");
    damage(folder.path(), &Text("config.json", "\"hidden_act\"", "\"mystery\": false, \"hidden_act\""));
    let off = call(folder.path(), &[]);
    assert_eq!((off.status, off.stderr.as_str()), (Some(0), ""));
    damage(folder.path(), &Text("config.json", "\"mystery\": false", "\"mystery\": 7"));
    let on = call(folder.path(), &[]);
    assert_eq!(on.status, Some(2), "{}", on.stderr);
    assert!(on.stderr.contains("config.json: mystery is 7, which is not implemented for Qwen3"), "{}", on.stderr);
}
