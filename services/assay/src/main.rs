//! The one binary: reward-model scores from conversations.
//!
//! This is the only place that reads flags and the environment; everything below takes structs.

mod args;
mod inspect;
mod opened;
mod remote;
mod score;
mod serve;
mod settings;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use service::telemetry::{self, Format, Telemetry};

use self::args::{Args, Command};

fn main() -> ExitCode {
    let Args { log, command } = Args::parse();
    run(command, log.as_deref()).unwrap_or_else(|error| {
        // the log may be what could not be started
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::from(WRONG_CALL)
    })
}

/// Services start their own log, for their settings say how.
fn run(command: Command, log: Option<&str>) -> Result<ExitCode> {
    match command {
        Command::Up(up) => serve::up(&up, log),
        Command::Gateway(gateway) => serve::gateway(&gateway, log),
        Command::Shard(shard) => serve::shard(&shard, log),
        Command::Score(score) => with_log(log, || score::run(&score)),
        Command::Bench(bench) => with_log(log, || remote::bench::run(&bench)),
        Command::Status(status) => with_log(log, || remote::status::run(&status)),
        Command::Inspect(inspect) => with_log(log, || inspect::run(&inspect)),
        Command::Config(config) => serve::config(&config),
    }
}

/// Runs a command with a log for people at a terminal.
fn with_log(filter: Option<&str>, command: impl FnOnce() -> Result<ExitCode>) -> Result<ExitCode> {
    let telemetry = Telemetry { log: filter.unwrap_or("warn").to_owned(), format: Format::Brief, otlp: None };
    let _telemetry = telemetry::init(&telemetry, "assay", std::io::stderr().is_terminal())?;
    command()
}

/// Every conversation has its answer, but not every one has a score.
const SOME_FAILED: u8 = 1;
/// Nothing could be done, or not all of it: a wrong call, a broken model, a full disk.
const WRONG_CALL: u8 = 2;
