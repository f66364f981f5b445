//! Serves the ranks of one replica: runs steps in lockstep and adds up what the ranks computed.

pub mod plan;
mod replica;

pub use self::replica::{Disagreement, Error, Replica, ReplicaOptions, StepScores};
