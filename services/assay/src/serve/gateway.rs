//! `assay gateway`: a gateway of a cluster.

use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use gateway::{Ended, Gateway, Observer};
use service::net::Listener;
use service::server::Server;
use service::{Health, Shutdown, http};
use tonic::service::Routes;

use super::Process;
use super::args;
use crate::settings::{GatewaySettings, Settings as _};

/// Runs the command.
pub(crate) fn run(args: &args::Gateway, log: Option<&str>) -> Result<ExitCode> {
    let settings = settings(args, log)?;
    let process = Process::start("assay-gateway", &settings.telemetry)?;
    process.run(async |process| {
        let options = settings.options(&args.hub)?;
        let (public, shards) = (settings.public()?, settings.inner()?);
        super::warn_of(settings.registry.exposure());
        let registry = settings.registry.registry().await?;
        let listener = public.listen(&settings.listen).await;
        let listener = listener.with_context(|| format!("cannot listen at {}", settings.listen))?;
        let gateway = Gateway::start(options, registry, shards)?;
        let health = Health::new().await;
        let moved = http::moved(settings.tls.is_some(), OnceLock::from(listener.address().to_owned()).into());
        process.http(&settings.http, &health, moved).await?;
        let server = public.server(settings.connections);
        serve(&gateway, server, listener, (health, process.shutdown.clone())).await
    })
}

/// The settings, with what the flags say over what the file says.
fn settings(args: &args::Gateway, log: Option<&str>) -> Result<GatewaySettings> {
    let mut settings = args.settings.over(args.config.as_deref())?;
    super::set(&mut settings.models, args.served.clone().map(|served| vec![served]));
    super::set(&mut settings.telemetry.log, log.map(str::to_owned));
    settings.check()?;
    Ok(settings)
}

/// Serves clients until the shutdown, and what was accepted by then.
pub(super) async fn serve(
    gateway: &Gateway,
    server: Server,
    listener: Listener,
    (health, shutdown): (Health, Shutdown),
) -> Result<Ended> {
    let observer = gateway.observer();
    tell(&health, observer.is_ready()).await;
    tracing::info!(address = listener.address(), "the gateway serves");
    let watching = tokio::spawn(watch(observer, health.clone(), shutdown.clone()));
    let routes = Routes::new(health.service());
    let served = gateway.serve(server, routes, listener, shutdown.token()).await;
    watching.abort();
    served.context("the gateway stopped")
}

/// Keeps the readiness true: some replica takes work, and the gateway is not about to leave.
async fn watch(observer: Observer, health: Health, shutdown: Shutdown) {
    loop {
        let ready = observer.is_ready();
        tell(&health, ready).await;
        tokio::select! {
            () = observer.until(!ready) => {}
            () = shutdown.begun() => return health.set_unready("draining").await,
        }
    }
}

async fn tell(health: &Health, ready: bool) {
    match ready {
        true => health.set_ready(true).await,
        false => health.set_unready("no replica is ready").await,
    }
}
