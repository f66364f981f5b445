//! `assay up`, `assay gateway`, `assay shard`: settings to processes. Each is a table of contents: read, observe, build,
//! serve, drain; what is wrong with the settings ends it before a port is bound.

pub(crate) mod args;
mod config;
mod gateway;
mod in_process;
mod shard;
mod up;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use ::gateway::Ended;
use anyhow::{Context as _, Result};
use service::axum::Router;
use service::server::Limits;
use service::telemetry::{self, Guard, Telemetry};
use service::{Health, Metrics, Network, Shutdown, descriptors, http};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::config::run as config;
pub(crate) use self::gateway::run as gateway;
pub(crate) use self::in_process::InProcess;
pub(crate) use self::shard::run as shard;
pub(crate) use self::up::run as up;
use crate::SOME_FAILED;

/// What every service runs in.
struct Process {
    shutdown: Shutdown,
    metrics: Metrics,
    _telemetry: Guard,
}

// === impl Process ===

impl Process {
    /// Starts the log, the metrics and the watch for signals.
    fn start(service: &'static str, telemetry: &Telemetry) -> Result<Self> {
        let ansi = std::io::stderr().is_terminal();
        let guard = telemetry::init(telemetry, service, ansi)?;
        let metrics = Metrics::install(&[::gateway::METRICS, ::shard::METRICS].concat())?;
        let shutdown = Shutdown::on_signals().context("cannot watch for signals")?;
        descriptors::raise();
        Ok(Self { shutdown, metrics, _telemetry: guard })
    }

    /// Runs a service to its end.
    fn run(self, serve: impl AsyncFnOnce(&Self) -> Result<Ended>) -> Result<ExitCode> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
        let outcome = runtime.block_on(serve(&self));
        // a thread that loads weights is not waited for
        runtime.shutdown_background();
        outcome.map(|ended| match ended {
            Ended::Finished => ExitCode::SUCCESS,
            Ended::GaveUp => ExitCode::from(SOME_FAILED),
        })
    }

    /// Opens the admin port, unless there is to be none. It stays open while what was accepted is finished.
    async fn http(&self, address: &str, health: &Health, others: Router) -> Result<Option<JoinHandle<()>>> {
        if address.is_empty() || address == "none" {
            return Ok(None);
        }
        let network = Network::tcp(None, None);
        let listener = network.listen(address).await.with_context(|| format!("cannot listen at http {address}"))?;
        tracing::info!(address = listener.address(), "http");
        let routes = http::admin(self.metrics.clone(), health.clone()).merge(others);
        let served = network.server(Limits::default()).serve(listener, routes, CancellationToken::new());
        Ok(Some(tokio::spawn(served)))
    }
}

/// Tells operators what is open to strangers.
fn warn_of(exposures: impl IntoIterator<Item = String>) {
    exposures.into_iter().for_each(|exposure| tracing::warn!("{exposure}"));
}

/// What a flag says goes over what the file says.
fn set<T>(setting: &mut T, flag: Option<T>) {
    if let Some(flag) = flag {
        *setting = flag;
    }
}
