//! `assay score` on pipes: answers come while the input goes on, memory does not grow with it, and an output that is
//! closed ends the call.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use tests::golden;

use crate::assay::{command, expected, ids, jsonl};

const MODEL: &str = "qwen3";

/// Longer than any machine needs for a line.
const FOREVER: Duration = Duration::from_secs(60);

/// A run on pipes; it is killed when the test is over.
struct Pipe(Child);

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(flags: &[&str]) -> Pipe {
    let model = golden(MODEL);
    let mut arguments = vec!["score", "--model", model.to_str().unwrap()];
    arguments.extend_from_slice(flags);
    Pipe(command(&arguments).spawn().unwrap())
}

/// The lines of an output as they come, so that a test can give up waiting.
fn lines(output: ChildStdout) -> Receiver<Value> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let line = serde_json::from_str(&line.unwrap()).unwrap();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

#[test]
fn a_process_that_waits_for_each_answer_gets_it() {
    let mut pipe = spawn(&[]);
    let mut input = pipe.0.stdin.take().unwrap();
    let answers = lines(pipe.0.stdout.take().unwrap());
    for (id, row) in expected(MODEL).iter().enumerate() {
        input.write_all(jsonl([json!({ "id": id, "input_ids": ids(row) })]).as_bytes()).unwrap();
        let answer = answers.recv_timeout(FOREVER).expect("an answer while the pipe is open");
        assert_eq!((&answer["id"], &answer["status"]), (&json!(id), &json!(["ok"])));
    }
    input.write_all(b"nope\n").unwrap();
    assert_eq!(answers.recv_timeout(FOREVER).unwrap()["status"], json!(["invalid"]));
    drop(input);
    assert_eq!(pipe.0.wait().unwrap().code(), Some(1));
}

#[test]
fn answers_come_while_a_slow_input_goes_on() {
    const LINES: usize = 600;
    let rows = expected(MODEL);
    let long: Vec<Vec<u32>> = rows.iter().map(ids).filter(|ids| ids.len() > 600).collect();
    let mut pipe = spawn(&[]);
    let mut input = pipe.0.stdin.take().unwrap();
    let answers = lines(pipe.0.stdout.take().unwrap());
    let written = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // lines that add nothing to a step never fill it
        scope.spawn(|| {
            let line = jsonl([json!({ "input_ids": long[0] })]);
            for _ in 0..LINES {
                input.write_all(line.as_bytes()).unwrap();
                written.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(4));
            }
            drop(input);
        });
        let first = answers.recv_timeout(FOREVER).unwrap();
        let so_far = written.load(Ordering::Relaxed);
        assert!(so_far < LINES / 2, "the first answer came after {so_far} of {LINES} lines");
        assert_eq!(first["tokens"], json!([long[0].len()]));
        assert_eq!(answers.iter().filter(|answer| *answer == first).count(), LINES - 1);
    });
    assert_eq!(pipe.0.wait().unwrap().code(), Some(0));
}

#[test]
fn an_output_that_is_closed_ends_the_call_without_a_panic() {
    let mut pipe = spawn(&[]);
    let mut input = pipe.0.stdin.take().unwrap();
    let mut output = BufReader::new(pipe.0.stdout.take().unwrap());
    let line = jsonl([json!({ "text": "hello" })]);
    let writer = std::thread::spawn(move || while input.write_all(line.as_bytes()).is_ok() {});
    let mut first = String::new();
    output.read_line(&mut first).unwrap();
    assert!(first.contains("\"ok\""), "{first}");
    drop(output);
    let errors = std::io::read_to_string(pipe.0.stderr.take().unwrap()).unwrap();
    assert_eq!(pipe.0.wait().unwrap().code(), Some(1), "{errors}");
    assert_eq!(errors, "", "whoever closed it knows");
    writer.join().unwrap();
}

/// The most memory that scoring a file took, in KiB.
#[cfg(target_os = "linux")]
fn peak_memory(input: &str, lines: usize) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("input"), input).unwrap();
    let flags =
        ["--input", &path("input"), "--output", &path("output"), "--max-batch-tokens", "2048", "--threads", "2"];
    let mut pipe = spawn(&flags);
    let status = format!("/proc/{}/status", pipe.0.id());
    let mut peak = 0;
    let code = loop {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let seen =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(seen.unwrap_or(0));
        match pipe.0.try_wait().unwrap() {
            Some(exit) => break exit.code(),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    assert!(matches!(code, Some(0 | 1)), "{code:?}");
    assert_eq!(std::fs::read_to_string(path("output")).unwrap().lines().count(), lines);
    peak
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_input() {
    const LINES: usize = 500;
    const MOST: u64 = 30 << 10;
    // long to hold, quick to compute: six tokens, and much that is the caller's own
    let note = "x".repeat(8 << 10);
    let line = |i: usize| json!({ "id": i, "input_ids": [1, 2, i % 700, i / 700, 3, 4], "note": note });
    let small = peak_memory(&jsonl((0..LINES).map(line)), LINES);
    let large = peak_memory(&jsonl((0..20 * LINES).map(line)), 20 * LINES);
    assert!(small > 1 << 10, "a peak of {small} KiB cannot be");
    assert!(large < small + MOST, "{small} KiB for {LINES} lines, {large} KiB for 20 times as many");
    // lines that need no step wait for one before them that does
    let bad = format!("{}{}", jsonl([line(0)]), "nope\n".repeat(400 * LINES));
    let bad = peak_memory(&bad, 400 * LINES + 1);
    assert!(bad < small + MOST, "{small} KiB for {LINES} lines, {bad} KiB for many that cannot be read");
}
