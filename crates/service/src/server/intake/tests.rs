//! Clients that send too much, too slowly, without end, or do not want it any more, on real sockets; and those beside them.

use std::num::NonZeroUsize;

use axum::Router;
use axum::extract::Request as Asked;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::Network;
use crate::server::Limits;

const SOON: Duration = Duration::from_secs(30);
const MESSAGE: usize = 1 << 20;

struct Port {
    address: String,
    _end: DropGuard,
}

/// Reads all of a body, and says how many bytes it had, or what is wrong with it.
async fn count(request: Asked) -> Response {
    match request.into_body().collect().await {
        Ok(body) => body.to_bytes().len().to_string().into_response(),
        Err(error) => {
            let status = Status::from_error(error.into());
            (StatusCode::BAD_REQUEST, format!("{:?}: {}", status.code(), status.message())).into_response()
        }
    }
}

/// Reads nothing, and answers late.
async fn deaf(_request: Asked) -> &'static str {
    sleep(SOON).await;
    "late"
}

async fn slow() -> &'static str {
    sleep(Duration::from_millis(500)).await;
    "slow"
}

impl Port {
    async fn open() -> Self {
        let network = Network::tcp(None, None);
        let listener = network.listen("127.0.0.1:0").await.unwrap();
        let (address, end) = (listener.address().to_owned(), CancellationToken::new());
        let routes = Router::new().route("/count", post(count)).route("/deaf", post(deaf)).route("/slow", get(slow));
        let intake = Intake { message: MESSAGE, held: 8 * MESSAGE, setting: "a.setting", ..Intake::default() };
        let limits = Limits { streams: 64, most: NonZeroUsize::new(64).unwrap(), ..Limits::default() };
        let server = network.server(limits).with_intake(intake);
        tokio::spawn(server.serve(listener, routes, end.clone()));
        Self { address, _end: end.drop_guard() }
    }

    async fn connect(&self) -> SendRequest<Bytes> {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        client.ready().await.unwrap()
    }

    /// Begins a call; None ends it with its head.
    fn call(
        &self,
        client: &mut SendRequest<Bytes>,
        path: &str,
        kind: Option<&str>,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let request = axum::http::Request::post(format!("http://{}{path}", self.address));
        let request = request.header(CONTENT_TYPE, kind.unwrap_or_default()).body(()).unwrap();
        client.send_request(request, kind.is_none()).unwrap()
    }

    /// Sends a body of gRPC, and says what comes back.
    async fn send(&self, client: &mut SendRequest<Bytes>, body: Vec<u8>) -> String {
        let (answer, mut sender) = self.call(client, "/count", Some(GRPC));
        sender.send_data(body.into(), true).unwrap();
        said(answer).await
    }
}

const GRPC: &str = "application/grpc";

/// The beginning of a message of gRPC.
fn prefix(length: usize) -> Vec<u8> {
    [&[0][..], &u32::try_from(length).unwrap().to_be_bytes()].concat()
}

fn message(length: usize) -> Vec<u8> {
    [prefix(length), vec![7; length]].concat()
}

async fn said(answer: ResponseFuture) -> String {
    let read = async {
        let mut body = answer.await.unwrap().into_body();
        let mut bytes = Vec::new();
        while let Some(part) = body.data().await {
            bytes.extend_from_slice(&part.unwrap());
        }
        String::from_utf8(bytes).unwrap()
    };
    timeout(SOON, read).await.expect("no answer")
}

/// Sends as much as the server takes in for now.
async fn fill(sender: &mut SendStream<Bytes>) {
    let mut left = MESSAGE - 1;
    sender.reserve_capacity(left);
    while let Ok(Some(Ok(room))) =
        timeout(Duration::from_millis(50), std::future::poll_fn(|it| sender.poll_capacity(it))).await
    {
        let part = room.min(left);
        sender.send_data(vec![7; part].into(), false).unwrap();
        left -= part;
        if left == 0 {
            return;
        }
        sender.reserve_capacity(left);
    }
}

#[tokio::test]
async fn messages_come_through_whole_however_they_are_cut() {
    let port = Port::open().await;
    let mut client = port.connect().await;
    let body = [message(0), message(1), message(100_000), message(3), message(MESSAGE)].concat();
    for size in [1, 4, 5, 6, 7001, 100_007, body.len()] {
        // the first messages byte by byte, if they are cut so small
        let body = if size < 100 { &body[..1000 * size] } else { &body[..] };
        let (answer, mut sender) = port.call(&mut client, "/count", Some(GRPC));
        for part in body.chunks(size) {
            sender.send_data(part.to_vec().into(), false).unwrap();
        }
        sender.send_data(Bytes::new(), true).unwrap();
        assert_eq!(said(answer).await, body.len().to_string(), "in parts of {size}");
    }
    assert_eq!(port.send(&mut client, vec![0, 0, 0]).await, "3");
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_what_it_says_of_itself() {
    let port = Port::open().await;
    let mut client = port.connect().await;
    let (answer, mut sender) = port.call(&mut client, "/count", Some(GRPC));
    sender.send_data(prefix(MESSAGE + 1).into(), false).unwrap();
    let answer = said(answer).await;
    assert!(answer.starts_with("OutOfRange: a message of 1048577 bytes") && answer.contains("(a.setting)"), "{answer}");
    // a body that says its length
    let mut stream = TcpStream::connect(&port.address).await.unwrap();
    let head =
        format!("POST /count HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", MESSAGE + 1);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.contains("(a.setting)"), "{answer}");
}

#[tokio::test]
async fn unfinished_messages_give_their_places_back_to_others() {
    let port = Port::open().await;
    let mut hostile = port.connect().await;
    let mut unfinished = Vec::new();
    for _ in 0..50 {
        let (answer, mut sender) = port.call(&mut hostile, "/count", Some(GRPC));
        sender.send_data(prefix(MESSAGE).into(), false).unwrap();
        fill(&mut sender).await;
        unfinished.push((answer, sender));
    }
    // another connection of nobody in particular is in the same part of the room
    let mut client = port.connect().await;
    for _ in 0..3 {
        assert_eq!(port.send(&mut client, message(MESSAGE)).await, message(MESSAGE).len().to_string());
    }
    // one of those that were slow hears why
    let (answer, _sender) = unfinished.swap_remove(0);
    let answer = said(answer).await;
    assert!(answer.starts_with("Unavailable: the message came slower"), "{answer}");
}

#[tokio::test]
async fn a_slow_body_is_let_be_while_nobody_waits() {
    let port = Port::open().await;
    let mut client = port.connect().await;
    let (answer, mut sender) = port.call(&mut client, "/count", Some(GRPC));
    sender.send_data(prefix(3).into(), false).unwrap();
    for _ in 0..3 {
        sleep(SECOND * 2 / 3).await;
        sender.send_data(vec![7].into(), false).unwrap();
    }
    sender.send_data(Bytes::new(), true).unwrap();
    assert_eq!(said(answer).await, "8");
}

#[tokio::test]
async fn streams_that_nobody_reads_do_not_stop_calls_of_the_same_connection() {
    let port = Port::open().await;
    let mut client = port.connect().await;
    let mut deaf = Vec::new();
    for _ in 0..60 {
        let (answer, mut sender) = port.call(&mut client, "/deaf", Some(GRPC));
        fill(&mut sender).await;
        deaf.push((answer, sender));
    }
    assert_eq!(port.send(&mut client, message(50_000)).await, "50005");
}

#[tokio::test]
async fn a_burst_of_cancels_does_not_end_other_calls_of_the_connection() {
    let port = Port::open().await;
    let mut client = port.connect().await;
    let request = axum::http::Request::get(format!("http://{}/slow", port.address)).body(()).unwrap();
    let (innocent, _) = client.send_request(request, true).unwrap();
    for _ in 0..10 {
        for _ in 0..50 {
            client = client.ready().await.unwrap();
            let (_, mut sender) = port.call(&mut client, "/count", Some(GRPC));
            sender.send_reset(Reason::CANCEL);
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(said(innocent).await, "slow");
    assert_eq!(port.send(&mut client, message(9)).await, "14");
}
