//! The one binary: reward-model scores from conversations.
//!
//! This is the only place that reads flags and the environment; everything below takes structs.

mod args;
mod inspect;
mod opened;
mod score;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use self::args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&args.log))
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false);
    match std::io::stderr().is_terminal() {
        true => log.init(),
        false => log.with_ansi(false).init(),
    }
    let outcome = match args.command {
        Command::Score(score) => score::run(&score),
        Command::Inspect(inspect) => inspect::run(&inspect),
    };
    outcome.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::from(WRONG_CALL)
    })
}

/// Every conversation has its answer, but not every one has a score.
const SOME_FAILED: u8 = 1;
/// Nothing could be done, or not all of it: a wrong call, a broken model, a full disk.
const WRONG_CALL: u8 = 2;
