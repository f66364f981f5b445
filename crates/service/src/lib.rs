//! What every process of the cluster does alike: start, be observed, listen and dial, and stop.
//!
//! In the order of a process's life: [`config`] reads its settings, [`telemetry`] starts the log, [`tls`] and [`net`]
//! reach others ([`Backoff`] says when again), [`server`] answers within bounds, [`metrics`], [`health`] and [`http`] let others look in, [`trace`] joins what several processes do for
//! one request, and [`shutdown`] ends it. Nothing here knows what the process is for.

mod backoff;
pub mod config;
pub mod descriptors;
pub mod health;
pub mod http;
pub mod metrics;
pub mod net;
pub mod server;
pub mod shutdown;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod trace;

pub use axum;
pub use backoff::Backoff;
pub use health::Health;
pub use metrics::Metrics;
pub use net::Network;
pub use shutdown::Shutdown;
