//! What is planned of a GPU's memory.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::config::Config;

fn gemma_27b() -> Config {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gemma2-v4/config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    for (name, size) in [
        ("hidden_size", 4608),
        ("intermediate_size", 36_864),
        ("num_hidden_layers", 46),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 16),
        ("head_dim", 128),
        ("vocab_size", 256_000),
    ] {
        config[name] = json!(size);
    }
    Config::parse(&file, &config.to_string()).unwrap()
}

/// A GPU's memory comes in pieces of 2 MiB, of which every matrix has its own.
#[test]
fn weights_are_counted_in_whole_pieces_of_memory() {
    const MIB: usize = 1 << 20;
    for (ranks, layer) in [(1, 72 + 36 + 648 + 324), (8, 10 + 6 + 82 + 42)] {
        let share = Share::new(&gemma_27b(), 0, ranks);
        let bytes = weight_bytes(&share, 2);
        assert_eq!(bytes, (2250 + 46 * layer) * MIB, "{ranks} ranks");
        // the vectors, which are in the spare bytes
        let vectors = (share.parameters() * 2).saturating_sub(bytes);
        assert!(vectors < 8 * MIB, "{vectors}");
    }
}
