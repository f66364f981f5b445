//! The kernels and the forward pass of GPUs, played by the CPU.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use collective::{Collective, Solo, threads};
use score::{Checksum, Partials, add_up_here};
use serde_json::Value;

use super::host::HostDevice;
use super::{Device, DeviceModel, checks};
use crate::batch::Packer;
use crate::compute::Dtype;
use crate::config::Config;
use crate::forward::Forward;
use crate::weights::Weights;

#[test]
fn every_kernel_agrees_with_float64() {
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let device = HostDevice::new(dtype, Arc::new(Solo));
        for check in checks::run(&device).unwrap() {
            println!("{:45} {:8.1e} of {:8.1e}", check.name, check.worst, check.largest);
            assert!(check.holds(), "{check:?}");
        }
    }
}

/// A golden checkpoint: tests/golden/README.md.
struct Golden {
    config: Config,
    files: Vec<PathBuf>,
    /// Token ids, Hugging Face's score in float64 and in bf16.
    rows: Vec<(Arc<[u32]>, f64, f64)>,
}

impl Golden {
    fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        let (config, _) = Config::parse(&folder.join("config.json"), &text("config.json")).unwrap();
        let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        files.sort();
        let expected: Vec<Value> = serde_json::from_str(&text("expected.json")).unwrap();
        let ids = |row: &Value| {
            let ids = row["input_ids"].as_array().unwrap();
            ids.iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
        };
        let row = |row: &Value| (ids(row), row["score"].as_f64().unwrap(), row["score_bf16"].as_f64().unwrap());
        Self { config, files, rows: expected.iter().map(row).collect() }
    }

    /// The first `count` sequences, or all.
    fn sequences(&self, count: usize) -> Vec<Arc<[u32]>> {
        self.rows.iter().take(count).map(|(ids, ..)| Arc::clone(ids)).collect()
    }

    fn rank(&self, dtype: Dtype, collective: Arc<dyn Collective>) -> Arc<DeviceModel> {
        let device: Box<dyn Device> = Box::new(HostDevice::new(dtype, collective));
        let weights = Weights::open(&self.files).unwrap();
        let model = DeviceModel::load(&self.config, &weights, device, 5000).unwrap();
        assert_eq!(weights.unused(), Vec::<String>::new());
        Arc::new(model)
    }
}

fn step(sequences: &[Arc<[u32]>]) -> crate::PackedBatch {
    let mut packer = Packer::default();
    sequences.iter().for_each(|sequence| packer.push(Arc::clone(sequence)));
    packer.pack()
}

fn scores(ranks: &[Arc<DeviceModel>], sequences: &[Arc<[u32]>]) -> Vec<f32> {
    let batch = step(sequences);
    let ranks: Vec<Partials> = std::thread::scope(|scope| {
        let compute = |rank: &Arc<DeviceModel>| rank.submit(&batch, Checksum::Path).unwrap().wait().unwrap();
        let running: Vec<_> = ranks.iter().map(|rank| scope.spawn(move || compute(rank))).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    (0..sequences.len()).map(|place| add_up_here(&ranks, place).unwrap().score).collect()
}

const CHECKPOINTS: [&str; 4] = ["gemma2-v4", "gemma2-v5", "llama-sharded", "qwen3"];

#[test]
fn the_forward_pass_in_f32_is_hugging_faces() {
    for name in CHECKPOINTS {
        let golden = Golden::open(name);
        let sequences = golden.sequences(8);
        for world_size in [1, 2, 4] {
            let ends = threads(world_size).into_iter().map(|end| Arc::new(end) as Arc<dyn Collective>);
            let ranks: Vec<_> = ends.map(|end| golden.rank(Dtype::F32, end)).collect();
            let scores = scores(&ranks, &sequences);
            let apart = scores
                .iter()
                .zip(&golden.rows)
                .map(|(score, (_, reference, _))| (f64::from(*score) - reference).abs() / reference.abs().max(1.0));
            let worst = apart.fold(0.0, f64::max);
            println!("{name}, {world_size} ranks: worst error {worst:.1e}");
            assert!(worst < 5e-5, "{name}, {world_size} ranks: worst error {worst:.1e}");
        }
    }
}

/// The error of bf16 against float64 is at most 1.5 times that of Hugging Face's own bf16.
#[test]
fn the_forward_pass_in_bf16_is_as_exact_as_hugging_faces() {
    for name in CHECKPOINTS {
        let golden = Golden::open(name);
        let rms = |errors: Vec<f64>| (errors.iter().map(|x| x * x).sum::<f64>() / errors.len() as f64).sqrt();
        let rank = [golden.rank(Dtype::Bf16, Arc::new(Solo))];
        let scores = scores(&rank, &golden.sequences(8));
        let ours = rms(scores.iter().zip(&golden.rows).map(|(score, row)| f64::from(*score) - row.1).collect());
        let theirs = rms(golden.rows.iter().take(8).map(|(_, reference, bf16)| bf16 - reference).collect());
        println!("{name}: RMS error {ours:.4}, Hugging Face's {theirs:.4}");
        assert!(ours <= 1.5 * theirs, "{name}: RMS error {ours:.4}, Hugging Face's {theirs:.4}");
    }
}

#[test]
fn a_score_has_the_same_bits_in_every_company() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let golden = Golden::open("gemma2-v4");
        let rank = [golden.rank(dtype, Arc::new(Solo))];
        let prompt = &golden.rows[0].0;
        let longer: Vec<Arc<[u32]>> = (0..4u32).map(|i| [prompt, &[7 + i, 9, 11][..]].concat().into()).collect();
        let mut all = golden.sequences(4);
        all.extend(longer);
        let together = scores(&rank, &all);
        for (sequence, score) in all.iter().zip(&together) {
            let alone = scores(&rank, std::slice::from_ref(sequence));
            assert_eq!(alone[0].to_bits(), score.to_bits(), "{dtype}");
        }
    }
}

#[test]
fn steps_in_flight_do_not_disturb_each_other() {
    let golden = Golden::open("llama-sharded");
    let rank = golden.rank(Dtype::F32, Arc::new(Solo));
    let batches: Vec<_> = golden.sequences(5).iter().map(|one| step(std::slice::from_ref(one))).collect();
    let alone: Vec<_> =
        batches.iter().map(|batch| rank.submit(batch, Checksum::Path).unwrap().wait().unwrap()).collect();
    let flying: Vec<_> = batches.iter().map(|batch| rank.submit(batch, Checksum::Path).unwrap()).collect();
    let together: Vec<_> = flying.into_iter().map(|pending| pending.wait().unwrap()).collect();
    assert_eq!(alone, together);
}
