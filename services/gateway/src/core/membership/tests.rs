//! Who is dialed when, what it is taken for, and what is served.

use score::Versions;

use super::*;
use crate::core::why_none;

fn at(millis: u64) -> Time {
    Time::new(Duration::from_millis(millis))
}

fn membership() -> Membership {
    let (gateway, model, vocab, longest) = ("g".into(), "m".into(), 100, 50);
    Membership::new(Terms { gateway, model, vocab, longest, protocol: Versions { lowest: 2, highest: 3 } })
}

fn record(replica: &str, epoch: u64) -> Record {
    let (replica, address, model) = (replica.to_owned(), format!("{replica}:{epoch}"), "m".to_owned());
    Record { replica, rank: 0, model, state: Rank::Serving, address, ranks: 2, epoch }
}

fn welcome(epoch: u64) -> Welcome {
    let version = Version { generation: 1, fingerprint: "f".into() };
    Welcome { protocol: 2, epoch, version, ranks: 2, outputs: 1, step_tokens: 50, vocab: 100 }
}

/// What is dialed and hung up.
fn told(actions: &[Action]) -> Vec<String> {
    let tell = |action: &Action| match action {
        Action::Dial { link, address, epoch, .. } => format!("{}: dial {address} in {epoch}", link.0),
        Action::HangUp { link } => format!("{}: hang up", link.0),
        other => panic!("{other:?}"),
    };
    actions.iter().map(tell).collect()
}

/// What follows from a record.
fn written(members: &mut Membership, now: u64, record: Record) -> Vec<String> {
    let mut actions = Vec::new();
    members.hear(at(now), News::Written(record), &mut actions);
    told(&actions)
}

fn removed(members: &mut Membership, replica: &str) -> Vec<String> {
    let mut actions = Vec::new();
    members.hear(at(0), News::Removed { replica: replica.to_owned(), rank: 0 }, &mut actions);
    told(&actions)
}

/// A replica with an open link, the first.
fn attached() -> Membership {
    let mut members = membership();
    assert_eq!(written(&mut members, 0, record("a", 5)), ["0: dial a:5 in 5"]);
    assert!(members.welcomed(at(0), LinkId(0), welcome(5), &mut Vec::new()).is_some());
    members
}

fn role(members: &Membership) -> Role {
    members.replicas().next().map(|replica| replica.role).unwrap_or_default()
}

#[test]
fn only_a_leader_of_the_model_that_serves_is_dialed() {
    let mut members = membership();
    for state in [Rank::Loading, Rank::Ready, Rank::Draining] {
        assert!(written(&mut members, 0, Record { state, epoch: 0, ..record("a", 0) }).is_empty());
    }
    assert!(written(&mut members, 0, Record { rank: 1, ..record("a", 5) }).is_empty());
    assert_eq!(role(&members), Role::Away);
    assert!(written(&mut members, 0, Record { model: "x".to_owned(), ..record("a", 5) }).is_empty());
    assert_eq!(role(&members), Role::Refused("the model \"x\" is not served here".to_owned()));
    assert_eq!(written(&mut members, 0, record("a", 6)), ["0: dial a:6 in 6"]);
    assert_eq!(role(&members), Role::Dialing);
    assert!(written(&mut members, 0, record("a", 6)).is_empty(), "that is tried");
}

#[test]
fn an_open_link_outlives_its_record_and_gives_way_to_a_newer_epoch() {
    let mut members = attached();
    assert!(removed(&mut members, "a").is_empty());
    assert_eq!(members.at(LinkId(0)), Some(ReplicaId::of("a")));
    assert!(written(&mut members, 0, record("a", 5)).is_empty());
    assert!(written(&mut members, 0, record("a", 4)).is_empty(), "a life that is over");
    let mut actions = Vec::new();
    let lost = members.hear(at(0), News::Reset(vec![record("a", 6), record("b", 1)]), &mut actions);
    assert_eq!(lost, [ReplicaId::of("a")]);
    assert_eq!(told(&actions), ["0: hang up", "1: dial a:6 in 6", "2: dial b:1 in 1"]);
    assert_eq!((members.at(LinkId(0)), members.at(LinkId(1))), (None, None));
    // with neither a record nor a link they are forgotten
    members.hear(at(0), News::Reset(Vec::new()), &mut Vec::new());
    for link in [1, 2] {
        assert_eq!(members.ended(at(0), LinkId(link), NoLink::Closed, &mut Vec::new()), None, "it was not open");
    }
    assert_eq!((members.members.len(), members.links.len(), members.redials.len()), (0, 0, 0));
}

#[test]
fn a_link_that_ends_is_dialed_again_after_waits_that_double() {
    let mut members = attached();
    let (mut now, mut waits) = (0, Vec::new());
    for link in 0..8 {
        let lost = members.ended(at(now), LinkId(link), NoLink::Closed, &mut Vec::new());
        assert_eq!(lost.is_some(), link == 0);
        assert_eq!(role(&members), Role::Lost("closed the connection".to_owned()));
        let again = members.wakes_at().unwrap();
        waits.push(again.since(at(now)).as_millis());
        let mut actions = Vec::new();
        members.redial(at(now), &mut actions);
        assert!(actions.is_empty(), "too early");
        now = again.since(at(0)).as_millis() as u64 + 1;
        members.redial(at(now), &mut actions);
        assert_eq!(told(&actions), [format!("{}: dial a:5 in 5", link + 1)]);
    }
    let most = [50, 100, 200, 400, 800, 1000, 1000, 1000];
    assert!(waits.iter().zip(most).all(|(wait, most)| (most / 2..=most).contains(wait)), "{waits:?}");
    // what lasted was no failure
    members.ended(at(now + 2_001), LinkId(8), NoLink::Closed, &mut Vec::new());
    assert!(members.wakes_at().unwrap().since(at(now + 2_001)) <= FIRST);
    // and another address is a reason to try at once
    assert_eq!(written(&mut members, now, record("a", 7)), ["9: dial a:7 in 7"]);
    members.ended(at(now), LinkId(9), NoLink::Closed, &mut Vec::new());
    assert!(removed(&mut members, "a").is_empty());
    assert_eq!((members.wakes_at(), members.members.len()), (None, 0));
}

#[test]
fn who_is_not_suited_is_hung_up_on_and_shown() {
    let good = welcome(5);
    for (welcome, why) in [
        (Welcome { protocol: 1, ..good.clone() }, "is not suited: it speaks version 1 of the protocol"),
        (Welcome { epoch: 6, ..good.clone() }, "is not suited: it is in epoch 6, not 5"),
        (Welcome { vocab: 7, ..good.clone() }, "is not suited: its vocabulary has 7 tokens, not 100"),
        (
            Welcome { step_tokens: 49, ..good.clone() },
            "is not suited: its steps take 49 tokens, a conversation may have 50",
        ),
        (
            Welcome { ranks: 0, ..good },
            "does not keep to the protocol: the welcome has no ranks, too many ranks or outputs, or no fingerprint",
        ),
    ] {
        let mut members = membership();
        written(&mut members, 0, record("a", 5));
        let mut actions = Vec::new();
        assert_eq!(members.welcomed(at(0), LinkId(0), welcome, &mut actions), None);
        assert_eq!(told(&actions), ["0: hang up"]);
        assert_eq!(role(&members), Role::Refused(why.to_owned()));
        let reason = why_none(&members.replicas().collect::<Vec<_>>());
        assert_eq!(reason, format!("no replica of the model is ready: 1 of them {why}"));
    }
}

#[test]
fn what_is_served_is_said_when_it_changes() {
    let mut members = attached();
    let served = members.elect().cloned().unwrap();
    assert_eq!((served.version, served.ready, served.standby), (Some(welcome(5).version), 1, 0));
    assert_eq!((role(&members), members.elect()), (Role::Ready, None));
    written(&mut members, 0, record("b", 1));
    let version = Version { generation: 2, fingerprint: "e".into() };
    members.welcomed(at(0), LinkId(1), Welcome { version: version.clone(), ..welcome(1) }, &mut Vec::new());
    assert_eq!(members.elect().map(|served| (served.ready, served.standby)), Some((1, 1)));
    // one that drains no longer counts, nor twice
    for _ in 0..2 {
        assert_eq!(members.drain(LinkId(0)), Some(ReplicaId::of("a")));
    }
    let served = members.elect().cloned().unwrap();
    assert_eq!((served.version, served.ready, served.standby), (Some(version), 1, 0));
    assert_eq!(role(&members), Role::Draining);
    members.ended(at(0), LinkId(0), NoLink::Closed, &mut Vec::new());
    assert_eq!(members.elect(), None);
    members.ended(at(0), LinkId(1), NoLink::Closed, &mut Vec::new());
    assert_eq!(members.elect().map(|served| served.ready), Some(0));
}
