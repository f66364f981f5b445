//! The forward pass beside bare matmuls, in one process.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use collective::Solo;
use model::{Compute, Model, PackedBatch, Packer};

use crate::checkpoint::{HEAD_DIM, HEADS, HIDDEN, INTERMEDIATE, KV_HEADS, LAYERS};
use crate::workload::{Sequence, Workload};
use crate::{BUDGET, OnDisk, THREADS};

/// Rounds of matmuls and workloads in turn; the median counts.
const ROUNDS: usize = 5;
/// Rows of the bare matmuls: what suits the library best is measured, too.
const BARE_ROWS: [usize; 3] = [256, 512, 2048];

/// What a run of a workload did.
struct Run {
    seconds: f64,
    computed: usize,
    flops: f64,
}

/// Prints what each workload reaches.
pub(crate) fn bench(model: &OnDisk, workloads: &[Workload]) {
    let bare = Bare::new();
    let load = || Model::load(&model.config, &model.weights, Arc::new(Solo), &Compute::default());
    let (forward, _) = bare.pool.install(load).expect("the checkpoint loads");
    let mut rates = Vec::new();
    let mut runs: Vec<Vec<Run>> = workloads.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (workload, runs) in workloads.iter().zip(&mut runs) {
            rates.push(bare.rate());
            runs.push(bare.pool.install(|| run(&forward, &workload.sequences)));
        }
    }
    report(workloads, runs, median(rates));
}

fn report(workloads: &[Workload], runs: Vec<Vec<Run>>, bare: f64) {
    println!("bare matmuls of the same shapes: {:.0} GFLOP/s\n", bare / 1e9);
    println!("{:<42} {:>9} {:>9} {:>9} {:>7} {:>8}", "", "tokens/s", "computed", "GFLOP/s", "share", "promised");
    let mut input_rates = Vec::new();
    for (workload, runs) in workloads.iter().zip(runs) {
        let input: usize = workload.sequences.iter().map(|sequence| sequence.len()).sum();
        let (computed, flops) = (runs[0].computed, runs[0].flops);
        let seconds = median(runs.iter().map(|run| run.seconds).collect());
        let share = flops / seconds / bare;
        println!(
            "{:<42} {:>9.0} {:>8.0}% {:>9.0} {:>6.1}% {:>7.0}%",
            workload.name,
            input as f64 / seconds,
            100.0 * computed as f64 / input as f64,
            flops / seconds / 1e9,
            100.0 * share,
            100.0 * workload.least_share,
        );
        input_rates.push(input as f64 / seconds);
    }
    println!("\ngroups / independent, input tokens/s: {:.2} (promised 1.6)", input_rates[1] / input_rates[0]);
    let every_token = bare / full_flops_per_token();
    println!(
        "independent / bare matmuls with every token in every layer: {:.2} (ONNX Runtime: 0.93)",
        input_rates[0] / every_token
    );
}

/// Computes all sequences and counts the multiplications and additions that this takes.
fn run(model: &Model, sequences: &[Sequence]) -> Run {
    let mut run = Run { seconds: 0.0, computed: 0, flops: 0.0 };
    let mut waiting = sequences.iter().cloned().peekable();
    let start = Instant::now();
    while waiting.peek().is_some() {
        let mut step = Packer::default();
        while let Some(sequence) = waiting.next_if(|sequence| step.fits(sequence, BUDGET)) {
            step.push(sequence);
        }
        let batch = step.pack();
        run.computed += batch.tokens.len();
        run.flops += flops(&batch);
        model.forward(&batch).expect("a step");
    }
    run.seconds = start.elapsed().as_secs_f64();
    run
}

/// The multiplications and additions that a batch needs: in the last layer keys and values for every token, the rest
/// for the last token of each sequence.
fn flops(batch: &PackedBatch) -> f64 {
    let [queries, keys] = [HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM];
    let key_values = 2.0 * (HIDDEN * 2 * keys) as f64;
    let rest = 2.0 * (HIDDEN * 2 * queries + 3 * HIDDEN * INTERMEDIATE) as f64;
    let attention = |keys: usize| 4.0 * (keys * queries) as f64;
    let (inner, tokens) = ((LAYERS - 1) as f64, batch.tokens.len() as f64);
    let all =
        batch.segments.iter().map(|s| (s.position..s.position + s.rows.len()).map(|p| attention(p + 1)).sum::<f64>());
    let mut ends = batch.ends.clone();
    ends.sort_unstable();
    ends.dedup();
    let last = ends.iter().map(|&end| rest + attention(batch.segments[end].position + batch.segments[end].rows.len()));
    inner * (tokens * (key_values + rest) + all.sum::<f64>()) + tokens * key_values + last.sum::<f64>()
}

fn full_flops_per_token() -> f64 {
    let [queries, keys] = [HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM];
    2.0 * (LAYERS * HIDDEN * (2 * queries + 2 * keys + 3 * INTERMEDIATE)) as f64
}

/// The matmuls of one layer, without anything between them.
struct Bare {
    weights: Vec<Tensor>,
    pool: rayon::ThreadPool,
}

impl Bare {
    fn new() -> Self {
        let [queries, keys] = [HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM];
        let shapes = [
            (HIDDEN, queries),
            (HIDDEN, 2 * keys),
            (queries, HIDDEN),
            (HIDDEN, 2 * INTERMEDIATE),
            (INTERMEDIATE, HIDDEN),
        ];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().expect("threads");
        Self { weights: shapes.map(random).into(), pool }
    }

    /// Multiplications and additions a second, at the number of rows where it is highest.
    fn rate(&self) -> f64 {
        BARE_ROWS.iter().map(|&rows| self.rate_at(rows)).fold(0.0, f64::max)
    }

    fn rate_at(&self, rows: usize) -> f64 {
        let mut flops = 0.0;
        let mut seconds = 0.0;
        for weight in &self.weights {
            let (depth, width) = weight.dims2().expect("a matrix");
            let x = random((rows, depth));
            let repeat = (4096 / rows).max(2);
            let multiply = || (0..repeat).for_each(|_| drop(x.matmul(weight).expect("a product")));
            let start = Instant::now();
            self.pool.install(multiply);
            seconds += start.elapsed().as_secs_f64();
            flops += 2.0 * (repeat * rows * depth * width) as f64;
        }
        flops / seconds
    }
}

fn random(shape: (usize, usize)) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("memory")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
