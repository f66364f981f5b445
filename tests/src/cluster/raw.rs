//! gRPC as bytes, for what no honest client sends: frames are made by hand, and the stream ends as it is told.

use std::time::Duration;

use bytes::Bytes;
use h2::client;
use proto::Message;
use tokio::net::TcpStream;
use tonic::Code;
use tonic::codegen::http::{HeaderMap, Request};

/// One call, as it is sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Call {
    pub(crate) metadata: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

/// How the client's side of a call ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing more is sent, and the answer is waited for.
    #[default]
    Closed,
    /// The stream is reset.
    Reset,
    /// The connection is closed.
    HungUp,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) code: Code,
    pub(crate) problem: String,
    pub(crate) messages: Vec<Vec<u8>>,
}

/// Long enough for what was sent to arrive before it is cut.
const ARRIVES: Duration = Duration::from_millis(20);
/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A message in its frame.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// A message in its frame.
pub(crate) fn frame(message: &impl Message) -> Vec<u8> {
    framed(&message.encode_to_vec())
}

/// Calls over a connection of its own; None if the call was cut, as no answer can come then.
pub(crate) async fn call(address: &str, rpc: &str, call: Call) -> Option<Answer> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = Request::post(format!("http://{address}/assay.v1.RewardService/{rpc}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (key, value) in call.metadata {
        request = request.header(key, value);
    }
    let (response, mut sender) = client.send_request(request.body(()).unwrap(), false).unwrap();
    sender.send_data(Bytes::from(call.body), call.end == End::Closed).unwrap();
    if call.end != End::Closed {
        tokio::time::sleep(ARRIVES).await;
        if call.end == End::Reset {
            sender.send_reset(h2::Reason::CANCEL);
            tokio::time::sleep(ARRIVES).await;
        }
        connection.abort();
        return None;
    }
    let answer = tokio::time::timeout(PATIENCE, answer(response)).await;
    connection.abort();
    Some(answer.unwrap_or_else(|_| panic!("{rpc}: no answer")).unwrap_or_else(|error| panic!("{rpc}: {error}")))
}

async fn answer(response: client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    assert_eq!(head.status, 200, "{:?}", head.headers);
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let said = |key: &str| -> Option<String> {
        let of = |headers: &HeaderMap| Some(headers.get(key)?.to_str().unwrap().to_owned());
        of(&trailers).or_else(|| of(&head.headers))
    };
    let code = Code::from_bytes(said("grpc-status").expect("a status").as_bytes());
    Ok(Answer { code, problem: unescaped(&said("grpc-message").unwrap_or_default()), messages: messages(&bytes) })
}

/// A text in which bytes may be written as `%20`.
fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((before, escaped)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(&escaped[..2], 16).unwrap());
        rest = &escaped[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).unwrap()
}

fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let (message, rest) = rest.split_at(length);
        messages.push(message.to_vec());
        bytes = rest;
    }
    messages
}
