//! Serves the ranks of one replica.
//!
//! | module | job |
//! |---|---|
//! | `ranks` | threads that hold shares of the weights and compute steps |
//! | `plan` | what is computed next, who may send how much, what is overdue; as functions over values |
//! | `leader` | what the leader of a replica does in one epoch, as a function over values |
//! | `worker` | a process that owns ranks: claims, epochs, streams, drain |
//! | `metrics` | what is counted |
//! | `convert` | the inner protocol to these types and back |

mod convert;
mod error;
pub mod leader;
mod metrics;
pub mod plan;
mod ranks;
mod worker;

pub use self::error::Error;
pub use self::metrics::METRICS;
pub use self::ranks::{Done, Ranks, RanksOptions};
pub use self::worker::{Computed, PROBE, Patience, Worker, WorkerOptions};
