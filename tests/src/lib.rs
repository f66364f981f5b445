//! Where tests and benches find things: the repository and the golden checkpoints in it.

use std::path::{Path, PathBuf};

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
