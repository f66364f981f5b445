//! The whole gateway, over an in-memory registry and network, before replicas that compute nothing but answer.

mod bad_input;
mod calls;
mod cluster;
mod drain;
mod fake;
mod page;
mod replicas;
mod streams;
