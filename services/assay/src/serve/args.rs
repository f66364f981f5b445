//! Flags of the services. What a flag says goes over what the file says.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::args::{ComputeArgs, HubArgs};
use crate::settings::{Flags, GatewaySettings, STEP_TOKENS, ServedSettings, ShardSettings};

/// Start a gateway and replicas of one model, all in this process
///
/// Nothing else is needed: no etcd, no configuration. The port opens when the first replica is ready.
///
///   assay up --model Skywork/Skywork-Reward-Llama-3.1-8B-v0.2
///   assay score --endpoint http://127.0.0.1:7600 --input conversations.jsonl
///
/// On four GPUs, two copies of two ranks, the first on GPUs 0 and 1 and the second on 2 and 3:
///
///   assay up --model Skywork/Skywork-Reward-Gemma-2-27B-v0.2 --device cuda --tensor-parallel 2 --replicas 2
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) served: Option<ServedSettings>,

    #[command(flatten)]
    pub(crate) hub: HubArgs,

    /// Copies of the model that compute side by side
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) replicas: NonZeroUsize,

    /// Split each copy over this many ranks (threads)
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) tensor_parallel: NonZeroUsize,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Threads that compute, over all ranks [default: one for each core]
    #[arg(long, value_name = "N", value_parser = crate::args::threads)]
    pub(crate) threads: Option<NonZeroUsize>,

    /// Tokens that one forward pass computes at most; also the default of --max-length
    #[arg(long, default_value_t = STEP_TOKENS, value_name = "N")]
    pub(crate) max_batch_tokens: NonZeroUsize,

    /// Where clients reach the gateway, and browsers its status page [default: as of `assay gateway`, or of --config]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,

    /// Where metrics and health are, none for nowhere [default: as for --listen]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: Option<String>,

    /// A gateway's settings in a TOML file (limits, tenants, tls, telemetry, a model ...). Members are written down in
    /// memory: [registry] in it is not used; shards are reached in memory: [shards] is refused
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Start a gateway: it takes conversations from clients and has them computed by the shards that etcd lists
///
///   assay gateway --model /models/reward --etcd http://10.0.0.1:2379,http://10.0.0.2:2379
///
/// Settings come from --config, and flags go over it. `assay config show gateway` prints all settings with their defaults.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Gateway {
    /// Settings, as TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) served: Option<ServedSettings>,

    #[command(flatten)]
    pub(crate) settings: Flags<GatewaySettings>,

    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

/// Start a shard worker: it owns ranks of a replica and computes what gateways send
///
/// All ranks of a replica in one process:
///
///   assay shard --model /models/reward --replica a --tensor-parallel 2 --etcd http://10.0.0.1:2379
///
/// Or one rank in each of two, which find each other through etcd:
///
///   assay shard --model /models/reward --replica a --tensor-parallel 2 --ranks 0..1 --listen 10.0.0.5:7610 ...
///   assay shard --model /models/reward --replica a --tensor-parallel 2 --ranks 1..2 --listen 10.0.0.6:7610 ...
///
/// On GPUs a rank has one of its own: the second of two ranks on GPU 1 of its machine is
///
///   assay shard --model /models/reward --replica a --tensor-parallel 2 --ranks 1..2 --device cuda:1 ...
///
/// Settings come from --config, and flags go over it. `assay config show shard` prints all settings with their defaults.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Shard {
    /// Settings, as TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) settings: Flags<ShardSettings>,

    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

/// Check a settings file, or print all settings with their defaults
#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

/// What to do with settings.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a file and say what is wrong with it; nothing is started, but files that it names are looked at
    Check {
        /// Whose settings
        service: ServiceKind,
        /// The file
        file: PathBuf,
    },
    /// Print all settings with their defaults, as TOML
    Show {
        /// Whose settings
        service: ServiceKind,
    },
}

/// A service that has settings.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ServiceKind {
    /// assay gateway
    Gateway,
    /// assay shard
    Shard,
}
