//! Settings of the services: one TOML file for each, flags over the file, and what they say resolved once. A key that
//! nobody knows is an error, and no bad value is replaced by a default.

mod device;
mod gateway;
mod shard;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use discovery::{Credentials, EtcdOptions, Identity, Registry, Tls};
use serde::{Deserialize, Serialize};
use service::Network;
use service::config::duration;
use service::telemetry::{Format, Telemetry};
use service::tls::{ClientTls, ServerTls};

pub(crate) use self::device::{Devices, DtypeName};
pub(crate) use self::gateway::{GatewaySettings, LimitSettings, RoutingSettings, ServedSettings, default_name, served};
pub(crate) use self::shard::{RankRange, ShardSettings, cores};

/// Where services listen by default: above the ports of the system and below those that Linux gives to clients, 32768 on. A
/// shard has no admin port by default; 7611 is for those who want one.
pub(crate) mod ports {
    pub(crate) const GATEWAY: &str = "127.0.0.1:7600";
    pub(crate) const GATEWAY_ADMIN: &str = "127.0.0.1:7601";
    pub(crate) const SHARD: &str = "127.0.0.1:7610";
}

/// What a process says of itself.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TelemetrySettings {
    /// What the log holds: error, warn, info, debug, or a filter such as info,gateway=debug.
    pub(crate) log: String,
    /// How the log is written: brief, text or json.
    pub(crate) format: Format,
    /// Where a collector takes traces by OTLP over gRPC; none by default.
    pub(crate) otlp: Option<String>,
}

/// Where the members of the cluster are written down.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RegistrySettings {
    /// The nodes of etcd, as `http://host:port` or `https://host:port`.
    pub(crate) endpoints: Vec<String>,
    /// The path that all keys lie below.
    pub(crate) namespace: String,
    /// A user of etcd.
    pub(crate) user: Option<String>,
    /// A file with the user's password.
    pub(crate) password_file: Option<PathBuf>,
    /// How long a claim outlives its holder.
    #[serde(with = "duration")]
    pub(crate) lease: Duration,
    /// How long a node may take to answer; at most a third of the lease.
    #[serde(with = "duration")]
    pub(crate) attempt: Duration,
    /// For `https` endpoints.
    pub(crate) tls: Option<ClientTls>,
}

/// TLS of the lines between gateways and shards, and between the workers of a replica.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct InnerTls {
    /// For those who dial a shard.
    pub(crate) client: Option<ClientTls>,
    /// For a shard that listens.
    pub(crate) server: Option<ServerTls>,
}

// === impl TelemetrySettings ===

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { log: "info".to_owned(), format: Format::Text, otlp: None }
    }
}

impl TelemetrySettings {
    pub(crate) fn resolve(&self, service: &'static str, ansi: bool) -> Telemetry {
        let Self { log, format, otlp } = self.clone();
        Telemetry { filter: log, format, ansi, otlp, service }
    }
}

// === impl RegistrySettings ===

impl Default for RegistrySettings {
    fn default() -> Self {
        let EtcdOptions { namespace, lease, attempt, .. } = EtcdOptions::new([""]);
        let endpoints = vec!["http://127.0.0.1:2379".to_owned()];
        Self { endpoints, namespace, user: None, password_file: None, lease, attempt, tls: None }
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
        (options.lease, options.attempt) = (self.lease, self.attempt);
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
        options.tls = self.tls.as_ref().map(etcd_tls).transpose()?;
        Ok(options)
    }
}

fn etcd_tls(tls: &ClientTls) -> Result<Tls> {
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| path.display().to_string());
    let ca = tls.ca.as_ref().context("registry.tls: ca is missing")?;
    let identity = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some(Identity { certificate: read(certificate)?, key: read(key)? }),
        (certificate, key) => {
            ensure!(certificate.is_none() && key.is_none(), "registry.tls: certificate and key go together");
            None
        }
    };
    Ok(Tls { ca: read(ca)?, identity, domain: tls.domain.clone() })
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
