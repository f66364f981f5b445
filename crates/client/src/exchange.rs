//! A gateway that takes items: over one stream, or, where each has a deadline of its own, in one call for each. Nothing is
//! tried again here.
//!
//! A task talks to the gateway; requests go to it through one channel, and what happens comes back through another.

use std::time::Duration;

use proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::connection::{Connection, Terms};
use crate::error::{in_words, retry_after};

/// Something that a gateway did.
#[derive(Debug)]
pub enum Reply {
    /// It answered an item.
    Answer(v1::ScoreStreamResponse),
    /// It has no room for the item of this number before so long.
    Full(u64, Duration),
    /// It takes nothing more.
    Broken(Status),
}

/// A gateway that takes items. Dropped, it takes no more.
pub struct Exchange {
    /// What it is to score. The first request of a stream says how they are read.
    pub requests: mpsc::Sender<v1::ScoreStreamRequest>,
    /// What it does.
    pub replies: mpsc::Receiver<Reply>,
    _task: JoinSet<()>,
}

/// Items on the way to the connection, and answers on the way from it.
const BETWEEN: usize = 16;

// === impl Exchange ===

impl Exchange {
    /// Begins to send items: over a stream, or in a call for each if the terms have a time for it.
    ///
    /// # Errors
    /// What the stream ended with, before it began.
    pub async fn open(gateway: &Connection, terms: &Terms) -> Result<Self, Status> {
        let (requests, outbound) = mpsc::channel(BETWEEN);
        let (sender, replies) = mpsc::channel(BETWEEN);
        let mut task = JoinSet::new();
        if terms.timeout.is_some() {
            task.spawn(call_each(gateway.clone(), terms.clone(), outbound, sender));
            return Ok(Self { requests, replies, _task: task });
        }
        // nothing is read by the gateway before it answers that it will
        let request = terms.request(ReceiverStream::new(outbound));
        let mut inbound = gateway.rewards().score_stream(request).await?.into_inner();
        task.spawn(async move {
            loop {
                let reply = match inbound.message().await {
                    Ok(Some(answer)) => Reply::Answer(answer),
                    Ok(None) => Reply::Broken(Status::unavailable("the gateway ended the stream")),
                    Err(status) => Reply::Broken(status),
                };
                let last = matches!(reply, Reply::Broken(_));
                if sender.send(reply).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Self { requests, replies, _task: task })
    }
}

async fn call_each(
    gateway: Connection,
    terms: Terms,
    mut outbound: mpsc::Receiver<v1::ScoreStreamRequest>,
    replies: mpsc::Sender<Reply>,
) {
    let mut calls = JoinSet::new();
    loop {
        let reply = tokio::select! {
            request = outbound.recv() => match request {
                Some(request) => {
                    calls.spawn(call(gateway.clone(), terms.clone(), request));
                    continue;
                }
                None => return,
            },
            Some(done) = calls.join_next() => done.unwrap_or_else(|error| {
                Reply::Broken(Status::internal(format!("a call failed: {error}")))
            }),
        };
        if replies.send(reply).await.is_err() {
            return;
        }
    }
}

async fn call(gateway: Connection, terms: Terms, request: v1::ScoreStreamRequest) -> Reply {
    let v1::ScoreStreamRequest { id, item, .. } = request;
    let count = item.as_ref().map_or(1, v1::Item::conversations);
    let status = match gateway.score(item.into_iter().collect(), &terms).await {
        Ok(v1::ScoreResponse { mut items, timing }) => {
            return Reply::Answer(v1::ScoreStreamResponse { id, item: items.pop(), timing });
        }
        Err(status) => status,
    };
    let outcome = match (status.code(), retry_after(&status)) {
        (Code::ResourceExhausted, Some(delay)) => return Reply::Full(id, delay),
        (Code::ResourceExhausted, None) => v1::Status::Invalid,
        // tonic's own clock says cancelled
        (Code::DeadlineExceeded | Code::Cancelled, _) => v1::Status::DeadlineExceeded,
        _ => return Reply::Broken(status),
    };
    let result = v1::Result { status: outcome.into(), error: in_words(&status), ..v1::Result::default() };
    let item = v1::ItemResult { results: vec![result; count] };
    Reply::Answer(v1::ScoreStreamResponse { id, item: Some(item), timing: None })
}
