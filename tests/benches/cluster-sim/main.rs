//! A large cluster in simulated time: gateways and leaders as they are, under load and with faults, and what the replicas
//! do with their time. `make bench` runs it small; as large as one likes:
//! `cargo bench --package tests --bench cluster-sim -- --seeds 3 --gateways 64 --replicas 512 --minutes 20 --load 0.95`.
//!
//! A wrong score, or one that comes twice, ends it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints, and ends at the first surprise"
)]

#[allow(dead_code, unused_imports, reason = "its tests are run with the others")]
#[path = "../../src/simulation/mod.rs"]
mod simulation;

use std::time::Instant;

use self::simulation::load::{Load, Report, Tenants};

/// What was asked for on the command line.
struct Asked {
    seeds: u64,
    gateways: usize,
    replicas: usize,
    minutes: f64,
    load: f64,
}

/// A process fails each so many milliseconds, times the processes.
const FAULTS: u64 = 600_000;

fn main() {
    let asked = Asked::read(std::env::args().skip(1));
    let (gateways, replicas) = (asked.gateways, asked.replicas);
    let seconds = (asked.minutes * 60.0) as u64;
    let faults = FAULTS / (gateways + replicas) as u64;
    println!("\n{gateways} gateways, {replicas} replicas, {seconds} s, a fault each {faults} ms");
    println!(
        "{:>4} {:>5} {:>6} {:>7} {:>6} {:>7} {:>7} {:>9} {:>9} {:>8} {:>5} {:>10} {:>9} {:>6}",
        "seed",
        "load",
        "busy",
        "idle*",
        "fill",
        "median",
        "p99",
        "answers",
        "scores",
        "refused",
        "lost",
        "events",
        "events/s",
        "wall"
    );
    for seed in 1..=asked.seeds {
        let load = |share, tenants, faults| Load { gateways, replicas, seconds, share, tenants, faults };
        row(seed, &load(asked.load, Tenants::Spread, faults));
        let report = row(seed, &load(1.3, Tenants::OneAndAll, 0));
        let (one, all) = (report.sent["one"] as f64, report.sent["all"] as f64);
        let share = |tokens: f64| tokens / (one + all);
        println!("     equal weights: {:.3} through one gateway, {:.3} through all", share(one), share(all));
    }
    println!(
        "* idle while some gateway held work, as a share of the replicas' time; waits in full steps; events/s of a core"
    );
    println!("peak memory: {} MB", peak_memory() / 1_000_000);
}

fn row(seed: u64, load: &Load) -> Report {
    let start = Instant::now();
    let report = load.run(seed);
    let Report { busy, idle, fill, median, slowest_hundredth, .. } = &report;
    let Report { answers, scores, refusals, lost, events, events_per_second, .. } = &report;
    println!(
        "{seed:>4} {:>5.2} {busy:>6.3} {idle:>7.4} {fill:>6.3} {median:>7.2} {slowest_hundredth:>7.2} {answers:>9} \
         {scores:>9} {refusals:>8} {lost:>5} {events:>10} {events_per_second:>9.0} {:>5.0}s",
        load.share,
        start.elapsed().as_secs_f64()
    );
    report
}

/// The most memory that this process had, in bytes (Linux: /proc).
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() * 1024
}

// === impl Asked ===

impl Asked {
    fn read(mut words: impl Iterator<Item = String>) -> Self {
        let mut asked = Self { seeds: 1, gateways: 64, replicas: 512, minutes: 20.0, load: 0.95 };
        while let Some(word) = words.next() {
            // cargo's own
            if word == "--bench" {
                continue;
            }
            let value = words.next().unwrap_or_else(|| panic!("{word} needs a number"));
            let number: f64 = value.parse().unwrap_or_else(|_| panic!("{word} {value}: not a number"));
            match word.as_str() {
                "--seeds" => asked.seeds = number as u64,
                "--gateways" => asked.gateways = number as usize,
                "--replicas" => asked.replicas = number as usize,
                "--minutes" => asked.minutes = number,
                "--load" => asked.load = number,
                _ => panic!("{word}: one of --seeds, --gateways, --replicas, --minutes, --load"),
            }
        }
        asked
    }
}
