//! `assay score --endpoint`: conversations from a file or a pipe to a gateway, and scores from it.
//!
//! A thread reads lines; a bounded number of them is with the gateway at a time. Lines are known by their number: when
//! the gateway goes away, whatever has no answer is sent to the next one under the same number, and the first answer to
//! a line is the one that is written.

mod connector;
mod link;
mod window;
mod wire;

use std::collections::BTreeSet;
use std::io::{self, BufRead};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use prompt::Input;
use proto::{Message as _, v1};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tonic::{Code, Status};

use self::connector::Connector;
use self::link::{Event, Link, Manner};
use self::window::Window;
use super::endpoints::{Endpoints, Gateway, LARGEST_MESSAGE};
use crate::args::Score;
use crate::score::answers::Answers;
use crate::score::files::{Files, Output};
use crate::score::lines::{Given, ItemFailure, Line, Lines};
use crate::score::report::{self, Progress, Stats};

/// Lines that may be read ahead; a line may be long.
const LINES_AHEAD: usize = 8;
/// Lines that may be with a gateway: as many as it reads of a stream.
const IN_STREAM: usize = 1024;
/// Calls that may be with a gateway, where each line is one: their time runs while others are computed.
const IN_CALLS: usize = 256;
/// Answered lines that may wait for those before them.
const LINES_WAITING: usize = 16 * 1024;
/// How often a gateway that says nothing is asked whether there is a replica.
const LOOK: Duration = Duration::from_secs(2);
/// The largest line; with what goes with it, it is the largest message that a gateway reads.
const LARGEST_ITEM: usize = LARGEST_MESSAGE - 64 * 1024;

/// Runs the command.
pub(crate) fn run(args: &Score) -> Result<ExitCode> {
    let start = Instant::now();
    let tenant = args.remote.tenant.as_deref().map(str::parse).transpose().context("--tenant")?;
    let options = wire::options(args.model.as_deref(), &args.limits);
    let manner = Manner { options, tenant, timeout: args.remote.timeout };
    let endpoints = Endpoints::new(&args.remote.gateways())?;
    let files = Files::open(args)?;
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(async {
        let window = Window::new(if manner.timeout.is_some() { IN_CALLS } else { IN_STREAM });
        let mut connector = Connector::new(endpoints, manner, args.remote.retry_for);
        let found = connector.connect().await?;
        let stats = Stats { load_seconds: start.elapsed().as_secs_f64(), resent: Some(0), ..Stats::default() };
        let progress = Progress::beside(&args.output, files.bytes);
        let (reader, output, stats_file) = files.begin()?;
        let answers = Answers::new(output, args.input.display().to_string());
        let inbox = read_ahead(Lines::new(reader))?;
        let start = Instant::now();
        let fingerprints = BTreeSet::new();
        let mut run = Run {
            connector,
            window,
            answers,
            inbox,
            reading: true,
            position: 0,
            heard: start,
            fingerprints,
            stats,
            progress,
        };
        let outcome = run.all(found).await.with_context(|| format!("{}: stopped", args.input.display()));
        run.progress.finish();
        run.stats.fingerprint = run.fingerprints.into_iter().collect::<Vec<_>>().join(", ");
        run.stats.finish(start.elapsed());
        report::close(outcome, &run.stats, stats_file, run.answers.first_failure())
    });
    // the reader may still wait for a pipe
    runtime.shutdown_background();
    outcome
}

/// Reads lines on a thread of its own. It is not waited for: after an error it may still be reading a pipe.
fn read_ahead(lines: Lines<Box<dyn BufRead + Send>>) -> Result<mpsc::Receiver<io::Result<Given>>> {
    let (sender, inbox) = mpsc::channel(LINES_AHEAD);
    let work = move || {
        for line in lines {
            let end = line.is_err();
            if sender.blocking_send(line).is_err() || end {
                return;
            }
        }
    };
    std::thread::Builder::new().name("reader".to_owned()).spawn(work).context("cannot start the reader's thread")?;
    Ok(inbox)
}

/// A run under way.
struct Run {
    connector: Connector,
    window: Window,
    answers: Answers<Output>,
    inbox: mpsc::Receiver<io::Result<Given>>,
    /// Whether there may be more lines.
    reading: bool,
    /// The bytes of the input that were read.
    position: u64,
    /// When a gateway said something last.
    heard: Instant,
    fingerprints: BTreeSet<String>,
    stats: Stats,
    progress: Progress,
}

// === impl Run ===

impl Run {
    /// Takes lines until there are no more and each has its answer, from one gateway after the other.
    async fn all(&mut self, found: (Gateway, Link)) -> Result<()> {
        let (mut gateway, mut link) = found;
        while let Some(status) = self.talk(&gateway, link).await? {
            let unanswered = self.window.all_again(Instant::now());
            self.sent_again(unanswered);
            if self.window.is_empty() {
                // nothing was asked of it
                self.connector.patience.renew();
            }
            if status.code() == Code::OutOfRange && self.give_up_largest(&status)? {
                tracing::warn!(endpoint = gateway.name, "{}", status.message());
            } else {
                self.connector.lost(&gateway.name, &status).await?;
            }
            (gateway, link) = self.connector.connect().await?;
        }
        Ok(())
    }

    /// Talks to one gateway: until all is answered, or until it is gone.
    async fn talk(&mut self, gateway: &Gateway, mut link: Link) -> Result<Option<Status>> {
        let mut options = Some(self.connector.manner.options.clone());
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut open = true;
        self.heard = Instant::now();
        while self.reading || !self.window.is_empty() {
            let room = self.reading && self.window.has_room() && self.answers.waiting() < LINES_WAITING;
            let due = self.window.next_due();
            let is_due = due.is_some_and(|due| due <= Instant::now());
            tokio::select! {
                event = link.events.recv() => match event {
                    Some(Event::Answer(answer)) => self.answered(answer)?,
                    Some(Event::Full(id, delay)) => self.again(id, Instant::now() + delay),
                    Some(Event::Broken(status)) => return Ok(Some(status)),
                    None => return Ok(Some(Status::unavailable("the connection is gone"))),
                },
                permit = link.requests.reserve(), if is_due && open => match permit {
                    Ok(permit) => if let Some(request) = self.window.send() {
                        permit.send(v1::ScoreStreamRequest { options: options.take(), ..request });
                    },
                    // the event that says why is on its way
                    Err(_) => open = false,
                },
                line = self.inbox.recv(), if room => match line {
                    Some(line) => self.take(line?)?,
                    None => self.reading = false,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && !is_due => {}
                _ = look.tick(), if !self.window.is_empty() => self.look(gateway).await?,
            }
        }
        self.answers.write()?;
        Ok(None)
    }

    /// Takes a line in.
    fn take(&mut self, given: Given) -> Result<()> {
        let Given { mut line, input } = given;
        let (number, position) = (line.number, line.position);
        let item = input.and_then(|input| sendable(input, &mut line));
        self.stats.failed += line.items.iter().filter(|item| item.is_err()).count() as u64;
        let slots: Vec<_> = self.answers.expect(line).into_iter().map(|(slot, ())| slot).collect();
        match item {
            Some(item) => {
                if self.window.is_empty() {
                    self.connector.patience.renew();
                    self.heard = Instant::now();
                }
                self.window.admit(number, item, slots, Instant::now());
            }
            None => self.answers.write()?,
        }
        self.position = position;
        self.progress.show(position, &self.stats);
        Ok(())
    }

    /// Takes the answer to a line, unless it is to be sent again.
    fn answered(&mut self, answer: v1::ScoreStreamResponse) -> Result<()> {
        self.heard = Instant::now();
        let results = answer.item.unwrap_or_default().results;
        if results.iter().any(|result| result.status() == v1::Status::Unavailable) {
            let patience = self.connector.patience.limit;
            if let Some(at) = self.window.unavailable(answer.id, self.heard, patience) {
                self.again(answer.id, at);
                return Ok(());
            }
            if self.reading && self.connector.patience.ends_within(Duration::ZERO) {
                let reason = results.into_iter().map(|result| result.error).find(|error| !error.is_empty());
                bail!(self.no_replica(reason.as_deref()));
            }
        } else {
            self.connector.good();
        }
        let Some(line) = self.window.answered(answer.id) else { return Ok(()) };
        for (number, slot) in line.slots.into_iter().enumerate() {
            let result = results.get(number);
            let scored = wire::outcome(result);
            self.stats.count(&scored);
            if let (Ok(_), Some(result)) = (&scored, result) {
                self.stats.computed_tokens += u64::from(result.computed_tokens);
                self.computed_by(&result.fingerprint);
            }
            self.answers.answer(slot, scored);
        }
        self.answers.write()?;
        self.progress.show(self.position, &self.stats);
        Ok(())
    }

    /// Takes note of what a score depends on. Scores of two models, or of two kinds of machines, are not comparable bit
    /// by bit, and somebody should know.
    fn computed_by(&mut self, fingerprint: &str) {
        if !self.fingerprints.contains(fingerprint) && self.fingerprints.len() < MOST_FINGERPRINTS {
            self.fingerprints.insert(fingerprint.to_owned());
            if self.fingerprints.len() > 1 {
                tracing::warn!(fingerprint, "the gateway has begun to serve another version of the model");
            }
        }
    }

    /// Has a line sent again, unless it has its answer.
    fn again(&mut self, id: u64, at: Instant) {
        self.heard = Instant::now();
        self.window.again(id, at);
        self.sent_again(1);
    }

    fn sent_again(&mut self, lines: u64) {
        *self.stats.resent.get_or_insert_default() += lines;
    }

    /// Looks whether there is anything to wait for, if nothing was heard for some time.
    async fn look(&mut self, gateway: &Gateway) -> Result<()> {
        if self.heard.elapsed() < LOOK {
            return Ok(());
        }
        if self.connector.is_ready(gateway).await {
            self.connector.patience.renew();
        } else if self.connector.patience.ends_within(Duration::ZERO) {
            bail!(self.no_replica(None));
        }
        Ok(())
    }

    fn no_replica(&self, reason: Option<&str>) -> String {
        let seconds = self.connector.patience.limit.as_secs_f64();
        let names = self.connector.endpoints.names();
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!(
            "no replica of the model was ready for {seconds} s{reason}: `assay status --endpoint {}` says why, \
             --retry-for waits longer",
            names.replace(", ", ",")
        )
    }

    /// The gateway takes no message that is so large: the largest line has no score, and the others go on.
    fn give_up_largest(&mut self, status: &Status) -> Result<bool> {
        let Some(line) = self.window.largest().and_then(|id| self.window.answered(id)) else { return Ok(false) };
        for slot in line.slots {
            let scored = Err(ItemFailure::new(format!("the line is too large for the gateway: {}", status.message())));
            self.stats.count(&scored);
            self.answers.answer(slot, scored);
        }
        self.answers.write()?;
        Ok(true)
    }
}

/// More are not told apart.
const MOST_FINGERPRINTS: usize = 16;

/// What is sent of a line. If it cannot be sent, its conversations fail.
fn sendable(input: Input, line: &mut Line<()>) -> Option<v1::Item> {
    let too_large = |bytes| ItemFailure::new(format!("{bytes} bytes are too large for a gateway"));
    let item = wire::item(input).and_then(|item| match item.encoded_len() {
        bytes if bytes > LARGEST_ITEM => Err(too_large(bytes)),
        _ => Ok(item),
    });
    let failure = match item {
        Ok(item) => return Some(item),
        Err(failure) => failure,
    };
    for item in line.items.iter_mut().filter(|item| item.is_ok()) {
        *item = Err(failure.clone());
    }
    None
}
