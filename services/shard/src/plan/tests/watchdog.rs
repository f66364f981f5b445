//! Steps that take too long, and steps that do not.

use super::*;

const ALLOWANCE: Allowance = Allowance { least: Duration::from_secs(2), factor: 4.0, slowest: 100.0 };

#[test]
fn without_a_measurement_the_slowest_rate_counts() {
    let mut watchdog = Watchdog::new(ALLOWANCE);
    assert_eq!((watchdog.overdue_at(), watchdog.rate()), (None, None));
    assert_eq!(watchdog.overdue(seconds(1000)), None, "nothing to do is no reason to hurry");
    watchdog.started(seconds(1000), 1, 200);
    assert_eq!(watchdog.overdue_at(), Some(seconds(1000 + 2 + 4 * 2)));
    assert_eq!(watchdog.overdue(seconds(1009)), None);
    assert_eq!(watchdog.overdue(seconds(1010)), Some(1));
}

#[test]
fn a_measured_rate_shortens_the_deadline_and_a_slow_one_does_not_stretch_it() {
    let mut watchdog = Watchdog::new(ALLOWANCE);
    watchdog.started(seconds(0), 1, 2000);
    assert_eq!(watchdog.finished(seconds(2), 1), Some(seconds(2)));
    assert_eq!(watchdog.rate(), Some(1000.0));
    watchdog.started(seconds(10), 2, 500);
    assert_eq!(watchdog.overdue_at(), Some(seconds(10 + 2 + 2)));
    assert_eq!(watchdog.finished(seconds(10_000), 2), Some(seconds(9990)));
    watchdog.started(seconds(10_000), 3, 500);
    assert_eq!(watchdog.overdue_at(), Some(seconds(10_000 + 2 + 20)));
}

#[test]
fn steps_at_the_same_rate_leave_the_rate_as_it_is() {
    let mut watchdog = Watchdog::new(ALLOWANCE);
    for step in 1..20 {
        watchdog.started(seconds(10 * step), step, 500);
        watchdog.finished(seconds(10 * step + 2), step);
    }
    assert!((watchdog.rate().unwrap() - 250.0).abs() < 1e-6);
}

#[test]
fn each_of_several_steps_has_its_time_from_the_end_of_the_one_before() {
    let mut watchdog = Watchdog::new(ALLOWANCE);
    watchdog.started(seconds(0), 1, 100);
    watchdog.started(seconds(1), 2, 100);
    assert_eq!(watchdog.overdue(seconds(6)), Some(1));
    assert_eq!(watchdog.finished(seconds(4), 2), None, "not its turn");
    assert_eq!(watchdog.finished(seconds(4), 1), Some(seconds(4)));
    assert_eq!(watchdog.overdue_at(), Some(seconds(4 + 2 + 4)));
    assert_eq!(watchdog.finished(seconds(5), 2), Some(seconds(1)));
    assert_eq!(watchdog.overdue_at(), None);
}

proptest! {
    #[test]
    fn nobody_is_overdue_who_is_less_than_so_many_times_slower(
        rate in 100.0f64..1e6, steps in prop::collection::vec((1usize..10_000, 0.5f64..1.9), 1..50),
    ) {
        let (mut watchdog, mut now) = (Watchdog::new(ALLOWANCE), seconds(1));
        for (number, (tokens, slower)) in (1..).zip(steps) {
            watchdog.started(now, number, tokens);
            now += Duration::from_secs_f64(slower * tokens as f64 / rate);
            prop_assert_eq!(watchdog.overdue(now), None);
            prop_assert!(watchdog.finished(now, number).is_some());
            now += seconds(number);
        }
    }
}
