//! The kernels and the forward pass of GPUs, played by the CPU.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use collective::Solo;
use score::Checksum;
use serde_json::Value;

use super::host::HostDevice;
use super::{Device, DeviceModel};
use crate::batch::Packer;
use crate::compute::Dtype;
use crate::config::Config;
use crate::forward::Forward;
use crate::trial::checks;
use crate::weights::Weights;

/// Tokens of the largest step, as servers have it.
const FULL: usize = 8192;

#[test]
fn every_kernel_agrees_with_float64() {
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let device = HostDevice::new(dtype, Arc::new(Solo));
        for check in checks::run(&device, &[]).unwrap() {
            println!("{:45} {:8.1e} of {:8.1e}", check.name, check.worst, check.largest);
            assert!(check.holds(), "{check:?}");
        }
    }
}

/// A golden checkpoint: tests/golden/README.md.
struct Golden {
    config: Config,
    files: Vec<PathBuf>,
    /// Token ids.
    rows: Vec<Arc<[u32]>>,
}

impl Golden {
    fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        let config = Config::parse(&folder.join("config.json"), &text("config.json")).unwrap();
        let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        files.sort();
        let expected: Vec<Value> = serde_json::from_str(&text("expected.json")).unwrap();
        let ids = |row: &Value| {
            let ids = row["input_ids"].as_array().unwrap();
            ids.iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
        };
        Self { config, files, rows: expected.iter().map(ids).collect() }
    }

    /// The only rank.
    fn rank(&self, dtype: Dtype) -> Arc<DeviceModel> {
        let device: Box<dyn Device> = Box::new(HostDevice::new(dtype, Arc::new(Solo)));
        let weights = Weights::open(&self.files).unwrap();
        let model = DeviceModel::load(&self.config, &weights, device, FULL).unwrap();
        assert_eq!(weights.unused(), Vec::<String>::new());
        Arc::new(model)
    }
}

fn step(sequences: &[Arc<[u32]>]) -> crate::PackedBatch {
    let mut packer = Packer::default();
    sequences.iter().for_each(|sequence| packer.push(Arc::clone(sequence)));
    packer.pack()
}

fn scores(rank: &Arc<DeviceModel>, sequences: &[Arc<[u32]>]) -> Vec<u32> {
    let partials = rank.submit(&step(sequences), Checksum::Path).unwrap().wait().unwrap();
    partials.iter().map(|partial| partial.values[0].to_bits()).collect()
}

#[test]
fn a_score_has_the_same_bits_in_every_company() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let golden = Golden::open("gemma2-v4");
        let rank = golden.rank(dtype);
        let prompt = &golden.rows[0];
        let longer: Vec<Arc<[u32]>> = (0..4u32).map(|i| [prompt, &[7 + i, 9, 11][..]].concat().into()).collect();
        let mut all = golden.rows[..4].to_vec();
        all.extend(longer);
        let together = scores(&rank, &all);
        for (sequence, score) in all.iter().zip(&together) {
            let alone = scores(&rank, std::slice::from_ref(sequence));
            assert_eq!(alone[0], *score, "{dtype}");
        }
    }
}

/// The first, one in the middle and the last of a full step.
#[test]
fn a_score_has_the_same_bits_in_a_full_step() {
    let rank = Golden::open("llama-sharded").rank(Dtype::Bf16);
    let tokens = |seed: u32, len: u32| (0..len).map(|i| 3 + (i * i + 31 * seed) % 700).collect::<Arc<[u32]>>();
    let all: Vec<_> = (0..127).map(|seed| tokens(seed, 64)).chain([tokens(127, 63), tokens(128, 1)]).collect();
    assert_eq!(step(&all).tokens.len(), FULL);
    let together = scores(&rank, &all);
    for place in [0, 63, 127, 128] {
        assert_eq!(scores(&rank, &all[place..=place]), [together[place]], "{place}");
    }
}

#[test]
fn steps_in_flight_do_not_disturb_each_other() {
    let golden = Golden::open("llama-sharded");
    let rank = golden.rank(Dtype::F32);
    let batches: Vec<_> = golden.rows[..5].iter().map(|one| step(std::slice::from_ref(one))).collect();
    let alone: Vec<_> =
        batches.iter().map(|batch| rank.submit(batch, Checksum::Path).unwrap().wait().unwrap()).collect();
    let flying: Vec<_> = batches.iter().map(|batch| rank.submit(batch, Checksum::Path).unwrap()).collect();
    let together: Vec<_> = flying.into_iter().map(|pending| pending.wait().unwrap()).collect();
    assert_eq!(alone, together);
}
