//! A checkpoint's folder, and what Hugging Face says of a golden one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use model::Config;
use tests::GOLDEN;

use crate::args::Args;
use serde::Deserialize;

pub(crate) struct Checkpoint {
    pub(crate) config: Config,
    pub(crate) files: Vec<PathBuf>,
    folder: PathBuf,
}

/// A conversation with Hugging Face's scores.
#[derive(Deserialize)]
pub(crate) struct Row {
    pub(crate) input_ids: Vec<u32>,
    /// In float64.
    pub(crate) score: f64,
    /// In bf16, on a CPU.
    pub(crate) score_bf16: f64,
}

// === impl Checkpoint ===

impl Checkpoint {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let config = config(&folder.join("config.json"))?;
        let entries = folder.read_dir().with_context(|| folder.display().to_string())?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        files.sort();
        Ok(Self { config, files, folder: folder.to_path_buf() })
    }

    /// The first `count` conversations, or all.
    pub(crate) fn rows(&self, count: usize) -> Result<Vec<Row>> {
        let file = self.folder.join("expected.json");
        let mut rows: Vec<Row> = serde_json::from_str(&read(&file)?).with_context(|| file.display().to_string())?;
        rows.truncate(count);
        Ok(rows)
    }

    /// Of all files.
    pub(crate) fn bytes(&self) -> Result<u64> {
        self.files.iter().map(|file| Ok(file.metadata()?.len())).sum()
    }
}

/// The golden checkpoints that are asked for, or all, by name.
pub(crate) fn golden(args: &Args) -> Result<Vec<(&str, Checkpoint)>> {
    let folder = args.path("golden")?;
    let names = args.text("checkpoints").map_or_else(|_| GOLDEN.to_vec(), |names| names.split(',').collect());
    names.into_iter().map(|name| Ok((name, Checkpoint::open(&folder.join(name))?))).collect()
}

pub(crate) fn config(file: &Path) -> Result<Config> {
    Ok(Config::parse(file, &read(file)?)?)
}

pub(crate) fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| file.display().to_string())
}
