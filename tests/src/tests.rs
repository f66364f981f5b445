//! The one integration test binary: each module proves one promise of the whole system.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test ends at the first surprise, and says what it was"
)]

mod assay;
mod authority;
mod bits;
mod broken_model;
mod checksums;
mod client;
mod cluster;
mod device;
mod engine;
mod golden;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod gpu;
mod hostile;
mod hub;
mod inspect;
mod page;
mod replica;
mod score;
mod simulation;
mod stats;
mod stream;
mod tidy;
mod trial;
mod up;
mod worker;
