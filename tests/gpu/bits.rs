//! A conversation's score has the same bits in every company: rows of every matmul, then whole models.

use std::sync::Arc;

use anyhow::Result;
use collective::Solo;
use model::trial::{self, Trial};
use model::{Compute, Dtype};
use score::{Partial, Partials};
use serde_json::json;

use crate::args::Args;
use crate::checkpoint;
use crate::{report, work};

/// Numbers of rows at which tiles, waves or algorithms might change.
const ROWS: [usize; 37] = [
    1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 48, 63, 64, 65, 96, 127, 128, 129, 192, 255, 256, 257, 384, 511, 512, 513, 1000,
    1024, 2047, 2048, 4095, 4096, 4097, 6144, 8190, 8191, 8192,
];
/// Tokens of the steps that sequences are packed into, besides as many as fit.
const BUDGETS: [usize; 2] = [320, 1100];
const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

pub(crate) fn run(args: &Args) -> Result<()> {
    let (device, step_tokens) = (args.device()?, args.number("step-tokens")?);
    let config = checkpoint::config(&args.path("config")?)?;
    for dtype in DTYPES {
        // a sweep is of matmuls alone, and may be of fewer rows
        let compute = Compute { device, dtype, step_tokens: step_tokens.min(args.number("sweep")?) };
        for shape in trial::rows(compute, &config, &ROWS)? {
            report::line(
                &json!({ "rows_of": format!("{dtype} [{}, {}]", shape.output, shape.input), "tried": shape.tried,
                "differing": shape.differing }),
            )?;
        }
    }
    for (name, checkpoint) in checkpoint::golden(args)? {
        let sequences: Vec<_> =
            checkpoint.rows(args.number("rows")?.min(6))?.into_iter().map(|row| row.input_ids.into()).collect();
        for dtype in DTYPES {
            let compute = Compute { device, dtype, step_tokens };
            let trial = Trial::prepare(compute, &checkpoint.config, Arc::new(Solo))?.load(&checkpoint.files)?;
            compare(&format!("{name} {dtype}"), &trial, (with_relatives(&sequences), step_tokens))?;
        }
    }
    let lengths = [512, 1, 64, 65, 300, 512, 127, 700, 2048, 1500].map(|len: usize| len.min(step_tokens / 4));
    let pieces = lengths.iter().zip(1u64..).map(|(&len, seed)| [(seed, len)]);
    let sequences: Vec<_> = pieces.map(|piece| work::sequence(&piece, config.vocab)).collect();
    let trial = Trial::random(Compute { device, dtype: Dtype::Bf16, step_tokens }, &config)?;
    compare("random weights bf16", &trial, (with_relatives(&sequences), step_tokens))
}

/// And some that share a prefix with the longest.
fn with_relatives(sequences: &[Arc<[u32]>]) -> Vec<Arc<[u32]>> {
    let longest = sequences.iter().max_by_key(|sequence| sequence.len()).cloned().unwrap_or_default();
    let relative = |tail: u32| {
        let kept = longest.len() - (tail as usize * 7).min(longest.len() / 3);
        longest[..kept].iter().copied().chain((0..tail).map(|i| 5 + i)).collect()
    };
    sequences.iter().cloned().chain([1, 2, 9, 40].map(relative)).collect()
}

/// Alone, packed in order and in reverse, into steps of several sizes.
fn compare(name: &str, trial: &Trial, (sequences, step_tokens): (Vec<Arc<[u32]>>, usize)) -> Result<()> {
    let mut alone = Partials::empty(1);
    for sequence in &sequences {
        packed(trial, std::slice::from_ref(sequence), step_tokens)?.iter().for_each(|partial| alone.push(partial));
    }
    let (mut tried, mut differing) = (0, Vec::new());
    for budget in BUDGETS.into_iter().filter(|&budget| budget < step_tokens).chain([step_tokens]) {
        let forward = packed(trial, &sequences, budget)?;
        let reversed: Vec<_> = sequences.iter().rev().cloned().collect();
        let places: Vec<usize> = (0..sequences.len()).rev().collect();
        let backward = packed(trial, &reversed, budget)?.select(&places);
        for company in [forward, backward] {
            tried += company.len();
            let others = company.iter().zip(alone.iter()).enumerate().filter(|(_, (a, b))| !same(a, b));
            differing.extend(others.map(|(i, _)| (budget, i)));
        }
    }
    report::line(&json!({ "company_of": name, "tried": tried, "differing": differing }))
}

fn same(a: &Partial<'_>, b: &Partial<'_>) -> bool {
    let finite = a.values.iter().all(|x| x.is_finite());
    finite && a.values.iter().map(|x| x.to_bits()).eq(b.values.iter().map(|x| x.to_bits())) && a.checksum == b.checksum
}

fn packed(trial: &Trial, sequences: &[Arc<[u32]>], budget: usize) -> Result<Partials> {
    let mut found = Partials::empty(1);
    for step in work::steps(sequences, budget) {
        trial.forward(&step)?.iter().for_each(|partial| found.push(partial));
    }
    Ok(found)
}
