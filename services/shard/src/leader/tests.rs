//! The leader of one epoch: what goes in and what comes out, event by event and in any order.

use proptest::prelude::*;
use score::PieceId;

use super::*;

mod bench;

use self::bench::{A, B, BUDGET, Bench, RANKS, STAMP, VOCAB, millis, piece, tag, tokens};

#[test]
fn a_piece_is_planned_computed_by_all_ranks_and_answered_to_its_gateway() {
    let mut bench = Bench::with_gateways(2);
    let mut group = piece(7, tokens(1, 20), vec![(3, tokens(2, 5)), (4, tokens(3, 6))]);
    group.trace = Some("trace".into());
    let work = bench.compute(Event::Arrived(A, group));
    assert_eq!((work.stamp, work.trace.as_deref()), (Stamp { step: 1, ..STAMP }, Some("trace")));
    assert_eq!((work.batch.tokens.len(), work.batch.ends.len()), (31, 2));
    // while it is computed what comes waits
    assert_eq!(bench.arrives(B, piece(7, vec![], vec![(0, tokens(4, 9))])), []);
    bench.now += millis(30);
    assert_eq!(bench.computed(0, 1), []);
    let (answers, next) = match &bench.computed(1, 1)[..] {
        [Action::Answer(A, answers), Action::Compute(next)] => (answers.clone(), next.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        answers.ranks.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        [0, 1].map(|rank| RankStep { rank, stamp: work.stamp })
    );
    let contributions =
        answers.contributions(&answers.computed[1]).map(|(step, partial)| (step.rank, partial.values[0]));
    assert_eq!(contributions.collect::<Vec<_>>(), [(0, 1.0), (1, 1001.0)]);
    assert_eq!(answers.took, millis(30));
    let computed = |conversation, tokens, place| Computed { tag: tag(7), conversation, tokens, place };
    assert_eq!(answers.computed, [computed(3, 5, 0), computed(4, 6, 1)]);
    assert_eq!((next.stamp.step, next.trace), (2, None));
    let answers = bench.finish_step(2);
    assert_eq!(answers.keys().collect::<Vec<_>>(), [&B]);
    assert_eq!((answers[&B].computed[0].conversation, answers[&B].computed[0].tokens), (0, 9));
    assert_eq!(bench.leader.stats().steps, 2);
    assert_eq!((bench.leader.stats().computed_tokens, bench.leader.stats().input_tokens), (40, 60));
    bench.nothing_is_left();
}

#[test]
fn a_step_holds_what_came_from_all_gateways_and_each_hears_of_its_own() {
    let mut bench = Bench::with_gateways(2);
    bench.handle(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10)), (1, tokens(2, 10))])));
    bench.handle(Event::Arrived(B, piece(1, vec![], vec![(5, tokens(3, 10))])));
    let [Action::Compute(work)] = &bench.advance()[..] else { panic!("not one step") };
    assert_eq!(work.batch.ends.len(), 3);
    let answers = bench.finish_step(1);
    let conversations = |gateway| answers[&gateway].computed.iter().map(|it| it.conversation).collect::<Vec<_>>();
    assert_eq!((conversations(A), conversations(B)), (vec![0, 1], vec![5]));
    bench.nothing_is_left();
}

#[test]
fn a_step_is_planned_ahead_only_if_what_waits_fills_it() {
    let mut bench = Bench::with_gateways(2);
    bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10))])));
    let most = BUDGET - 1;
    assert_eq!(bench.arrives(A, piece(2, vec![], vec![(0, tokens(2, most / 2))])), []);
    assert_eq!(bench.arrives(B, piece(1, vec![], vec![(0, tokens(3, most - most / 2))])), []);
    // one token makes it full
    let ahead = bench.compute(Event::Arrived(B, piece(2, vec![], vec![(0, tokens(4, 1))])));
    assert_eq!((ahead.stamp.step, ahead.batch.tokens.len()), (2, BUDGET));
    // and that is all that the ranks get, whatever waits
    for number in 3..8 {
        assert_eq!(bench.arrives(A, piece(number, vec![], vec![(0, tokens(number as u32, BUDGET))])), []);
    }
    bench.computed(0, 1);
    let [Action::Answer(A, _), Action::Compute(next)] = &bench.computed(1, 1)[..] else { panic!("no next step") };
    assert_eq!(next.stamp.step, 3);
}

/// A leader whose steps wait for more, and one gateway.
fn lingering(linger: Duration) -> Bench {
    let settings = Settings { plan: plan::Settings { linger, ..plan::Settings::new(BUDGET) }, ..bench::settings() };
    let mut bench = Bench::new(Leader::new(settings, None));
    bench.handle(Event::Attached(A));
    assert_eq!(bench.advance(), []);
    bench
}

#[test]
fn a_step_that_is_not_full_may_wait_for_more() {
    let mut bench = lingering(millis(20));
    assert_eq!(bench.arrives(A, piece(1, vec![], vec![(0, tokens(1, 5))])), []);
    assert_eq!(bench.leader.wakes_at(), bench.now + millis(20));
    bench.now += millis(15);
    assert_eq!(bench.arrives(A, piece(2, vec![], vec![(0, tokens(2, 5))])), []);
    // from the last that came
    bench.now += millis(19);
    assert_eq!(bench.advance(), []);
    bench.now += millis(1);
    let [Action::Compute(work)] = &bench.advance()[..] else { panic!("nothing more came for 20 ms") };
    assert_eq!(work.batch.ends.len(), 2);
    // what came while it was computed has waited
    bench.arrives(A, piece(3, vec![], vec![(0, tokens(3, 5))]));
    bench.now += millis(300);
    assert_eq!(bench.finish_step(1).len(), 1);
    assert_eq!(bench.finish_step(2).len(), 1);
    bench.nothing_is_left();
}

#[test]
fn a_step_that_is_full_waits_for_nothing_and_no_step_for_ever() {
    let mut bench = lingering(millis(20));
    bench.arrives(A, piece(1, vec![], vec![(0, tokens(1, BUDGET / 3))]));
    // another as large would not fit, and its gateway would not send it
    let work = bench.compute(Event::Arrived(A, piece(2, vec![], vec![(0, tokens(2, BUDGET / 2))])));
    assert_eq!(work.batch.ends.len(), 2);
    bench.finish_step(1);
    // a piece every 15 ms, each before the step has waited 20 ms for it
    let begun = bench.now;
    let waited = loop {
        let waited = bench.now - begun;
        let number = 4 + waited.as_millis() as u64;
        let sequence = (0, tokens(number as u32, 1));
        if let [Action::Compute(_)] = &bench.arrives(A, piece(number, vec![], vec![sequence]))[..] {
            break waited;
        }
        bench.now += millis(15);
    };
    assert!((millis(200)..millis(215)).contains(&waited), "{waited:?}");
    // who leaves waits for nothing either
    bench.finish_step(2);
    bench.arrives(A, piece(90, vec![], vec![(0, tokens(9, 5))]));
    assert!(bench.happens(Event::Drain).iter().any(|action| matches!(action, Action::Compute(_))));
}

#[test]
fn what_is_withdrawn_is_not_computed_and_what_is_computed_already_is_answered() {
    let mut bench = Bench::with_gateways(1);
    bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10))])));
    bench.arrives(A, piece(2, vec![], vec![(0, tokens(2, 10)), (1, tokens(3, 10))]));
    let mut again = piece(2, vec![], vec![(0, tokens(4, 8))]);
    again.piece.tag = Tag { piece: PieceId(2), attempt: 2 };
    bench.arrives(A, again);
    for tag in [tag(1), tag(2), tag(9)] {
        assert_eq!(bench.happens(Event::Withdrawn(A, tag)), []);
    }
    assert_eq!(bench.leader.stats().waiting, 1);
    let answers = bench.finish_step(1);
    assert_eq!(answers[&A].computed[0].tag, tag(1));
    // the other attempt is another piece
    let answers = bench.finish_step(2);
    assert_eq!(answers[&A].computed.iter().map(|it| it.tag.attempt).collect::<Vec<_>>(), [2]);
    bench.nothing_is_left();
}

#[test]
fn of_a_gateway_that_is_gone_nothing_is_computed_or_answered() {
    let mut bench = Bench::with_gateways(2);
    bench.handle(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10))])));
    bench.compute(Event::Arrived(B, piece(1, vec![], vec![(0, tokens(2, 10))])));
    bench.arrives(A, piece(2, vec![], vec![(0, tokens(3, 10))]));
    assert_eq!(bench.happens(Event::Detached(A)), []);
    assert_eq!(bench.leader.stats().waiting, 0);
    // what was on its way is not heard, and nothing waits for it
    assert_eq!(bench.arrives(A, piece(3, vec![], vec![(0, tokens(4, 10))])), []);
    assert_eq!(bench.happens(Event::Withdrawn(A, tag(2))), []);
    let answers = bench.finish_step(1);
    assert_eq!(answers.keys().collect::<Vec<_>>(), [&B]);
    bench.nothing_is_left();
}

#[test]
fn what_nobody_waits_for_any_more_is_not_computed() {
    let mut bench = Bench::with_gateways(1);
    bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10))])));
    let late = Submission { deadline: Some(bench.now + millis(5)), ..piece(2, vec![], vec![(0, tokens(2, 10))]) };
    bench.arrives(A, late);
    bench.arrives(A, piece(3, vec![], vec![(0, tokens(3, 10))]));
    bench.now += millis(5);
    bench.finish_step(1);
    let answers = bench.finish_step(2);
    assert_eq!(answers[&A].computed.iter().map(|it| it.tag).collect::<Vec<_>>(), [tag(3)]);
    // nor if nothing else waits
    let late = Submission { deadline: Some(bench.now), ..piece(4, vec![], vec![(0, tokens(4, 10))]) };
    assert_eq!(bench.arrives(A, late), []);
    bench.nothing_is_left();
}

#[test]
fn what_cannot_be_computed_is_rejected_and_what_came_with_it_is_computed() {
    let mut bench = Bench::with_gateways(1);
    let tails = vec![(0, vec![VOCAB]), (1, tokens(1, 4)), (2, tokens(2, BUDGET + 1)), (3, vec![]), (4, tokens(3, 4))];
    let actions = bench.arrives(A, piece(1, vec![], tails));
    let [Action::Reject(A, rejections), Action::Compute(work)] = &actions[..] else { panic!("{actions:?}") };
    let problems: Vec<_> = rejections.iter().map(|it| (it.tag, it.conversation, it.problem.as_deref())).collect();
    let long = "the sequence has 65 tokens, a step at most 64";
    assert_eq!(
        problems,
        [
            (tag(1), 0, Some("token id 1000 is outside the vocabulary of 1000")),
            (tag(1), 2, Some(long)),
            (tag(1), 3, Some("the sequence is empty")),
        ]
    );
    assert_eq!(work.batch.tokens.len(), 8);
    // a bad prefix is everybody's, an empty tail is not empty behind a prefix
    let actions = bench.arrives(A, piece(2, vec![VOCAB], vec![(0, vec![1]), (1, vec![2])]));
    assert!(matches!(&actions[..], [Action::Reject(A, both)] if both.len() == 2), "{actions:?}");
    assert_eq!(bench.arrives(A, piece(3, tokens(4, 3), vec![(0, vec![])])), []);
    assert_eq!(bench.finish_step(1)[&A].computed.iter().map(|it| it.conversation).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(bench.finish_step(2)[&A].computed[0].tag, tag(3));
    bench.nothing_is_left();
}

#[test]
fn who_sends_a_piece_twice_or_more_than_was_granted_is_sent_away() {
    let mut bench = Bench::with_gateways(3);
    bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10))])));
    bench.arrives(A, piece(2, vec![], vec![(0, tokens(2, 10))]));
    let twice = bench.arrives(A, piece(2, vec![], vec![(0, tokens(2, 10))]));
    assert_eq!(twice, [Action::Detach(A, "piece 2 was sent twice with attempt 1".to_owned())]);
    let costly = |bench: &Bench, gateway, more| {
        let cost = bench.leader.credits.balance(gateway).unwrap() as u64 + 8 * BUDGET as u64 + more;
        Event::Arrived(gateway, Submission { tokens: cost, ..piece(1, vec![], vec![(0, tokens(3, 10))]) })
    };
    let most = costly(&bench, B, 0);
    assert_eq!(bench.happens(most), []);
    let more = costly(&bench, GatewayId(3), 1);
    assert_eq!(bench.happens(more), [Action::Detach(GatewayId(3), "more was sent than was granted".to_owned())]);
    assert_eq!((bench.leader.stats().waiting, bench.leader.gateways.len()), (1, 1));
    // what they had is heard by nobody, and the other goes on
    assert!(bench.computed(0, 1).is_empty());
    assert!(matches!(&bench.computed(1, 1)[..], [Action::Compute(_)]));
    assert_eq!(bench.finish_step(2).len(), 1);
    bench.nothing_is_left();
}

#[test]
fn a_piece_that_is_done_may_be_sent_again() {
    let mut bench = Bench::with_gateways(1);
    for step in 1..4 {
        bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10))])));
        assert_eq!(bench.finish_step(step).len(), 1);
    }
    bench.nothing_is_left();
}

#[test]
fn what_each_rank_says_is_passed_on_as_it_is() {
    let mut bench = Bench::with_gateways(1);
    bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10)), (1, tokens(2, 10))])));
    let (stamp, other) = (Stamp { step: 1, ..STAMP }, Stamp { epoch: 6, step: 1, ..STAMP });
    bench.happens(Event::Computed(Report { first_rank: 0, stamp, ranks: vec![bench::partials(1, 1, 2)] }));
    // an old epoch: its gateway will see it
    let last =
        bench.happens(Event::Computed(Report { first_rank: 1, stamp: other, ranks: vec![bench::partials(1, 1, 2)] }));
    let [Action::Answer(A, answers)] = &last[..] else { panic!("{last:?}") };
    assert_eq!(answers.ranks.iter().map(|(step, _)| step.stamp).collect::<Vec<_>>(), [stamp, other]);
    assert_eq!(answers.computed.iter().map(|it| answers.contributions(it).count()).collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn a_rank_that_leaves_a_sequence_out_ends_the_epoch() {
    let mut bench = Bench::with_gateways(1);
    bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10)), (1, tokens(2, 10))])));
    let ranks = vec![bench::partials(1, 1, 1)];
    let stamp = Stamp { step: 1, ..STAMP };
    let actions = bench.happens(Event::Computed(Report { first_rank: 1, stamp, ranks }));
    assert_eq!(actions, [Action::End(Ending::Rows { rank: 1, found: 1, expected: 2 })]);
}

#[test]
fn a_worker_with_several_ranks_answers_for_all_of_them() {
    let mut bench = Bench::with_gateways(1);
    bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10))])));
    let ranks: Vec<_> = (0..RANKS).map(|rank| bench::partials(rank, 1, 1)).collect();
    let report = Report { first_rank: 0, stamp: Stamp { step: 1, ..STAMP }, ranks: ranks.clone() };
    let actions = bench.happens(Event::Computed(report));
    let [Action::Answer(A, answers)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(answers.ranks.iter().map(|(_, partials)| partials.clone()).collect::<Vec<_>>(), ranks);
}

#[test]
fn ranks_answer_step_after_step_or_the_epoch_is_over() {
    let ending = |rank, found, expected| Action::End(Ending::OutOfStep { rank, found, expected });
    let two_steps = || {
        let mut bench = Bench::with_gateways(1);
        bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10))])));
        bench.compute(Event::Arrived(A, piece(2, vec![], vec![(0, tokens(2, BUDGET))])));
        bench
    };
    assert_eq!(two_steps().computed(1, 2)[0], ending(1, 2, Some(1)), "a step is left out");
    let mut bench = two_steps();
    assert_eq!((bench.computed(1, 1), bench.computed(1, 2)), (vec![], vec![]));
    assert_eq!(bench.computed(1, 3)[0], ending(1, 3, None), "nobody asked for it");
    let mut bench = two_steps();
    assert_eq!(bench.computed(0, 1), []);
    assert_eq!(bench.computed(0, 1)[0], ending(0, 1, Some(2)), "a step twice");
    assert_eq!(two_steps().computed(RANKS, 1)[0], ending(RANKS, 1, None), "no such rank");
    let report = |stamp| Report { first_rank: 1, stamp, ranks: vec![bench::partials(1, 1, 1); 2] };
    let beyond = two_steps().happens(Event::Computed(report(Stamp { step: 1, ..STAMP })));
    assert_eq!(beyond[0], ending(1, 1, Some(1)), "more ranks than there are");
}

#[test]
fn a_step_that_takes_too_long_ends_the_epoch() {
    let mut bench = Bench::with_gateways(1);
    let idle = bench.leader.wakes_at();
    bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10))])));
    let overdue = bench.leader.watchdog.overdue_at().unwrap();
    assert!(overdue > idle);
    while bench.now < overdue {
        assert_eq!(bench.advance(), []);
        bench.now = bench.leader.wakes_at();
    }
    assert_eq!(bench.now, overdue, "it wakes in time to notice");
    assert_eq!(bench.advance(), [Action::End(Ending::Overdue(1))]);
}

#[test]
fn a_draining_leader_finishes_what_it_accepted_and_takes_nothing_more() {
    let mut bench = Bench::with_gateways(2);
    bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10))])));
    bench.arrives(B, piece(1, vec![], vec![(0, tokens(2, 10))]));
    assert_eq!(bench.happens(Event::Drain), [Action::Draining(A), Action::Draining(B)]);
    assert_eq!(bench.happens(Event::Drain), []);
    // it had no credits yet, so what it hears comes before them
    let late = bench.happens(Event::Attached(GatewayId(9)));
    assert_eq!(late, [Action::Draining(GatewayId(9))]);
    let rejected = bench.arrives(A, piece(2, vec![], vec![(4, vec![VOCAB]), (5, tokens(3, 10))]));
    let rejection = |conversation| Rejection { tag: tag(2), conversation, problem: None };
    assert_eq!(rejected, [Action::Reject(A, vec![rejection(4), rejection(5)])]);
    assert_eq!(bench.finish_step(1).len(), 1);
    bench.computed(0, 2);
    let last = bench.computed(1, 2);
    assert!(matches!(&last[..], [Action::Answer(B, _), Action::End(Ending::Drained)]), "{last:?}");
    bench.nothing_is_left();
}

#[test]
fn a_drain_ends_at_once_if_nothing_is_there_or_what_is_there_goes_away() {
    let mut bench = Bench::with_gateways(1);
    assert_eq!(bench.happens(Event::Drain), [Action::Draining(A), Action::End(Ending::Drained)]);
    let mut bench = Bench::with_gateways(1);
    bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10))])));
    bench.arrives(A, piece(2, vec![], vec![(0, tokens(2, 10))]));
    bench.happens(Event::Drain);
    bench.happens(Event::Detached(A));
    bench.computed(0, 1);
    assert_eq!(bench.computed(1, 1), [Action::End(Ending::Drained)]);
    bench.nothing_is_left();
}

#[test]
fn the_first_step_is_watched_by_what_the_probe_took() {
    let settings = bench::settings();
    let slow = Leader::new(settings, Some((10, Duration::from_secs(1))));
    assert_eq!(slow.stats().rate, Some(10.0));
    assert_eq!(Leader::new(settings, None).stats().rate, None);
    let mut bench = Bench::new(slow);
    bench.happens(Event::Attached(A));
    bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, 10))])));
    let allowance = settings.allowance.least + Duration::from_secs(4);
    assert_eq!(bench.leader.watchdog.overdue_at(), Some(bench.now + allowance));
}

#[test]
fn idle_credits_come_back_and_an_idle_leader_wakes_now_and_then() {
    let mut bench = Bench::with_gateways(2);
    let floor = bench.leader.credits.floor() as i64;
    bench.idle(4);
    assert_eq!((bench.balance(A), bench.balance(B)), (floor, floor));
    // it used all, and so it gets more than the floor, which it leaves untouched
    bench.compute(Event::Arrived(A, piece(1, vec![], vec![(0, tokens(1, floor as usize))])));
    bench.finish_step(1);
    assert!(bench.balance(A) > floor);
    assert_eq!(bench.balance(B), floor);
    bench.idle(4);
    assert_eq!((bench.balance(A), bench.balance(B)), (floor, floor));
}

#[test]
fn credits_that_one_leaves_untouched_are_the_others_after_two_steps() {
    let mut bench = Bench::with_gateways(2);
    bench.idle(4);
    // both have used all and get as much
    for gateway in [A, B] {
        bench.handle(Event::Arrived(gateway, piece(1, vec![], vec![(0, tokens(gateway.0 as u32, 8))])));
    }
    bench.advance();
    bench.finish_step(1);
    let (a, b) = (bench.balance(A), bench.balance(B));
    assert_eq!(a, b);
    for step in 2..5 {
        let all = bench.balance(B) as usize;
        bench.compute(Event::Arrived(B, piece(step, vec![], vec![(0, tokens(3, all))])));
        bench.finish_step(step);
    }
    assert_eq!(bench.balance(A), bench.leader.credits.floor() as i64);
    assert!(bench.balance(B) > b && bench.balance(B) > BUDGET as i64 * 3 / 4, "{}", bench.balance(B));
}

proptest! {
    #[test]
    fn in_any_interleaving_of_the_ranks_each_step_is_answered_once_with_its_own_partials(
        sizes in prop::collection::vec(1usize..BUDGET, 1..40), choices in prop::collection::vec(any::<bool>(), 200),
    ) {
        let mut bench = Bench::with_gateways(2);
        bench.endless_credit = true;
        for (number, size) in (0u32..).zip(&sizes) {
            let gateway = GatewayId(1 + u64::from(number % 2));
            let actions = bench.arrives(gateway, piece(u64::from(number), vec![], vec![(number, tokens(number, *size))]));
            bench.note(&actions);
        }
        let mut choices = choices.into_iter().cycle();
        while bench.ready.iter().any(|steps| !steps.is_empty()) {
            let rank = usize::from(choices.next() == Some(true));
            let rank = if bench.ready[rank].is_empty() { 1 - rank } else { rank };
            let step = bench.ready[rank].pop_front().unwrap();
            let actions = bench.computed(rank, step);
            bench.note(&actions);
        }
        // each has its partials of the step and the place in which it was computed
        prop_assert_eq!(bench.answered.len(), sizes.len());
        bench.nothing_is_left();
    }
}

#[test]
fn whatever_happens_what_is_held_stays_within_the_credits_and_nothing_is_left() {
    for seed in 0..400 {
        if std::panic::catch_unwind(|| bench::Storm::new(seed).run()).is_err() {
            panic!("seed {seed} fails: Storm::new({seed}).run() repeats it");
        }
    }
}
