//! A gateway that takes lines: over one stream, or, where each line has a deadline of its own, in one call for each.
//!
//! A task talks to the gateway; requests go to it through one channel, and what happens comes back through another.

use std::time::Duration;

use proto::v1;
use proto::v1::reward_service_client::RewardServiceClient;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::client::endpoints::{LARGEST_MESSAGE, in_words, retry_after};

/// How lines are sent.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) options: v1::Options,
    pub(super) tenant: Option<MetadataValue<Ascii>>,
    /// How long each line may take.
    pub(super) timeout: Option<Duration>,
}

/// Something that a gateway did.
#[derive(Debug)]
pub(super) enum Event {
    Answer(v1::ScoreStreamResponse),
    /// It has no room for this line before so long.
    Full(u64, Duration),
    /// It takes nothing more.
    Broken(Status),
}

/// A gateway that takes lines. Dropped, it takes no more.
pub(super) struct Link {
    pub(super) requests: mpsc::Sender<v1::ScoreStreamRequest>,
    pub(super) events: mpsc::Receiver<Event>,
    _task: JoinSet<()>,
}

type Client = RewardServiceClient<Channel>;

/// Lines on the way to the connection, and answers on the way from it.
const BETWEEN: usize = 16;
/// Nobody waits longer: a gateway would give its default to a stream that says nothing, and lines wait for their turn.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);

// === impl Manner ===

impl Manner {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout.unwrap_or(FAR));
        if let Some(tenant) = &self.tenant {
            request.metadata_mut().insert(gateway::TENANT_KEY, tenant.clone());
        }
        request
    }
}

// === impl Link ===

impl Link {
    /// Begins to send lines.
    pub(super) async fn open(channel: Channel, manner: &Manner) -> Result<Self, Status> {
        let mut client = Client::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let (requests, outbound) = mpsc::channel(BETWEEN);
        let (sender, events) = mpsc::channel(BETWEEN);
        let mut task = JoinSet::new();
        if manner.timeout.is_some() {
            task.spawn(call_each(client, manner.clone(), outbound, sender));
        } else {
            // nothing is read by the gateway before it answers that it will
            let request = manner.request(ReceiverStream::new(outbound));
            let mut inbound = client.score_stream(request).await?.into_inner();
            task.spawn(async move {
                loop {
                    let event = match inbound.message().await {
                        Ok(Some(answer)) => Event::Answer(answer),
                        Ok(None) => Event::Broken(Status::unavailable("the gateway ended the stream")),
                        Err(status) => Event::Broken(status),
                    };
                    let last = matches!(event, Event::Broken(_));
                    if sender.send(event).await.is_err() || last {
                        return;
                    }
                }
            });
        }
        Ok(Self { requests, events, _task: task })
    }
}

async fn call_each(
    client: Client,
    manner: Manner,
    mut outbound: mpsc::Receiver<v1::ScoreStreamRequest>,
    events: mpsc::Sender<Event>,
) {
    let mut calls = JoinSet::new();
    loop {
        let event = tokio::select! {
            line = outbound.recv() => match line {
                Some(line) => {
                    calls.spawn(call(client.clone(), manner.clone(), line));
                    continue;
                }
                None => return,
            },
            Some(done) = calls.join_next() => done.unwrap_or_else(|error| {
                Event::Broken(Status::internal(format!("a call failed: {error}")))
            }),
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

async fn call(mut client: Client, manner: Manner, line: v1::ScoreStreamRequest) -> Event {
    let v1::ScoreStreamRequest { id, item, .. } = line;
    let conversations = match item.as_ref().and_then(|item| item.input.as_ref()) {
        Some(v1::item::Input::Group(group)) => group.responses.len(),
        _ => 1,
    };
    let items: Vec<_> = item.into_iter().collect();
    let request = v1::ScoreRequest { items, options: Some(manner.options.clone()) };
    let status = match client.score(manner.request(request)).await {
        Ok(response) => {
            let v1::ScoreResponse { mut items, timing } = response.into_inner();
            return Event::Answer(v1::ScoreStreamResponse { id, item: items.pop(), timing });
        }
        Err(status) => status,
    };
    let outcome = match (status.code(), retry_after(&status)) {
        (Code::ResourceExhausted, Some(delay)) => return Event::Full(id, delay),
        (Code::ResourceExhausted, None) => v1::Status::Invalid,
        // tonic's own clock says cancelled
        (Code::DeadlineExceeded | Code::Cancelled, _) => v1::Status::DeadlineExceeded,
        _ => return Event::Broken(status),
    };
    let result = v1::Result { status: outcome.into(), error: in_words(&status), ..v1::Result::default() };
    let item = v1::ItemResult { results: vec![result; conversations] };
    Event::Answer(v1::ScoreStreamResponse { id, item: Some(item), timing: None })
}
