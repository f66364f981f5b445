//! Who gets the next piece.

use super::*;

const STEP: u64 = 1000;

fn routing() -> Routing {
    Routing {
        stalled_after: Duration::from_secs(10),
        failures: 2,
        pause: Duration::from_secs(1),
        longest_pause: Duration::from_secs(3),
        prompts: 100,
    }
}

fn version(generation: u64) -> Version {
    Version { generation, fingerprint: Arc::from("f") }
}

fn announcement(replica: u64, epoch: u64) -> Announcement {
    Announcement { replica: ReplicaId(replica), epoch, version: version(1), ranks: 2, outputs: 1, step_tokens: STEP }
}

fn at(seconds: u64) -> Time {
    Time::new(Duration::from_secs(seconds))
}

/// Replicas with these credits.
fn fleet(credits: &[i64]) -> Fleet {
    let mut fleet = Fleet::new(routing());
    fleet.serve(vec![version(1)]);
    for (number, tokens) in (0..).zip(credits) {
        fleet.join(at(0), announcement(number, 1));
        fleet.grant(at(0), ReplicaId(number), 1, *tokens);
    }
    fleet
}

fn wanted(tokens: u64) -> Wanted {
    Wanted { tokens, prompt: None, avoid: None, urgent: false }
}

fn choose(fleet: &Fleet, wanted: Wanted) -> Option<u64> {
    fleet.choose(at(0), wanted).map(|replica| replica.0)
}

#[test]
fn the_most_room_wins_and_credits_are_used_up() {
    let mut fleet = fleet(&[300, 500, 0]);
    assert_eq!(choose(&fleet, wanted(100)), Some(1));
    fleet.sent(at(0), ReplicaId(1), wanted(400));
    assert_eq!((choose(&fleet, wanted(100)), fleet.balance(), fleet.tokens()), (Some(0), 400, 400));
    fleet.sent(at(0), ReplicaId(0), wanted(300));
    assert_eq!(choose(&fleet, wanted(100)), Some(1));
    fleet.sent(at(0), ReplicaId(1), wanted(100));
    assert_eq!(choose(&fleet, wanted(1)), None);
}

#[test]
fn a_large_piece_goes_where_it_fits_or_half_a_step_is_free_or_nothing_is() {
    let mut fleet = fleet(&[499]);
    assert_eq!(choose(&fleet, wanted(1000)), Some(0), "nothing is there");
    fleet.sent(at(0), ReplicaId(0), wanted(9));
    assert_eq!((choose(&fleet, wanted(491)), choose(&fleet, wanted(490))), (None, Some(0)));
    fleet.grant(at(0), ReplicaId(0), 1, 10);
    assert_eq!(choose(&fleet, wanted(1000)), Some(0), "half a step is free");
}

#[test]
fn what_is_urgent_overdraws_by_half_a_step() {
    let mut fleet = fleet(&[1]);
    fleet.sent(at(0), ReplicaId(0), wanted(1));
    let urgent = |tokens| Wanted { urgent: true, ..wanted(tokens) };
    assert_eq!((choose(&fleet, wanted(1)), choose(&fleet, urgent(500))), (None, Some(0)));
    fleet.sent(at(0), ReplicaId(0), urgent(100));
    assert_eq!((choose(&fleet, urgent(400)), choose(&fleet, urgent(401))), (Some(0), None));
}

#[test]
fn equal_replicas_take_turns() {
    let mut fleet = fleet(&[100, 100]);
    for turn in 0..6 {
        assert_eq!(choose(&fleet, wanted(10)), Some(turn % 2));
        fleet.sent(at(0), ReplicaId(turn % 2), wanted(10));
        fleet.closed(ReplicaId(turn % 2), 10);
        fleet.grant(at(0), ReplicaId(turn % 2), 1, 10);
    }
}

#[test]
fn a_prompt_goes_where_it_was_as_long_as_load_allows() {
    let mut fleet = fleet(&[1000, 1000]);
    let prompt = Wanted { prompt: Some(7), ..wanted(100) };
    assert_eq!(choose(&fleet, prompt), Some(0));
    let mut to = Vec::new();
    for _ in 0..20 {
        let Some(replica) = fleet.choose(at(0), prompt) else { break };
        fleet.sent(at(0), replica, prompt);
        to.push(replica.0);
    }
    // half a step more than the other, never more; and both are used up
    assert_eq!(to[..7], [0, 0, 0, 0, 0, 0, 1]);
    assert_eq!((to.len(), fleet.balance()), (20, 0));
    let avoided = Wanted { avoid: Some(ReplicaId(1)), ..prompt };
    fleet.grant(at(0), ReplicaId(0), 1, 200);
    fleet.grant(at(0), ReplicaId(1), 1, 200);
    assert_eq!(choose(&fleet, avoided), Some(0));
}

#[test]
fn memory_for_prompts_is_bounded() {
    let mut fleet = fleet(&[1000]);
    for prompt in 0..1000 {
        fleet.sent(at(0), ReplicaId(0), Wanted { prompt: Some(prompt), ..wanted(0) });
        assert!(fleet.prompts.young.len() + fleet.prompts.old.len() <= 200);
    }
    assert!((900..1000).all(|prompt| fleet.prompts.get(prompt).is_some()));
}

#[test]
fn only_ready_replicas_of_served_versions_get_work() {
    let mut fleet = fleet(&[100, 200]);
    let newer = Announcement { version: version(2), ..announcement(2, 1) };
    fleet.join(at(0), newer);
    fleet.grant(at(0), ReplicaId(2), 1, 900);
    assert_eq!(choose(&fleet, wanted(10)), Some(1));
    fleet.drain(ReplicaId(1), 7);
    assert_eq!(choose(&fleet, wanted(10)), Some(1), "that was another life");
    fleet.drain(ReplicaId(1), 1);
    assert_eq!(choose(&fleet, wanted(10)), Some(0));
    fleet.serve(vec![version(2)]);
    assert_eq!(choose(&fleet, wanted(10)), Some(2));
    fleet.leave(ReplicaId(2));
    assert_eq!(choose(&fleet, wanted(10)), None);
}

#[test]
fn an_old_life_has_nothing_to_say() {
    let mut fleet = fleet(&[]);
    fleet.join(at(0), announcement(0, 5));
    fleet.grant(at(0), ReplicaId(0), 4, 100);
    assert_eq!((fleet.balance(), fleet.alive(ReplicaId(0), 4)), (0, None));
    assert!(fleet.is_past(&announcement(0, 4)) && !fleet.is_past(&announcement(0, 5)));
    fleet.grant(at(0), ReplicaId(0), 5, i64::MAX);
    assert_eq!(fleet.balance(), 2 * STEP as i64, "two steps are enough for anybody");
    fleet.grant(at(0), ReplicaId(0), 5, -2 * STEP as i64);
    assert_eq!((fleet.balance(), fleet.choose(at(0), wanted(1))), (0, None), "what is taken back is gone");
    fleet.grant(at(0), ReplicaId(0), 5, i64::MIN);
    fleet.grant(at(0), ReplicaId(0), 5, i64::MIN);
}

#[test]
fn who_keeps_failing_pauses_and_is_tried_with_one_piece() {
    let mut fleet = fleet(&[1000]);
    let choose = |fleet: &Fleet, seconds: u64| fleet.choose(at(seconds), wanted(10)).is_some();
    fleet.failed(at(10), ReplicaId(0));
    fleet.succeeded(ReplicaId(0));
    fleet.failed(at(10), ReplicaId(0));
    assert!(choose(&fleet, 10), "not twice in a row");
    fleet.failed(at(10), ReplicaId(0));
    assert!(!choose(&fleet, 10));
    assert_eq!(fleet.wakes_at(at(10)), Some(at(11)));
    assert!(choose(&fleet, 11));
    fleet.sent(at(11), ReplicaId(0), wanted(10));
    assert!(!choose(&fleet, 11), "one piece at a time");
    // fails again: twice as long, also in its next life
    fleet.closed(ReplicaId(0), 10);
    fleet.failed(at(11), ReplicaId(0));
    fleet.leave(ReplicaId(0));
    fleet.join(at(12), announcement(0, 2));
    fleet.grant(at(12), ReplicaId(0), 2, 1000);
    assert!(!choose(&fleet, 12) && choose(&fleet, 13));
    for _ in 0..100 {
        fleet.failed(at(13), ReplicaId(0));
    }
    assert!(choose(&fleet, 16), "a pause has its limit");
    fleet.sent(at(16), ReplicaId(0), wanted(10));
    fleet.succeeded(ReplicaId(0));
    assert!(choose(&fleet, 16));
}

#[test]
fn work_without_progress_is_a_stall() {
    let mut fleet = fleet(&[1000]);
    assert_eq!((fleet.stalled(at(99)), fleet.wakes_at(at(0))), (vec![], None), "idle is no stall");
    fleet.sent(at(20), ReplicaId(0), wanted(10));
    fleet.sent(at(25), ReplicaId(0), wanted(10));
    assert_eq!((fleet.stalled(at(29)), fleet.wakes_at(at(29))), (vec![], Some(at(30))));
    fleet.made_progress(at(29), ReplicaId(0));
    fleet.closed(ReplicaId(0), 10);
    assert_eq!((fleet.stalled(at(38)), fleet.stalled(at(39))), (vec![], vec![(ReplicaId(0), 1)]));
    fleet.closed(ReplicaId(0), 10);
    assert_eq!(fleet.stalled(at(99)), vec![]);
}

#[test]
fn records_of_replicas_that_left_are_bounded() {
    let mut fleet = fleet(&[]);
    for number in 0..5 * RECORDS as u64 {
        fleet.join(at(0), announcement(number, 1));
        fleet.leave(ReplicaId(number));
    }
    assert!(fleet.records.len() <= RECORDS + 1);
}
