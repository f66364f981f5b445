//! The commands that talk to a gateway: `score --endpoint`, `status` and `bench`.

pub(crate) mod args;
pub(crate) mod bench;
mod endpoints;
mod models;
pub(crate) mod score;
pub(crate) mod status;

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Runtime};

/// What a command runs in. Connections live on threads of their own: while the command itself waits for a slow output,
/// pings are answered.
fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().context("cannot start the client's threads")
}
