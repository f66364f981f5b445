//! Load from `assay bench`: the gateway's CPU time for a conversation, and the time that it adds.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::process::{Gateway, binary};

/// Token ids in the vocabulary.
const IDS: &str = "--vocab 500 --tokens 300";

/// Prints what a conversation costs, as fast as it goes.
pub(crate) fn cost(gateway: &Gateway) {
    println!("\n{:<56} {:>9} {:>10} {:>16}", "gateway CPU", "us each", "promised", "conversations/s");
    for (what, promised, flags) in [
        ("300 token ids, 64 a call", "50", format!("{IDS} --batch 64 --concurrency 4")),
        ("8 token ids, 64 a call", "50", "--vocab 500 --tokens 8 --batch 64 --concurrency 4".to_owned()),
        ("text of 300 words, 64 a call", "560", "--text --tokens 300 --batch 64 --concurrency 4".to_owned()),
        ("300 token ids, over a stream, 256 open", "-", format!("{IDS} --stream --concurrency 256")),
        ("300 token ids, one a call, 64 calls open", "-", format!("{IDS} --concurrency 64")),
    ] {
        let before = gateway.cpu();
        let figures = run(gateway, &format!("{flags} --duration 6s --warmup 0s"));
        let each = (gateway.cpu() - before).as_secs_f64() * 1e6 / figures["conversations"].as_f64().unwrap();
        let rate = figures["conversations_per_second"].as_f64().unwrap();
        println!("{what:<56} {each:>9.1} {promised:>10} {rate:>16.0}");
    }
}

/// Prints how long an answer takes that the replica has at once, at 1,000 conversations a second.
pub(crate) fn latency(gateway: &Gateway) {
    println!("\n{:<56} {:>9} {:>9} {:>9}", "added latency at 1,000 conversations/s, ms", "p50", "p99", "CPU");
    for (what, flags) in [
        ("300 token ids, over a stream (promised 1 and 3)", format!("{IDS} --stream")),
        ("300 token ids, one a call (promised 1 and 3)", IDS.to_owned()),
        ("300 token ids, 64 a call", format!("{IDS} --batch 64")),
        ("text of 300 words, over a stream", "--text --tokens 300 --stream".to_owned()),
        ("groups of 8 responses of 100 words, over a stream", "--group 8 --tokens 100 --stream".to_owned()),
    ] {
        let before = gateway.cpu();
        let figures = run(gateway, &format!("{flags} --rate 1000 --duration 10s --warmup 1s"));
        let share = (gateway.cpu() - before).as_secs_f64() / (figures["seconds"].as_f64().unwrap() + 1.0);
        let ms = |quantile: &str| figures["latency_seconds"][quantile].as_f64().unwrap() * 1e3;
        println!("{what:<56} {:>9.2} {:>9.2} {:>8.0}%", ms("p50"), ms("p99"), share * 100.0);
    }
}

/// Runs a load to its end, and gives its figures.
fn run(gateway: &Gateway, flags: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("figures.json");
    let mut command = Command::new(binary());
    command.args(["bench", "--endpoint", &gateway.address]).args(flags.split(' ')).arg("--json").arg(&json);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{flags}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap()
}
