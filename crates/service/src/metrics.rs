//! Counts and measures of a process, as Prometheus reads them.
//!
//! Code counts with the macros of the `metrics` crate, which are re-exported here; without [`Metrics::install`] they do
//! nothing. One recorder serves the whole process.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

pub use ::metrics as facade;
pub use ::metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// The recorder of this process. Clones share it.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
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

// === impl Metrics ===

impl Metrics {
    /// Records from now on, with the upper bounds of these histograms; others are rendered as summaries.
    ///
    /// A process has one recorder: another call returns the first one, whose buckets stay.
    ///
    /// # Errors
    /// [`Error`], and then nothing is recorded.
    pub fn install(buckets: &[(&str, &[f64])]) -> Result<Self, Error> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = &*installed {
            return Ok(metrics.clone());
        }
        let handle = builder(buckets)?.install_recorder().map_err(|error| Error::Taken(error.to_string()))?;
        let metrics = Self { handle };
        *installed = Some(metrics.clone());
        metrics.clone().start_upkeep()?;
        Ok(metrics)
    }

    /// All of it in Prometheus's text format.
    pub fn render(&self) -> String {
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

fn builder(buckets: &[(&str, &[f64])]) -> Result<PrometheusBuilder, Error> {
    let mut builder = PrometheusBuilder::new();
    for (metric, bounds) in buckets {
        let wrong = |reason: String| Error::Buckets { metric: (*metric).to_owned(), reason };
        if bounds.is_empty() || !bounds.is_sorted_by(|one, next| one < next) {
            return Err(wrong("expected some bounds that grow".to_owned()));
        }
        let named = Matcher::Full((*metric).to_owned());
        builder = builder.set_buckets_for_metric(named, bounds).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(builder)
}

#[cfg(test)]
mod tests;
