//! Pods find their places, and what is missing or malformed is named.

use super::*;
use crate::settings::Settings as _;

fn variables(list: &[(&str, &str)]) -> Variables {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn settings(identity: Identity, tensor_parallel: usize, workers: usize) -> ShardSettings {
    ShardSettings {
        model: "m".to_owned(),
        listen: "0.0.0.0:7610".to_owned(),
        identity,
        tensor_parallel: tensor_parallel.try_into().unwrap(),
        workers: workers.try_into().unwrap(),
        ..ShardSettings::default()
    }
}

/// Replica, ranks and address.
fn place(settings: ShardSettings, list: &[(&str, &str)]) -> Result<(String, String, String), String> {
    settings.check().map_err(|error| format!("{error:#}"))?;
    let placed = settings.placed(&variables(list)).map_err(|error| format!("{error:#}"))?;
    placed.check().unwrap();
    let ranks = placed.ranks.unwrap().0;
    Ok((placed.replica, format!("{ranks:?}"), placed.advertise.unwrap()))
}

fn expect(replica: &str, ranks: &str, address: &str) -> Result<(String, String, String), String> {
    Ok((replica.to_owned(), ranks.to_owned(), address.to_owned()))
}

#[test]
fn a_pod_of_a_stateful_set_has_the_ranks_of_its_ordinal() {
    let pod = |name, workers| {
        place(settings(Identity::StatefulSet, 4, workers), &[("POD_NAME", name), ("POD_IP", "10.1.2.3")])
    };
    assert_eq!(pod("reward-27b-3", 1), expect("reward-27b-3", "0..4", "10.1.2.3:7610"));
    assert_eq!(pod("reward-27b-4", 2), expect("reward-27b-2", "0..2", "10.1.2.3:7610"));
    assert_eq!(pod("reward-27b-5", 2), expect("reward-27b-2", "2..4", "10.1.2.3:7610"));
    assert_eq!(pod("reward-27b-7", 4), expect("reward-27b-1", "3..4", "10.1.2.3:7610"));
    let host = place(settings(Identity::StatefulSet, 1, 1), &[("HOSTNAME", "a-0"), ("POD_IP", "fd00::5")]);
    assert_eq!(host, expect("a-0", "0..1", "[fd00::5]:7610"));
}

#[test]
fn a_pod_of_a_group_has_the_ranks_of_its_index() {
    let pod = |index| {
        let group =
            [("LWS_LEADER_ADDRESS", "reward-1.reward.default"), ("LWS_GROUP_SIZE", "2"), ("LWS_WORKER_INDEX", index)];
        place(settings(Identity::LeaderWorkerSet, 8, 1), &group)
    };
    assert_eq!(pod("0"), expect("reward-1", "0..4", "reward-1.reward.default:7610"));
    assert_eq!(pod("1"), expect("reward-1", "4..8", "reward-1-1.reward.default:7610"));
    let error = pod("2").unwrap_err();
    assert_eq!(error, "identity leaderworkerset: LWS_WORKER_INDEX 2 is not in a group with LWS_GROUP_SIZE 2");
}

#[test]
fn what_is_missing_or_malformed_is_named() {
    let set = |list: &[(&str, &str)]| place(settings(Identity::StatefulSet, 1, 1), list).unwrap_err();
    assert_eq!(set(&[]), "identity statefulset: neither POD_NAME nor HOSTNAME is set");
    assert!(set(&[("POD_NAME", "reward")]).contains("POD_NAME \"reward\" is no name of such a pod"));
    assert!(set(&[("HOSTNAME", "reward-x")]).contains("HOSTNAME \"reward-x\""));
    assert!(set(&[("POD_NAME", "a-0")]).contains("POD_IP is not set"));
    assert!(set(&[("POD_NAME", "a-0"), ("POD_IP", "here")]).contains("POD_IP \"here\": expected the pod's address"));

    let group = [("LWS_LEADER_ADDRESS", "a-0.a.b"), ("LWS_GROUP_SIZE", "2"), ("LWS_WORKER_INDEX", "0")];
    for (at, (name, _)) in group.iter().enumerate() {
        let mut malformed = group;
        malformed[at].1 = "";
        for list in [&malformed[..], &[&group[..at], &group[at + 1..]].concat()] {
            let error = place(settings(Identity::LeaderWorkerSet, 2, 1), list).unwrap_err();
            assert!(error.starts_with("identity leaderworkerset: ") && error.contains(name), "{error}");
        }
    }
    let error = place(settings(Identity::LeaderWorkerSet, 3, 1), &group).unwrap_err();
    assert_eq!(error, "tensor_parallel: 3 ranks cannot be shared by 2 workers alike");
}

#[test]
fn what_the_identity_says_is_said_once() {
    let set = |change: &dyn Fn(&mut ShardSettings)| {
        let mut settings = settings(Identity::StatefulSet, 2, 2);
        change(&mut settings);
        place(settings, &[("POD_NAME", "a-0"), ("POD_IP", "10.1.2.3")])
    };
    let told = set(&|settings| settings.advertise = Some("a-0.a:1".to_owned()));
    assert_eq!(told, expect("a-0", "0..1", "a-0.a:1"));
    assert!(set(&|settings| settings.ranks = Some(RankRange(0..1))).unwrap_err().contains("ranks come from"));
    assert!(set(&|settings| settings.replica = "b".to_owned()).unwrap_err().contains("the replica comes from"));
    assert!(set(&|settings| settings.listen = "0.0.0.0:0".to_owned()).unwrap_err().contains("expected a port"));
    assert!(set(&|settings| settings.workers = NonZeroUsize::MIN.saturating_add(2)).unwrap_err().contains("alike"));
    let unread = set(&|settings| settings.identity = Identity::Settings).unwrap_err();
    assert_eq!(unread, "workers = 2: only identity = \"statefulset\" reads it");
}
