//! `assay up` as a user starts it: the same output as without a server, TLS that is asked for on both sides, health, a
//! model that computes no finite number, and an orderly end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use tests::{GOLDEN, golden};

use crate::assay::{assay, command, expected, ids, jsonl, score};
use crate::authority::{Authority, Identity};
use crate::broken_model;
use crate::score::INVALID;

/// A server that runs until it is dropped.
pub(crate) struct Up {
    child: Child,
    /// Where clients reach it.
    pub(crate) endpoint: String,
    /// Where its admin port is.
    http: String,
    _log: Receiver<String>,
}

impl Up {
    pub(crate) fn start(model: &Path, flags: &[&str]) -> Self {
        let model = model.to_str().unwrap();
        let ports = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log", "info"];
        Self::spawn(&[&["up", "--model", model], &ports[..], flags].concat())
    }

    /// With flags or settings that have it say where it serves.
    fn spawn(arguments: &[&str]) -> Self {
        let mut child = command(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let log = lines_of(child.stderr.take().unwrap());
        let http = address(&log, "http address=");
        let endpoint = address(&log, "the gateway serves address=");
        Self { child, endpoint, http, _log: log }
    }

    /// Asks the admin port; the status, and what it says.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(&self.http, path, "assay")
    }

    /// The most memory that it has had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Asks it to leave, and says with which status it did.
    fn leave(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What an address answers to whoever calls it by a name.
fn get(address: &str, path: &str, host: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

fn lines_of(stderr: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // nobody may listen any more, and the process must not wait for it
            let _ = sender.send(line);
        }
    });
    lines
}

/// The address behind this text, in the log.
fn address(log: &Receiver<String>, text: &str) -> String {
    let mut said = Vec::new();
    loop {
        let line = log.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("no {text:?} in {said:#?}"));
        if let Some((_, address)) = line.split_once(text) {
            return address.trim_matches('"').to_owned();
        }
        said.push(line);
    }
}

/// All kinds of lines, some of them with something wrong.
fn lines(name: &str) -> String {
    let rows = expected(name);
    let messages = rows.iter().enumerate().map(|(id, row)| json!({ "id": id, "messages": row["messages"] }));
    let token_ids = rows.iter().map(|row| json!({ "input_ids": ids(row) }));
    let responses = ["Yes.", "No, and this is why: 2 + 2 = 4.", "", "<start_of_turn>"];
    let others = [
        json!({ "id": "group", "prompt": "Is it so?", "responses": responses }),
        json!({ "text": "a text that is rendered already" }),
        json!({ "input_ids": [5, 99_999_999] }),
        json!({ "messages": [{ "role": "user", "content": "and nobody answers" }] }),
        json!({ "text": "" }),
    ];
    // templates may read what else a turn says, and each model's does with it what it does
    let call =
        json!({ "id": "1", "type": "function", "function": { "name": "add", "arguments": { "a": 2, "b": 1.50 } } });
    let more = [
        json!({ "messages": [{ "role": "user", "name": "Jane", "content": "hi" }, { "role": "assistant", "content": "ho" }] }),
        json!({ "messages": [
            { "role": "user", "content": "2 + 1.5?" },
            { "tool_calls": [call], "role": "assistant" },
            { "role": "tool", "tool_call_id": "1", "content": "3.5" },
            { "role": "assistant", "content": "3.5", "reasoning_content": "the tool says so" },
        ] }),
        json!({ "messages": [{ "role": "user", "content": "hi" }, { "role": "assistant", "tool_calls": [call] }] }),
        json!({ "messages": [{ "role": "user", "content": "hi" }, { "role": "assistant", "content": "", "tool_calls": [call] }] }),
    ];
    let broken = INVALID.iter().map(|(line, _)| format!("{line}\n")).collect::<String>();
    jsonl(messages.chain(token_ids).chain(others).chain(more)) + &broken
}

#[test]
fn the_output_is_the_same_with_a_server_and_without() {
    for name in GOLDEN {
        let input = lines(name);
        let local = score(&golden(name), &["--tensor-parallel", "2", "--max-batch-tokens", "2048"], &input);
        let flags = ["--tensor-parallel", "2", "--replicas", "2", "--threads", "2", "--max-batch-tokens", "2048"];
        let up = Up::start(&golden(name), &flags);
        assert_eq!(up.get("/readyz").0, 200);
        for _ in 0..2 {
            let remote = assay(&["score", "--endpoint", &up.endpoint], input.as_bytes());
            assert_eq!(remote.status, Some(1), "{}", remote.stderr);
            // to the byte, but for the name of the input
            let local = local.call.stdout.replace(&local.input, "-");
            for (local, remote) in local.lines().zip(remote.stdout.lines()) {
                assert_eq!(remote, local, "{name}");
            }
            assert_eq!(remote.stdout, local);
        }
        assert_eq!(up.leave(), Some(0));
    }
}

#[test]
fn a_server_tells_how_it_is() {
    let up = Up::start(&golden("gemma2-v4"), &["--name", "small", "--max-batch-tokens", "2048"]);
    let status = assay(&["status", "--endpoint", &up.endpoint, "--json"], b"");
    assert_eq!(status.status, Some(0), "{}", status.stderr);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert!(status.to_string().contains("small"), "{status}");
    let scored = assay(&["score", "--endpoint", &up.endpoint, "--model", "small"], b"{\"text\": \"hello\"}\n");
    assert_eq!(scored.status, Some(0), "{}", scored.stderr);
    let unknown = assay(&["score", "--endpoint", &up.endpoint, "--model", "large"], b"{\"text\": \"hello\"}\n");
    assert_eq!(unknown.status, Some(2));
    assert!(unknown.stderr.contains("large") && unknown.stderr.contains("small"), "{}", unknown.stderr);
    // a page from elsewhere, whose name is made to point here, says that name
    let page = |host: &str| get(up.endpoint.rsplit('/').next().unwrap(), "/api/status", host).0;
    assert_eq!((page("localhost:7600"), page("127.0.0.1"), page("rebound.example")), (200, 200, 421));
    // the page was here
    let (code, answer) = up.get("/");
    let (_, port) = up.endpoint.rsplit_once(':').unwrap();
    assert!(code == 307 && answer.contains(&format!("location: http://assay:{port}/\r\n")), "{answer}");
    let (code, metrics) = up.get("/metrics");
    assert_eq!(code, 200);
    for name in [
        "assay_gateway_conversations_total",
        "assay_gateway_stage_seconds",
        "assay_shard_steps_total",
        "assay_connections",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    assert!(metrics.contains("status=\"ok\""), "{metrics}");
    // one that nobody described would have no such line
    let described = |line: &str| metrics.contains(&line.replacen("# TYPE", "# HELP", 1));
    let types = metrics.lines().filter_map(|line| line.rsplit_once(' ').filter(|_| line.starts_with("# TYPE")));
    let unknown: Vec<_> = types.filter(|(metric, _)| !described(&format!("{metric} "))).collect();
    assert!(unknown.is_empty(), "nobody says what these are: {unknown:?}");
    assert_eq!(up.get("/livez").0, 200);
    assert_eq!(up.leave(), Some(0));
}

#[test]
fn a_model_that_computes_no_finite_number_has_no_score_and_goes_on() {
    let folder = broken_model::overflowing("gemma2-v4");
    let up = Up::start(folder.path(), &["--tensor-parallel", "2", "--max-batch-tokens", "2048"]);
    for _ in 0..2 {
        let call = assay(&["score", "--endpoint", &up.endpoint], b"{\"text\": \"hello\"}\n");
        assert_eq!(call.status, Some(1), "{}", call.stderr);
        let line: Value = serde_json::from_str(&call.stdout).unwrap();
        assert_eq!((&line["scores"], &line["status"]), (&json!([null]), &json!(["internal"])), "{line}");
        assert!(line["errors"][0].as_str().unwrap().contains("finite"), "{line}");
    }
}

#[test]
fn clients_without_the_right_certificate_are_refused() {
    let authority = Authority::new();
    let (ca, Identity { certificate, key }) = (authority.ca(), authority.sign("127.0.0.1"));
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    let tls = format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\nclient_ca = {ca:?}\n");
    std::fs::write(&config, tls).unwrap();
    let config = config.to_str().unwrap();
    let up = Up::start(&golden("gemma2-v4"), &["--config", config, "--max-batch-tokens", "2048"]);
    let endpoint = format!("https://{}", up.endpoint);
    let call = |flags: &[&str]| {
        let arguments = [&["score", "--retry-for", "1s", "--endpoint", &endpoint], flags].concat();
        assay(&arguments, b"{\"text\": \"hello\"}\n")
    };
    let (ca, certificate, key) = (ca.to_str().unwrap(), certificate.to_str().unwrap(), key.to_str().unwrap());
    let right = call(&["--ca", ca, "--certificate", certificate, "--key", key]);
    assert_eq!(right.status, Some(0), "{}", right.stderr);
    assert_eq!(call(&["--ca", ca]).status, Some(2), "without a certificate");
    assert_eq!(call(&[]).status, Some(2), "of an authority that nobody knows");
}

#[test]
fn a_server_takes_its_ports_and_its_model_from_its_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    // what a gateway reads of the registry may be in it
    let settings = format!(
        "listen = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n[registry]\nlease = \"20s\"\n[telemetry]\nlog = \"info\"\n\
         [[models]]\nmodel = {:?}\nname = \"small\"\nmax_length = 100\n",
        golden("gemma2-v4")
    );
    std::fs::write(&file, settings).unwrap();
    let up = Up::spawn(&["up", "--config", file.to_str().unwrap(), "--max-batch-tokens", "2048"]);
    assert_eq!(up.get("/readyz").0, 200);
    let status = assay(&["status", "--endpoint", &up.endpoint, "--json"], b"");
    assert!(status.stdout.contains("small"), "{}", status.stdout);
    let long = jsonl([json!({ "input_ids": vec![7; 101] })]);
    let scored = assay(&["score", "--endpoint", &up.endpoint], long.as_bytes());
    assert!(scored.stdout.contains("too_long"), "{}", scored.stdout);
    let model = golden("gemma2-v4");
    let flags = ["--model", model.to_str().unwrap(), "--max-length", "200", "--max-batch-tokens", "100"];
    let never = assay(&[&["up"], &flags[..]].concat(), b"");
    assert!(never.stderr.contains("--max-length 200 needs --max-batch-tokens 200 or more"), "{}", never.stderr);
}

#[test]
fn settings_are_checked_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let file = file.to_str().unwrap();
    let shown = assay(&["config", "show", "gateway"], b"");
    std::fs::write(file, &shown.stdout).unwrap();
    let good = assay(&["config", "check", "gateway", file], b"");
    assert_eq!((good.status, good.stdout), (Some(0), format!("{file}: good\n")), "{}", good.stderr);
    std::fs::write(file, "[limits]\nqueue_token = 5\n").unwrap();
    for arguments in [&["config", "check", "gateway", file][..], &["gateway", "--config", file]] {
        let bad = assay(arguments, b"");
        assert_eq!(bad.status, Some(2));
        assert!(bad.stderr.contains("gateway.toml:2") && bad.stderr.contains("queue_token"), "{}", bad.stderr);
    }
    let up = |settings: &str| {
        std::fs::write(file, settings).unwrap();
        let call = assay(&["up", "--config", file], b"");
        (call.status, call.stderr)
    };
    let model = "models = [{ model = \"m\" }]\n";
    for (settings, said) in [
        (String::new(), "no model is served: give --model, or [[models]] in the file"),
        (format!("{model}[limits]\nqueue_tokens = 0"), "limits.queue_tokens: expected at least 1"),
        (format!("{model}[shards.client]\ndomain = \"d\""), "shards: assay up reaches its shards in memory"),
        (model.replace("}]", "}, { model = \"n\" }]"), "assay up serves one model, the settings name 2"),
    ] {
        let (status, stderr) = up(&settings);
        assert_eq!(status, Some(2), "{settings}");
        assert!(stderr.contains(said), "{stderr}");
    }
    let nothing = assay(&["shard"], b"");
    assert_eq!(nothing.status, Some(2));
    assert!(nothing.stderr.contains("--model"), "{}", nothing.stderr);
}

#[test]
fn sockets_beyond_the_descriptors_keep_nobody_out() {
    let up = Up::start(&golden("gemma2-v4"), &[]);
    let few = ["--nofile=64:64", "--pid", &up.child.id().to_string()];
    assert!(std::process::Command::new("prlimit").args(few).status().unwrap().success());
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(&up.endpoint).unwrap()).collect();
    let scored = assay(&["score", "--endpoint", &up.endpoint], br#"{"text": "a text"}"#);
    assert_eq!(scored.status, Some(0), "{}", scored.stderr);
    assert_eq!(up.leave(), Some(0));
    drop(silent);
}
