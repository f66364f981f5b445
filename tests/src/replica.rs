//! Replicas of golden checkpoints in this process, for tests that look at bits.

use std::path::PathBuf;
use std::sync::Arc;

use model::{Config, Packer};
use shard::{Replica, ReplicaOptions};
use tests::golden;

/// Loads a golden checkpoint.
pub(crate) fn load(name: &str, tensor_parallel: usize, threads: usize) -> Replica {
    let folder = golden(name);
    let file = folder.join("config.json");
    let (config, warnings) = Config::parse(&file, &std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(warnings, Vec::<String>::new(), "{name}");
    let mut weights: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    weights.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    weights.sort();
    let replica = Replica::load(&ReplicaOptions { config, weights, tensor_parallel, threads }).unwrap();
    assert_eq!(replica.warnings(), Vec::<String>::new(), "{name}");
    replica
}

/// The scores of these sequences, in one step: every rank must have computed the same rows.
pub(crate) fn scores(replica: &mut Replica, sequences: &[Arc<[u32]>]) -> Vec<f32> {
    let mut packer = Packer::default();
    sequences.iter().for_each(|sequence| packer.push(Arc::clone(sequence)));
    replica.run(packer.pack()).unwrap().into_iter().map(Result::unwrap).collect()
}
