//! Trials on the CPU as a device.

use std::path::Path;
use std::sync::Arc;

use super::{Trial, rows};
use crate::batch::Packer;
use crate::compute::{Compute, Device, Dtype};
use crate::config::Config;

const COMPUTE: Compute = Compute { device: Device::HostKernels, dtype: Dtype::Bf16, step_tokens: 96 };

fn config() -> Config {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gemma2-v5/config.json");
    Config::parse(&file, &std::fs::read_to_string(&file).unwrap()).unwrap()
}

fn batch(lengths: &[u32]) -> crate::PackedBatch {
    let mut packer = Packer::default();
    lengths.iter().for_each(|&len| packer.push((0..len).map(|i| 3 + (i * len) % 700).collect::<Arc<[u32]>>()));
    packer.pack()
}

#[test]
fn random_weights_make_the_same_scores_each_time() {
    let scores = || Trial::random(COMPUTE, &config()).unwrap().forward(&batch(&[40, 23])).unwrap();
    let first = scores();
    assert_eq!(first, scores());
    assert!(first.iter().all(|partial| partial.values[0].is_finite() && partial.values[0] != 0.0), "{first:?}");
}

#[test]
fn a_profile_accounts_for_the_whole_step() {
    let trial = Trial::random(COMPUTE, &config()).unwrap();
    let profile = trial.profile(&batch(&[40, 23])).unwrap();
    let layers = trial.config().layers();
    let count = |kind: &str| profile.kinds.iter().find(|share| share.name == kind).unwrap().count;
    assert_eq!((count("matmul"), count("attention")), (4 * layers + 1, layers));
    assert!(count("pointwise") > 0 && count("copy") > 0 && count("collective") == 0);
    let kernels = |name: &str| profile.kernels.iter().find(|share| share.name == name).unwrap().count;
    assert_eq!(
        (kernels("gated_bf16"), kernels("attention_64_bf16"), kernels("matmul [64, 192]")),
        (layers, layers, layers)
    );
    let busy: f64 = profile.kinds.iter().map(|share| share.seconds).sum();
    assert!((busy + profile.idle - profile.seconds).abs() < 1e-9 && profile.idle >= 0.0, "{profile:?}");
    // a step that is not watched leaves no marks
    trial.forward(&batch(&[5])).unwrap();
    assert_eq!(trial.profile(&batch(&[40, 23])).unwrap().kinds[0].count, 4 * layers + 1);
}

#[test]
fn matmul_operations_are_those_of_the_launches() {
    let trial = Trial::random(COMPUTE, &config()).unwrap();
    let config = trial.config();
    let width = |heads: usize| (heads * config.head_dim) as f64;
    let (hidden, inner) = (config.hidden as f64, config.intermediate as f64);
    let layer = 2.0 * hidden * (2.0 * width(config.heads) + 2.0 * width(config.kv_heads) + 3.0 * inner);
    let keys = 2.0 * hidden * 2.0 * width(config.kv_heads);
    let expected = 63.0 * ((config.layers() - 1) as f64 * layer + keys) + 2.0 * (layer - keys);
    assert!((trial.matmul_operations(&batch(&[40, 23])) - expected).abs() < 1.0);
}

#[test]
fn the_matmuls_have_a_rate_and_rows_their_own_bits() {
    let rate = Trial::random(COMPUTE, &config()).unwrap().matmul_rate(32, 0.0).unwrap();
    assert!(rate.rate > 0.0 && rate.shapes.len() == 4 && rate.shapes.iter().all(|shape| shape.2 > 0.0), "{rate:?}");
    let sweep = rows(COMPUTE, &config(), &[1, 2, 33, 96, 1000]).unwrap();
    assert!(sweep.iter().all(|shape| shape.tried == 12 && shape.differing.is_empty()), "{sweep:?}");
}

#[test]
fn a_step_beyond_what_was_planned_is_refused() {
    let trial = Trial::random(COMPUTE, &config()).unwrap();
    let refused = trial.submit(&batch(&[97])).err().unwrap();
    assert_eq!(refused.to_string(), "a step of 97 tokens is more than the 96 planned for");
}
