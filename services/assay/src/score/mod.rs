//! `assay score`: conversations from a file or a pipe to scores, in one process; with `--endpoint`, in `client/score/`.
//!
//! A thread reads and encodes lines while the model computes; steps are filled in the order of the input, and the next
//! one is given to the model while one is computed. What is held at a time is bounded, so the length of the input does
//! not matter.

pub(crate) mod answers;
mod encoded;
pub(crate) mod files;
pub(crate) mod lines;
pub(crate) mod report;

use std::io::{self, BufRead};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use model::Packer;
use prompt::{Encoder, Options};
use shard::{Replica, ReplicaOptions, Step};

use self::answers::{Answers, Scored, Slot, Status};
use self::encoded::{Conversation, encode};
use self::files::{Files, Output};
use self::lines::{ItemFailure, Line, Lines};
use self::report::{Progress, Stats};
use crate::args::Score;
use crate::opened::{Opened, check_here, numerics};

/// Lines that may be encoded ahead of the model.
const LINES_AHEAD: usize = 256;
/// Lines without a conversation for the model that may wait for those before them.
const LINES_WAITING: usize = 4096;
/// How long a step that is not full waits for more lines of a pipe: somebody may be waiting for the answer.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often a step is looked at while no line comes.
const GLANCE: Duration = Duration::from_millis(1);

/// Lines that have been read and encoded.
type Inbox = Receiver<io::Result<Line<Conversation>>>;

/// Runs the command.
pub(crate) fn run(args: &Score) -> Result<ExitCode> {
    if args.remote.is_wanted() { crate::client::score::run(args) } else { run_here(args) }
}

fn run_here(args: &Score) -> Result<ExitCode> {
    let start = Instant::now();
    let budget = args.max_batch_tokens.get();
    let computes = args.compute.computes(args.tensor_parallel, budget)?;
    check_here(&computes)?;
    let opened = Opened::open(&args.choice())?;
    let options = opened.options(&args.limits, budget)?;
    let files = Files::open(args)?;
    let numerics = numerics(&opened.config, &computes, computes.len())?;
    let replica = Replica::load(&ReplicaOptions {
        config: opened.config.clone(),
        weights: opened.checkpoint.weights.clone(),
        threads: args.threads.map_or_else(cores, usize::from),
        computes,
    })?;
    for warning in replica.warnings() {
        tracing::warn!("{warning}");
    }
    let fingerprint = opened.fingerprint(&numerics)?.to_string();
    let stats = Stats { load_seconds: start.elapsed().as_secs_f64(), fingerprint, steps: Some(0), ..Stats::default() };
    let progress = Progress::beside(&args.output, files.bytes);
    let patience = files.bytes.is_none().then_some(PATIENCE);
    let (reader, output, stats_file) = files.begin()?;
    let answers = Answers::new(output, args.input.display().to_string());
    let start = Instant::now();
    let (filling, flying) = (Filling { step: Packer::default(), slots: Vec::new(), since: start }, None);
    let mut run = Run { replica, answers, budget, filling, flying, stats, progress };
    let outcome = run.all(&read_ahead(Lines::new(reader), opened.encoder, options)?, patience);
    let outcome = outcome.with_context(|| format!("{}: stopped", args.input.display()));
    run.progress.finish();
    run.stats.finish(start.elapsed());
    report::close(outcome, &run.stats, stats_file, run.answers.first_failure())
}

/// Reads and encodes lines on a thread of its own. It is not waited for: after an error it may still be reading a pipe.
fn read_ahead(lines: Lines<Box<dyn BufRead + Send>>, encoder: Encoder, options: Options) -> Result<Inbox> {
    let (sender, inbox) = sync_channel(LINES_AHEAD);
    let work = move || {
        for given in lines {
            let line = given.map(|given| encode(given, &encoder, &options));
            let end = line.is_err();
            if sender.send(line).is_err() || end {
                return;
            }
        }
    };
    std::thread::Builder::new().name("reader".to_owned()).spawn(work).context("cannot start the reader's thread")?;
    Ok(inbox)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A conversation in a step.
struct Wanted {
    slot: Slot,
    tokens: usize,
    truncated: bool,
}

/// A step that is being filled.
struct Filling {
    step: Packer,
    /// Where its answers belong.
    slots: Vec<Wanted>,
    /// When the first conversation of the step came.
    since: Instant,
}

/// A step that is computed.
struct Flying {
    step: Step,
    /// Where its answers belong.
    slots: Vec<Wanted>,
}

/// A run under way.
struct Run {
    replica: Replica,
    answers: Answers<Output>,
    budget: usize,
    filling: Filling,
    flying: Option<Flying>,
    stats: Stats,
    progress: Progress,
}

// === impl Run ===

impl Run {
    /// Takes lines until there are no more. With `patience`, a step that is not full does not wait longer than that.
    fn all(&mut self, inbox: &Inbox, patience: Option<Duration>) -> Result<()> {
        loop {
            match self.next(inbox, patience) {
                Ok(line) => self.take(line?)?,
                // while nothing comes, what is computed is answered, and then what came
                Err(RecvTimeoutError::Timeout) if self.flying.is_some() => self.land()?,
                Err(RecvTimeoutError::Timeout) => self.compute()?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.finish()
    }

    /// The next line; `Timeout` if there is something better to do than to wait for it.
    fn next(
        &mut self,
        inbox: &Inbox,
        patience: Option<Duration>,
    ) -> Result<io::Result<Line<Conversation>>, RecvTimeoutError> {
        if let Some(flying) = &mut self.flying {
            loop {
                match inbox.recv_timeout(GLANCE) {
                    Err(RecvTimeoutError::Timeout) if !flying.step.is_done() => {}
                    line => return line,
                }
            }
        }
        match patience.filter(|_| !self.filling.step.is_empty()) {
            Some(patience) => inbox.recv_timeout(patience.saturating_sub(self.filling.since.elapsed())),
            None => inbox.recv().map_err(RecvTimeoutError::from),
        }
    }

    fn take(&mut self, line: Line<Conversation>) -> Result<()> {
        let position = line.position;
        self.stats.failed += line.items.iter().filter(|item| item.is_err()).count() as u64;
        for (slot, conversation) in self.answers.expect(line) {
            self.add(slot, conversation)?;
        }
        let wanted = self.filling.slots.len() + self.flying.as_ref().map_or(0, |flying| flying.slots.len());
        if self.answers.waiting() > wanted + LINES_WAITING {
            self.finish()?;
        } else if wanted == 0 {
            self.answers.write()?;
        }
        self.progress.show(position, &self.stats);
        Ok(())
    }

    fn add(&mut self, slot: Slot, conversation: Conversation) -> Result<()> {
        if !self.filling.step.fits(&conversation.tokens, self.budget) {
            self.compute()?;
        }
        if self.filling.step.is_empty() {
            self.filling.since = Instant::now();
        }
        let Conversation { tokens, truncated } = conversation;
        self.filling.slots.push(Wanted { slot, tokens: tokens.len(), truncated });
        self.filling.step.push(tokens);
        Ok(())
    }

    /// Gives the step that has been filled to the model, and answers the one before.
    fn compute(&mut self) -> Result<()> {
        let step = std::mem::take(&mut self.filling.step);
        if step.is_empty() {
            return Ok(());
        }
        *self.stats.steps.get_or_insert_default() += 1;
        self.stats.computed_tokens += step.tokens() as u64;
        let next = Flying { step: self.replica.submit(step.pack())?, slots: std::mem::take(&mut self.filling.slots) };
        self.land()?;
        self.flying = Some(next);
        Ok(())
    }

    /// Waits for the step that is computed, and writes what it completes.
    fn land(&mut self) -> Result<()> {
        let Some(Flying { step, slots }) = self.flying.take() else { return Ok(()) };
        for (Wanted { slot, tokens, truncated }, score) in slots.into_iter().zip(self.replica.collect(step)?) {
            let scored = match score {
                Ok(score) => Ok(Scored { score, tokens, truncated }),
                Err(problem) => Err(ItemFailure { problem: problem.to_string(), status: Status::Invalid, tokens }),
            };
            self.stats.count(&scored);
            self.answers.answer(slot, scored);
        }
        Ok(self.answers.write()?)
    }

    /// Answers all that came.
    fn finish(&mut self) -> Result<()> {
        self.compute()?;
        self.land()?;
        Ok(self.answers.write()?)
    }
}
