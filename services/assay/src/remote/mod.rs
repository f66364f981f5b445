//! The commands that talk to a gateway, and what is common to them: flags, endpoints, threads.

pub(crate) mod args;
pub(crate) mod bench;
mod endpoints;
pub(crate) mod status;

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Runtime};

pub(crate) use self::endpoints::endpoints;

/// What to do about a conversation that is too long for a gateway.
pub(crate) const LONGER: &str = "--max-length raises it up to the model's, --truncate gives up a side";

/// What a command runs in. Connections live on threads of their own: while the command itself waits for a slow output,
/// pings are answered.
pub(crate) fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().context("cannot start the client's threads")
}
