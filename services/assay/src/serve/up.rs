//! `assay up`: a gateway and replicas in one process, over a registry and a network of its own. The same code as in a
//! cluster: only where members are written down, and how bytes travel, differs.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use discovery::Registry;
use gateway::Gateway;
use service::{Health, Network, http};
use shard::{Error, Worker};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::Process;
use super::args::Up;
use super::gateway::{public_network, serve};
use crate::opened::{Located, check_here};
use crate::settings::{Devices, GatewaySettings, ShardSettings, cores, default_name, served};

/// Runs the command.
pub(crate) fn run(args: &Up, log: Option<&str>) -> Result<ExitCode> {
    let mut settings: GatewaySettings = match &args.config {
        Some(file) => service::config::load(file)?,
        None => GatewaySettings::default(),
    };
    super::set(&mut settings.telemetry.log, log.map(str::to_owned).as_ref());
    let process = Process::start("assay-up", &settings.telemetry)?;
    process.run(async |process| {
        let replicas = replicas(args)?;
        let located = Located::find(&args.model.choice())?;
        let workers = workers(&replicas, &located)?;
        let name = args.name.clone().unwrap_or_else(|| default_name(&args.model.model));
        let budget = args.max_batch_tokens.get();
        let served = served(located.open()?, name, args.max_length.map(usize::from), budget)?;
        let (registry, inner) = (Registry::memory(), Network::memory());
        let public = public_network(settings.tls.as_ref())?;
        // a port that is taken is found out before the weights are loaded
        drop(public.listen(&args.listen).await.with_context(|| format!("cannot listen at {}", args.listen))?);
        // the gateway finishes first what it has accepted
        let leave = CancellationToken::new();
        let mut running = JoinSet::new();
        for worker in workers {
            let listener = inner.listen(&worker.replica).await?;
            let worker = Worker::new(worker, registry.clone(), inner.clone());
            running.spawn(worker.run(listener, Routes::new(Health::new().await.service()), leave.clone()));
        }
        let gateway = Gateway::start(settings.options_for(vec![served]), registry, inner)?;
        let health = Health::new().await;
        let address = Arc::<OnceLock<String>>::default();
        let moved = http::moved(settings.tls.is_some(), Arc::clone(&address));
        process.http(&args.http, &health, moved).await?;
        let observer = gateway.observer();
        tokio::select! {
            () = observer.until(true) => {}
            ended = running.join_next() => return ended_early(ended),
            () = process.shutdown.begun() => return Ok(()),
        }
        let listener =
            public.listen(&args.listen).await.with_context(|| format!("cannot listen at {}", args.listen))?;
        address.get_or_init(|| listener.address().to_owned());
        let server = public.server(settings.connections);
        let serving = serve(&gateway, server, listener, (health, process.shutdown.clone()));
        tokio::select! {
            served = serving => served?,
            ended = failed(&mut running) => return ended_early(ended),
        }
        leave.cancel();
        while let Some(ended) = running.join_next().await {
            ended_early(Some(ended))?;
        }
        Ok(())
    })
}

/// What each replica is told.
fn replicas(args: &Up) -> Result<Vec<ShardSettings>> {
    let threads = args.threads.map_or_else(cores, usize::from) / args.replicas;
    let (ranks, step_tokens) = (args.tensor_parallel.get(), args.max_batch_tokens.get());
    let devices = args.compute.device.clone().unwrap_or_default();
    let devices = devices.of_replicas(args.replicas.get(), ranks)?;
    let replica = |(number, device): (usize, Devices)| {
        check_here(&device.computes(args.compute.dtype, ranks, step_tokens)?)?;
        Ok(ShardSettings {
            model: args.model.model.clone(),
            name: args.name.clone(),
            replica: format!("replica-{number}"),
            tensor_parallel: args.tensor_parallel,
            device,
            dtype: args.compute.dtype,
            threads: threads.try_into().ok().or(Some(std::num::NonZeroUsize::MIN)),
            max_batch_tokens: args.max_batch_tokens,
            ..ShardSettings::default()
        })
    };
    devices.into_iter().enumerate().map(replica).collect()
}

/// What each replica is.
fn workers(replicas: &[ShardSettings], located: &Located) -> Result<Vec<shard::WorkerOptions>> {
    let worker = |settings: &ShardSettings| {
        let mut options = settings.options_for(located)?;
        options.advertise = Some(options.replica.clone());
        Ok(options)
    };
    replicas.iter().map(worker).collect()
}

type Ended = Option<Result<Result<(), Error>, tokio::task::JoinError>>;

/// The first worker that ends with an error; those that were told to leave just end.
async fn failed(running: &mut JoinSet<Result<(), Error>>) -> Ended {
    loop {
        match running.join_next().await {
            Some(Ok(Ok(()))) => {}
            None => std::future::pending().await,
            failed => return failed,
        }
    }
}

fn ended_early(ended: Ended) -> Result<()> {
    match ended {
        Some(Ok(Err(error))) => Err(error).context("a replica stopped"),
        Some(Err(error)) => Err(error).context("a replica stopped"),
        Some(Ok(Ok(()))) | None => Ok(()),
    }
}
