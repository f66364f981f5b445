//! Clumsy and hostile clients against processes of the real binary: what it holds for them in memory, and how others fare.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use proto::Message as _;
use proto::v1 as wire;
use proto::v1::item::Input;
use proto::v1::reward_service_client::RewardServiceClient;
use tests::golden;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::assay::command;
use crate::up::Up;

const MODEL: &str = "gemma2-v4";
const LARGE: &str = "[limits]\nmessage = \"64MiB\"\n";
/// Nobody waits longer for an answer.
const SOON: Duration = Duration::from_secs(60);
const MB: u64 = 1_000_000;

/// A server with these settings.
fn up(settings: &str) -> Up {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), settings).unwrap();
    Up::start(&golden(MODEL), &["--config", file.path().to_str().unwrap(), "--threads", "1"])
}

fn address(up: &Up) -> &str {
    &up.endpoint
}

async fn client(up: &Up) -> RewardServiceClient<Channel> {
    let client = RewardServiceClient::connect(format!("http://{}", address(up))).await.unwrap();
    client.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
}

fn text(bytes: usize) -> wire::Item {
    let words = "many words that are as good as others, ";
    wire::Item { input: Some(Input::Text(words.repeat(bytes / words.len() + 1))) }
}

fn one(item: wire::Item) -> wire::ScoreRequest {
    wire::ScoreRequest { items: vec![item], options: None }
}

/// A client of nobody's in particular gets a score.
async fn serves(up: &Up) -> Duration {
    let start = Instant::now();
    let mut client = client(up).await;
    let mut request = Request::new(one(text(20)));
    request.metadata_mut().insert("x-assay-tenant", "bystander".parse().unwrap());
    let answer = timeout(SOON, client.score(request)).await.expect("others are not served").unwrap().into_inner();
    assert_eq!(answer.items[0].results[0].status(), wire::Status::Ok, "{answer:?}");
    start.elapsed()
}

/// The status of the only conversation of a call, and how long it took.
async fn ask(up: &Up, request: wire::ScoreRequest) -> (wire::Status, Duration) {
    let mut client = client(up).await;
    let start = Instant::now();
    let answer = timeout(SOON, client.score(request)).await.expect("no answer").unwrap().into_inner();
    (answer.items[0].results[0].status(), start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_of_text_take_little_memory_and_no_time() {
    for settings in [LARGE, "[limits]\nmessage = \"16MiB\"\n"] {
        let up = up(settings);
        serves(&up).await;
        let before = up.peak_memory();
        for item in [text(10_000_000), wire::Item { input: Some(Input::Text("a".repeat(10_000_000))) }] {
            let (status, took) = ask(&up, one(item)).await;
            let grown = up.peak_memory() - before;
            println!("10 MB of text: {took:.1?}, {} MB more", grown / MB);
            assert_eq!(status, wire::Status::TooLong);
            assert!(grown < 150 * MB, "{} MB more", grown / MB);
            assert!(took < Duration::from_secs(5), "{took:?}");
        }
        // where a side is given up, no more than the other is read
        for truncation in [wire::Truncation::Left, wire::Truncation::Right] {
            let options = Some(wire::Options { truncation: truncation.into(), ..wire::Options::default() });
            let (status, took) = ask(&up, wire::ScoreRequest { options, ..one(text(10_000_000)) }).await;
            assert_eq!(status, wire::Status::Truncated);
            assert!(took < SOON / 2 && up.peak_memory() - before < 200 * MB, "{took:?}");
        }
    }
}

/// A text that is one word is the worst for its size: what it takes is what is charged for it.
#[tokio::test(flavor = "multi_thread")]
async fn tokenizing_takes_no_more_than_is_charged_for_it() {
    let up = up(LARGE);
    serves(&up).await;
    let before = up.peak_memory();
    let bytes = 130_000;
    let word = wire::Item { input: Some(Input::Text("\u{1f642}".repeat(bytes / 4))) };
    // where a side is given up, it is not refused by its length
    let options = Some(wire::Options { truncation: wire::Truncation::Right.into(), ..wire::Options::default() });
    let (status, took) = ask(&up, wire::ScoreRequest { options, ..one(word) }).await;
    let ratio = (up.peak_memory() - before) / bytes as u64;
    println!("a word of {bytes} bytes: {took:.1?}, {ratio} bytes of memory each");
    assert_eq!(status, wire::Status::Truncated);
    assert!(ratio > 20, "{ratio}: it was not tokenized as a whole");
    assert!(ratio < 200 + 40, "{ratio} bytes of memory for each byte, and some for all else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_large_items_of_one_stream_take_little_memory() {
    let up = up("");
    serves(&up).await;
    let item = text(4_000_000);
    let requests = tokio_stream::iter((0..1000).map(move |id| {
        let item = Some(item.clone());
        wire::ScoreStreamRequest { id, item, options: None }
    }));
    let mut answers = client(&up).await.score_stream(requests).await.unwrap().into_inner();
    let start = Instant::now();
    for number in 0..1000 {
        let answer = timeout(SOON, answers.message()).await.expect("no answer").unwrap().unwrap();
        assert_eq!(answer.item.unwrap().results[0].status(), wire::Status::TooLong);
        if number % 250 == 0 {
            serves(&up).await;
        }
    }
    println!("1,000 items of 4 MB: {:.1?}, {} MB at most", start.elapsed(), up.peak_memory() / MB);
    assert!(up.peak_memory() < 300 * MB, "{} MB", up.peak_memory() / MB);
}

/// A message of two-byte responses is two hundred times as large once it is decoded.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_small_parts_take_little_memory() {
    let up = up("");
    serves(&up).await;
    let group = wire::Group {
        prompt: Some(wire::group::Prompt::Text("p".to_owned())),
        responses: vec![String::new(); 2_000_000],
    };
    let item = wire::Item { input: Some(Input::Group(group)) };
    for _ in 0..10 {
        let mut client = client(&up).await;
        let call = client.score(one(item.clone())).await.unwrap_err();
        assert_eq!(call.code(), Code::ResourceExhausted, "{call}");
        let item = Some(item.clone());
        let stream = tokio_stream::once(wire::ScoreStreamRequest { id: 1, item, options: None });
        let stream = client.score_stream(stream).await.unwrap().into_inner().message().await.unwrap_err();
        assert_eq!(stream.code(), Code::ResourceExhausted, "{stream}");
    }
    serves(&up).await;
    println!("messages of 2,000,000 responses: {} MB at most", up.peak_memory() / MB);
    assert!(up.peak_memory() < 300 * MB, "{} MB", up.peak_memory() / MB);
}

/// A small tenant's texts are read while two others have large groups read without end, of one thread.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_tenant_does_not_wait_for_large_groups() {
    let up = up("[limits]\ntokenizer_threads = 1\n");
    serves(&up).await;
    let words = "many words that are as good as others, ".repeat(50);
    let (prompt, responses) = (Some(wire::group::Prompt::Text("p".to_owned())), vec![words; 1000]);
    let group = wire::Item { input: Some(Input::Group(wire::Group { prompt, responses })) };
    let mut floods = tokio::task::JoinSet::<()>::new();
    for tenant in ["one", "two"] {
        let (mut client, items) = (client(&up).await, vec![group.clone()]);
        floods.spawn(async move {
            loop {
                let mut request = Request::new(wire::TokenizeRequest { items: items.clone(), options: None });
                request.metadata_mut().insert("x-assay-tenant", tenant.parse().unwrap());
                client.tokenize(request).await.unwrap();
            }
        });
    }
    sleep(Duration::from_millis(500)).await;
    let mut client = client(&up).await;
    let mut waits = Vec::new();
    for _ in 0..100 {
        let mut request = Request::new(wire::TokenizeRequest { items: vec![text(500)], options: None });
        request.metadata_mut().insert("x-assay-tenant", "small".parse().unwrap());
        let start = Instant::now();
        timeout(SOON, client.tokenize(request)).await.expect("it waits for the large ones").unwrap();
        waits.push(start.elapsed());
    }
    waits.sort_unstable();
    println!("beside large groups: p50 {:.1?}, p99 {:.1?}", waits[50], waits[98]);
    assert!(floods.try_join_next().is_none(), "a flood has ended");
    // a whole group takes longer than that; on a machine that does nothing else it is under 300 ms
    assert!(waits[98] < Duration::from_millis(1500), "{:.1?}", waits[98]);
}

/// `assay score` holds the same: a line of 20 MB.
#[test]
fn a_line_of_twenty_megabytes_takes_little_memory() {
    let words = "many words that are as good as others, ";
    let line = |bytes: usize| format!("{{\"text\": \"{}\"}}\n", words.repeat(bytes / words.len()));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), [line(20_000_000), line(40)].concat()).unwrap();
    let model = golden(MODEL);
    let arguments = ["score", "--model", model.to_str().unwrap(), "--input", file.path().to_str().unwrap()];
    let mut child =
        command(&arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    let status = loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let now = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = now.map_or(peak, |now| now.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024);
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let mut output = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut output).unwrap();
    println!("a line of 20 MB: {} MB at most", peak / MB);
    assert_eq!(status.code(), Some(1), "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("too_long") && lines[1].contains("\"ok\""), "{output}");
    assert!(peak > 50 * MB && peak < 400 * MB, "{} MB", peak / MB);
}

/// Begins messages that do not end, and sends of each what the server takes in.
async fn unfinished(client: &mut SendRequest<Bytes>, address: &str, bytes: usize) -> h2::SendStream<Bytes> {
    let head = tonic::codegen::http::Request::post(format!("http://{address}/assay.v1.RewardService/Score"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut sender) = client.send_request(head, false).unwrap();
    tokio::spawn(answer);
    let prefix = [&[0][..], &u32::try_from(bytes).unwrap().to_be_bytes()].concat();
    sender.send_data(prefix.into(), false).unwrap();
    let mut left = bytes - 1;
    while left > 0 {
        sender.reserve_capacity(left.min(1 << 20));
        let room = timeout(Duration::from_millis(100), std::future::poll_fn(|it| sender.poll_capacity(it))).await;
        let Ok(Some(Ok(room))) = room else { break };
        let part = room.min(left);
        if sender.send_data(vec![b'x'; part].into(), false).is_err() {
            break;
        }
        left -= part;
    }
    sender
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_unfinished_messages_take_little_memory_and_hold_nobody_up() {
    for connections in [1, 50] {
        let up = up(LARGE);
        serves(&up).await;
        let mut held = Vec::new();
        let mut clients = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(address(&up)).await.unwrap();
            let (client, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            clients.push(client.ready().await.unwrap());
        }
        for number in 0..50 {
            let client = &mut clients[number % connections];
            held.push(unfinished(client, address(&up), 50_000_000).await);
        }
        let took = serves(&up).await;
        sleep(Duration::from_secs(2)).await;
        println!(
            "50 unfinished messages on {connections} connections: {} MB at most, others wait {took:.1?}",
            up.peak_memory() / MB
        );
        assert!(up.peak_memory() < 300 * MB, "{} MB", up.peak_memory() / MB);
        assert!(took < Duration::from_secs(20), "{took:?}");
        // and the same client may go on
        let mut request = Request::new(one(text(20)));
        request.set_timeout(SOON);
        client(&up).await.score(request).await.unwrap();
    }
}

/// Standard error that nobody reads stops nobody, at the end neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_nobody_up() {
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let model = golden(MODEL);
    let flags = ["up", "--listen", &listen, "--http", "none", "--threads", "1", "--log", "trace", "--model"];
    let mut command = command(&[&flags[..], &[model.to_str().unwrap()]].concat());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    let mut client = loop {
        match RewardServiceClient::connect(format!("http://{listen}")).await {
            Ok(client) => break client,
            Err(error) if start.elapsed() > SOON => panic!("{error}"),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    };
    for _ in 0..200 {
        let answer = timeout(SOON, client.score(one(text(20)))).await.expect("it waits for its log").unwrap();
        assert_eq!(answer.into_inner().items[0].results[0].status(), wire::Status::Ok);
    }
    drop(client);
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let start = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if start.elapsed() > SOON => {
                child.kill().unwrap();
                panic!("it waits for its log to end");
            }
            None => sleep(Duration::from_millis(50)).await,
        }
    };
    assert_eq!(status.code(), Some(0));
    // there was more than fits into a pipe
    let mut said = Vec::new();
    std::io::Read::read_to_end(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert!(said.len() >= 60_000, "{} bytes", said.len());
}

/// What a stream's text is: enough of it is decoded to be sure that these messages are what they seem.
#[test]
fn the_messages_of_these_tests_are_as_large_as_they_say() {
    let sizes = [text(4_000_000), text(10_000_000)].map(|item| one(item).encoded_len());
    assert!(sizes[0] < 8 << 20 && sizes[0] >= 4_000_000 && sizes[1] >= 10_000_000);
}
