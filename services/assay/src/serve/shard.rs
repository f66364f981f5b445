//! `assay shard`: a worker of a replica.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use gateway::Ended;
use proto::shard::v1::RankState;
use service::Health;
use service::axum::Router;
use shard::Worker;
use tonic::service::Routes;

use super::Process;
use super::args;
use crate::settings::{Settings as _, ShardSettings};

/// Runs the command.
pub(crate) fn run(args: &args::Shard, log: Option<&str>) -> Result<ExitCode> {
    let settings = settings(args, log)?;
    let process = Process::start("assay-shard", &settings.telemetry)?;
    process.run(async |process| {
        let options = settings.options(&args.hub)?;
        let network = settings.tls.network()?;
        super::warn_of(settings.registry.exposure().into_iter().chain(settings.exposure()));
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
        served?;
        Ok(Ended::Finished)
    })
}

/// The settings, with what the flags say over what the file says.
fn settings(args: &args::Shard, log: Option<&str>) -> Result<ShardSettings> {
    let mut settings = args.settings.over(args.config.as_deref())?;
    super::set(&mut settings.telemetry.log, log.map(str::to_owned));
    settings.check()?;
    let settings = settings.placed(&std::env::vars().collect())?;
    settings.check()?;
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
