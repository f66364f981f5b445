//! The cluster as people run it: processes of the real binary on loopback, over real etcd nodes, with real faults.

mod bad_input;
mod fairness;
mod faults;
mod identity;
mod load;
mod processes;
mod raw;
mod same_bits;
mod secured;
mod traces;
mod versions;

use tokio::sync::{Mutex, MutexGuard};

/// Tests that measure time take turns: they share two cores with everything that they start.
async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}
