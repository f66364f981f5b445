//! `assay shard`: a worker of a replica.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use proto::shard::v1::RankState;
use service::Health;
use service::axum::Router;
use shard::Worker;
use tonic::service::Routes;

use super::Process;
use super::args;
use crate::settings::ShardSettings;

/// Runs the command.
pub(crate) fn run(args: &args::Shard, log: Option<&str>) -> Result<ExitCode> {
    let settings = settings(args, log)?;
    let process = Process::start("assay-shard", &settings.telemetry)?;
    process.run(async |process| {
        let options = settings.options(&args.hub)?;
        let network = settings.tls.network()?;
        let registry = settings.registry.registry().await?;
        let listener = network.listen(&settings.listen).await;
        let listener = listener.with_context(|| format!("cannot listen at {}", settings.listen))?;
        tracing::info!(address = listener.address(), replica = settings.replica, "the worker loads its model");
        if settings.tls.server.is_some() && options.ranks.ranks.len() < options.ranks.world_size {
            tracing::warn!(
                "tls does not cover what the ranks of different workers sum: keep them in a network of their own"
            );
        }
        let health = Health::new().await;
        process.http(&settings.http, &health, Router::new()).await?;
        let worker = Worker::new(options, registry, network);
        let watching = tokio::spawn(watch(&worker, health.clone()));
        let served = worker.run(listener, Routes::new(health.service()), process.shutdown.token()).await;
        watching.abort();
        Ok(served?)
    })
}

/// The settings, with what the flags say over what the file says.
fn settings(args: &args::Shard, log: Option<&str>) -> Result<ShardSettings> {
    let mut settings = match &args.config {
        Some(file) => service::config::load(file)?,
        None => ShardSettings::default(),
    };
    super::set(&mut settings.model, args.model.as_ref());
    super::set(&mut settings.replica, args.replica.as_ref());
    super::set(&mut settings.tensor_parallel, args.tensor_parallel.as_ref());
    super::set(&mut settings.device, args.compute.device.as_ref());
    super::set(&mut settings.max_batch_tokens, args.max_batch_tokens.as_ref());
    super::set(&mut settings.generation, args.generation.as_ref());
    super::set(&mut settings.listen, args.ports.listen.as_ref());
    super::set(&mut settings.http, args.ports.http.as_ref());
    super::set(&mut settings.registry.endpoints, args.ports.etcd.as_ref());
    super::set(&mut settings.telemetry.log, log.map(str::to_owned).as_ref());
    settings.name = args.name.clone().or(settings.name);
    settings.ranks = args.ranks.clone().or(settings.ranks);
    settings.advertise = args.advertise.clone().or(settings.advertise);
    settings.dtype = args.compute.dtype.or(settings.dtype);
    settings.threads = args.threads.or(settings.threads);
    settings.check()?;
    // what is advertised is dialed, and nobody reaches this worker there
    let told = settings.advertise.as_ref().unwrap_or(&settings.listen);
    let everywhere = told.parse().is_ok_and(|address: SocketAddr| address.ip().is_unspecified());
    ensure!(!everywhere, "{told} is no address that others could dial: give --advertise HOST:PORT");
    Ok(settings)
}

/// Keeps the readiness true: the worker takes part in an epoch.
fn watch(worker: &Worker, health: Health) -> impl Future<Output = ()> + Send + use<> {
    let mut record = worker.record();
    async move {
        loop {
            let state = record.borrow_and_update().state();
            match state {
                RankState::Serving => health.set_ready(true).await,
                RankState::Loading => health.set_unready("loading the weights").await,
                RankState::Draining => health.set_unready("draining").await,
                RankState::Ready | RankState::Unspecified => health.set_unready("waiting for the other ranks").await,
            }
            if record.changed().await.is_err() {
                return;
            }
        }
    }
}
