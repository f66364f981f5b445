//! `assay up`: a gateway and replicas in one process, for clients everywhere.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, bail, ensure};
use gateway::Ended;
use service::{Health, http};

use super::args::Up;
use super::gateway::serve;
use super::{InProcess, Process};
use crate::opened::{Located, check_here};
use crate::settings::{
    Devices, GatewaySettings, RegistrySettings, ServedSettings, Settings as _, ShardLines, ShardSettings, cores_or,
};

/// Runs the command.
pub(crate) fn run(args: &Up, log: Option<&str>) -> Result<ExitCode> {
    let (settings, model) = settings(args, log)?;
    let process = Process::start("assay-up", &settings.telemetry)?;
    if settings.registry != RegistrySettings::default() {
        tracing::warn!("the settings' [registry] is not used: members are written down in memory");
    }
    process.run(async |process| {
        let replicas = replicas(args, &model)?;
        let located = Located::find(&model.choice(&args.hub))?;
        let workers = workers(&replicas, &located)?;
        let served = model.served(located.open()?, args.max_batch_tokens.get())?;
        let longest = served.max_length;
        ensure!(
            longest <= args.max_batch_tokens.get(),
            "--max-length {longest} needs --max-batch-tokens {longest} or more, it is {}",
            args.max_batch_tokens
        );
        let (listen, public) = (&settings.listen, settings.public()?);
        // a port that is taken is found out before the weights are loaded
        drop(public.listen(listen).await.with_context(|| format!("cannot listen at {listen}"))?);
        let (mut cluster, _) = InProcess::start(workers, settings.options_for(vec![served])).await?;
        let health = Health::new().await;
        let address = Arc::<OnceLock<String>>::default();
        let moved = http::moved(settings.tls.is_some(), Arc::clone(&address));
        process.http(&settings.http, &health, moved).await?;
        tokio::select! {
            ready = cluster.ready() => ready?,
            () = process.shutdown.begun() => return Ok(Ended::Finished),
        }
        let listener = public.listen(listen).await.with_context(|| format!("cannot listen at {listen}"))?;
        address.get_or_init(|| listener.address().to_owned());
        let (gateway, server) = (cluster.gateway(), public.server(settings.connections));
        let ended = tokio::select! {
            served = serve(&gateway, server, listener, (health, process.shutdown.clone())) => served?,
            error = cluster.failed() => return Err(error),
        };
        // the gateway has finished what it had accepted, or given it up
        cluster.leave().await?;
        Ok(ended)
    })
}

/// The gateway's settings, with what the flags say over what the file says, and the one model that is served.
fn settings(args: &Up, log: Option<&str>) -> Result<(GatewaySettings, ServedSettings)> {
    let mut settings: GatewaySettings =
        args.config.as_deref().map(service::config::load).transpose()?.unwrap_or_default();
    super::set(&mut settings.listen, args.listen.clone());
    super::set(&mut settings.http, args.http.clone());
    super::set(&mut settings.models, args.served.clone().map(|served| vec![served]));
    super::set(&mut settings.telemetry.log, log.map(str::to_owned));
    settings.check()?;
    ensure!(settings.shards == ShardLines::default(), "shards: assay up reaches its shards in memory, leave it out");
    let [model] = &settings.models[..] else {
        bail!("assay up serves one model, the settings name {}: choose one with --model", settings.models.len())
    };
    let model = model.clone();
    Ok((settings, model))
}

/// What each replica is told.
fn replicas(args: &Up, served: &ServedSettings) -> Result<Vec<ShardSettings>> {
    let threads = cores_or(args.threads) / args.replicas;
    let (ranks, step_tokens) = (args.tensor_parallel.get(), args.max_batch_tokens.get());
    let devices = args.compute.device.clone().unwrap_or_default();
    let devices = devices.of_replicas(args.replicas.get(), ranks)?;
    let replica = |(number, device): (usize, Devices)| {
        check_here(&device.computes(args.compute.dtype, ranks, step_tokens)?)?;
        Ok(ShardSettings {
            model: served.model.clone(),
            name: served.name.clone(),
            chat_template: served.chat_template.clone(),
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
