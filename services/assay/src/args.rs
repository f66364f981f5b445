//! The command line, and the variables of the environment that stand in for flags.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;
use checkpoint::HubOptions;
use clap::builder::BoolishValueParser;
use clap::{Parser, Subcommand, ValueEnum};
use model::Compute;
use prompt::Truncate;

use crate::opened::ModelChoice;
use crate::remote;
use crate::serve;
use crate::settings::{Devices, DtypeName};

/// Scores conversations with reward models: raw logits, equal to Hugging Face's, the same bits in any batch.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Args {
    /// What to log on standard error: error, warn, info, debug, or a filter such as warn,checkpoint=debug
    /// [default: warn, for services what their settings say, or info]
    #[arg(long, global = true, env = "ASSAY_LOG", value_name = "FILTER", hide_env = true)]
    pub(crate) log: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(serve::args::Up),
    Score(Score),
    Status(remote::args::Status),
    Bench(remote::args::Bench),
    Inspect(Inspect),
    Gateway(serve::args::Gateway),
    Shard(serve::args::Shard),
    Config(serve::args::Config),
}

/// Score conversations from JSON Lines
///
/// Each line of the input is one of
///
///   {"id"?, "messages": [{"role": "user", "content": "..."}, ..., {"role": "assistant", "content": "..."}]}
///   {"id"?, "prompt": [messages] or "text", "responses": ["...", ...]}
///   {"id"?, "text": "rendered conversation"}
///   {"id"?, "input_ids": [1, 2, ...]}
///
/// and has one line in the output, in the same order:
///
///   {"id"?, "scores": [0.5625], "tokens": [214], "status": ["ok"], "errors"?: [null]}
///
/// status is ok, truncated, too_long, invalid, internal (the model has no finite score for it that all ranks agree on) or
/// unavailable (its replica went away, as often as it was tried). A conversation without a score has null for it, and the
/// others go on. The exit status is 1 if any conversation has no score, 2 for a wrong call or a model that cannot be used.
///
/// With --endpoint a gateway computes the scores: the same ones, and no model is loaded here. A conversation may then also
/// have the status deadline_exceeded.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Score {
    /// A folder with a checkpoint, or owner/name on the Hugging Face hub; with --endpoint what the gateway calls the model
    #[arg(long, value_name = "DIR|OWNER/NAME", required_unless_present = "endpoint")]
    pub(crate) model: Option<String>,

    #[command(flatten)]
    hub: HubArgs,

    /// A chat template in place of the model's own; the fingerprint is another with it
    #[arg(long, value_name = "FILE", conflicts_with = "endpoint")]
    chat_template: Option<PathBuf>,

    /// Conversations, as JSON Lines; - is standard input
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub(crate) input: PathBuf,

    /// Where the scores go; - is standard output
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub(crate) output: PathBuf,

    /// Split the model over this many ranks (threads of this process)
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) tensor_parallel: NonZeroUsize,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Threads that compute, over all ranks [default: one for each core]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<NonZeroUsize>,

    /// Tokens that one forward pass computes at most; shared prefixes count once. Also the default of --max-length
    #[arg(long, default_value = "8192", value_name = "N")]
    pub(crate) max_batch_tokens: NonZeroUsize,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,

    /// Write counts, times and the fingerprint to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) stats: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) remote: remote::args::Remote,
}

/// More threads than any machine has cores only cost time to start.
pub(crate) const MOST_THREADS: usize = 1024;

/// A number of threads.
pub(crate) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let threads = text.parse().ok().filter(|threads: &NonZeroUsize| threads.get() <= MOST_THREADS);
    threads.ok_or_else(|| format!("expected a number from 1 to {MOST_THREADS}"))
}

/// Show what a model is, and what it would read of an input
///
/// Without --input: architecture, parameters, limits, BOS rule, chat template, fingerprint. With it: the rendered text,
/// the token ids and what was done to them, for each conversation of a JSON Lines file.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Show what the model would read of these conversations (JSON Lines, as for score; - is standard input)
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,

    /// Write JSON: one object about the model, or with --input one for each conversation, a line each
    #[arg(long)]
    pub(crate) json: bool,

    /// The number of ranks that memory and fingerprint are for
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) tensor_parallel: NonZeroUsize,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// Where ranks compute, and in which numbers.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ComputeArgs {
    /// Where ranks compute [default: cpu]
    ///
    /// - cpu: on the cores of this machine
    /// - cuda: on NVIDIA GPUs, the first rank of this process on GPU 0, the next on GPU 1, and so on
    /// - cuda:N: the same from GPU N on
    /// - cuda:N,M,...: a GPU for each rank of this process; one may be named twice
    #[arg(long, value_name = "DEVICE", verbatim_doc_comment)]
    pub(crate) device: Option<Devices>,

    /// The numbers of weights and activations [default: f32 on the CPU, bf16 on GPUs]
    ///
    /// The CPU computes in f32 only. f16 is refused for Gemma-2, whose activations are beyond its range.
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub(crate) dtype: Option<DtypeName>,
}

/// Which model.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// A folder with a checkpoint, or owner/name on the Hugging Face hub
    #[arg(long, value_name = "DIR|OWNER/NAME")]
    pub(crate) model: String,

    #[command(flatten)]
    hub: HubArgs,

    /// A chat template in place of the model's own; the fingerprint is another with it
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
}

/// Where models that are not on disk come from.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct HubArgs {
    /// Branch, tag or commit of a model on the hub [default: main]
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,

    /// Never use the network: a model on the hub must be in the cache
    #[arg(long, env = "HF_HUB_OFFLINE", value_parser = BoolishValueParser::new(), hide_env = true)]
    offline: bool,

    /// Where models of the hub are kept [default: the cache that Python uses]
    #[arg(long, env = "HF_HUB_CACHE", value_name = "DIR", hide_env = true)]
    cache_dir: Option<PathBuf>,

    #[arg(long, env = "HF_HOME", hide = true)]
    hub_home: Option<PathBuf>,

    /// Another hub than the public one
    #[arg(long, env = "HF_ENDPOINT", value_name = "URL", hide_env = true)]
    hub_endpoint: Option<String>,

    /// A token for private models; better given as the variable HF_TOKEN than as a flag, which others can see
    #[arg(long, env = "HF_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    hub_token: Option<String>,
}

/// What is done with long conversations and with special tokens.
#[derive(Debug, clap::Args)]
pub(crate) struct LimitArgs {
    /// The most tokens of a conversation [default: the model's limit, or --max-batch-tokens if that is less]
    #[arg(long, value_name = "N")]
    pub(crate) max_length: Option<NonZeroUsize>,

    /// What to do with a longer one: refuse it, or give up its oldest (left) or newest (right) tokens
    #[arg(long, value_enum, default_value = "none", value_name = "SIDE")]
    pub(crate) truncate: TruncateArg,

    /// Take special tokens in the content of messages (a user who writes <end_of_turn>) as plain text
    #[arg(long)]
    pub(crate) strict_special_tokens: bool,
}

/// [`Truncate`], as a flag.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum TruncateArg {
    None,
    Left,
    Right,
}

// === impl ComputeArgs ===

impl ComputeArgs {
    /// Where so many ranks of this process compute, and in which numbers.
    pub(crate) fn computes(&self, ranks: NonZeroUsize, step_tokens: usize) -> Result<Vec<Compute>> {
        self.device.clone().unwrap_or_default().computes(self.dtype, ranks.get(), step_tokens)
    }
}

// === impl Score ===

impl Score {
    /// Which model to load, and where it comes from.
    pub(crate) fn choice(&self) -> ModelChoice {
        let (model, chat_template) = (self.model.clone().unwrap_or_default(), self.chat_template.clone());
        ModelChoice { model, hub: self.hub.options(), chat_template }
    }
}

// === impl ModelArgs ===

impl ModelArgs {
    /// Which model, and where it comes from.
    pub(crate) fn choice(&self) -> ModelChoice {
        let (model, chat_template) = (self.model.clone(), self.chat_template.clone());
        ModelChoice { model, hub: self.hub.options(), chat_template }
    }
}

// === impl HubArgs ===

impl HubArgs {
    /// The hub's options; the cache is where Python's huggingface_hub keeps it, unless told otherwise.
    pub(crate) fn options(&self) -> HubOptions {
        let home = self.hub_home.clone().or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")));
        HubOptions {
            endpoint: self.hub_endpoint.clone(),
            cache_dir: self.cache_dir.clone().or_else(|| Some(home?.join("hub"))),
            token: self.hub_token.clone(),
            revision: self.revision.clone(),
            offline: self.offline,
            progress: true,
            ..HubOptions::default()
        }
    }
}

impl From<TruncateArg> for Truncate {
    fn from(side: TruncateArg) -> Self {
        match side {
            TruncateArg::None => Self::None,
            TruncateArg::Left => Self::Left,
            TruncateArg::Right => Self::Right,
        }
    }
}
