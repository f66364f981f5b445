//! Golden scores: the forward pass against Hugging Face in float64, for every checkpoint and world size.

use std::sync::Arc;
use std::thread;

use collective::{Collective, threads};
use model::{Config, Model, PackedBatch, Packer, PartialLogit};
use serde_json::Value;
use tests::{GOLDEN, golden};

/// Hugging Face's own f32 is within 1e-5 of its float64.
pub(crate) const TOLERANCE: f64 = 5e-5;

/// The scores of a batch on a replica of `world_size` threads.
fn scores(name: &str, world_size: usize, batch: &PackedBatch) -> Vec<f32> {
    let folder = golden(name);
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let (config, warnings) = Config::parse(&folder.join("config.json"), &text).unwrap();
    assert_eq!(warnings, Vec::<String>::new(), "{name}");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    let forward = |end: Arc<dyn Collective>| {
        let (model, unused) = Model::load(&config, &files, end).unwrap();
        assert_eq!(unused, Vec::<String>::new(), "{name}");
        model.forward(batch).unwrap()
    };
    let partial_logits: Vec<Vec<PartialLogit>> = thread::scope(|scope| {
        let ends = threads(world_size).into_iter();
        let ranks: Vec<_> = ends.map(|end| scope.spawn(|| forward(Arc::new(end)))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    let sum = |i: usize| {
        assert!(partial_logits.iter().all(|rank| rank[i].checksum == partial_logits[0][i].checksum));
        partial_logits.iter().map(|rank| rank[i].logit).sum()
    };
    (0..batch.ends.len()).map(sum).collect()
}

#[test]
fn every_golden_score_is_hugging_faces() {
    for name in GOLDEN {
        let expected: Vec<Value> =
            serde_json::from_slice(&std::fs::read(golden(name).join("expected.json")).unwrap()).unwrap();
        let mut packer = Packer::default();
        for row in &expected {
            packer.push(serde_json::from_value::<Vec<u32>>(row["input_ids"].clone()).unwrap().into());
        }
        for world_size in [1, 2, 4] {
            let scores = scores(name, world_size, &packer.pack());
            let mut worst = 0.0f64;
            for (row, score) in expected.iter().zip(scores) {
                let reference = row["score"].as_f64().unwrap();
                worst = worst.max((f64::from(score) - reference).abs() / reference.abs().max(1.0));
            }
            println!("{name}, {world_size} ranks: worst error {worst:.1e}");
            assert!(worst < TOLERANCE, "{name}, {world_size} ranks: worst error {worst:.1e}");
        }
    }
}
