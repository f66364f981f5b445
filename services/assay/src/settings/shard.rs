//! What a shard worker is told.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use model::Compute;
use schemars::JsonSchema;
use score::Versions;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use service::server::Limits;
use service::telemetry::Telemetry;
use shard::{Patience, RanksOptions, WorkerOptions};

use super::gateway::default_name;
use super::identity::Identity;
use super::{Devices, DtypeName, InnerTls, RegistrySettings, Settings, ports};
use crate::args::{HubArgs, MOST_THREADS};
use crate::opened::{Located, ModelChoice, check_here};

/// A shard worker's settings.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShardSettings {
    /// The model: a folder with a checkpoint, or owner/name on the hub.
    #[arg(long, value_name = "DIR|OWNER/NAME")]
    pub(crate) model: String,
    /// What clients call it; by default the last part of its path.
    #[arg(long, value_name = "NAME")]
    #[schemars(example = "27b")]
    pub(crate) name: Option<String>,
    /// A file with a chat template in place of the model's own, the same as the gateways': it is part of the fingerprint.
    #[arg(long, value_name = "FILE")]
    #[schemars(example = "/models/27b.jinja")]
    pub(crate) chat_template: Option<PathBuf>,
    /// The name of the replica, among all of the cluster.
    #[arg(long, value_name = "NAME")]
    pub(crate) replica: String,
    /// Who says which replica and which ranks this process has: settings, or the variables of a pod of Kubernetes that is
    /// in a statefulset or a leaderworkerset. Then replica and ranks are left out.
    #[arg(long, value_enum, value_name = "WHO")]
    pub(crate) identity: Identity,
    /// With identity = "statefulset": the pods that share a replica, consecutive ones.
    #[arg(long, value_name = "N")]
    pub(crate) workers: NonZeroUsize,
    /// The ranks of this process, as first..last+1; by default all of the replica. Ranks of other processes are met over
    /// TCP, on any port and without TLS.
    #[arg(long, value_name = "FIRST..LAST+1")]
    #[schemars(with = "Option<String>", example = "0..1")]
    pub(crate) ranks: Option<RankRange>,
    /// The number of ranks of the replica.
    #[arg(long, value_name = "N")]
    pub(crate) tensor_parallel: NonZeroUsize,
    /// Where these ranks compute.
    ///
    /// - cpu: on the cores of this machine
    /// - cuda: on NVIDIA GPUs, the first rank of this process on GPU 0, the next on GPU 1, and so on
    /// - cuda:N: the same from GPU N on
    /// - cuda:N,M,...: a GPU for each rank of this process; one may be named twice
    #[arg(long, value_name = "DEVICE", verbatim_doc_comment)]
    #[schemars(with = "String")]
    pub(crate) device: Devices,
    /// The numbers of weights and activations: f32, bf16 or f16; by default f32 on the CPU and bf16 on GPUs. The CPU
    /// computes in f32 only. f16 is refused for Gemma-2, whose activations are beyond its range.
    #[arg(long, value_enum, value_name = "DTYPE")]
    #[schemars(with = "Option<String>", example = &"f32")]
    pub(crate) dtype: Option<DtypeName>,
    /// Where gateways and other workers reach it; port 0 is any free port.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: String,
    /// The address that it tells them; by default where it listens, or what the identity says.
    #[arg(long, value_name = "HOST:PORT")]
    #[schemars(example = "10.0.0.5:7610")]
    pub(crate) advertise: Option<String>,
    /// Where metrics and health are; none for nowhere.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: String,
    /// Threads that compute, over the ranks of this process; by default one for each core.
    #[arg(long, value_name = "N", value_parser = crate::args::threads)]
    #[schemars(example = 8)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// The most tokens that one forward pass computes.
    #[arg(long, value_name = "N")]
    pub(crate) max_batch_tokens: NonZeroUsize,
    /// The generation of the weights: greater whenever they change.
    #[arg(long, value_name = "N")]
    pub(crate) generation: u64,
    /// Turns away workers and gateways of version 1 of the inner protocol, which a rolling upgrade of one release needs.
    #[arg(skip)]
    pub(crate) refuse_protocol_1: bool,
    /// What those who connect may hold of its port.
    #[arg(skip)]
    pub(crate) connections: Limits,
    /// TLS of the lines from gateways, and between the workers of a replica.
    #[arg(skip)]
    pub(crate) tls: InnerTls,
    /// Where the members of the cluster are written down.
    #[command(flatten)]
    pub(crate) registry: RegistrySettings,
    /// What it says of itself.
    #[arg(skip)]
    pub(crate) telemetry: Telemetry,
    /// How long it waits for what.
    #[arg(skip)]
    pub(crate) patience: Patience,
}

/// Consecutive ranks, as text `0..2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RankRange(pub(crate) Range<usize>);

/// The tokens of a step, where nobody says otherwise.
pub(crate) const STEP_TOKENS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(8191);

// === impl RankRange ===

impl std::str::FromStr for RankRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (first, end) = text.split_once("..")?;
            let range = first.trim().parse().ok()?..end.trim().parse().ok()?;
            (!range.is_empty()).then_some(Self(range))
        };
        parse().ok_or_else(|| format!("{text:?} is no range of ranks, expected first..last+1, such as 0..2"))
    }
}

impl<'de> Deserialize<'de> for RankRange {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        String::deserialize(source)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for RankRange {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{}..{}", self.0.start, self.0.end))
    }
}

// === impl ShardSettings ===

impl Default for ShardSettings {
    fn default() -> Self {
        Self {
            model: String::new(),
            name: None,
            chat_template: None,
            replica: "replica-0".to_owned(),
            identity: Identity::Settings,
            workers: NonZeroUsize::MIN,
            ranks: None,
            tensor_parallel: NonZeroUsize::MIN,
            device: Devices::default(),
            dtype: None,
            listen: ports::SHARD.to_owned(),
            advertise: None,
            http: "none".to_owned(),
            threads: None,
            max_batch_tokens: STEP_TOKENS,
            generation: 1,
            refuse_protocol_1: false,
            connections: Limits::default(),
            tls: InnerTls::default(),
            registry: RegistrySettings::default(),
            telemetry: Telemetry::default(),
            patience: Patience::default(),
        }
    }
}

impl Settings for ShardSettings {
    fn example() -> Self {
        Self { model: "owner/name".to_owned(), ..Self::default() }
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.model.is_empty(), "no model is served: give --model, or model in the file");
        let (Range { start, end }, world_size) = (self.ranks(), self.tensor_parallel);
        ensure!(end <= world_size.get(), "ranks {start}..{end} are not in a replica of {world_size} ranks");
        let few = self.threads.is_none_or(|threads| threads.get() <= MOST_THREADS);
        ensure!(few, "threads: expected at most {MOST_THREADS}");
        self.computes()?;
        self.patience.check()?;
        self.check_identity()
    }

    fn check_files(&self) -> Result<()> {
        self.tls.network()?;
        self.registry.options().map(drop)
    }
}

impl ShardSettings {
    fn ranks(&self) -> Range<usize> {
        self.ranks.clone().map_or(0..self.tensor_parallel.get(), |ranks| ranks.0)
    }

    /// Where each of these ranks computes, and in which numbers.
    fn computes(&self) -> Result<Vec<Compute>> {
        self.device.computes(self.dtype, self.ranks().len(), self.max_batch_tokens.get())
    }

    /// What the worker is: the model is found, and read but for its weights.
    pub(crate) fn options(&self, hub: &HubArgs) -> Result<WorkerOptions> {
        check_here(&self.computes()?)?;
        let located = Located::find(&ModelChoice {
            model: self.model.clone(),
            hub: hub.options(),
            chat_template: self.chat_template.clone(),
        })?;
        self.options_for(&located)
    }

    /// What a worker is that computes this model.
    pub(crate) fn options_for(&self, located: &Located) -> Result<WorkerOptions> {
        let (world_size, computes) = (self.tensor_parallel.get(), self.computes()?);
        located.config.check_world_size(world_size)?;
        let fingerprint = located.fingerprint(&computes, world_size)?.to_string();
        Ok(WorkerOptions {
            model: self.name.clone().unwrap_or_else(|| default_name(&self.model)),
            replica: self.replica.clone(),
            ranks: RanksOptions {
                config: located.config.clone(),
                weights: located.checkpoint.weights.clone(),
                ranks: self.ranks(),
                world_size,
                threads: cores_or(self.threads),
                computes,
            },
            generation: self.generation,
            fingerprint,
            text_digest: located.checkpoint.text_digest()?.to_string(),
            step_tokens: self.max_batch_tokens.get(),
            linger: Duration::ZERO,
            probe: shard::PROBE,
            advertise: self.advertise.clone(),
            protocol: protocol(self.refuse_protocol_1),
            connections: self.connections,
            patience: self.patience,
        })
    }
}

/// The versions of the inner protocol that are spoken.
pub(super) fn protocol(refuse_1: bool) -> Versions {
    if refuse_1 { Versions::CURRENT.without_1() } else { Versions::CURRENT }
}

/// So many threads, or one for each core.
pub(crate) fn cores_or(threads: Option<NonZeroUsize>) -> usize {
    threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, usize::from)
}
