//! What a run tells while it goes on, and when it is over.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use client::Score;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::lines::ItemFailure;

/// The contents of `--stats`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Stats {
    /// Conversations that have a score.
    pub(crate) conversations: u64,
    /// Conversations that have none.
    pub(crate) failed: u64,
    /// Tokens of the conversations that have a score.
    pub(crate) input_tokens: u64,
    /// Tokens that went through the model; shared prefixes count once a step. At a gateway, those that were computed for one
    /// conversation alone.
    pub(crate) computed_tokens: u64,
    /// Forward passes of this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steps: Option<u64>,
    /// Lines that a gateway was sent once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resent: Option<u64>,
    /// From the start to a model that is ready.
    pub(crate) load_seconds: f64,
    /// From the first line read to the last line written.
    pub(crate) seconds: f64,
    /// `input_tokens / seconds`.
    pub(crate) tokens_per_second: f64,
    /// What the scores depend on.
    pub(crate) fingerprint: String,
}

/// A progress bar on a terminal; nothing elsewhere.
pub(crate) struct Progress {
    bar: ProgressBar,
    start: Instant,
}

/// Ends a run: tells how it went, and with which status the process ends.
pub(crate) fn close(outcome: Result<()>, stats: &Stats, file: Option<File>, first: Option<&str>) -> Result<ExitCode> {
    if outcome.as_ref().is_err_and(is_closed_pipe) {
        // whoever reads the answers has seen enough
        return Ok(ExitCode::from(crate::SOME_FAILED));
    }
    outcome?;
    if let Some(file) = file {
        stats.write(file)?;
    }
    if let Some(first) = first {
        let Stats { conversations, failed, .. } = stats;
        tracing::warn!("{failed} of {} conversations have no score; the first: {first}", conversations + failed);
    }
    Ok(ExitCode::from(if stats.failed > 0 { crate::SOME_FAILED } else { 0 }))
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

// === impl Stats ===

impl Stats {
    /// Closes the account: the run has taken so long.
    pub(crate) fn finish(&mut self, took: Duration) {
        self.seconds = took.as_secs_f64();
        self.tokens_per_second = if self.seconds > 0.0 { self.input_tokens as f64 / self.seconds } else { 0.0 };
    }

    /// Counts what became of a conversation.
    pub(crate) fn count(&mut self, scored: &Result<Score, ItemFailure>) {
        match scored {
            Ok(score) => {
                self.conversations += 1;
                self.input_tokens += u64::from(score.tokens);
                self.computed_tokens += u64::from(score.computed_tokens);
            }
            Err(_) => self.failed += 1,
        }
    }

    fn write(&self, mut file: File) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        file.write_all(text.as_bytes()).context("cannot write the stats")
    }
}

// === impl Progress ===

impl Progress {
    /// A bar for an input of so many bytes, or a spinner if nobody knows how many; nothing if the output is the same
    /// terminal, for a bar among the answers would tear both apart.
    pub(crate) fn beside(output: &Path, bytes: Option<u64>) -> Self {
        let hidden = output == Path::new("-") && io::stdout().is_terminal();
        let bar = match hidden {
            true => ProgressBar::hidden(),
            false => bytes.map_or_else(ProgressBar::no_length, ProgressBar::new),
        };
        let template = match bytes {
            Some(_) => "{bar:20} {percent:>3}% {msg} {elapsed}, {eta} to go",
            None => "{spinner} {msg} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, start: Instant::now() }
    }

    /// Shows what has been done, up to some byte of the input.
    pub(crate) fn show(&self, position: u64, stats: &Stats) {
        let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
        let (conversations, tokens) = (stats.conversations as f64 / seconds, stats.input_tokens as f64 / seconds);
        self.bar.set_position(position);
        self.bar.set_message(format!("{conversations:.1} conversations/s, {tokens:.0} tokens/s"));
    }

    /// Leaves the last figures on the terminal.
    pub(crate) fn finish(&self) {
        self.bar.finish();
    }
}
