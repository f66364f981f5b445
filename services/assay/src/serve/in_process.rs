//! A gateway and replicas in this process, over a registry and a network of their own. The same code as in a cluster: only
//! where members are written down, and how bytes travel, differs.

use std::future::pending;
use std::sync::Arc;

use anyhow::{Context as _, Error, Result, anyhow};
use discovery::Registry;
use gateway::{Gateway, ServiceOptions};
use service::Network;
use service::server::Limits;
use shard::{Computed, Worker, WorkerOptions};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// What runs in this process. Replicas stop when it is dropped, and the gateway lets go of them.
pub(crate) struct InProcess {
    gateway: Arc<Gateway>,
    network: Network,
    running: JoinSet<Result<(), shard::Error>>,
    /// Replicas finish what they have, and leave.
    leave: CancellationToken,
}

// === impl InProcess ===

impl InProcess {
    /// Starts replicas, each reached by its name, and a gateway to them; says what each replica computes as it goes on.
    pub(crate) async fn start(
        workers: Vec<WorkerOptions>,
        options: ServiceOptions,
    ) -> Result<(Self, Vec<Arc<Computed>>)> {
        let (registry, network, leave) = (Registry::memory(), Network::memory(), CancellationToken::new());
        let (mut running, mut computed) = (JoinSet::new(), Vec::new());
        for mut options in workers {
            let listener = network.listen(&options.replica).await?;
            options.advertise = Some(options.replica.clone());
            let worker = Worker::new(options, registry.clone(), network.clone());
            computed.push(worker.computed());
            running.spawn(worker.run(listener, Routes::default(), leave.clone()));
        }
        let gateway = Arc::new(Gateway::start(options, registry, network.clone())?);
        Ok((Self { gateway, network, running, leave }, computed))
    }

    /// The gateway.
    pub(crate) fn gateway(&self) -> Arc<Gateway> {
        Arc::clone(&self.gateway)
    }

    /// Waits until a replica takes work.
    ///
    /// # Errors
    /// If a replica is beyond help before that.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let observer = self.gateway.observer();
        tokio::select! {
            () = observer.until(true) => Ok(()),
            error = self.failed() => Err(error),
        }
    }

    /// Lets others in this process reach the gateway, at an address of the network that it gives back.
    pub(crate) async fn listen(&self, address: &str) -> Result<Network> {
        let (gateway, server) = (Arc::clone(&self.gateway), self.network.server(Limits::default()));
        let listener = self.network.listen(address).await?;
        tokio::spawn(async move {
            let served = gateway.serve(server, Routes::default(), listener, CancellationToken::new()).await;
            if let Err(error) = served {
                tracing::error!(%error, "the gateway stopped");
            }
        });
        Ok(self.network.clone())
    }

    /// Waits until a replica is beyond help, and says why.
    pub(crate) async fn failed(&mut self) -> Error {
        loop {
            match self.running.join_next().await {
                // it was told to leave
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return anyhow!(error).context("a replica stopped"),
                Some(Err(error)) => return anyhow!(error).context("a replica stopped"),
                None => return pending().await,
            }
        }
    }

    /// Has the replicas leave, and waits for it.
    pub(crate) async fn leave(mut self) -> Result<()> {
        self.leave.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.context("a replica stopped")?.context("a replica stopped")?;
        }
        Ok(())
    }
}
