//! What comes from outside, damaged at random: no loader and no parser panics, and none holds on to much.
//!
//! Each target is a plain function of bytes. The tests give each of them the files of `tests-data/corpus` and some thousands
//! of mutations of them, always the same ones.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Encoder, Input, Options, Row, Sources};

const TOKENIZER: &[u8] = include_bytes!("../tests-data/corpus/tokenizer/wordlevel.json");
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests-data/corpus");
/// What is put into a mutation: brackets, tags, and values that parsers trip over.
const PIECES: [&str; 42] = [
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "\"",
    "'",
    "\\",
    "\\u0000",
    ":",
    ",",
    "|",
    "~",
    "%",
    ".",
    "-1",
    "0",
    "4294967296",
    "1e999",
    "NaN",
    "null",
    "true",
    "\u{feff}",
    "\u{1f642}",
    "\r\n",
    "\0",
    "{% for a in b %}",
    "{% endfor %}",
    "{% macro f(a) %}",
    "loop.cycle()",
    "* 99999999",
    "|tojson",
    "messages",
    "<s>",
    "special",
];

type Target = fn(&[u8]);

/// Each target, with the folder of its corpus.
const TARGETS: [(&str, Target); 4] =
    [("template", template), ("tokenizer", tokenizer), ("config", config), ("row", row)];

/// A chat template: compiled, and rendered where it compiles.
fn template(bytes: &[u8]) {
    run(Sources { tokenizer: TOKENIZER.to_vec(), chat_template: Some(bytes.to_vec()), ..Sources::default() });
}

/// A tokenizer.json.
fn tokenizer(bytes: &[u8]) {
    run(Sources { tokenizer: bytes.to_vec(), ..Sources::default() });
}

/// The other files of a checkpoint, each in the place of each.
fn config(bytes: &[u8]) {
    let given = || Some(bytes.to_vec());
    let sources = || Sources { tokenizer: TOKENIZER.to_vec(), ..Sources::default() };
    run(Sources { tokenizer_config: given(), ..sources() });
    run(Sources { special_tokens_map: given(), added_tokens: given(), model_config: given(), ..sources() });
}

/// A row of JSON Lines.
fn row(bytes: &[u8]) {
    if let Ok(Row { fields, .. }) = Row::parse(bytes) {
        let _ = Input::from_json(&fields);
    }
}

fn run(sources: Sources) {
    let Ok(encoder) = Encoder::new(&sources) else { return };
    let turn = |role: &str, content: Value| json!({ "role": role, "content": content });
    let parts = json!([{ "type": "text", "text": "hi <s>" }]);
    let messages = json!([turn("system", "S".into()), turn("user", parts), turn("assistant", "é\n🙂 yo".into())]);
    let fields = Map::from_iter([("messages".to_owned(), messages)]);
    let input = Input::from_json(&fields).unwrap();
    for strict_special_tokens in [false, true] {
        encoder.encode(&input, &Options { strict_special_tokens, ..Options::default() });
    }
    encoder.encode(&Input::Text("hi <s> é\u{0}".to_owned()), &Options::default());
}

/// Damages bytes in one to four places.
fn mutated(rng: &mut fastrand::Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = rng.choice(corpus).cloned().unwrap_or_default();
    for _ in 0..rng.usize(1..5) {
        let (a, b) = (rng.usize(0..=bytes.len()), rng.usize(0..=bytes.len()));
        let (from, to) = (a.min(b), a.max(b).min(a.min(b) + 64));
        let piece = PIECES[rng.usize(0..PIECES.len())].as_bytes();
        match rng.u8(0..7) {
            0 => drop(bytes.splice(from..from, piece.iter().copied())),
            1 => drop(bytes.splice(from..to, piece.iter().copied())),
            2 => drop(bytes.drain(from..to)),
            3 => bytes.truncate(from),
            4 => drop(bytes.splice(from..from, bytes[from..to].to_vec())),
            5 => {
                let other = rng.choice(corpus).cloned().unwrap_or_default();
                let start = rng.usize(0..=other.len());
                let end = other.len().min(start + 64);
                bytes.splice(from..to, other[start..end].iter().copied());
            }
            _ => {
                if let Some(byte) = bytes.get_mut(from) {
                    *byte ^= 1 << rng.u8(0..8);
                }
            }
        }
    }
    bytes
}

fn corpus(folder: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> =
        fs::read_dir(Path::new(CORPUS).join(folder)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn fuzz(name: &str, mutations: usize) {
    let (folder, target) = TARGETS.into_iter().find(|(folder, _)| *folder == name).unwrap();
    let corpus = corpus(folder);
    corpus.iter().for_each(|bytes| target(bytes));
    let mut rng = fastrand::Rng::with_seed(20_240_726);
    for at in 0..mutations {
        let bytes = mutated(&mut rng, &corpus);
        let caught = std::panic::catch_unwind(|| target(&bytes));
        assert!(caught.is_ok(), "mutation {at} of {name}: {:?}", String::from_utf8_lossy(&bytes));
    }
    assert!(peak() < 2048, "{name} took {} MiB", peak());
}

/// The most memory that this process had, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) >> 10
}

#[test]
fn templates() {
    fuzz("template", 10_000);
}

#[test]
fn tokenizers() {
    fuzz("tokenizer", 10_000);
}

#[test]
fn configs() {
    fuzz("config", 10_000);
}

#[test]
fn rows() {
    fuzz("row", 100_000);
}
