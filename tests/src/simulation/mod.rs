//! The whole cluster in simulated time, from a seed: gateways and leaders as they are, everything between them made up.
//! There are no threads, no clock and no sockets; processes and links fail at random, and whatever the clients are told
//! is held against what must be true.
//!
//! `world` holds what is about to happen and the links, `gateways` and `replicas` the processes, `clients` the books and
//! the checks, `faults` what goes wrong, `score` what ranks compute, and `load` a cluster under load and what is
//! measured of it. `make test` runs it small, and the bench `cluster-sim` as large as one asks for.

mod clients;
mod faults;
mod gateways;
pub(crate) mod load;
mod replicas;
mod score;
mod world;

#[cfg(test)]
mod tests;
