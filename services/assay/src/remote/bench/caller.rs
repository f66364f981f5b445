//! One way to a gateway: calls of their own, or items over a stream that is opened again when it breaks. Nothing is tried
//! again: what goes wrong is what is measured.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as Shared, PoisonError};

use client::{Connection, Exchange, Reply, Terms};
use proto::v1;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;
use tonic::Status;

/// What a call came to.
pub(super) type Answer = Result<(Vec<v1::Result>, v1::Timing), Status>;

/// Calls one gateway.
pub(super) struct Caller {
    gateway: Connection,
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

/// Who waits for which answer; None once the stream is broken.
type Waiting = Arc<Shared<Option<HashMap<u64, oneshot::Sender<v1::ScoreStreamResponse>>>>>;

// === impl Caller ===

impl Caller {
    pub(super) fn new(gateway: Connection, terms: Terms, stream: bool) -> Self {
        Self { gateway, terms, stream: stream.then(Mutex::default) }
    }

    /// Has items scored.
    pub(super) async fn call(&self, items: Vec<v1::Item>) -> Answer {
        let Some(stream) = &self.stream else {
            let v1::ScoreResponse { items, timing } = self.gateway.score(items, &self.terms).await?;
            return Ok((items.into_iter().flat_map(|item| item.results).collect(), timing.unwrap_or_default()));
        };
        let answer = self.over(stream, items);
        match self.terms.timeout {
            Some(patience) => timeout(patience, answer)
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer came in time"))),
            None => answer.await,
        }
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
        // each item has the time of a call, the stream as long as it takes
        let terms = Terms { timeout: None, ..self.terms.clone() };
        let exchange = Exchange::open(&self.gateway, &terms).await?;
        let waiting: Waiting = Arc::new(Shared::new(Some(HashMap::new())));
        let session =
            Session { requests: exchange.requests.clone(), waiting: Arc::clone(&waiting), next: Arc::default() };
        tokio::spawn(async move {
            // all of it: what is left behind would be dropped, and the stream with it
            let mut exchange = exchange;
            while let Some(Reply::Answer(answer)) = exchange.replies.recv().await {
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
