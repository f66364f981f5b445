//! A report is read by people: the table fits, and a bar is seen wherever there is a count.

use super::*;

#[test]
fn a_report_is_a_page() {
    let quantiles = Quantiles { mean: 0.0104, p50: 0.01, p90: 0.0125, p99: 0.02, p999: 0.04, max: 0.05 };
    let report = Report {
        load: "64 calls at a time".to_owned(),
        endpoints: "http://a:1".to_owned(),
        seconds: 30.02,
        calls: 3002,
        conversations: 3000,
        unanswered: 1,
        statuses: [("ok".to_owned(), 3000), ("Unavailable".to_owned(), 2)].into(),
        first_failure: Some("Unavailable: about to end".to_owned()),
        conversations_per_second: 99.93,
        input_tokens_per_second: 29_980.0,
        computed_tokens_per_second: 29_980.0,
        latency_seconds: quantiles,
        queue_seconds: quantiles,
        compute_seconds: quantiles,
        latency_histogram: vec![(0.01, 2000), (0.02, 1001), (0.05, 1)],
        fingerprint: "finger".to_owned(),
    };
    let expected = "\
64 calls at a time
http://a:1

CONVERSATIONS/S  INPUT TOKENS/S  COMPUTED TOKENS/S  SECONDS  CALLS
           99.9           29980              29980     30.0   3002

MILLISECONDS  MEAN   P50   P90   P99  P99.9   MAX
latency       10.4  10.0  12.5  20.0   40.0  50.0
queue         10.4  10.0  12.5  20.0   40.0  50.0
compute       10.4  10.0  12.5  20.0   40.0  50.0

STATUS             CONVERSATIONS
Unavailable                    2
ok                          3000
(open at the end)              1

the first without a score: Unavailable: about to end

up to        10 ms      2000 ##################################################
up to        20 ms      1001 ##########################
up to        50 ms         1 #
";
    assert_eq!(report.text(), expected);
    assert!(!report.is_sound());
    let sound = Report { unanswered: 0, statuses: [("ok".to_owned(), 3000)].into(), ..report };
    assert!(sound.is_sound());
}
