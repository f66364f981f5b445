//! `assay up`: a gateway and replicas in one process, for clients everywhere.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use service::{Health, http};

use super::args::Up;
use super::gateway::{public_network, serve};
use super::{InProcess, Process};
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
        let public = public_network(settings.tls.as_ref())?;
        // a port that is taken is found out before the weights are loaded
        drop(public.listen(&args.listen).await.with_context(|| format!("cannot listen at {}", args.listen))?);
        let (mut cluster, _) = InProcess::start(workers, settings.options_for(vec![served])).await?;
        let health = Health::new().await;
        let address = Arc::<OnceLock<String>>::default();
        let moved = http::moved(settings.tls.is_some(), Arc::clone(&address));
        process.http(&args.http, &health, moved).await?;
        tokio::select! {
            ready = cluster.ready() => ready?,
            () = process.shutdown.begun() => return Ok(()),
        }
        let listener =
            public.listen(&args.listen).await.with_context(|| format!("cannot listen at {}", args.listen))?;
        address.get_or_init(|| listener.address().to_owned());
        let (gateway, server) = (cluster.gateway(), public.server(settings.connections));
        tokio::select! {
            served = serve(&gateway, server, listener, (health, process.shutdown.clone())) => served?,
            error = cluster.failed() => return Err(error),
        }
        // the gateway has finished what it had accepted
        cluster.leave().await
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
    replicas.iter().map(|settings| settings.options_for(located)).collect()
}
