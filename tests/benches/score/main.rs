//! The speed of `assay score` on this machine's CPU, as ratios that mean the same on any other: `make bench`.
//!
//! A Gemma-2 of 130 million random parameters is written to a temporary folder. Each workload is run in this process
//! beside bare matmuls of the same shapes, in turn, so that both meet the same machine; what the forward pass reaches is
//! given as a share of what the bare matmuls reach. Then the command itself is run for its start-up time and its memory,
//! and, where python3 has torch and transformers, Hugging Face on the same work.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench prints, ends at the first surprise, and takes the name of a Python from the environment"
)]

mod checkpoint;
mod command;
mod forward;
mod random;
mod workload;

use std::path::PathBuf;

/// Threads that every contender may use.
const THREADS: usize = 2;
/// Tokens that a step computes at most.
const BUDGET: usize = 8192;

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = checkpoint::write(folder.path());
    println!("\nGemma-2, hidden 1024, 8 layers, intermediate 4096, f32, {THREADS} threads, steps of {BUDGET} tokens");
    let workloads = workload::all();
    forward::bench(&model, &workloads);
    command::bench(&model, &workloads, &folder.path().join("work"));
}

/// A checkpoint on disk.
struct OnDisk {
    folder: PathBuf,
    config: model::Config,
    weights: Vec<PathBuf>,
}
