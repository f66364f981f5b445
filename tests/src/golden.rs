//! Golden scores: both forward passes against Hugging Face in float64, for every checkpoint, over 1, 2 and 4 ranks,
//! packed and alone; and, where this machine's bits are committed, bit for bit against those.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use model::{Compute, Device, Dtype};
use serde_json::Value;
use tests::{GOLDEN, golden, repo_root};

use crate::assay::{expected, ids};
use crate::replica;

/// Hugging Face's own f32 is within 1e-5 of its float64.
pub(crate) const TOLERANCE: f64 = 5e-5;
/// The error of bf16 against float64, beside that of Hugging Face's own bf16.
const BF16_TOLERANCE: f64 = 1.5;
const RANKS: [usize; 3] = [1, 2, 4];
/// Tokens of the largest step: every conversation of a checkpoint.
const STEP_TOKENS: usize = 5000;
/// Conversations that the player computes: it is slow. The first two share their prompt.
const PLAYED: usize = 8;

/// For each checkpoint and numerics line: the f32 of each score as eight hexadecimal digits, in order.
type Bits = BTreeMap<String, BTreeMap<String, String>>;

fn compute(device: Device, dtype: Dtype) -> Compute {
    Compute { device, dtype, step_tokens: STEP_TOKENS }
}

/// The scores of a checkpoint, all conversations in one step. Alone each has the same bits.
fn scores(name: &str, compute: Compute, ranks: usize) -> Vec<f32> {
    let (count, alone) = match compute.device {
        Device::Cpu => (usize::MAX, true),
        Device::HostKernels | Device::Cuda(_) => (PLAYED, ranks == 1),
    };
    let sequences: Vec<Arc<[u32]>> = expected(name).iter().take(count).map(|row| ids(row).into()).collect();
    let replica = replica::load_with(name, ranks, vec![compute; ranks]);
    let packed = replica::scores(&replica, &sequences);
    for (number, (sequence, score)) in sequences.iter().zip(&packed).enumerate().filter(|_| alone) {
        let alone = replica::scores(&replica, std::slice::from_ref(sequence));
        assert_eq!(alone[0].to_bits(), score.to_bits(), "{name}, {ranks} ranks: conversation {number} alone");
    }
    packed
}

/// What else than the checkpoint these bits depend on.
fn numerics(name: &str, compute: Compute, ranks: usize) -> String {
    model::numerics(&replica::config(name), &compute, ranks).unwrap()
}

/// How far the scores are from Hugging Face's in float64, as a part of what is allowed.
fn error(name: &str, dtype: Dtype, scores: &[f32]) -> f64 {
    let rows = expected(name);
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap();
    let apart = |(score, row): (&f32, &Value)| f64::from(*score) - number(row, "score");
    let errors: Vec<f64> = scores.iter().zip(&rows).map(apart).collect();
    if dtype == Dtype::F32 {
        let relative = errors.iter().zip(&rows).map(|(error, row)| error.abs() / number(row, "score").abs().max(1.0));
        return relative.fold(0.0, f64::max) / TOLERANCE;
    }
    let squares = |errors: &[f64]| errors.iter().map(|x| x * x).sum::<f64>();
    let theirs: Vec<f64> =
        rows.iter().take(scores.len()).map(|row| number(row, "score_bf16") - number(row, "score")).collect();
    (squares(&errors) / squares(&theirs)).sqrt() / BF16_TOLERANCE
}

// === bits ===

/// Set, the bits are written and not compared: tests/golden/README.md.
const COMMIT: &str = "COMMIT_BITS";

fn bits_file() -> PathBuf {
    repo_root().join("tests/golden/bits.json")
}

fn committed() -> Bits {
    serde_json::from_slice(&std::fs::read(bits_file()).unwrap()).unwrap()
}

fn hex(scores: &[f32]) -> String {
    scores.iter().map(|score| format!("{:08x}", score.to_bits())).collect::<Vec<_>>().join(" ")
}

/// Writes bits into the file; other tests do, too.
fn commit(bits: Bits) {
    static FILE: Mutex<()> = Mutex::new(());
    let _held = FILE.lock().unwrap();
    let mut all = committed();
    for (name, lines) in bits {
        all.entry(name).or_default().extend(lines);
    }
    std::fs::write(bits_file(), serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
}

fn check_bits(name: &str, line: &str, found: &str) {
    match committed().get(name).and_then(|lines| lines.get(line)) {
        Some(bits) => assert_eq!(
            found, bits,
            "{name}: other bits under {line:?}; if they are meant to change, so is the version of the kernels in that line, \
             and tests/golden/README.md says how the new bits are committed"
        ),
        None => println!("{name}: the bits under {line:?} are not committed, only their tolerance was checked"),
    }
}

fn check(device: Device, dtype: Dtype) {
    let compute = compute(device, dtype);
    let mut bits = Bits::new();
    for name in GOLDEN {
        for ranks in RANKS {
            let scores = scores(name, compute, ranks);
            let error = error(name, dtype, &scores);
            println!("{name}, {device} {dtype}, {ranks} ranks: {error:.2} of the error that is allowed");
            assert!(error < 1.0, "{name}, {device} {dtype}, {ranks} ranks: {error:.2} times the error that is allowed");
            bits.entry(name.to_owned()).or_default().insert(numerics(name, compute, ranks), hex(&scores));
        }
    }
    if std::env::vars_os().any(|(name, _)| name == COMMIT) {
        return commit(bits);
    }
    for (name, lines) in &bits {
        lines.iter().for_each(|(line, found)| check_bits(name, line, found));
    }
}

#[test]
fn every_golden_score_is_hugging_faces_on_the_cpu() {
    check(Device::Cpu, Dtype::F32);
}

#[test]
fn every_golden_score_is_hugging_faces_on_the_player_of_the_gpu_in_f32() {
    check(Device::HostKernels, Dtype::F32);
}

#[test]
fn every_golden_score_is_as_exact_as_hugging_faces_on_the_player_of_the_gpu_in_bf16() {
    check(Device::HostKernels, Dtype::Bf16);
}

#[test]
fn committed_bits_are_of_golden_checkpoints() {
    for (name, lines) in committed() {
        assert!(GOLDEN.contains(&name.as_str()) && golden(&name).is_dir(), "{name}");
        for (line, bits) in lines {
            let count = if line.starts_with("cpu ") { expected(&name).len() } else { PLAYED };
            assert_eq!(bits.split(' ').count(), count, "{name}, {line:?}");
        }
    }
}
