//! A checkpoint whose small files have been read: everything that is known of a model before its weights are loaded.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use checkpoint::{Checkpoint, Fingerprint, HubOptions};
use model::{Compute, Config};
use prompt::{Encoder, Options, Sources};

use crate::args::LimitArgs;

/// Which model, and where it comes from.
#[derive(Clone)]
pub(crate) struct ModelChoice {
    /// A directory, or `owner/name` on the hub.
    pub(crate) model: String,
    pub(crate) hub: HubOptions,
    /// A chat template in place of the model's own.
    pub(crate) chat_template: Option<PathBuf>,
}

/// A model whose files are there and whose config is read.
pub(crate) struct Located {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) config: Config,
    /// The text of the config.
    config_json: String,
}

/// A model, without its weights.
pub(crate) struct Opened {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) config: Config,
    pub(crate) encoder: Encoder,
}

// === impl Located ===

impl Located {
    /// Finds the model, fetching it if it is on the hub, and reads its config.
    pub(crate) fn find(choice: &ModelChoice) -> Result<Self> {
        let mut checkpoint = checkpoint::locate(&choice.model, &choice.hub)?;
        checkpoint.chat_template = choice.chat_template.clone().or(checkpoint.chat_template);
        let config_json = read_to_string(&checkpoint.config)?;
        let config = Config::parse(&checkpoint.config, &config_json)?;
        Ok(Self { checkpoint, config, config_json })
    }

    /// The most tokens of a conversation, for steps of `budget` tokens.
    pub(crate) fn max_length(&self, args: &LimitArgs, budget: usize) -> Result<usize> {
        max_length(&self.config, args, budget)
    }

    /// What the scores of this model depend on, if ranks compute it here, of so many.
    pub(crate) fn fingerprint(&self, computes: &[Compute], world_size: usize) -> Result<Fingerprint> {
        fingerprint(&self.checkpoint, &numerics(&self.config, computes, world_size)?)
    }

    /// Reads the tokenizer and the template too.
    pub(crate) fn open(self) -> Result<Opened> {
        let Self { checkpoint, config, config_json } = self;
        let optional = |path: &Option<_>| path.as_deref().map(read).transpose();
        let sources = Sources {
            tokenizer: read(&checkpoint.tokenizer)?,
            tokenizer_config: optional(&checkpoint.tokenizer_config)?,
            chat_template: optional(&checkpoint.chat_template)?,
            special_tokens_map: optional(&checkpoint.special_tokens_map)?,
            added_tokens: optional(&checkpoint.added_tokens)?,
            model_config: Some(config_json.into_bytes()),
            vocab_size: u32::try_from(config.vocab).ok(),
            ..Sources::default()
        };
        let encoder = Encoder::new(&sources).with_context(|| checkpoint.source.to_string())?;
        for warning in encoder.warnings() {
            tracing::warn!("{warning}");
        }
        if encoder.template_source().is_none() {
            tracing::warn!("the model has no chat template: only text and input_ids can be scored");
        }
        Ok(Opened { checkpoint, config, encoder })
    }
}

/// Refuses what this build or this machine does not have, before anything is fetched or loaded.
pub(crate) fn check_here(computes: &[Compute]) -> Result<()> {
    Ok(computes.iter().try_for_each(Compute::check_here)?)
}

/// What the bits of the scores depend on besides the checkpoint: the same on all ranks, or there is no score.
pub(crate) fn numerics(config: &Config, computes: &[Compute], world_size: usize) -> Result<String> {
    let mut lines = Vec::new();
    for compute in computes {
        compute.check(config)?;
        lines.push((compute.device, model::numerics(config, compute, world_size)?));
    }
    let Some((first, line)) = lines.first() else { bail!("a replica has ranks") };
    if let Some((device, other)) = lines.iter().find(|(_, other)| other != line) {
        bail!("{first} and {device} would compute other bits, {line:?} and {other:?}: choose devices of one kind");
    }
    Ok(line.clone())
}

fn fingerprint(checkpoint: &Checkpoint, numerics: &str) -> Result<Fingerprint> {
    Ok(checkpoint::fingerprint(&checkpoint.digest()?, numerics))
}

// === impl Opened ===

impl Opened {
    /// Finds the model, fetching it if it is on the hub, and reads its config, tokenizer and template.
    pub(crate) fn open(choice: &ModelChoice) -> Result<Self> {
        Located::find(choice)?.open()
    }

    /// What the scores of this model depend on, with numbers that are computed like this.
    pub(crate) fn fingerprint(&self, numerics: &str) -> Result<Fingerprint> {
        fingerprint(&self.checkpoint, numerics)
    }

    /// How conversations are encoded, for steps of `budget` tokens.
    pub(crate) fn options(&self, args: &LimitArgs, budget: usize) -> Result<Options> {
        Ok(Options {
            max_length: Some(max_length(&self.config, args, budget)?),
            truncate: args.truncate.into(),
            strict_special_tokens: args.strict_special_tokens,
        })
    }
}

fn max_length(config: &Config, args: &LimitArgs, budget: usize) -> Result<usize> {
    let limit = config.max_positions;
    let max_length = args.max_length.map_or(limit.min(budget), usize::from);
    ensure!(max_length <= limit, "--max-length {max_length} is more than the model's limit of {limit} tokens");
    ensure!(
        max_length <= budget,
        "--max-length {max_length} needs --max-batch-tokens {max_length} or more, it is {budget}"
    );
    Ok(max_length)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn read_to_string(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}
