//! `assay bench`: load on a gateway, and how it does under it.
//!
//! One task draws the calls and counts them; each call is a task of its own. In the closed loop the next call begins when
//! one is over. In the open loop calls are due at times drawn beforehand, and a call's time counts from then: a gateway
//! that is slow does not slow down who measures it.

mod caller;
mod report;
mod tally;
mod workload;

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use client::{Endpoints, Terms, in_words, retry_after};
use fastrand::Rng;
use indicatif::ProgressBar;
use proto::v1;
use service::Shutdown;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tonic::Status;

use self::caller::Caller;
use self::report::Report;
use self::tally::{Done, Tally};
use self::workload::Workload;
use super::args::Bench;

/// Runs the command.
pub(crate) fn run(args: &Bench) -> Result<ExitCode> {
    let create = |path: &PathBuf| File::create(path).with_context(|| format!("cannot write {}", path.display()));
    let file = args.json.as_ref().map(create).transpose()?;
    let endpoints = Endpoints::new(super::endpoints(&args.gateways)?)?;
    let names = endpoints.names().join(", ");
    let shutdown = Shutdown::on_signals().context("signals")?;
    let tally = super::runtime()?.block_on(async {
        let callers = tokio::select! {
            callers = callers(endpoints, args) => callers?,
            () = shutdown.begun() => return Err(anyhow!("stopped before the load began")),
        };
        Load::new(callers, args)?.run(&shutdown).await
    })?;
    let report = Report::new(described(args), names, &tally);
    write!(io::stdout(), "{}", report.text())?;
    if let Some(mut file) = file {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        file.write_all(text.as_bytes()).context("cannot write the figures")?;
    }
    Ok(ExitCode::from(if report.is_sound() { 0 } else { crate::SOME_FAILED }))
}

/// A way to each of the gateways.
async fn callers(mut endpoints: Endpoints, args: &Bench) -> Result<Vec<Arc<Caller>>> {
    let options = v1::Options { model: args.model.clone().unwrap_or_default(), ..v1::Options::default() };
    let terms = Terms { options, tenant: args.tenant.clone(), timeout: Some(args.timeout) };
    let hint = |name: &str| format!("`assay status --endpoint {name}` may say more");
    let mut callers = Vec::new();
    for _ in 0..endpoints.count() {
        let failed = |(name, status): (String, Status)| anyhow!("{name}: {}: {}", in_words(&status), hint(&name));
        let gateway = endpoints.dial().await.map_err(failed)?;
        let served = gateway.models().await.map_err(|status| failed((gateway.name.clone(), status)))?;
        gateway.choose(served, &terms.options)?;
        callers.push(Arc::new(Caller::new(gateway, terms.clone(), args.stream)));
    }
    Ok(callers)
}

fn described(args: &Bench) -> String {
    let load = match args.rate {
        Some(rate) => format!("{rate} conversations/s"),
        None => format!("{} calls at a time", args.concurrency),
    };
    let range = match (args.tokens.least, args.tokens.most) {
        (least, most) if least == most => least.to_string(),
        (least, most) => format!("{least} to {most}"),
    };
    let what = match (args.group, args.text) {
        (Some(group), _) => format!("groups of {group} responses of {range} words to {} words", args.prompt_tokens),
        (None, true) => format!("answers of {range} words to {} words", args.prompt_tokens),
        (None, false) => format!("conversations of {range} token ids below {}", args.vocab),
    };
    let how = if args.stream { "over a stream".to_owned() } else { format!("{} a call", args.batch) };
    format!("{load}, {what}, {how}, seed {}", args.seed)
}

/// A load under way.
struct Load {
    callers: Vec<Arc<Caller>>,
    workload: Workload,
    pace: Pace,
    /// When calls are due no more.
    end: Instant,
    /// How long answers are waited for after that.
    patience: Duration,
    tally: Tally,
    open: JoinSet<Done>,
    sent: usize,
    bar: ProgressBar,
}

/// When calls are due.
enum Pace {
    /// Whenever fewer than so many are open.
    Closed(usize),
    /// At random times, which were drawn beforehand and come out when they have come.
    Open(mpsc::UnboundedReceiver<Instant>),
}

/// More calls than this are not open at a time: who sends them would be what is measured.
const MOST_OPEN: usize = 50_000;
/// How long answers are waited for once somebody has pressed Ctrl-C.
const GRACE: Duration = Duration::from_secs(1);
/// A caller that was refused comes back after this, if nobody says when.
const REFUSED: Duration = Duration::from_millis(100);

// === impl Pace ===

impl Pace {
    /// Calls at random times. A thread waits for them: the runtime's clock has ticks of a millisecond.
    fn open(mut random: Rng, rate: f64, start: Instant) -> Self {
        let (sender, times) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut next = start;
            while sender.send(next).is_ok() {
                next += Duration::from_secs_f64(Workload::gap(&mut random, rate));
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self::Open(times)
    }

    /// When the next call is due, as soon as it is, while so many are open.
    async fn due(&mut self, open: usize) -> Instant {
        let due = match self {
            Self::Closed(most) if open < *most => Some(Instant::now()),
            // the calls after it are due as before: they are late, and their times say so
            Self::Open(times) if open < MOST_OPEN => times.recv().await,
            _ => None,
        };
        match due {
            Some(due) => due,
            None => std::future::pending().await,
        }
    }
}

// === impl Load ===

impl Load {
    fn new(callers: Vec<Arc<Caller>>, args: &Bench) -> Result<Self> {
        let workload = Workload::new(args);
        let start = Instant::now();
        let conversations = workload.conversations();
        let pace = match args.rate {
            None => Pace::Closed(args.concurrency.get()),
            // times do not depend on what is sent
            Some(rate) => Pace::open(Rng::with_seed(!args.seed), rate / conversations as f64, start),
        };
        let from = start + args.warmup;
        Ok(Self {
            callers,
            workload,
            pace,
            end: from + args.duration,
            patience: args.timeout,
            tally: Tally::new(from, conversations)?,
            open: JoinSet::new(),
            sent: 0,
            bar: ProgressBar::new((args.warmup + args.duration).as_millis() as u64),
        })
    }

    /// Sends calls until the end or a signal, and waits for the answers.
    async fn run(mut self, shutdown: &Shutdown) -> Result<Tally> {
        let (start, mut stopped) = (Instant::now(), pin!(shutdown.begun()));
        while Instant::now() < self.end {
            let open = self.open.len();
            tokio::select! {
                () = &mut stopped => break,
                Some(done) = self.open.join_next(), if open > 0 => self.tally.add(done?),
                due = self.pace.due(open) => self.begin(due),
                () = sleep_until(self.end) => {}
            }
            self.bar.set_position(start.elapsed().as_millis() as u64);
        }
        self.bar.finish_and_clear();
        let patience = if shutdown.has_begun() { GRACE } else { self.patience };
        let until = Instant::now() + patience;
        while !self.open.is_empty() {
            let done = tokio::select! {
                done = timeout_at(until, self.open.join_next()) => done,
                () = &mut stopped, if !shutdown.has_begun() => break,
            };
            match done {
                Ok(Some(done)) => self.tally.add(done?),
                _ => break,
            }
        }
        Ok(self.tally)
    }

    fn begin(&mut self, due: Instant) {
        let caller = Arc::clone(&self.callers[self.sent % self.callers.len()]);
        self.sent += 1;
        self.tally.begin(due);
        let items = self.workload.next_call();
        let closed = matches!(self.pace, Pace::Closed(_));
        self.open.spawn(async move {
            let answer = caller.call(items).await;
            let finished = Instant::now();
            if let (true, Err(status)) = (closed, &answer) {
                sleep(retry_after(status).unwrap_or(REFUSED)).await;
            }
            Done { due, finished, answer }
        });
    }
}
