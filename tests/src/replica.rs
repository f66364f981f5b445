//! Replicas of golden checkpoints in this process, for tests that look at bits.

use std::path::PathBuf;
use std::sync::Arc;

use model::{Compute, Config, PackedBatch, Packer};
use shard::{Replica, ReplicaOptions};
use tests::golden;

/// Loads a golden checkpoint, over so many ranks.
pub(crate) fn load(name: &str, ranks: usize, threads: usize) -> Replica {
    load_with(name, threads, vec![Compute::default(); ranks])
}

/// What a golden checkpoint is.
pub(crate) fn config(name: &str) -> Config {
    let file = golden(name).join("config.json");
    Config::parse(&file, &std::fs::read_to_string(&file).unwrap()).unwrap()
}

/// Loads a golden checkpoint, for ranks that compute there.
pub(crate) fn load_with(name: &str, threads: usize, computes: Vec<Compute>) -> Replica {
    let config = config(name);
    let mut weights: Vec<PathBuf> =
        std::fs::read_dir(golden(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    weights.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    weights.sort();
    let replica = Replica::load(&ReplicaOptions { config, weights, threads, computes }).unwrap();
    assert_eq!(replica.warnings(), Vec::<String>::new(), "{name}");
    replica
}

/// The scores of these sequences, in one step: every rank must have computed the same rows.
pub(crate) fn scores(replica: &mut Replica, sequences: &[Arc<[u32]>]) -> Vec<f32> {
    replica.run(step(sequences)).unwrap().into_iter().map(Result::unwrap).collect()
}

/// A step of these sequences.
pub(crate) fn step(sequences: &[Arc<[u32]>]) -> PackedBatch {
    let mut packer = Packer::default();
    sequences.iter().for_each(|sequence| packer.push(Arc::clone(sequence)));
    packer.pack()
}
