//! The version that is served changes only for a reason.

use super::*;

fn version(name: &str) -> Version {
    let (generation, fingerprint) = name.split_at(1);
    Version { generation: generation.parse().unwrap(), fingerprint: fingerprint.into() }
}

#[track_caller]
fn check(served: Option<&str>, ready: &[&str], expected: Option<&str>) {
    let mut replicas = BTreeMap::new();
    ready.iter().for_each(|name| *replicas.entry(version(name)).or_default() += 1);
    let found = elect(served.map(version).as_ref(), &replicas);
    assert_eq!(found, expected.map(version));
}

#[test]
fn the_served_version_stays_until_another_has_more_replicas() {
    check(None, &[], None);
    check(None, &["1a"], Some("1a"));
    check(Some("1a"), &["1a", "2b"], Some("1a"));
    check(Some("1a"), &["1a", "2b", "2b"], Some("2b"));
    check(Some("2b"), &["1a", "1a", "2b"], Some("1a"));
    check(Some("1a"), &["2b"], Some("2b"));
    check(Some("1a"), &[], Some("1a"));
}

#[test]
fn of_equals_the_newer_and_then_the_smaller_name_is_served() {
    check(None, &["1a", "2b"], Some("2b"));
    check(Some("0z"), &["1a", "1b", "1c"], Some("1a"));
    check(Some("0z"), &["1b", "1a", "1c", "1b"], Some("1b"));
}
