//! Counts and measures of a process, as Prometheus reads them.
//!
//! Code counts with the macros of the `metrics` crate, which are re-exported here; without [`Metrics::install`] they do
//! nothing. One recorder serves the whole process.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

pub use ::metrics as facade;
pub use ::metrics::{counter, gauge, histogram};
use ::metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

/// The recorder of this process. Clones share it.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

/// Something that is counted or measured, and what its `HELP` line says of it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    name: &'static str,
    help: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// Why nothing is recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A histogram's buckets cannot work.
    #[error("buckets of {metric}: {reason}")]
    Buckets {
        /// The histogram.
        metric: String,
        /// What is wrong with them.
        reason: String,
    },
    /// Another recorder is in place.
    #[error("metrics are recorded elsewhere in this process: {0}")]
    Taken(String),
    /// The system gives no thread.
    #[error("no thread for the upkeep of metrics: {0}")]
    Thread(io::Error),
}

static INSTALLED: Mutex<Option<Metrics>> = Mutex::new(None);

/// How often measures are folded into their histograms, so that they need no memory while nobody asks.
const UPKEEP: Duration = Duration::from_secs(5);

/// What every process counts of itself.
const OWN: [Metric; 4] = [
    Metric::gauge("assay_build_info", "The version of Assay that runs; always 1"),
    Metric::gauge("assay_connections", "Connections of clients, of all ports"),
    Metric::counter(
        "assay_accept_errors_total",
        "Connections that could not be accepted, for want of descriptors mostly",
    ),
    Metric::counter("assay_log_lines_dropped_total", "Lines of the log that nobody read in time"),
];

// === impl Metric ===

impl Metric {
    /// Something that only grows.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter }
    }

    /// Something that goes up and down.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge }
    }

    /// Something whose measures are spread, over buckets with these upper bounds.
    pub const fn histogram(name: &'static str, help: &'static str, bounds: &'static [f64]) -> Self {
        Self { name, help, kind: Kind::Histogram(bounds) }
    }

    fn describe(&self) {
        match self.kind {
            Kind::Counter => describe_counter!(self.name, self.help),
            Kind::Gauge => describe_gauge!(self.name, self.help),
            Kind::Histogram(_) => describe_histogram!(self.name, self.help),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Records these metrics from now on, and what the process itself takes; histograms that are not among them are
    /// rendered as summaries.
    ///
    /// A process has one recorder: another call returns the first one, whose buckets stay.
    ///
    /// # Errors
    /// [`Error`], and then nothing is recorded.
    pub fn install(metrics: &[Metric]) -> Result<Self, Error> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = &*installed {
            return Ok(metrics.clone());
        }
        let handle = builder(metrics)?.install_recorder().map_err(|error| Error::Taken(error.to_string()))?;
        let recorder = Self { handle };
        *installed = Some(recorder.clone());
        metrics.iter().chain(&OWN).for_each(Metric::describe);
        gauge!("assay_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Collector::default().describe();
        recorder.clone().start_upkeep()?;
        Ok(recorder)
    }

    /// All of it in Prometheus's text format.
    pub fn render(&self) -> String {
        Collector::default().collect();
        self.handle.render()
    }

    /// On a thread of its own, which lives as long as the process: metrics are there without a runtime too.
    fn start_upkeep(self) -> Result<(), Error> {
        let upkeep = move || {
            loop {
                thread::sleep(UPKEEP);
                self.handle.run_upkeep();
            }
        };
        thread::Builder::new().name("metrics".to_owned()).spawn(upkeep).map(drop).map_err(Error::Thread)
    }
}

fn builder(metrics: &[Metric]) -> Result<PrometheusBuilder, Error> {
    let mut builder = PrometheusBuilder::new();
    for Metric { name, kind, .. } in metrics {
        let Kind::Histogram(bounds) = kind else { continue };
        let wrong = |reason: String| Error::Buckets { metric: (*name).to_owned(), reason };
        if bounds.is_empty() || !bounds.is_sorted_by(|one, next| one < next) {
            return Err(wrong("expected some bounds that grow".to_owned()));
        }
        let named = Matcher::Full((*name).to_owned());
        builder = builder.set_buckets_for_metric(named, bounds).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(builder)
}

#[cfg(test)]
mod tests;
