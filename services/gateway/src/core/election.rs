//! Which version of a model is served while replicas of several are there, as in an upgrade.
//!
//! Scores of different versions cannot be compared, so one is served at a time, and it changes seldom.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::core::Version;

/// The version to serve, from the versions of all replicas that are ready: the one that is served, unless another has
/// more replicas. Of several with as many, the one with the higher generation, then with the smaller fingerprint. If no
/// replica is ready, nothing changes.
pub fn elect<'a>(served: Option<&Version>, ready: impl IntoIterator<Item = &'a Version>) -> Option<Version> {
    let mut replicas: HashMap<&Version, usize> = HashMap::new();
    for version in ready {
        *replicas.entry(version).or_default() += 1;
    }
    let order = |(version, count): &(&Version, usize)| {
        (*count, Some(*version) == served, version.generation, Reverse(version.fingerprint.clone()))
    };
    let elected = replicas.into_iter().max_by_key(order).map(|(version, _)| version);
    elected.or(served).cloned()
}

#[cfg(test)]
mod tests;
