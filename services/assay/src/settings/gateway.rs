//! What a gateway is told.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use gateway::core::{Limits, Routing, Settings};
use gateway::{ServedModel, ServiceOptions, Tenants};
use serde::{Deserialize, Serialize};
use service::config::{bytes, duration};
use service::server;
use service::tls::ServerTls;

use super::shard::protocol;
use super::{InnerTls, RegistrySettings, TelemetrySettings, ports};
use crate::args::HubArgs;
use crate::opened::{ModelChoice, Opened};

/// A gateway's settings.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GatewaySettings {
    /// What it is called in logs.
    pub(crate) name: String,
    /// Where clients reach it.
    pub(crate) listen: String,
    /// Where metrics and health are; empty for nowhere.
    pub(crate) http: String,
    /// Turns away replicas of version 1 of the inner protocol, which a rolling upgrade of one release needs.
    pub(crate) refuse_protocol_1: bool,
    /// TLS for clients.
    pub(crate) tls: Option<ServerTls>,
    /// What those who connect may hold of its port.
    pub(crate) connections: server::Limits,
    /// TLS of the lines to shards: only `client` counts.
    pub(crate) shards: InnerTls,
    pub(crate) registry: RegistrySettings,
    pub(crate) telemetry: TelemetrySettings,
    pub(crate) limits: LimitSettings,
    pub(crate) routing: RoutingSettings,
    /// The tenants' shares of the tokens, by name; others have 1.
    pub(crate) tenants: BTreeMap<String, NonZeroU32>,
    /// What it serves.
    pub(crate) models: Vec<ServedSettings>,
}

/// A model that a gateway serves.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServedSettings {
    /// A folder with its tokenizer and config, or owner/name on the hub.
    pub(crate) model: String,
    /// What clients call it; by default the last part of `model`.
    pub(crate) name: Option<String>,
    /// The most tokens of a conversation; by default the model's limit, or 8192 if that is less.
    pub(crate) max_length: Option<NonZeroUsize>,
}

/// How much a gateway holds at a time.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitSettings {
    /// Tokens that wait or are computed, for each model.
    pub(crate) queue_tokens: u64,
    /// Conversations that wait or are computed, for each model.
    pub(crate) queue_conversations: u64,
    /// The largest message that is read from a client.
    #[serde(with = "bytes")]
    pub(crate) message: usize,
    /// Items of one stream without an answer.
    pub(crate) stream_items: usize,
    /// Memory for the tokens of prompts that were seen.
    #[serde(with = "bytes")]
    pub(crate) prompt_cache: usize,
    /// Threads that render and tokenize.
    pub(crate) tokenizer_threads: NonZeroUsize,
    /// How long a call may take that does not say.
    #[serde(with = "duration")]
    pub(crate) timeout: Duration,
    /// How long accepted work may go on after the gateway was told to end.
    #[serde(with = "duration")]
    pub(crate) drain: Duration,
}

/// How a gateway chooses and gives up replicas.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RoutingSettings {
    /// How often a conversation is sent before it is given up.
    pub(crate) attempts: NonZeroU32,
    /// A replica that has work and says nothing for so long is given up; longer than its longest step.
    #[serde(with = "duration")]
    pub(crate) stalled_after: Duration,
    /// After so many failures in a row a replica gets nothing for a while.
    pub(crate) failures: NonZeroU32,
    /// How long at first.
    #[serde(with = "duration")]
    pub(crate) pause: Duration,
    /// And at most.
    #[serde(with = "duration")]
    pub(crate) longest_pause: Duration,
    /// Prompts of which it remembers where they were computed.
    pub(crate) prompts: usize,
}

/// The tokens of a step, where nobody says otherwise.
pub(crate) const STEP_TOKENS: usize = 8192;

// === defaults ===

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            name: "gateway".to_owned(),
            listen: ports::GATEWAY.to_owned(),
            http: ports::GATEWAY_ADMIN.to_owned(),
            refuse_protocol_1: false,
            tls: None,
            connections: server::Limits::default(),
            shards: InnerTls::default(),
            registry: RegistrySettings::default(),
            telemetry: TelemetrySettings::default(),
            limits: LimitSettings::default(),
            routing: RoutingSettings::default(),
            tenants: BTreeMap::new(),
            models: Vec::new(),
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        let tokenizer_threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            queue_tokens: 64_000_000,
            queue_conversations: 1_000_000,
            message: 64 << 20,
            stream_items: 1024,
            prompt_cache: 64 << 20,
            tokenizer_threads,
            timeout: Duration::from_secs(600),
            drain: Duration::from_secs(30),
        }
    }
}

impl Default for RoutingSettings {
    fn default() -> Self {
        Self {
            attempts: NonZeroU32::MIN.saturating_add(3),
            stalled_after: Duration::from_secs(120),
            failures: NonZeroU32::MIN.saturating_add(2),
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            prompts: 100_000,
        }
    }
}

// === impl GatewaySettings ===

impl GatewaySettings {
    /// Refuses what cannot work, without touching a model.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(!self.models.is_empty(), "no model is served: give --model, or [[models]] in the file");
        for (number, served) in self.models.iter().enumerate() {
            ensure!(!served.model.is_empty(), "models[{number}]: model is missing");
        }
        ensure!(self.limits.queue_tokens > 0 && self.limits.queue_conversations > 0, "limits: the queue takes nothing");
        ensure!(self.limits.stream_items > 0, "limits.stream_items: a stream takes nothing");
        Ok(())
    }

    /// What the gateway is started with: the tokenizers are read.
    pub(crate) fn options(&self, hub: &HubArgs) -> Result<ServiceOptions> {
        self.check()?;
        let served = self.models.iter().map(|served| served.open(hub)).collect::<Result<Vec<_>>>()?;
        Ok(self.options_for(served))
    }

    /// What a gateway is started with that serves these models.
    pub(crate) fn options_for(&self, served: Vec<ServedModel>) -> ServiceOptions {
        let LimitSettings { queue_tokens, queue_conversations, .. } = self.limits;
        let RoutingSettings { attempts, stalled_after, failures, pause, longest_pause, prompts } = self.routing;
        let settings = Settings {
            // what a model takes is its own limit
            limits: Limits { tokens: queue_tokens, conversations: queue_conversations, longest: 0 },
            routing: Routing { stalled_after, failures: failures.get(), pause, longest_pause, prompts },
            attempts: attempts.get(),
            step_tokens: STEP_TOKENS as u64,
        };
        ServiceOptions {
            name: self.name.clone(),
            tenants: Tenants { weights: self.tenants.clone() },
            tokenizer_threads: self.limits.tokenizer_threads.get(),
            prompt_cache_bytes: self.limits.prompt_cache,
            default_timeout: self.limits.timeout,
            drain_timeout: self.limits.drain,
            max_message_bytes: self.limits.message,
            stream_items: self.limits.stream_items,
            protocol: protocol(self.refuse_protocol_1),
            ..ServiceOptions::new(served, settings)
        }
    }
}

// === impl ServedSettings ===

impl ServedSettings {
    fn open(&self, hub: &HubArgs) -> Result<ServedModel> {
        let choice = ModelChoice { model: self.model.clone(), hub: hub.options() };
        let opened = Opened::open(&choice).with_context(|| self.model.clone())?;
        let name = self.name.clone().unwrap_or_else(|| default_name(&self.model));
        served(opened, name, self.max_length.map(usize::from), STEP_TOKENS)
    }
}

/// A model as a gateway serves it, to replicas whose steps have so many tokens.
pub(crate) fn served(opened: Opened, name: String, max_length: Option<usize>, step: usize) -> Result<ServedModel> {
    let limit = opened.config.max_positions;
    let max_length = max_length.unwrap_or_else(|| limit.min(step));
    ensure!(max_length <= limit, "{name}: max_length {max_length} is more than the model's limit of {limit} tokens");
    let text_digest = opened.checkpoint.text_digest()?.to_string();
    let vocab = u32::try_from(opened.config.vocab).context("the vocabulary")?;
    Ok(ServedModel { name, encoder: opened.encoder, max_length, vocab, text_digest })
}

/// What a model is called that has no name: the last part of its path.
pub(crate) fn default_name(model: &str) -> String {
    let path = PathBuf::from(model);
    let path = if path.is_dir() { path.canonicalize().unwrap_or(path) } else { path };
    path.file_name().map_or_else(|| model.to_owned(), |name| name.to_string_lossy().into_owned())
}
