//! What is counted is rendered, once per process.

use super::{Error, Metrics, counter, gauge, histogram};

/// As every test of this process installs it: the first call decides.
fn install() -> Metrics {
    Metrics::install(&[]).unwrap()
}

#[test]
fn what_is_counted_is_rendered() {
    let metrics = install();
    counter!("metrics_tests_total", "model" => "a").increment(2);
    gauge!("metrics_tests_depth").set(7.0);
    histogram!("metrics_tests_seconds").record(0.5);
    let text = metrics.render();
    assert!(text.contains("metrics_tests_total{model=\"a\"} 2\n"), "{text}");
    assert!(text.contains("metrics_tests_depth 7\n"), "{text}");
    assert!(text.contains("metrics_tests_seconds_count 1\n"), "{text}");
}

#[test]
fn installing_again_returns_the_same_recorder() {
    let (first, second) = (install(), install());
    counter!("metrics_tests_again_total").increment(1);
    for metrics in [first, second] {
        assert!(metrics.render().contains("metrics_tests_again_total 1\n"));
    }
}

#[test]
fn buckets_that_cannot_work_are_refused() {
    for wrong in [&[][..], &[1.0, 1.0], &[2.0, 1.0], &[f64::NAN, 1.0]] {
        let error = super::builder(&[("seconds", wrong)]).err().unwrap();
        assert!(matches!(&error, Error::Buckets { metric, .. } if metric == "seconds"), "{error}");
    }
}

#[test]
fn a_histogram_has_its_buckets() {
    let recorder = super::builder(&[("seconds", &[0.1, 1.0])]).unwrap().build_recorder();
    let handle = recorder.handle();
    super::facade::with_local_recorder(&recorder, || histogram!("seconds").record(0.5));
    let text = handle.render();
    for line in ["seconds_bucket{le=\"0.1\"} 0\n", "seconds_bucket{le=\"1\"} 1\n", "seconds_bucket{le=\"+Inf\"} 1\n"] {
        assert!(text.contains(line), "{text}");
    }
}
