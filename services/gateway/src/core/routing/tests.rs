//! Who gets the next piece.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const STEP: u64 = 1000;

fn routing() -> Routing {
    Routing {
        attempts: 3,
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
    fleet.serve(Some(version(1)));
    for (number, tokens) in (0..).zip(credits) {
        fleet.join(at(0), announcement(number, 1));
        fleet.grant(at(0), ReplicaId(number), *tokens);
    }
    fleet
}

fn wanted(tokens: u64) -> Wanted {
    Wanted { tokens, prompt: None, avoid: None, urgent: false }
}

fn choose(fleet: &Fleet, wanted: Wanted) -> Option<u64> {
    fleet.choose(wanted).map(|replica| replica.0)
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
    fleet.grant(at(0), ReplicaId(0), 10);
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
        fleet.grant(at(0), ReplicaId(turn % 2), 10);
    }
}

#[test]
fn a_prompt_goes_where_it_was_as_long_as_load_allows() {
    let mut fleet = fleet(&[1000, 1000]);
    let prompt = Wanted { prompt: Some(7), ..wanted(100) };
    assert_eq!(choose(&fleet, prompt), Some(0));
    let mut to = Vec::new();
    for _ in 0..20 {
        let Some(replica) = fleet.choose(prompt) else { break };
        fleet.sent(at(0), replica, prompt);
        to.push(replica.0);
    }
    // half a step more than the other, never more; and both are used up
    assert_eq!(to[..7], [0, 0, 0, 0, 0, 0, 1]);
    assert_eq!((to.len(), fleet.balance()), (20, 0));
    let avoided = Wanted { avoid: Some(ReplicaId(1)), ..prompt };
    fleet.grant(at(0), ReplicaId(0), 200);
    fleet.grant(at(0), ReplicaId(1), 200);
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
    fleet.grant(at(0), ReplicaId(2), 900);
    assert_eq!(choose(&fleet, wanted(10)), Some(1));
    fleet.drain(ReplicaId(1));
    assert_eq!(choose(&fleet, wanted(10)), Some(0));
    fleet.serve(Some(version(2)));
    assert_eq!(choose(&fleet, wanted(10)), Some(2));
    fleet.leave(ReplicaId(2));
    assert_eq!(choose(&fleet, wanted(10)), None);
}

#[test]
fn two_steps_of_credit_are_enough_for_anybody() {
    let mut fleet = fleet(&[]);
    fleet.join(at(0), announcement(0, 5));
    fleet.grant(at(0), ReplicaId(0), i64::MAX);
    assert_eq!(fleet.balance(), 2 * STEP as i64);
    fleet.grant(at(0), ReplicaId(0), -2 * STEP as i64);
    assert_eq!((fleet.balance(), choose(&fleet, wanted(1))), (0, None), "what is taken back is gone");
    fleet.grant(at(0), ReplicaId(0), i64::MIN);
    fleet.grant(at(0), ReplicaId(0), i64::MIN);
    assert_eq!(fleet.balance(), i64::MIN);
}

#[test]
fn who_keeps_failing_pauses_and_is_tried_with_one_piece() {
    let mut fleet = fleet(&[1000]);
    let choose = |fleet: &mut Fleet, seconds: u64| {
        fleet.stalled(at(seconds));
        fleet.choose(wanted(10)).is_some()
    };
    fleet.failed(at(10), ReplicaId(0));
    fleet.succeeded(ReplicaId(0));
    fleet.failed(at(10), ReplicaId(0));
    assert!(choose(&mut fleet, 10), "not twice in a row");
    fleet.failed(at(10), ReplicaId(0));
    assert!(!choose(&mut fleet, 10));
    assert_eq!(fleet.wakes_at(), Some(at(11)));
    assert!(choose(&mut fleet, 11));
    fleet.sent(at(11), ReplicaId(0), wanted(10));
    assert!(!choose(&mut fleet, 11), "one piece at a time");
    // fails again: twice as long, also in its next life
    fleet.closed(ReplicaId(0), 10);
    fleet.failed(at(11), ReplicaId(0));
    fleet.leave(ReplicaId(0));
    fleet.join(at(12), announcement(0, 2));
    fleet.grant(at(12), ReplicaId(0), 1000);
    assert!(!choose(&mut fleet, 12) && choose(&mut fleet, 13));
    for _ in 0..100 {
        fleet.failed(at(13), ReplicaId(0));
    }
    assert!(choose(&mut fleet, 16), "a pause has its limit");
    fleet.sent(at(16), ReplicaId(0), wanted(10));
    fleet.succeeded(ReplicaId(0));
    assert!(choose(&mut fleet, 16));
}

#[test]
fn work_without_progress_is_a_stall() {
    let mut fleet = fleet(&[1000]);
    assert_eq!((fleet.stalled(at(99)), fleet.wakes_at()), (vec![], None), "idle is no stall");
    fleet.sent(at(20), ReplicaId(0), wanted(10));
    fleet.sent(at(25), ReplicaId(0), wanted(10));
    assert_eq!((fleet.stalled(at(29)), fleet.wakes_at()), (vec![], Some(at(30))));
    fleet.made_progress(at(29), ReplicaId(0));
    fleet.closed(ReplicaId(0), 10);
    assert_eq!((fleet.stalled(at(38)), fleet.stalled(at(39))), (vec![], vec![ReplicaId(0)]));
    fleet.closed(ReplicaId(0), 10);
    assert_eq!(fleet.stalled(at(99)), vec![]);
}

#[test]
fn what_is_remembered_of_replicas_that_left_is_bounded() {
    let mut fleet = fleet(&[]);
    for number in 0..5 * REMEMBERED as u64 {
        fleet.join(at(0), announcement(number, 1));
        fleet.failed(at(0), ReplicaId(number));
        fleet.leave(ReplicaId(number));
        assert!(fleet.replicas.len() <= REMEMBERED && fleet.gone == fleet.replicas.len());
    }
    assert!((fleet.groups.len(), fleet.alarms.len()) == (0, 0));
}

/// Something that happens to one of a few replicas, told by numbers.
fn happens(fleet: &mut Fleet, (now, what, replica, number): (Time, u8, u64, u64)) {
    let (id, steps) = (ReplicaId(replica), 500 * (1 + replica % 2));
    match what {
        0 if fleet.announced(id).is_none() => {
            let version = version(1 + number % 2);
            fleet.join(now, Announcement { version, step_tokens: steps, ..announcement(replica, 1) });
        }
        1 => fleet.leave(id),
        2 => fleet.drain(id),
        3..8 => fleet.grant(now, id, number as i64 - 200),
        8 => fleet.failed(now, id),
        9 => fleet.succeeded(id),
        10..14 => fleet.closed(id, number / 4),
        14 => fleet.made_progress(now, id),
        15 => fleet.serve(Some(version(1 + number % 2))),
        _ => {
            let prompt = Some(number % 3).filter(|prompt| *prompt > 0);
            let avoid = Some(ReplicaId(number % 4)).filter(|_| number % 5 == 0);
            let wanted = Wanted { tokens: number, prompt, avoid, urgent: number % 7 == 0 };
            let chosen = fleet.choose(wanted);
            assert_eq!(chosen, choose_naively(fleet, wanted), "{wanted:?} of {fleet:?}");
            chosen.into_iter().for_each(|id| fleet.sent(now, id, wanted));
        }
    }
}

/// The same choice by walking over all replicas.
fn choose_naively(fleet: &Fleet, wanted: Wanted) -> Option<ReplicaId> {
    let Wanted { prompt, avoid, .. } = wanted;
    let with_room = || fleet.replicas.keys().filter_map(|id| Some((*id, fleet.with_room(*id, wanted)?)));
    let (id, best) = with_room().max_by_key(|(id, life)| (Some(*id) != avoid, life.order()))?;
    let saw = prompt.and_then(|prompt| fleet.prompts.get(prompt)).filter(|saw| Some(*saw) != avoid);
    let near = |life: &Life| best.balance.saturating_sub(life.balance) <= signed(life.announced.step_tokens / 2);
    let saw = with_room().find(|(id, life)| saw == Some(*id) && near(life));
    Some(saw.map_or(id, |(id, _)| id))
}

/// What is kept in order is what a walk over all replicas finds.
fn check_order(fleet: &Fleet) {
    let lives = || fleet.replicas.iter().filter_map(|(id, it)| Some((*id, it, it.life.as_ref()?)));
    assert_eq!(fleet.balance, lives().map(|(.., life)| i128::from(life.balance)).sum::<i128>());
    assert_eq!(fleet.tokens, lives().map(|(.., life)| life.tokens).sum::<u64>());
    assert_eq!(fleet.step_tokens(), lives().map(|(.., life)| life.announced.step_tokens).min());
    assert_eq!(fleet.gone, fleet.replicas.len() - lives().count());
    let entries = || lives().filter_map(|(id, it, _)| Some((id, it.entry(&fleet.routing, fleet.served.as_ref())?)));
    assert!(fleet.alarms.iter().eq(&entries().filter_map(|(id, it)| Some((it.alarm?, id))).collect::<BTreeSet<_>>()));
    for (step_tokens, group) in &fleet.groups {
        let of_group = || entries().map(|(_, it)| it).filter(|it| it.step_tokens == *step_tokens);
        assert_eq!(group.replicas, of_group().count());
        let (open, idle) = (of_group().filter(|it| it.open), of_group().filter(|it| it.idle));
        assert_eq!(group.open, open.map(|it| it.place).collect());
        assert_eq!(group.idle, idle.map(|it| it.place).collect());
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_choice_is_that_of_a_walk_over_all(
        events in prop::collection::vec((0_u8..30, 0_u64..6, 0_u64..600), 1..300),
    ) {
        let mut fleet = fleet(&[500, 500, 500]);
        for ((what, replica, number), second) in events.into_iter().zip(0..) {
            let now = at(second / 2);
            let stalled = fleet.stalled(now);
            let all = fleet.replicas.iter().filter_map(|(id, it)| Some((*id, it.life.as_ref()?)));
            let due = all.filter(|(_, life)| life.stalls_at(&fleet.routing).is_some_and(|at| at <= now));
            prop_assert_eq!(BTreeSet::from_iter(stalled), due.map(|(id, _)| id).collect());
            happens(&mut fleet, (now, what, replica, number));
            check_order(&fleet);
        }
    }
}
