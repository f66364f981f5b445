//! Golden scores: the forward pass against Hugging Face in float64, for every checkpoint and world size.

use std::sync::Arc;

use tests::GOLDEN;

use crate::assay::{expected, ids};
use crate::replica;

/// Hugging Face's own f32 is within 1e-5 of its float64.
pub(crate) const TOLERANCE: f64 = 5e-5;

#[test]
fn every_golden_score_is_hugging_faces() {
    for name in GOLDEN {
        let expected = expected(name);
        let sequences: Vec<Arc<[u32]>> = expected.iter().map(|row| ids(row).into()).collect();
        for world_size in [1, 2, 4] {
            let scores = replica::scores(&mut replica::load(name, world_size, world_size), &sequences);
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
