//! The command line: a command, then names with values.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use model::Device;

pub(crate) struct Args {
    command: String,
    values: BTreeMap<String, String>,
}

// === impl Args ===

impl Args {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let command = words.next().context("which command? see tests/gpu/main.rs")?;
        let mut values = BTreeMap::new();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else { bail!("{word:?} is no option") };
            values.insert(name.to_owned(), words.next().with_context(|| format!("--{name} without a value"))?);
        }
        Ok(Self { command, values })
    }

    pub(crate) fn command(&self) -> &str {
        &self.command
    }

    pub(crate) fn text(&self, name: &str) -> Result<&str> {
        self.values.get(name).map(String::as_str).with_context(|| format!("--{name} is missing"))
    }

    pub(crate) fn path(&self, name: &str) -> Result<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// A number, or what stands for all.
    pub(crate) fn number(&self, name: &str) -> Result<usize> {
        match self.values.get(name) {
            Some(value) => value.parse().with_context(|| format!("--{name} {value}")),
            None => Ok(usize::MAX),
        }
    }

    /// The first device.
    pub(crate) fn device(&self) -> Result<Device> {
        self.devices()?.first().copied().context("--device is empty")
    }

    /// A device for each rank: host, or cuda:0, or cuda:0,0.
    pub(crate) fn devices(&self) -> Result<Vec<Device>> {
        let text = self.text("device")?;
        if let Some(ordinals) = text.strip_prefix("cuda:") {
            let device = |ordinal: &str| ordinal.parse().map(Device::Cuda).with_context(|| format!("--device {text}"));
            return ordinals.split(',').map(device).collect();
        }
        let host = |name: &str| {
            if name == "host" { Ok(Device::HostKernels) } else { bail!("--device {text}: host or cuda:N") }
        };
        text.split(',').map(host).collect()
    }
}
