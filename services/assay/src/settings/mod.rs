//! Settings of the services: one TOML file for each, flags over the file, and what they say resolved once. A key that
//! nobody knows is an error, and no bad value is replaced by a default.
//!
//! A setting is a field, with its explanation and its default: `assay config show` prints both, and clap makes a flag of
//! it where the field says so. What a library is told is the library's own struct.

mod device;
mod exposure;
mod flags;
mod gateway;
mod identity;
mod shard;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use discovery::{Credentials, EtcdOptions, Registry};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use service::Network;
use service::config::DurationText;
use service::tls::{ClientTls, ServerTls};

pub(crate) use self::device::{Devices, DtypeName};
pub(crate) use self::flags::Flags;
pub(crate) use self::gateway::{GatewaySettings, ServedSettings, ShardLines};
pub(crate) use self::shard::{RankRange, STEP_TOKENS, ShardSettings, cores_or};
pub(crate) use self::show::show;

/// Where services listen by default: above the ports of the system and below those that Linux gives to clients, 32768 on. A
/// shard has no admin port by default; 7611 is for those who want one.
mod ports {
    pub(super) const GATEWAY: &str = "127.0.0.1:7600";
    pub(super) const GATEWAY_ADMIN: &str = "127.0.0.1:7601";
    pub(super) const SHARD: &str = "127.0.0.1:7610";
}

/// The settings of a service.
pub(crate) trait Settings: DeserializeOwned + JsonSchema + Serialize {
    /// The defaults, and a model, without which there is nothing to serve.
    fn example() -> Self;

    /// Refuses what cannot work, without touching a model or another file.
    fn check(&self) -> Result<()>;

    /// Refuses files that settings name and that cannot be used.
    fn check_files(&self) -> Result<()>;
}

/// Where the members of the cluster are written down.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RegistrySettings {
    /// The nodes of etcd, as http://host:port or https://host:port.
    #[arg(long = "etcd", value_name = "URL,URL", value_delimiter = ',')]
    pub(crate) endpoints: Vec<String>,
    /// The path that all keys lie below.
    #[arg(skip)]
    pub(crate) namespace: String,
    /// A user of etcd.
    #[arg(skip)]
    pub(crate) user: Option<String>,
    /// A file with the user's password.
    #[arg(skip)]
    pub(crate) password_file: Option<PathBuf>,
    /// How long a claim outlives its holder.
    #[arg(skip)]
    #[serde(with = "DurationText")]
    pub(crate) lease: Duration,
    /// How long a node may take to answer; at most a third of the lease.
    #[arg(skip)]
    #[serde(with = "DurationText")]
    pub(crate) attempt: Duration,
    /// How long a call is tried again before it fails.
    #[arg(skip)]
    #[serde(with = "DurationText")]
    pub(crate) deadline: Duration,
    /// For https endpoints.
    #[arg(skip)]
    pub(crate) tls: Option<ClientTls>,
}

/// TLS of the lines between gateways and shards, and between the workers of a replica.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct InnerTls {
    /// For those who dial a shard.
    pub(crate) client: Option<ClientTls>,
    /// For a shard that listens.
    pub(crate) server: Option<ServerTls>,
}

// === impl RegistrySettings ===

impl Default for RegistrySettings {
    fn default() -> Self {
        let endpoints = vec!["http://127.0.0.1:2379".to_owned()];
        let EtcdOptions { namespace, lease, attempt, deadline, .. } = EtcdOptions::new([""]);
        Self { endpoints, namespace, user: None, password_file: None, lease, attempt, deadline, tls: None }
    }
}

impl RegistrySettings {
    pub(crate) async fn registry(&self) -> Result<Registry> {
        Registry::etcd(self.options()?).await.context("[registry]")
    }

    /// What they say, with the files that they name.
    pub(crate) fn options(&self) -> Result<EtcdOptions> {
        let mut options = EtcdOptions::new(self.endpoints.clone());
        options.namespace.clone_from(&self.namespace);
        (options.lease, options.attempt, options.deadline) = (self.lease, self.attempt, self.deadline);
        options.credentials = match (&self.user, &self.password_file) {
            (Some(user), Some(file)) => {
                let password = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
                Some(Credentials { user: user.clone(), password: password.trim_end().to_owned() })
            }
            (user, file) => {
                ensure!(user.is_none() && file.is_none(), "registry: user and password_file go together");
                None
            }
        };
        options.tls = self.tls.as_ref().map(ClientTls::load).transpose().context("registry.tls")?;
        options.check().context("registry")?;
        Ok(options)
    }
}

// === impl InnerTls ===

impl InnerTls {
    /// The network that it makes, over TCP.
    pub(crate) fn network(&self) -> Result<Network> {
        let server = self.server.as_ref().map(ServerTls::load).transpose().context("tls.server")?;
        let client = self.client.as_ref().map(ClientTls::load).transpose().context("tls.client")?;
        Ok(Network::tcp(server, client))
    }
}

#[cfg(test)]
mod tests;
