//! What tests/gpu/run.py has done on a GPU, one promise for each command; every finding is a line of JSON.
//!
//!     gpu device  --device cuda:0
//!     gpu kernels --device cuda:0 [--only A,B] [--config config.json --step-tokens N]
//!     gpu algorithms --device cuda:0 --config config.json --step-tokens N
//!     gpu golden  --device cuda:0 --golden DIR [--checkpoints A,B] [--rows N]
//!     gpu bits    --device cuda:0 --golden DIR [--checkpoints A,B] [--rows N] --config config.json --step-tokens N [--sweep N]
//!     gpu tp2     --device cuda:0,0 --golden DIR [--checkpoints A,B] [--rows N]
//!     gpu nccl    --device cuda:0
//!     gpu load    --device cuda:0 --model DIR
//!     gpu hash    --device cuda:0 --name TENSOR
//!     gpu speed   --device cuda:0 --work FILE
//!
//! `--device host` has the CPU play the GPU, with the same kernels.

mod args;
mod bits;
mod checkpoint;
mod golden;
mod report;
mod speed;
mod work;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use collective::Solo;
use model::trial::{self, Trial};
use model::{Compute, Dtype};
use serde_json::json;

use crate::args::Args;
use crate::checkpoint::Checkpoint;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args = Args::parse(std::env::args().skip(1))?;
    match args.command() {
        "device" => report::line(&trial::describe(args.device()?)?),
        "kernels" => kernels(&args),
        "algorithms" => algorithms(&args),
        "golden" => golden::alone(&args),
        "bits" => bits::run(&args),
        "tp2" => golden::two_ranks(&args),
        "nccl" => report::line(&json!({ "one_rank": trial::communicator(args.device()?)? })),
        "load" => load(&args),
        "hash" => hash(&args),
        "speed" => speed::run(&args),
        other => bail!("{other:?} is none of device, kernels, algorithms, golden, bits, tp2, nccl, load, hash, speed"),
    }
}

/// Every kernel, and with a model's config the matmuls of its shapes at a full step.
fn kernels(args: &Args) -> Result<()> {
    let only = args.text("only").map_or_else(|_| Vec::new(), |only| only.split(',').collect());
    checks(trial::kernels(args.device()?, &only)?)?;
    if let Ok(config) = args.path("config") {
        let config = checkpoint::config(&config)?;
        for dtype in [Dtype::Bf16, Dtype::F32] {
            let compute = Compute { device: args.device()?, dtype, step_tokens: args.number("step-tokens")? };
            checks(trial::products(compute, &config)?)?;
        }
    }
    Ok(())
}

/// What the matmul library suggests for steps of many sizes, and what becomes of it.
fn algorithms(args: &Args) -> Result<()> {
    let config = checkpoint::config(&args.path("config")?)?;
    // in f32, which nobody serves in, trials take seconds
    let all =
        [(Dtype::Bf16, &[8192, 1, 16, 64, 128, 256, 512, 1024, 2048, 4096][..]), (Dtype::F32, &[8192, 1024, 128])];
    for (dtype, rows) in all {
        let compute = Compute { device: args.device()?, dtype, step_tokens: args.number("step-tokens")? };
        let tell = &mut |algorithm: trial::AlgorithmTrial| {
            let line = report::line(&json!({ "dtype": dtype.to_string(), "algorithm": algorithm }));
            line.map_err(|error| model::Error::Device(format!("standard output: {error}")))
        };
        trial::algorithms(compute, &config, rows, tell)?;
    }
    Ok(())
}

fn checks(checks: Vec<trial::Check>) -> Result<()> {
    for check in checks {
        report::line(&json!({
            "check": check.name,
            "worst": check.worst,
            "largest": check.largest,
            "tolerance": check.tolerance,
            "holds": check.holds(),
        }))?;
    }
    Ok(())
}

/// The first numbers of a tensor of random weights, as the device makes them.
fn hash(args: &Args) -> Result<()> {
    let name = args.text("name")?;
    report::line(&json!({ "name": name, "numbers": trial::hashed(args.device()?, Dtype::Bf16, name, 64)? }))
}

/// Loads a checkpoint as a server does, in bf16.
fn load(args: &Args) -> Result<()> {
    let checkpoint = Checkpoint::open(&args.path("model")?)?;
    let bytes = checkpoint.bytes()?;
    let compute = Compute { device: args.device()?, dtype: Dtype::Bf16, step_tokens: 512 };
    let start = Instant::now();
    let opened = Trial::prepare(compute, &checkpoint.config, Arc::new(Solo))?;
    let prepared = start.elapsed().as_secs_f64();
    let loaded = opened.load(&checkpoint.files)?;
    let seconds = start.elapsed().as_secs_f64() - prepared;
    drop(loaded);
    report::line(&json!({
        "bytes": bytes,
        "prepared_in": prepared,
        "seconds": seconds,
        "gb_per_s": bytes as f64 / seconds / 1e9,
    }))
}
