//! What tests and benches have in common: where the repository and its golden checkpoints are, and what ranks of one
//! process make up together.

use std::path::{Path, PathBuf};

use score::{Disagreement, Expected, Outputs, Partials, RankStep, Stamp};

/// The checkpoints that are committed with their reference scores; `tests/golden/README.md` says what each is for.
pub const GOLDEN: [&str; 6] = ["gemma2-v4", "gemma2-v5", "llama-sharded", "mistral", "qwen2", "qwen3"];

/// The folder that holds the workspace's `Cargo.toml`.
pub fn repo_root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().map_or_else(|| tests.to_path_buf(), Path::to_path_buf)
}

/// The folder of a golden checkpoint.
pub fn golden(name: &str) -> PathBuf {
    repo_root().join("tests/golden").join(name)
}

/// What the ranks of a replica that were given one step together make up for a conversation of the step.
///
/// # Errors
/// Those of [`score::add_up`].
pub fn add_up(ranks: &[Partials], conversation: usize) -> Result<Outputs, Disagreement> {
    let stamp = Stamp { generation: 0, epoch: 0, step: 0 };
    let outputs = ranks.first().map_or(1, Partials::outputs);
    let expected = Expected { ranks: ranks.len(), outputs, generation: 0, epoch: 0 };
    let steps = (0..).map(|rank| RankStep { rank, stamp });
    let contributions = steps.zip(ranks).filter_map(|(step, partials)| Some((step, partials.get(conversation)?)));
    score::add_up(expected, contributions).map(|(outputs, _)| outputs)
}
