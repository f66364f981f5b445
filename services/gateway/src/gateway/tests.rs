//! The whole gateway in simulated time.

mod cluster;
mod fairness;
mod simulation;

use super::*;
