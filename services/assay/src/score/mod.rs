//! `assay score`: conversations from a file or a pipe to scores. A gateway computes them: one that is named, or one in this
//! process with a replica of its own. Either way a thread reads lines, the client's engine has them scored, and they are
//! written in the order of the input.

mod answers;
mod convert;
mod files;
mod here;
mod lines;
mod report;

use std::collections::BTreeSet;
use std::io::{self, BufRead};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use client::{Client, Error, Score, Scores, Work};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use self::answers::Answers;
use self::files::{Files, Output};
use self::lines::{Given, ItemFailure, Line, Lines};
use self::report::{Progress, Stats};
use crate::args::Score as Args;
use crate::remote;

/// Lines that may be read ahead of what the client takes; a line may be long.
const LINES_AHEAD: usize = 8;
/// More fingerprints are not told apart.
const MOST_FINGERPRINTS: usize = 16;

/// Lines on their way: an input that cannot be read has its place among them.
type Token = io::Result<Line>;

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let runtime = remote::runtime()?;
    let outcome = runtime.block_on(score(args));
    // the reader may still wait for a pipe
    runtime.shutdown_background();
    outcome
}

async fn score(args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    let options = client::Options {
        reading: convert::options(args.model.as_deref(), &args.limits),
        tenant: args.remote.tenant.clone(),
        timeout: args.remote.timeout,
        patience: args.remote.retry_for,
        ..client::Options::default()
    };
    // what is wrong with the call is found before anything is loaded, dialed or overwritten
    let (options, files, mut here, endpoints) = match args.remote.is_wanted() {
        true => {
            let endpoints = remote::endpoints(&args.remote.gateways())?;
            (options, Files::open(args)?, None, endpoints)
        }
        false => {
            let plan = here::Plan::new(args)?;
            let (options, files) = (plan.options(options), Files::open(args)?);
            let (here, endpoint) = plan.start().await?;
            (options, files, Some(here), vec![endpoint])
        }
    };
    let client = Client::connect(endpoints, options).await.map_err(explained)?;
    let stats = Stats {
        load_seconds: start.elapsed().as_secs_f64(),
        fingerprint: client.model().fingerprint.clone(),
        resent: here.is_none().then_some(0),
        ..Stats::default()
    };
    let progress = Progress::beside(&args.output, files.bytes);
    let (reader, output, stats_file) = files.begin()?;
    let answers = Answers::new(output, args.input.display().to_string());
    let scores = client.score(read_ahead(Lines::new(reader))?);
    let longer = if here.is_some() { here::LONGER } else { remote::LONGER };
    let (start, fingerprints) = (Instant::now(), BTreeSet::new());
    let mut run = Run { scores, answers, longer, fingerprints, stats, progress };
    let outcome = match &mut here {
        Some(here) => tokio::select! {
            outcome = run.all() => outcome,
            error = here.failed() => Err(error),
        },
        None => run.all().await,
    };
    let outcome = outcome.with_context(|| format!("{}: stopped", args.input.display()));
    run.progress.finish();
    run.stats.finish(start.elapsed());
    if let Some(here) = here {
        let (steps, tokens) = here.computed();
        (run.stats.steps, run.stats.computed_tokens) = (Some(steps), tokens);
        // one that failed may never come to its end
        if outcome.is_ok() {
            here.leave().await;
        }
    }
    report::close(outcome, &run.stats, stats_file, run.answers.first_failure())
}

/// Reads lines on a thread of its own. It is not waited for: after an error it may still be reading a pipe.
fn read_ahead(lines: Lines<Box<dyn BufRead + Send>>) -> Result<ReceiverStream<Work<Token>>> {
    let (sender, inbox) = mpsc::channel(LINES_AHEAD);
    let work = move || {
        for line in lines {
            let end = line.is_err();
            let work = match line {
                Ok(Given { line, input: Some(input) }) => Work::new(Ok(line), convert::item(input)),
                Ok(Given { line, input: None }) => Work::none(Ok(line)),
                Err(error) => Work::none(Err(error)),
            };
            if sender.blocking_send(work).is_err() || end {
                return;
            }
        }
    };
    std::thread::Builder::new().name("reader".to_owned()).spawn(work).context("cannot start the reader's thread")?;
    Ok(ReceiverStream::new(inbox))
}

/// A run under way.
struct Run {
    scores: Scores<Token>,
    answers: Answers<Output>,
    /// What to do about a conversation that is too long.
    longer: &'static str,
    fingerprints: BTreeSet<String>,
    stats: Stats,
    progress: Progress,
}

// === impl Run ===

impl Run {
    /// Writes lines until there are no more.
    async fn all(&mut self) -> Result<()> {
        loop {
            let answer = match self.scores.ready() {
                Some(answer) => answer,
                None => {
                    // whoever reads may wait for what is there
                    self.answers.flush()?;
                    match self.scores.next().await {
                        Some(answer) => answer.map_err(explained)?,
                        None => return Ok(()),
                    }
                }
            };
            let mut line = answer.token?;
            let mut results = answer.results.into_iter();
            let outcome = |item| match item {
                Ok(()) => match results.next() {
                    Some(result) => result.map_err(|failure| convert::failure(failure, self.longer)),
                    None => Err(ItemFailure::new("the group has no responses")),
                },
                Err(failure) => Err(failure),
            };
            let outcomes: Vec<_> = std::mem::take(&mut line.items).into_iter().map(outcome).collect();
            self.count(&outcomes);
            self.progress.show(line.position, &self.stats);
            self.answers.write(line, &outcomes)?;
        }
    }

    fn count(&mut self, outcomes: &[Result<Score, ItemFailure>]) {
        if let Some(resent) = &mut self.stats.resent {
            *resent = self.scores.resent();
        }
        for outcome in outcomes {
            self.stats.count(outcome);
            if let Ok(score) = outcome {
                self.computed_by(&score.fingerprint);
            }
        }
    }

    /// Takes note of what a score depends on. Scores of two models, or of two kinds of machines, are not comparable bit
    /// by bit, and somebody should know.
    fn computed_by(&mut self, fingerprint: &str) {
        if self.fingerprints.contains(fingerprint) || self.fingerprints.len() >= MOST_FINGERPRINTS {
            return;
        }
        self.fingerprints.insert(fingerprint.to_owned());
        if self.fingerprints.len() > 1 {
            tracing::warn!(fingerprint, "the gateway has begun to serve another version of the model");
        }
        self.stats.fingerprint = self.fingerprints.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    }
}

/// An error of the client's, with what to do about it here.
fn explained(error: Error) -> anyhow::Error {
    let hint = match &error {
        Error::Model { .. } => "; --model names it".to_owned(),
        Error::Length { .. } => "; --max-length asks for them".to_owned(),
        Error::Unreachable { .. } => ": is it up, and is this the port for gRPC? --retry-for tries longer".to_owned(),
        Error::NoReplica { endpoints, .. } => {
            format!(": `assay status --endpoint {}` says why, --retry-for waits longer", endpoints.join(","))
        }
        Error::NoEndpoint | Error::Refused { .. } => String::new(),
    };
    anyhow::anyhow!("{error}{hint}")
}
