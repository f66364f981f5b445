//! `assay gateway`: a gateway of a cluster.

use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use gateway::{Gateway, Observer};
use service::net::Listener;
use service::server::Server;
use service::tls::ServerTls;
use service::{Health, Network, Shutdown, http};
use tonic::service::Routes;

use super::Process;
use super::args;
use crate::settings::{GatewaySettings, ServedSettings};

/// Runs the command.
pub(crate) fn run(args: &args::Gateway, log: Option<&str>) -> Result<ExitCode> {
    let settings = settings(args, log)?;
    let process = Process::start("assay-gateway", &settings.telemetry)?;
    process.run(async |process| {
        let options = settings.options(&args.hub)?;
        let public = public_network(settings.tls.as_ref())?;
        let shards = settings.shards.network().context("shards")?;
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
    let mut settings = match &args.config {
        Some(file) => service::config::load(file)?,
        None => GatewaySettings::default(),
    };
    if let Some(model) = &args.model {
        let served = ServedSettings { model: model.clone(), name: args.name.clone(), max_length: args.max_length };
        settings.models = vec![served];
    }
    super::set(&mut settings.listen, args.ports.listen.as_ref());
    super::set(&mut settings.http, args.ports.http.as_ref());
    super::set(&mut settings.registry.endpoints, args.ports.etcd.as_ref());
    super::set(&mut settings.telemetry.log, log.map(str::to_owned).as_ref());
    settings.check()?;
    Ok(settings)
}

pub(super) fn public_network(tls: Option<&ServerTls>) -> Result<Network> {
    Ok(Network::tcp(tls.map(ServerTls::load).transpose().context("tls")?, None))
}

/// Serves clients until the shutdown, and what was accepted by then.
pub(super) async fn serve(
    gateway: &Gateway,
    server: Server,
    listener: Listener,
    (health, shutdown): (Health, Shutdown),
) -> Result<()> {
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
