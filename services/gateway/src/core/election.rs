//! Which version of a model is served while replicas of several are there, as in an upgrade.
//!
//! Scores of different versions cannot be compared, so one is served at a time, and it changes seldom.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::core::Version;

/// The version to serve, from the number of replicas of each that are ready: the one that is served, unless another has
/// more replicas. Of several with as many, the one with the higher generation, then with the smaller fingerprint. If no
/// replica is ready, nothing changes.
pub(crate) fn elect(served: Option<&Version>, replicas: &BTreeMap<Version, usize>) -> Option<Version> {
    let order = |(version, count): &(&Version, &usize)| {
        (**count, Some(*version) == served, version.generation, Reverse(version.fingerprint.clone()))
    };
    let elected = replicas.iter().max_by_key(order).map(|(version, _)| version);
    elected.or(served).cloned()
}

#[cfg(test)]
mod tests;
