//! What a shard worker is told.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, ensure};
use model::Compute;
use score::Versions;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use service::config::duration;
use service::server::Limits;
use shard::plan::Allowance;
use shard::{Patience, RanksOptions, WorkerOptions};

use super::gateway::{STEP_TOKENS, default_name};
use super::{Devices, DtypeName, InnerTls, RegistrySettings, TelemetrySettings, ports};
use crate::args::HubArgs;
use crate::opened::{Located, ModelChoice, check_here};

/// A shard worker's settings.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShardSettings {
    /// A folder with a checkpoint, or owner/name on the hub.
    pub(crate) model: String,
    /// What clients call it; by default the last part of `model`.
    pub(crate) name: Option<String>,
    /// The name of the replica, among all of the cluster.
    pub(crate) replica: String,
    /// The ranks of this process, as first..last+1; by default all.
    pub(crate) ranks: Option<RankRange>,
    /// The number of ranks of the replica.
    pub(crate) tensor_parallel: NonZeroUsize,
    /// Where these ranks compute: cpu, cuda (one rank after the other on GPUs 0, 1, ...), cuda:N (on N, N + 1, ...) or
    /// cuda:N,M,... (a GPU for each rank).
    pub(crate) device: Devices,
    /// The numbers of weights and activations: f32, bf16 or f16; by default f32 on the CPU and bf16 on GPUs.
    pub(crate) dtype: Option<DtypeName>,
    /// Where gateways and other workers reach it.
    pub(crate) listen: String,
    /// The address that it tells them; by default where it listens.
    pub(crate) advertise: Option<String>,
    /// Where metrics and health are; empty for nowhere.
    pub(crate) http: String,
    /// Threads that compute; by default one for each core.
    pub(crate) threads: Option<NonZeroUsize>,
    /// The most tokens of a step.
    pub(crate) max_batch_tokens: NonZeroUsize,
    /// The generation of the weights: greater whenever they change.
    pub(crate) generation: u64,
    /// Turns away workers and gateways of version 1 of the inner protocol, which a rolling upgrade of one release needs.
    pub(crate) refuse_protocol_1: bool,
    /// TLS of the lines from gateways, and between the workers of a replica.
    pub(crate) tls: InnerTls,
    /// What those who connect may hold of its port.
    pub(crate) connections: Limits,
    pub(crate) registry: RegistrySettings,
    pub(crate) telemetry: TelemetrySettings,
    pub(crate) patience: PatienceSettings,
}

/// How long a shard worker waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PatienceSettings {
    /// Workers of a replica let each other hear something so often.
    #[serde(with = "duration")]
    pub(crate) heartbeat: Duration,
    /// Who is silent for so long is gone.
    #[serde(with = "duration")]
    pub(crate) silence: Duration,
    /// How long the ranks have to find each other.
    #[serde(with = "duration")]
    pub(crate) forming: Duration,
    /// A step may take this, and ten times what its tokens take at the measured rate.
    #[serde(with = "duration")]
    pub(crate) step: Duration,
    /// How long accepted work may go on after the worker was told to end.
    #[serde(with = "duration")]
    pub(crate) drain: Duration,
}

/// Consecutive ranks, as text `0..2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RankRange(pub(crate) Range<usize>);

// === defaults ===

impl Default for ShardSettings {
    fn default() -> Self {
        Self {
            model: String::new(),
            name: None,
            replica: "replica-0".to_owned(),
            ranks: None,
            tensor_parallel: NonZeroUsize::MIN,
            device: Devices::default(),
            dtype: None,
            listen: ports::SHARD.to_owned(),
            advertise: None,
            http: String::new(),
            threads: None,
            max_batch_tokens: NonZeroUsize::MIN.saturating_add(STEP_TOKENS - 1),
            generation: 1,
            refuse_protocol_1: false,
            tls: InnerTls::default(),
            connections: Limits::default(),
            registry: RegistrySettings::default(),
            telemetry: TelemetrySettings::default(),
            patience: PatienceSettings::default(),
        }
    }
}

impl Default for PatienceSettings {
    fn default() -> Self {
        let Patience { heartbeat, silence, forming, allowance, drain, .. } = Patience::default();
        Self { heartbeat, silence, forming, step: allowance.least, drain }
    }
}

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

impl ShardSettings {
    /// Refuses what cannot work, without touching a model.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(!self.model.is_empty(), "no model is served: give --model, or model in the file");
        let (ranks, world_size) = (self.ranks(), self.tensor_parallel);
        let Range { start, end } = ranks;
        ensure!(end <= world_size.get(), "ranks {start}..{end} are not in a replica of {world_size} ranks");
        self.computes()?;
        ensure!(
            self.patience.heartbeat < self.patience.silence,
            "patience: silence must be longer than heartbeat, or everybody is gone at once"
        );
        Ok(())
    }

    fn ranks(&self) -> Range<usize> {
        self.ranks.clone().map_or(0..self.tensor_parallel.get(), |ranks| ranks.0)
    }

    /// Where each of these ranks computes, and in which numbers.
    fn computes(&self) -> Result<Vec<Compute>> {
        self.device.computes(self.dtype, self.ranks().len(), self.max_batch_tokens.get())
    }

    /// What the worker is: the model is found, and read but for its weights.
    pub(crate) fn options(&self, hub: &HubArgs) -> Result<WorkerOptions> {
        self.check()?;
        check_here(&self.computes()?)?;
        let located = Located::find(&ModelChoice { model: self.model.clone(), hub: hub.options() })?;
        self.options_for(&located)
    }

    /// What a worker is that computes this model.
    pub(crate) fn options_for(&self, located: &Located) -> Result<WorkerOptions> {
        let (world_size, computes) = (self.tensor_parallel.get(), self.computes()?);
        located.config.check_world_size(world_size)?;
        let fingerprint = located.fingerprint(&computes, world_size)?.to_string();
        let PatienceSettings { heartbeat, silence, forming, step, drain } = self.patience;
        let defaults = Patience::default();
        let allowance = Allowance { least: step, ..defaults.allowance };
        Ok(WorkerOptions {
            model: self.name.clone().unwrap_or_else(|| default_name(&self.model)),
            replica: self.replica.clone(),
            ranks: RanksOptions {
                config: located.config.clone(),
                weights: located.checkpoint.weights.clone(),
                ranks: self.ranks(),
                world_size,
                threads: self.threads.map_or_else(cores, usize::from),
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
            patience: Patience { heartbeat, silence, forming, allowance, drain, ..defaults },
        })
    }
}

/// The versions of the inner protocol that are spoken.
pub(crate) fn protocol(refuse_1: bool) -> Versions {
    if refuse_1 { Versions::CURRENT.without_1() } else { Versions::CURRENT }
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
