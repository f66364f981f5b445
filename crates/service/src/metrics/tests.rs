//! What is counted is rendered, once per process.

use super::{Error, Metric, counter, gauge, histogram};
use crate::testing::metrics;

#[test]
fn what_is_counted_is_rendered() {
    let metrics = metrics();
    counter!("metrics_tests_total", "model" => "a").increment(2);
    gauge!("metrics_tests_depth").set(7.0);
    histogram!("metrics_tests_seconds").record(0.5);
    let text = metrics.render();
    assert!(text.contains("metrics_tests_total{model=\"a\"} 2\n"), "{text}");
    assert!(text.contains("# HELP metrics_tests_total Of these tests\n"), "{text}");
    assert!(text.contains("metrics_tests_depth 7\n"), "{text}");
    assert!(text.contains("metrics_tests_seconds_count 1\n"), "{text}");
}

#[test]
fn the_process_and_its_build_are_told() {
    let text = metrics().render();
    assert!(text.contains(&format!("assay_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"))), "{text}");
    let resident = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    assert!(resident.unwrap().parse::<f64>().unwrap() > 1e6, "{text}");
    for name in ["process_cpu_seconds_total", "process_open_fds", "process_max_fds", "process_start_time_seconds"] {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} is not in\n{text}");
    }
}

#[test]
fn installing_again_returns_the_same_recorder() {
    let (first, second) = (metrics(), metrics());
    counter!("metrics_tests_again_total").increment(1);
    for metrics in [first, second] {
        assert!(metrics.render().contains("metrics_tests_again_total 1\n"));
    }
}

#[test]
fn buckets_that_cannot_work_are_refused() {
    const WRONG: [&[f64]; 4] = [&[], &[1.0, 1.0], &[2.0, 1.0], &[f64::NAN, 1.0]];
    for wrong in WRONG {
        let error = super::builder(&[Metric::histogram("seconds", "", wrong)]).err().unwrap();
        assert!(matches!(&error, Error::Buckets { metric, .. } if metric == "seconds"), "{error}");
    }
}

#[test]
fn a_histogram_has_its_buckets() {
    let recorder = super::builder(&[Metric::histogram("seconds", "", &[0.1, 1.0])]).unwrap().build_recorder();
    let handle = recorder.handle();
    super::facade::with_local_recorder(&recorder, || histogram!("seconds").record(0.5));
    let text = handle.render();
    for line in ["seconds_bucket{le=\"0.1\"} 0\n", "seconds_bucket{le=\"1\"} 1\n", "seconds_bucket{le=\"+Inf\"} 1\n"] {
        assert!(text.contains(line), "{text}");
    }
}
