//! One way to a gateway: calls of their own, or items over a stream that is opened again when it breaks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as Shared, PoisonError};
use std::time::Duration;

use proto::v1;
use proto::v1::reward_service_client::RewardServiceClient;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::client::endpoints::LARGEST_MESSAGE;

/// What each call says beside its items.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) options: v1::Options,
    pub(super) tenant: Option<MetadataValue<Ascii>>,
    pub(super) timeout: Duration,
}

/// What a call came to.
pub(super) type Answer = Result<(Vec<v1::Result>, v1::Timing), Status>;

/// Calls one gateway.
pub(super) struct Caller {
    client: RewardServiceClient<Channel>,
    terms: Terms,
    /// The stream, where there is to be one.
    stream: Option<Mutex<Option<Session>>>,
}

/// A stream that is open. Clones share it.
#[derive(Clone)]
struct Session {
    requests: mpsc::Sender<v1::ScoreStreamRequest>,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

type Waiting = Arc<Shared<Option<HashMap<u64, oneshot::Sender<v1::ScoreStreamResponse>>>>>;

/// Items on the way to the connection.
const BETWEEN: usize = 16;

// === impl Terms ===

impl Terms {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(tenant) = &self.tenant {
            request.metadata_mut().insert(gateway::TENANT_KEY, tenant.clone());
        }
        request
    }
}

// === impl Caller ===

impl Caller {
    pub(super) fn new(channel: Channel, terms: Terms, stream: bool) -> Self {
        let client = RewardServiceClient::new(channel)
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE);
        Self { client, terms, stream: stream.then(Mutex::default) }
    }

    /// Has items scored.
    pub(super) async fn call(&self, items: Vec<v1::Item>) -> Answer {
        match &self.stream {
            None => self.score(items).await,
            Some(stream) => {
                let late = |_| Err(Status::deadline_exceeded("no answer came in time"));
                timeout(self.terms.timeout, self.over(stream, items)).await.unwrap_or_else(late)
            }
        }
    }

    async fn score(&self, items: Vec<v1::Item>) -> Answer {
        let mut request = self.terms.request(v1::ScoreRequest { items, options: Some(self.terms.options.clone()) });
        request.set_timeout(self.terms.timeout);
        let v1::ScoreResponse { items, timing } = self.client.clone().score(request).await?.into_inner();
        Ok((items.into_iter().flat_map(|item| item.results).collect(), timing.unwrap_or_default()))
    }

    async fn over(&self, stream: &Mutex<Option<Session>>, items: Vec<v1::Item>) -> Answer {
        let broken = || Status::unavailable("the stream broke");
        let session = {
            let mut stream = stream.lock().await;
            match stream.as_ref().filter(|session| session.is_open()) {
                Some(session) => session.clone(),
                None => stream.insert(self.open().await?).clone(),
            }
        };
        let (sender, answer) = oneshot::channel();
        let id = session.next.fetch_add(1, Ordering::Relaxed);
        session.expect(id, sender).ok_or_else(broken)?;
        // the stream's first item has the options, and nobody knows which that is
        let options = Some(self.terms.options.clone());
        let request = v1::ScoreStreamRequest { id, item: items.into_iter().next(), options };
        session.requests.send(request).await.map_err(|_| broken())?;
        let v1::ScoreStreamResponse { item, timing, .. } = answer.await.map_err(|_| broken())?;
        Ok((item.unwrap_or_default().results, timing.unwrap_or_default()))
    }

    async fn open(&self) -> Result<Session, Status> {
        let (requests, outbound) = mpsc::channel(BETWEEN);
        let outbound = self.terms.request(ReceiverStream::new(outbound));
        let mut inbound = self.client.clone().score_stream(outbound).await?.into_inner();
        let waiting: Waiting = Arc::new(Shared::new(Some(HashMap::new())));
        let session = Session { requests, waiting: Arc::clone(&waiting), next: Arc::default() };
        tokio::spawn(async move {
            while let Ok(Some(answer)) = inbound.message().await {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(sender) = waiting.as_mut().and_then(|waiting| waiting.remove(&answer.id)) {
                    // whoever has waited long enough is gone
                    let _ = sender.send(answer);
                }
            }
            *waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
        });
        Ok(session)
    }
}

// === impl Session ===

impl Session {
    fn is_open(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Waits for the answer to an item, unless the stream is broken.
    fn expect(&self, id: u64, sender: oneshot::Sender<v1::ScoreStreamResponse>) -> Option<()> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.insert(id, sender);
        Some(())
    }
}
