//! Every conversation that counts is counted once.

use tonic::Status;

use super::*;

fn result(status: v1::Status) -> v1::Result {
    let score = matches!(status, v1::Status::Ok).then_some(0.5);
    v1::Result { status: status.into(), score, tokens: 10, computed_tokens: 4, ..v1::Result::default() }
}

#[test]
fn counts_add_up() {
    let start = Instant::now();
    let from = start + Duration::from_secs(1);
    let mut tally = Tally::new(from, 2).unwrap();
    let timing = v1::Timing { queue_seconds: 0.5, compute_seconds: 1.0 };
    let both = || Ok((vec![result(v1::Status::Ok), result(v1::Status::TooLong)], timing));
    for (due, answer) in [
        (start, both()),
        (from, both()),
        (from + Duration::from_secs(1), Err(Status::resource_exhausted("full"))),
        (from + Duration::from_secs(2), both()),
    ] {
        tally.begin(due);
        tally.add(Done { due, finished: due + Duration::from_secs(3), answer });
    }
    tally.begin(from);
    assert_eq!((tally.begun, tally.calls, tally.scored, tally.unanswered()), (4, 3, 2, 2));
    assert_eq!((tally.input_tokens, tally.computed_tokens), (20, 8));
    let count = |status: &str| tally.statuses[status];
    assert_eq!((count("ok"), count("too_long"), count("ResourceExhausted")), (2, 2, 2));
    assert_eq!(tally.seconds(), 5.0);
    assert_eq!(tally.first_failure.as_deref(), Some("too_long: "));
    let near = |seconds: f64, expected: f64| assert!((seconds / expected - 1.0).abs() < 2e-3, "{seconds}");
    near(tally.latency.quantiles().p50, 3.0);
    near(tally.queue.quantiles().max, 0.5);
    near(tally.compute.quantiles().mean, 1.0);
}

#[test]
fn steps_hold_every_time_once() {
    let mut times = Times::new().unwrap();
    for millis in [1, 2, 3, 4, 30, 30, 31, 700] {
        times.add(Duration::from_millis(millis));
    }
    let steps = times.steps();
    assert_eq!(steps.iter().map(|(_, count)| count).sum::<u64>(), 8);
    let expected =
        [(0.001, 1), (0.002, 1), (0.005, 2), (0.01, 0), (0.02, 0), (0.05, 3), (0.1, 0), (0.2, 0), (0.5, 0), (1.0, 1)];
    assert_eq!(steps, expected);
    assert_eq!(Times::new().unwrap().steps(), []);
}
