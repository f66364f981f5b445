//! The golden checkpoints: scores against Hugging Face's in float64, by one rank and by two that share the work.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use collective::{Collective, Seat, Solo, threads};
use model::trial::Trial;
use model::{Compute, Device, Dtype};
use score::{Disagreement, Partials};
use serde_json::json;
use tests::add_up;

use crate::args::Args;
use crate::checkpoint::{Checkpoint, Row, golden};
use crate::{report, work};

/// The longest golden conversation is shorter.
const STEP_TOKENS: usize = 4096;
const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

pub(crate) fn alone(args: &Args) -> Result<()> {
    let device = args.device()?;
    for (name, checkpoint) in golden(args)? {
        let rows = checkpoint.rows(args.number("rows")?)?;
        for dtype in DTYPES {
            let trial = Trial::prepare(compute(device, dtype), &checkpoint.config, Arc::new(Solo))?;
            let scores = scores(&[partials(&trial.load(&checkpoint.files)?, &rows)?])?;
            report::line(&finding((name, dtype), &rows, &scores))?;
        }
    }
    Ok(())
}

/// Two ranks, a thread each.
pub(crate) fn two_ranks(args: &Args) -> Result<()> {
    let devices = args.devices()?;
    for (name, checkpoint) in golden(args)? {
        let rows = checkpoint.rows(args.number("rows")?)?;
        for dtype in DTYPES {
            let of_ranks = ranks(&devices, dtype, &checkpoint, &rows)?;
            report::line(&finding((name, dtype), &rows, &scores(&of_ranks)?))?;
        }
    }
    Ok(())
}

fn compute(device: Device, dtype: Dtype) -> Compute {
    Compute { device, dtype, step_tokens: STEP_TOKENS }
}

fn ranks(devices: &[Device], dtype: Dtype, checkpoint: &Checkpoint, rows: &[Row]) -> Result<Vec<Partials>> {
    let seat = |(rank, end)| {
        let seat = Seat::new(rank, devices.len());
        seat.take(Arc::new(end));
        Arc::new(seat)
    };
    // they are held until all ranks are done: who leaves ends the work of others
    let seats: Vec<_> = threads(devices.len()).into_iter().enumerate().map(seat).collect();
    std::thread::scope(|scope| {
        let start = |(seat, &device): (&Arc<Seat>, &Device)| {
            let seat = Arc::clone(seat);
            scope.spawn(move || {
                let found = rank(compute(device, dtype), Arc::clone(&seat), checkpoint, rows);
                found.inspect_err(|_| seat.leave())
            })
        };
        let started: Vec<_> = seats.iter().zip(devices).map(start).collect();
        let join =
            |rank: std::thread::ScopedJoinHandle<'_, Result<_>>| rank.join().map_err(|_| anyhow!("a rank panicked"))?;
        started.into_iter().map(join).collect()
    })
}

fn rank(compute: Compute, seat: Arc<Seat>, checkpoint: &Checkpoint, rows: &[Row]) -> Result<Partials> {
    let trial = Trial::prepare(compute, &checkpoint.config, seat as Arc<dyn Collective>)?.load(&checkpoint.files)?;
    partials(&trial, rows)
}

fn partials(trial: &Trial, rows: &[Row]) -> Result<Partials> {
    let sequences: Vec<_> = rows.iter().map(|row| row.input_ids.as_slice().into()).collect();
    let steps = work::steps(&sequences, STEP_TOKENS);
    let mut found = Partials::empty(1);
    for step in steps {
        trial.forward(&step)?.iter().for_each(|partial| found.push(partial));
    }
    Ok(found)
}

/// The sums over the ranks, which must agree; NaN where the sum is not finite.
fn scores(of_ranks: &[Partials]) -> Result<Vec<f64>> {
    let score = |i: usize| match add_up(of_ranks, i) {
        Ok(outputs) => Ok(f64::from(outputs.score)),
        Err(Disagreement::NotFinite) => Ok(f64::NAN),
        Err(disagreement) => Err(disagreement).with_context(|| format!("sequence {i}")),
    };
    (0..of_ranks.first().context("no ranks")?.len()).map(score).collect()
}

fn finding((name, dtype): (&str, Dtype), rows: &[Row], scores: &[f64]) -> serde_json::Value {
    let rms = |errors: Vec<f64>| (errors.iter().map(|x| x * x).sum::<f64>() / errors.len().max(1) as f64).sqrt();
    let apart = scores.iter().zip(rows).map(|(score, row)| (score - row.score).abs() / row.score.abs().max(1.0));
    json!({
        "checkpoint": name,
        "dtype": dtype.to_string(),
        "rows": rows.len(),
        // NaN is no error of 0
        "worst": apart.fold(0.0, |worst: f64, x| if x.is_nan() { f64::INFINITY } else { worst.max(x) }).min(f64::MAX),
        "rms": rms(scores.iter().zip(rows).map(|(score, row)| score - row.score).collect()),
        "rms_bf16_cpu": rms(rows.iter().map(|row| row.score_bf16 - row.score).collect()),
    })
}
