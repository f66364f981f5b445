//! The commands that talk to a gateway, against one that answers out of order, breaks off, is full, or is not there:
//! every line is written once, in its place, and the exit status says how it went.

pub(crate) mod fake;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::Status;

use self::fake::{Behaviour, Fake, score_of};
use crate::assay::{Call, assay, command, jsonl};

/// Calls `assay score` with these endpoints.
fn score(endpoints: &[&Fake], flags: &[&str], input: &str) -> Call {
    let endpoints = endpoints.iter().map(|fake| fake.address.as_str()).collect::<Vec<_>>().join(",");
    assay(&[&["score", "--endpoint", &endpoints], flags].concat(), input.as_bytes())
}

/// Numbered lines.
fn numbers(count: usize) -> String {
    jsonl((0..count).map(|number| json!({ "id": number, "text": number.to_string() })))
}

#[track_caller]
fn lines(call: &Call) -> Vec<Value> {
    call.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Checks that each of the numbered lines has its score, once and in its place.
#[track_caller]
fn check_numbers(call: &Call, count: usize) {
    assert_eq!(call.status, Some(0), "{}", call.stderr);
    let lines = lines(call);
    assert_eq!(lines.len(), count, "{}", call.stderr);
    for (number, line) in lines.iter().enumerate() {
        let score = line["scores"][0].as_f64().map(|score| score as f32);
        assert_eq!((&line["id"], score), (&json!(number), score_of(&number.to_string())), "{line}");
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

// === score ===

#[test]
fn answers_come_in_any_order_and_lines_leave_in_that_of_the_input() {
    let fake = Fake::start(Behaviour { reversed: 7, ..Behaviour::default() });
    let folder = tempfile::tempdir().unwrap();
    let stats = folder.path().join("stats.json");
    let flags = ["--stats", stats.to_str().unwrap(), "--tenant", "team-a", "--max-length", "50", "--truncate", "left"];
    let call = score(&[&fake], &flags, &numbers(100));
    check_numbers(&call, 100);
    let stats = read(&stats);
    assert_eq!((&stats["conversations"], &stats["failed"], &stats["resent"]), (&json!(100), &json!(0), &json!(0)));
    assert_eq!((&stats["input_tokens"], &stats["fingerprint"]), (&json!(190), &json!("finger")));
    assert_eq!(stats.get("steps"), None);
    let notes = fake.notes();
    assert_eq!(notes.tenants, ["team-a"]);
    assert_eq!(notes.streams, [(1..=100).collect::<Vec<_>>()]);
    let options = notes.options[0].clone().unwrap();
    assert_eq!((options.max_length, options.truncation, &*options.model), (50, 2, ""));
}

#[test]
fn what_is_wrong_with_a_line_is_said_in_its_place_and_stops_nobody() {
    let fake = Fake::start(Behaviour { reversed: 3, ..Behaviour::default() });
    let calls =
        json!([{ "role": "user", "content": "1" }, { "role": "assistant", "tool_calls": [{}], "content": "2" }]);
    let turns = json!([{ "role": "user", "content": "1" }, { "role": "assistant", "content": "25" }]);
    let input = jsonl([json!({ "id": "a", "messages": turns }), json!({ "messages": calls })])
        + "nope\n"
        + &jsonl([
            json!({ "prompt": "q", "responses": ["1.5", 3, "x", "-2"] }),
            json!({ "input_ids": [40] }),
            json!({ "text": "y" }),
        ]);
    let call = score(&[&fake], &[], &input);
    assert_eq!(call.status, Some(1), "{}", call.stderr);
    let lines = lines(&call);
    assert_eq!(lines[0], json!({ "id": "a", "scores": [2.5], "tokens": [2], "status": ["ok"] }));
    let problem = |line: usize, item: usize| lines[line]["errors"][item].as_str().unwrap_or_default();
    // what a turn says besides goes along
    assert_eq!(lines[1], json!({ "scores": [0.2], "tokens": [1], "status": ["ok"] }));
    assert!(problem(2, 0).starts_with("-:3: not a JSON object"), "{}", lines[2]);
    assert_eq!(lines[3]["scores"], json!([0.15, null, null, -0.2]));
    assert_eq!(lines[3]["status"], json!(["ok", "invalid", "invalid", "ok"]));
    assert_eq!(problem(3, 1), "-:4: responses[1]: content must be text, found the number 3");
    assert_eq!(problem(3, 2), "-:4: \"x\" is no number");
    assert_eq!(lines[4], json!({ "scores": [4.0], "tokens": [2], "status": ["ok"] }));
    assert_eq!(lines[5]["status"], json!(["invalid"]));
    assert!(call.stderr.contains("4 of 9 conversations have no score"), "{}", call.stderr);
}

#[test]
fn a_stream_that_breaks_is_taken_up_again() {
    // twice, with a word and without one, while lines wait behind those that have an answer
    let fake = Fake::start(Behaviour { reversed: 4, breaks: [6, 9].into(), ..Behaviour::default() });
    let folder = tempfile::tempdir().unwrap();
    let stats = folder.path().join("stats.json");
    check_numbers(&score(&[&fake], &["--stats", stats.to_str().unwrap()], &numbers(60)), 60);
    let notes = fake.notes();
    assert_eq!((notes.streams.len(), notes.answers), (3, 60));
    assert!(notes.options.iter().all(Option::is_some), "each stream has options");
    let seen: BTreeSet<u64> = notes.streams.iter().flatten().copied().collect();
    assert_eq!(seen, (1..=60).collect());
    assert!(read(&stats)["resent"].as_u64().unwrap() > 0);
}

#[test]
fn the_next_endpoint_takes_over() {
    let dead = Fake::start(Behaviour::default());
    let address = dead.address.clone();
    drop(dead);
    let fake = Fake::start(Behaviour::default());
    let endpoints = format!("{address},http://{}", fake.address);
    let call = assay(&["score", "--endpoint", &endpoints], numbers(20).as_bytes());
    check_numbers(&call, 20);
    assert!(call.stderr.contains("trying again"), "{}", call.stderr);
}

#[test]
fn a_gateway_that_dies_is_replaced_by_the_next() {
    let slow = || Behaviour { takes: Duration::from_millis(5), ..Behaviour::default() };
    let (first, second) = (Fake::start(slow()), Fake::start(slow()));
    let endpoints = format!("{},{}", first.address, second.address);
    let call = std::thread::scope(|scope| {
        let call = scope.spawn(|| assay(&["score", "--endpoint", &endpoints], numbers(200).as_bytes()));
        while first.notes().answers < 50 {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(first);
        call.join().unwrap()
    });
    check_numbers(&call, 200);
    assert!(second.notes().answers < 200);
}

#[test]
fn a_gateway_may_come_late() {
    let address = Fake::start(Behaviour::default()).address.clone();
    let call = std::thread::scope(|scope| {
        let call = scope.spawn(|| assay(&["score", "--endpoint", &address], numbers(20).as_bytes()));
        std::thread::sleep(Duration::from_millis(700));
        let _fake = Fake::start_at(&address, Behaviour::default());
        call.join().unwrap()
    });
    check_numbers(&call, 20);
}

#[test]
fn what_no_replica_could_compute_is_sent_again() {
    let fake = Fake::start(Behaviour { first_unavailable: true, ..Behaviour::default() });
    check_numbers(&score(&[&fake], &[], &numbers(30)), 30);
    let never = Fake::start(Behaviour { never_available: true, ..Behaviour::default() });
    let call = score(&[&never], &["--retry-for", "500ms"], &numbers(2));
    assert_eq!(call.status, Some(1), "{}", call.stderr);
    let expected =
        json!({ "id": 0, "scores": [null], "tokens": [0], "status": ["unavailable"], "errors": ["-:1: no replica"] });
    assert_eq!(lines(&call)[0], expected);
}

#[test]
fn what_is_out_of_reach_or_refused_ends_the_call() {
    let check = |call: Call, expected: &str| {
        assert_eq!((call.status, &*call.stdout), (Some(2), ""), "{}", call.stderr);
        assert!(call.stderr.contains(expected), "{}", call.stderr);
    };
    let address = Fake::start(Behaviour::default()).address.clone();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("scores.jsonl");
    std::fs::write(&output, "kept").unwrap();
    let flags = ["score", "--endpoint", &address, "--retry-for", "300ms", "--output", output.to_str().unwrap()];
    check(assay(&flags, b""), "is it up, and is this the port for gRPC?");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "kept");
    let fake = Fake::start(Behaviour::default());
    check(
        score(&[&fake], &["--model", "other"], ""),
        "the model other is not served: name one of fake; --model names it",
    );
    check(score(&[&fake], &["--max-length", "101"], ""), "more than the model's limit of 100 tokens");
    let refuses = Some(Status::permission_denied("not for you"));
    let closed = Fake::start(Behaviour { refuses, ..Behaviour::default() });
    let start = Instant::now();
    check(score(&[&closed], &[], &numbers(3)), "not for you");
    assert!(start.elapsed() < Duration::from_secs(10));
    let empty = Fake::start(Behaviour { ready: 0, silent: true, ..Behaviour::default() });
    check(score(&[&empty], &["--retry-for", "500ms"], &numbers(3)), "no replica of the model was ready for 0.5 s");
    check(score(&[&fake], &["--threads", "2"], ""), "cannot be used with");
}

#[test]
fn a_line_has_a_deadline_of_its_own() {
    let fake = Fake::start(Behaviour { full: 3, ..Behaviour::default() });
    check_numbers(&score(&[&fake], &["--timeout", "20s"], &numbers(10)), 10);
    assert_eq!(fake.notes().streams.len(), 0);
    assert!(fake.notes().timeouts.iter().all(|timeout| timeout == "20000000u"), "{:?}", fake.notes().timeouts);
    let slow = Fake::start(Behaviour { takes: Duration::from_secs(60), ..Behaviour::default() });
    let call = score(&[&slow], &["--timeout", "300ms"], &jsonl([json!({ "prompt": "q", "responses": ["1", "2"] })]));
    assert_eq!(call.status, Some(1), "{}", call.stderr);
    assert_eq!(lines(&call)[0]["status"], json!(["deadline_exceeded", "deadline_exceeded"]));
}

#[test]
fn a_bounded_number_of_lines_is_on_the_way() {
    const LINES: usize = 20_000;
    let fake = Fake::start(Behaviour { silent: true, ..Behaviour::default() });
    let mut child = command(&["score", "--endpoint", &fake.address]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let taken = std::thread::scope(|scope| {
        scope.spawn(move || drop(stdin.write_all(numbers(LINES).as_bytes())));
        let count = || fake.notes().streams.first().map_or(0, Vec::len);
        let (mut before, mut still) = (0, 0);
        while still < 5 {
            std::thread::sleep(Duration::from_millis(100));
            still = if count() == before && before > 0 { still + 1 } else { 0 };
            before = count();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        before
    });
    assert_eq!(taken, 1024);
}

#[test]
fn an_answer_is_written_while_the_input_goes_on() {
    let fake = Fake::start(Behaviour::default());
    let mut child = command(&["score", "--endpoint", &fake.address]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for number in 0..3 {
        stdin.write_all(jsonl([json!({ "text": number.to_string() })]).as_bytes()).unwrap();
        let line: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["status"], json!(["ok"]));
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

// === status ===

#[test]
fn the_status_is_a_table_or_json() {
    let fake = Fake::start(Behaviour::default());
    let call = assay(&["status", "--endpoint", &fake.address], b"");
    assert_eq!(call.status, Some(0), "{}", call.stderr);
    assert!(call.stdout.starts_with("gateway fake-0\n\nMODEL  GENERATION"), "{}", call.stdout);
    let row = call.stdout.lines().find(|line| line.starts_with("replica-0")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["replica-0", "fake", "ready", "0", "1/1", "serving"]);
    let call = assay(&["status", "--endpoint", &fake.address, "--json"], b"");
    let status: Value = serde_json::from_str(&call.stdout).unwrap();
    assert_eq!((&status["gateway"], &status["ready"]), (&json!("fake-0"), &json!(true)));
    assert_eq!(status["models"][0]["tokens_per_second"], json!(7.0));
    assert_eq!(status["replicas"][0]["ranks"], json!([{ "rank": 0, "progress": "serving" }]));
}

#[test]
fn the_exit_status_tells_of_models_without_replicas_and_of_no_gateway() {
    let fake = Fake::start(Behaviour { ready: 0, ..Behaviour::default() });
    assert_eq!(assay(&["status", "--endpoint", &fake.address], b"").status, Some(1));
    let address = fake.address.clone();
    drop(fake);
    let call = assay(&["status", "--endpoint", &address], b"");
    assert_eq!((call.status, &*call.stdout), (Some(2), ""));
    assert!(call.stderr.contains("refused") && call.stderr.contains("port for gRPC?"), "{}", call.stderr);
    let fake = Fake::start(Behaviour::default());
    let both = format!("{address},{}", fake.address);
    assert_eq!(assay(&["status", "--endpoint", &both], b"").status, Some(0));
}

#[test]
fn a_watch_measures_between_two_readings() {
    let fake = Fake::start(Behaviour::default());
    let mut child = command(&["status", "--endpoint", &fake.address, "--watch", "0.2", "--json"]).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let rates: Vec<f64> = lines
        .take(3)
        .map(|line| {
            serde_json::from_str::<Value>(&line.unwrap()).unwrap()["models"][0]["tokens_per_second"].as_f64().unwrap()
        })
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(rates[0], 7.0);
    // a thousand tokens in a fifth of a second, or somewhat more
    assert!(rates[1..].iter().all(|rate| (500.0..5100.0).contains(rate)), "{rates:?}");
}

// === bench ===

/// Calls `assay bench` for about a second, and gives back its figures.
fn bench(fake: &Fake, flags: &[&str]) -> (Call, Value) {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("bench.json");
    let common = ["bench", "--endpoint", &fake.address, "--warmup", "200ms", "--duration", "800ms"];
    let call = assay(&[&common[..], &["--json", json.to_str().unwrap()], flags].concat(), b"");
    (call, read(&json))
}

/// Checks that conversations, calls and histograms tell the same.
#[track_caller]
fn check_counts(report: &Value, conversations_a_call: u64) {
    let count = |value: &Value| value.as_u64().unwrap();
    let statuses: u64 = report["statuses"].as_object().unwrap().values().map(count).sum();
    assert_eq!(statuses, count(&report["calls"]) * conversations_a_call, "{report}");
    let answered: u64 = report["latency_histogram"].as_array().unwrap().iter().map(|step| count(&step[1])).sum();
    assert!(answered <= count(&report["calls"]), "{report}");
    assert_eq!(count(&report["conversations"]), report["statuses"].get("ok").map_or(0, count), "{report}");
    let rate = count(&report["conversations"]) as f64 / report["seconds"].as_f64().unwrap();
    assert!((report["conversations_per_second"].as_f64().unwrap() - rate).abs() < 1e-6, "{report}");
    let latency = |key: &str| report["latency_seconds"][key].as_f64().unwrap();
    assert!(latency("p50") <= latency("p99") && latency("p99") <= latency("max"), "{report}");
}

#[test]
fn a_closed_loop_keeps_so_many_calls_open() {
    let fake = Fake::start(Behaviour { takes: Duration::from_millis(20), ..Behaviour::default() });
    for (flags, a_call) in [(&["--batch", "3"][..], 3), (&["--stream"], 1)] {
        let (call, report) = bench(&fake, &[&["--concurrency", "4", "--tokens", "5..9"], flags].concat());
        assert_eq!(call.status, Some(0), "{}{}", call.stdout, call.stderr);
        check_counts(&report, a_call);
        assert!(report["calls"].as_u64().unwrap() >= 10, "{report}");
        assert_eq!(
            (&report["unanswered"], &report["queue_seconds"]["p50"]),
            (&json!(0), &report["queue_seconds"]["max"])
        );
        assert!(call.stdout.contains("CONVERSATIONS/S") && call.stdout.contains("up to"), "{}", call.stdout);
    }
    // 4 calls of 20 ms in 0.8 s
    let calls = bench(&fake, &["--concurrency", "4"]).1["calls"].as_u64().unwrap();
    assert!((20..=180).contains(&calls), "{calls}");
}

#[test]
fn an_open_loop_counts_from_when_a_call_was_due() {
    let fake = Fake::start(Behaviour::default());
    let (call, report) = bench(&fake, &["--rate", "200", "--group", "2", "--text"]);
    // words are no numbers
    assert_eq!(call.status, Some(1), "{}", call.stderr);
    check_counts(&report, 2);
    assert_eq!(report["conversations"], json!(0));
    assert_eq!(report["statuses"]["invalid"].as_u64(), report["calls"].as_u64().map(|calls| 2 * calls));
    let calls = report["calls"].as_u64().unwrap();
    assert!((40..130).contains(&calls), "{calls} calls of 80");
    // one stream that answers one item in 20 ms, and 200 that come in each second: those that wait know it
    let slow = Fake::start(Behaviour { takes: Duration::from_millis(20), ..Behaviour::default() });
    let (_, report) = bench(&slow, &["--rate", "200", "--stream"]);
    check_counts(&report, 1);
    assert!(report["latency_seconds"]["max"].as_f64().unwrap() > 0.5, "{report}");
}

#[test]
fn what_is_refused_is_counted_by_its_code() {
    let fake = Fake::start(Behaviour { full: u64::MAX, ..Behaviour::default() });
    let (call, report) = bench(&fake, &["--concurrency", "2"]);
    assert_eq!(call.status, Some(1), "{}", call.stderr);
    check_counts(&report, 1);
    assert_eq!(report["statuses"]["ResourceExhausted"], report["calls"]);
    assert_eq!(report["first_failure"], json!("ResourceExhausted: full"));
    let address = fake.address.clone();
    drop(fake);
    let call = assay(&["bench", "--endpoint", &address], b"");
    assert_eq!(call.status, Some(2));
    assert!(call.stderr.contains("assay status --endpoint"), "{}", call.stderr);
}

#[test]
fn a_bench_that_is_interrupted_reports_what_it_has() {
    let fake = Fake::start(Behaviour { takes: Duration::from_millis(5), ..Behaviour::default() });
    let flags = ["bench", "--endpoint", &fake.address, "--warmup", "0", "--duration", "10m"];
    let child = command(&flags).spawn().unwrap();
    while fake.notes().answers < 100 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("CONVERSATIONS/S") && stdout.lines().any(|line| line.starts_with("ok ")), "{stdout}");
}
