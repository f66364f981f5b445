//! Speed: a model with random weights does the work that a file describes, as a server does it: two steps in flight.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use model::trial::Trial;
use model::{Compute, Device, Dtype, PackedBatch};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::args::Args;
use crate::work::{Piece, sequence, steps};
use crate::{checkpoint, report};

/// What is to be done.
#[derive(Deserialize)]
struct Work {
    config: PathBuf,
    models: Vec<ModelWork>,
}

/// With one model, opened for steps of one size.
#[derive(Deserialize)]
struct ModelWork {
    step_tokens: usize,
    /// Seconds of bare matmuls at a full step's rows; 0: none.
    matmul_seconds: f64,
    measures: Vec<Measure>,
}

#[derive(Deserialize)]
struct Measure {
    name: String,
    sequences: Vec<Vec<Piece>>,
    /// The work is done again until this has passed.
    seconds: f64,
    /// One sequence at a time, waited for.
    #[serde(default)]
    latency: bool,
    #[serde(default)]
    scores: bool,
    /// The first full step is watched.
    #[serde(default)]
    profile: bool,
}

const IN_FLIGHT: usize = 2;

pub(crate) fn run(args: &Args) -> Result<()> {
    let file = args.path("work")?;
    let work: Work = serde_json::from_str(&checkpoint::read(&file)?).with_context(|| file.display().to_string())?;
    for of_model in &work.models {
        // memory that does not suffice for one size may for the next
        if let Err(error) = with_model(&work, of_model, args.device()?) {
            report::line(&json!({ "step_tokens": of_model.step_tokens, "error": format!("{error:#}") }))?;
        }
    }
    Ok(())
}

fn with_model(work: &Work, of_model: &ModelWork, device: Device) -> Result<()> {
    let step_tokens = of_model.step_tokens;
    let config = checkpoint::config(&work.config)?;
    let start = Instant::now();
    let trial = Trial::random(Compute { device, dtype: Dtype::Bf16, step_tokens }, &config)?;
    report::line(&json!({ "step_tokens": step_tokens, "opened_in": start.elapsed().as_secs_f64() }))?;
    for measure in &of_model.measures {
        let found = if measure.latency { latency(&trial, measure) } else { throughput(&trial, measure, step_tokens) };
        let found = found.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
        report::line(&json!({ "step_tokens": step_tokens, "name": measure.name, "found": found }))?;
    }
    if of_model.matmul_seconds > 0.0 {
        let rate = trial.matmul_rate(step_tokens, of_model.matmul_seconds)?;
        report::line(&json!({ "step_tokens": step_tokens, "matmul_rate": rate }))?;
    }
    Ok(())
}

fn sequences(trial: &Trial, measure: &Measure) -> Vec<Arc<[u32]>> {
    measure.sequences.iter().map(|pieces| sequence(pieces, trial.config().vocab)).collect()
}

fn throughput(trial: &Trial, measure: &Measure, budget: usize) -> Result<Value> {
    let sequences = sequences(trial, measure);
    let steps = steps(&sequences, budget);
    let input: usize = sequences.iter().map(|sequence| sequence.len()).sum();
    let computed: usize = steps.iter().map(|step| step.tokens.len()).sum();
    let operations: f64 = steps.iter().map(|step| trial.matmul_operations(step)).sum();
    let first = steps.first().context("a measure without sequences")?;
    trial.forward(first)?; // warm
    let (mut rounds, mut scores, start) = (Vec::new(), Vec::new(), Instant::now());
    while rounds.is_empty() || start.elapsed().as_secs_f64() < measure.seconds {
        let round = Instant::now();
        scores = submit_all(trial, &steps)?;
        rounds.push(round.elapsed().as_secs_f64());
    }
    let seconds = rounds.iter().sum::<f64>() / rounds.len() as f64;
    rounds.sort_by(f64::total_cmp);
    let profile = measure.profile.then(|| trial.profile(first)).transpose()?;
    Ok(json!({
        "sequences": sequences.len(),
        "steps": steps.len(),
        "input_tokens": input,
        "computed_tokens": computed,
        "rounds": rounds.len(),
        "seconds": seconds,
        "fastest": rounds.first(),
        "slowest": rounds.last(),
        "input_tokens_per_s": input as f64 / seconds,
        "computed_tokens_per_s": computed as f64 / seconds,
        "matmul_flops": operations / seconds,
        "scores": measure.scores.then_some(scores),
        "profile": profile,
        "profiled_tokens": first.tokens.len(),
    }))
}

/// All steps, the next one submitted while one is computed.
fn submit_all(trial: &Trial, steps: &[PackedBatch]) -> Result<Vec<f32>> {
    let (mut flying, mut scores) = (VecDeque::new(), Vec::new());
    for step in steps {
        if flying.len() == IN_FLIGHT {
            land(&mut flying, &mut scores)?;
        }
        flying.push_back(trial.submit(step)?);
    }
    while !flying.is_empty() {
        land(&mut flying, &mut scores)?;
    }
    Ok(scores)
}

fn land(flying: &mut VecDeque<model::Pending>, scores: &mut Vec<f32>) -> Result<()> {
    if let Some(step) = flying.pop_front() {
        scores.extend(step.wait()?.into_parts().0);
    }
    Ok(())
}

fn latency(trial: &Trial, measure: &Measure) -> Result<Value> {
    let mut taken = Vec::new();
    let sequences = sequences(trial, measure);
    let start = Instant::now();
    while taken.len() < 4 || start.elapsed().as_secs_f64() < measure.seconds {
        for step in sequences.iter().flat_map(|one| steps(std::slice::from_ref(one), usize::MAX)) {
            let start = Instant::now();
            trial.forward(&step)?;
            taken.push(start.elapsed().as_secs_f64());
        }
    }
    taken.remove(0); // warm
    taken.sort_by(f64::total_cmp);
    let at = |share: f64| taken.get(((taken.len() - 1) as f64 * share) as usize);
    Ok(json!({ "median": at(0.5), "p95": at(0.95), "fastest": at(0.0), "times": taken.len() }))
}
