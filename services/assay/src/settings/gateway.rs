//! What a gateway is told.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use gateway::core::Routing;
use gateway::{ServedModel, ServiceLimits, ServiceOptions, Tenants};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::telemetry::Telemetry;
use service::tls::{ClientTls, ServerTls};
use service::{Network, server};

use super::shard::protocol;
use super::{RegistrySettings, STEP_TOKENS, Settings, ports};
use crate::args::HubArgs;
use crate::opened::{ModelChoice, Opened};

/// A gateway's settings.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GatewaySettings {
    /// What it is called in the logs of replicas.
    #[arg(skip)]
    pub(crate) name: String,
    /// Where clients reach it, and browsers its status page; port 0 is any free port.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: String,
    /// Where metrics and health are; none for nowhere.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: String,
    /// The names by which browsers may ask for the status page, besides addresses and localhost. Without any: all, or none
    /// where listen is an address of this machine alone.
    #[arg(skip)]
    pub(crate) hosts: Vec<String>,
    /// Turns away replicas of version 1 of the inner protocol, which a rolling upgrade of one release needs.
    #[arg(skip)]
    pub(crate) refuse_protocol_1: bool,
    /// TLS for clients.
    #[arg(skip)]
    pub(crate) tls: Option<ServerTls>,
    /// What those who connect may hold of its port.
    #[arg(skip)]
    pub(crate) connections: server::Limits,
    /// TLS of the lines to shards.
    #[arg(skip)]
    pub(crate) shards: ShardLines,
    /// Where the members of the cluster are written down.
    #[command(flatten)]
    pub(crate) registry: RegistrySettings,
    /// What it says of itself.
    #[arg(skip)]
    pub(crate) telemetry: Telemetry,
    /// How much it holds at a time, and for how long.
    #[arg(skip)]
    pub(crate) limits: ServiceLimits,
    /// How it chooses and gives up replicas.
    #[arg(skip)]
    pub(crate) routing: Routing,
    /// The tenants' shares of the tokens, by name; others have 1.
    #[arg(skip)]
    #[schemars(example = serde_json::json!({"lab": 2}))]
    pub(crate) tenants: Tenants,
    /// What it serves.
    #[arg(skip)]
    pub(crate) models: Vec<ServedSettings>,
}

/// TLS of the lines to shards.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShardLines {
    /// Whom the gateway trusts, and how it proves who it is.
    pub(crate) client: Option<ClientTls>,
}

/// A model that a gateway serves.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServedSettings {
    /// The model to serve, in place of those in the settings: a folder, or owner/name on the hub. A gateway needs its
    /// tokenizer and config alone.
    #[arg(long, required = false, value_name = "DIR|OWNER/NAME")]
    pub(crate) model: String,
    /// What clients call the model; by default the last part of its path.
    #[arg(long, value_name = "NAME", requires = "model")]
    #[schemars(example = "27b")]
    pub(crate) name: Option<String>,
    /// The most tokens of a conversation; by default the model's limit, or a step's 8192 if that is less.
    #[arg(long, value_name = "N", requires = "model")]
    #[schemars(example = 4096)]
    pub(crate) max_length: Option<NonZeroUsize>,
    /// A file with a chat template in place of the model's own. The shards need the same: it is part of the fingerprint.
    #[arg(long, value_name = "FILE", requires = "model")]
    #[schemars(example = "/models/27b.jinja")]
    pub(crate) chat_template: Option<PathBuf>,
}

// === impl GatewaySettings ===

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            name: "gateway".to_owned(),
            listen: ports::GATEWAY.to_owned(),
            http: ports::GATEWAY_ADMIN.to_owned(),
            hosts: Vec::new(),
            refuse_protocol_1: false,
            tls: None,
            connections: server::Limits::default(),
            shards: ShardLines::default(),
            registry: RegistrySettings::default(),
            telemetry: Telemetry::default(),
            limits: ServiceLimits::default(),
            routing: Routing::default(),
            tenants: Tenants::default(),
            models: Vec::new(),
        }
    }
}

impl Settings for GatewaySettings {
    fn example() -> Self {
        let served = ServedSettings { model: "owner/name".to_owned(), ..ServedSettings::default() };
        Self { models: vec![served], ..Self::default() }
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.models.is_empty(), "no model is served: give --model, or [[models]] in the file");
        let mut names = BTreeSet::new();
        for (number, served) in self.models.iter().enumerate() {
            ensure!(!served.model.is_empty(), "models[{number}]: model is missing");
            let name = served.name();
            ensure!(names.insert(name.clone()), "models[{number}]: {name} is there already, give it another name");
        }
        self.limits.check()?;
        Ok(self.routing.check()?)
    }

    fn check_files(&self) -> Result<()> {
        self.public()?;
        self.inner()?;
        self.registry.options().map(drop)
    }
}

impl GatewaySettings {
    /// The network that clients come from.
    pub(crate) fn public(&self) -> Result<Network> {
        Ok(Network::tcp(self.tls.as_ref().map(ServerTls::load).transpose().context("tls")?, None))
    }

    /// The network that shards are in.
    pub(crate) fn inner(&self) -> Result<Network> {
        let client = self.shards.client.as_ref().map(ClientTls::load).transpose().context("shards.client")?;
        Ok(Network::tcp(None, client))
    }

    /// What the gateway is started with: the tokenizers are read.
    pub(crate) fn options(&self, hub: &HubArgs) -> Result<ServiceOptions> {
        let served = self.models.iter().map(|served| served.open(hub)).collect::<Result<Vec<_>>>()?;
        Ok(self.options_for(served))
    }

    /// What a gateway is started with that serves these models.
    pub(crate) fn options_for(&self, models: Vec<ServedModel>) -> ServiceOptions {
        ServiceOptions {
            name: self.name.clone(),
            limits: self.limits,
            routing: self.routing,
            tenants: self.tenants.clone(),
            hosts: self.hosts.clone(),
            protocol: protocol(self.refuse_protocol_1),
            ..ServiceOptions::new(models)
        }
    }
}

// === impl ServedSettings ===

impl ServedSettings {
    fn open(&self, hub: &HubArgs) -> Result<ServedModel> {
        let opened = Opened::open(&self.choice(hub)).with_context(|| self.model.clone())?;
        self.served(opened, STEP_TOKENS.get())
    }

    /// Which model, and where it comes from.
    pub(crate) fn choice(&self, hub: &HubArgs) -> ModelChoice {
        ModelChoice { model: self.model.clone(), hub: hub.options(), chat_template: self.chat_template.clone() }
    }

    /// What clients call it.
    pub(crate) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| default_name(&self.model))
    }

    /// The model as a gateway serves it, to replicas whose steps have so many tokens.
    pub(crate) fn served(&self, opened: Opened, step: usize) -> Result<ServedModel> {
        let (name, limit) = (self.name(), opened.config.max_positions);
        let max_length = self.max_length.map_or_else(|| limit.min(step), usize::from);
        ensure!(
            max_length <= limit,
            "{name}: max_length {max_length} is more than the model's limit of {limit} tokens"
        );
        let text_digest = opened.checkpoint.text_digest()?.to_string();
        let vocab = u32::try_from(opened.config.vocab).context("the vocabulary")?;
        Ok(ServedModel { name, encoder: opened.encoder, max_length, vocab, text_digest })
    }
}

/// What a model is called that has no name: the last part of its path.
pub(super) fn default_name(model: &str) -> String {
    let path = PathBuf::from(model);
    let path = if path.is_dir() { path.canonicalize().unwrap_or(path) } else { path };
    path.file_name().map_or_else(|| model.to_owned(), |name| name.to_string_lossy().into_owned())
}
