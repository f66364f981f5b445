//! A gateway with one replica in this process, for `assay score --model`: as `assay up` runs them, without a port. Nobody
//! else waits for it, so steps are filled first, and nothing has to be done by some time.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result};
use client::Endpoint;
use gateway::core::Routing;
use gateway::{ServedModel, ServiceLimits, ServiceOptions};
use shard::{Computed, Patience, WorkerOptions};

use crate::args::Score;
use crate::opened::{Located, check_here};
use crate::serve::InProcess;
use crate::settings::{GatewaySettings, ServedSettings, ShardSettings};

/// What to do about a conversation that is too long.
pub(super) const LONGER: &str =
    "--max-length and --max-batch-tokens raise it up to the model's, --truncate gives up a side";
/// How long a step that is not full waits for another line: somebody may be waiting for the answer.
const LINGER: Duration = Duration::from_millis(20);
/// How long a replica that fails is tried again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nobody waits longer.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Nothing that a line holds is larger: a line has 64 MB at most.
const LARGEST: usize = 66 << 20;
/// A conversation seldom has fewer tokens.
const SHORT: usize = 4;
/// Where the gateway is, on a network of its own.
const ADDRESS: &str = "gateway";

/// What is to be started: the model's small files have been read.
pub(super) struct Plan {
    worker: WorkerOptions,
    gateway: ServiceOptions,
}

/// The replica, and the gateway before it.
pub(super) struct Here {
    cluster: InProcess,
    computed: Vec<Arc<Computed>>,
}

// === impl Plan ===

impl Plan {
    /// Reads the model's small files, and checks what is asked of it.
    pub(super) fn new(args: &Score) -> Result<Self> {
        let budget = args.max_batch_tokens.get();
        check_here(&args.compute.computes(args.tensor_parallel, budget)?)?;
        let located = Located::find(&args.choice())?;
        let max_length = located.max_length(&args.limits, budget)?;
        let worker = worker(args, &located)?;
        let max_length = NonZeroUsize::new(max_length);
        let served = ServedSettings { model: args.choice().model, max_length, ..ServedSettings::default() };
        Ok(Self { worker, gateway: gateway(served.served(located.open()?, budget)?, budget) })
    }

    /// What suits a gateway that serves nobody else.
    pub(super) fn options(&self, options: client::Options) -> client::Options {
        let mut options = client::Options { patience: PATIENCE, ..options };
        options.items = self.gateway.limits.stream_items.get();
        options.reading.model.clear();
        options
    }

    /// Loads the weights, and says where the gateway is.
    pub(super) async fn start(self) -> Result<(Here, Endpoint)> {
        let (mut cluster, computed) = InProcess::start(vec![self.worker], self.gateway).await?;
        cluster.ready().await?;
        let network = cluster.listen(ADDRESS).await?;
        Ok((Here { cluster, computed }, Endpoint::new("this process", network, ADDRESS)))
    }
}

/// The one replica.
fn worker(args: &Score, located: &Located) -> Result<WorkerOptions> {
    let settings = ShardSettings {
        model: args.choice().model,
        tensor_parallel: args.tensor_parallel,
        device: args.compute.device.clone().unwrap_or_default(),
        dtype: args.compute.dtype,
        threads: args.threads,
        max_batch_tokens: args.max_batch_tokens,
        ..ShardSettings::default()
    };
    let options = settings.options_for(located)?;
    let patience = Patience { step: FAR, meeting: FAR, quiesce: FAR, ..options.patience };
    Ok(WorkerOptions { linger: LINGER, probe: 1, patience, ..options })
}

/// The gateway before it: it holds what fills the step that is computed and the next, also if conversations are short.
fn gateway(served: ServedModel, budget: usize) -> ServiceOptions {
    let items = (2 * budget / SHORT).clamp(256, 64 * 1024);
    let limits = ServiceLimits {
        queue_tokens: u64::MAX / 4,
        queue_conversations: u64::MAX / 4,
        message: LARGEST,
        queue_bytes: 4 * LARGEST,
        stream_items: NonZeroUsize::new(items).unwrap_or(NonZeroUsize::MIN),
        // lines come to the replica in their order, and what reads them takes no core from what computes
        tokenizer_threads: NonZeroUsize::MIN,
        prompt_cache: 0,
        ..ServiceLimits::default()
    };
    let routing = Routing { stalled_after: FAR, ..Routing::default() };
    GatewaySettings { limits, routing, ..GatewaySettings::default() }.options_for(vec![served])
}

// === impl Here ===

impl Here {
    /// Waits until the replica is beyond help, and says why.
    pub(super) async fn failed(&mut self) -> Error {
        self.cluster.failed().await
    }

    /// Steps so far, and the tokens that they computed.
    pub(super) fn computed(&self) -> (u64, u64) {
        self.computed.iter().fold((0, 0), |(steps, tokens), replica| {
            let (more, of_them) = replica.so_far();
            (steps + more, tokens + of_them)
        })
    }

    /// Has the replica leave, so that a device gets back what it lent.
    pub(super) async fn leave(self) {
        if let Err(error) = self.cluster.leave().await {
            tracing::warn!("{error:#}");
        }
    }
}
