//! A watch in etcd that outlives the nodes it goes through.
//!
//! It lists once and then follows the changes from the next revision on. When a stream is lost, by an error or by
//! silence, another is opened at the revision after the last that was seen; the members are listed again only when
//! etcd has forgotten what lies between, or has lost its data. An answer to a progress request is the sign of life.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff};
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchResponseStream, WatchStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Cluster, revision_of};
use crate::store::{Failure, WAITS, next};
use crate::{Event, Prefix};

/// The largest message of a watch: etcd packs up to a thousand transactions that a watch has missed into one.
const MAX_MESSAGE: usize = 64 << 20;

/// Why a stream ended.
enum End {
    /// Another can go on where it was.
    Lost(Failure),
    /// The members must be listed again.
    Relist(&'static str),
    /// Nobody receives the events any more.
    Closed,
}

struct Follower {
    cluster: Arc<Cluster>,
    prefix: Prefix,
    events: mpsc::Sender<Event>,
    /// The first revision that has not been seen.
    next: u64,
    /// The waits since something failed first.
    waits: Option<ExponentialBackoff>,
}

/// Watches until nobody receives the events.
pub(super) async fn run(cluster: Arc<Cluster>, prefix: Prefix, events: mpsc::Sender<Event>) {
    let closed = events.clone();
    let mut follower = Follower { cluster, prefix, events, next: 0, waits: None };
    tokio::select! {
        () = follower.run() => {}
        () = closed.closed() => {}
    }
}

// === impl Follower ===

impl Follower {
    async fn run(&mut self) {
        while self.list().await.is_ok() {
            loop {
                match self.follow().await {
                    End::Lost(failure) => self.pause(&failure, "a watch was lost, opening another").await,
                    End::Relist(reason) => {
                        tracing::info!(prefix = %self.prefix, reason, "listing members again");
                        break;
                    }
                    End::Closed => return,
                }
            }
        }
    }

    /// Waits a little longer each time; the first failure in a row is told.
    async fn pause(&mut self, failure: &Failure, what: &'static str) {
        if self.waits.is_none() {
            tracing::warn!(prefix = %self.prefix, %failure, "{what}");
        }
        sleep(next(self.waits.get_or_insert_with(|| WAITS.build()))).await;
    }

    /// Sends the members as they are; an error if nobody receives them.
    async fn list(&mut self) -> Result<(), End> {
        let listing = loop {
            match self.cluster.list(&self.prefix).await {
                Ok(listing) => break listing,
                Err(failure) => self.pause(&failure, "members cannot be listed, trying on").await,
            }
        };
        self.next = listing.revision + 1;
        self.waits = None;
        self.send(Event::Reset(listing.members)).await
    }

    async fn send(&self, event: Event) -> Result<(), End> {
        self.events.send(event).await.map_err(|_| End::Closed)
    }

    /// Opens a stream and follows it to its end.
    async fn follow(&mut self) -> End {
        let cluster = Arc::clone(&self.cluster);
        let node = match cluster.nodes.pick().await {
            Ok(node) => node,
            Err(failure) => return End::Lost(failure),
        };
        let options = WatchOptions::new().with_prefix().with_start_revision(i64::try_from(self.next).unwrap_or(0));
        let mut client = node.client.watch_client().max_decoding_message_size(MAX_MESSAGE);
        let opened = client.watch(cluster.path(&self.prefix), Some(options));
        match cluster.nodes.ask(node.index, opened).await {
            Ok(stream) => match self.read(stream).await {
                End::Lost(failure) => End::Lost(cluster.nodes.failed(node.index, failure)),
                end => end,
            },
            Err(failure) => End::Lost(failure),
        }
    }

    async fn read(&mut self, stream: WatchStream) -> End {
        let (mut requests, mut responses) = stream.split();
        let attempt = self.cluster.nodes.attempt();
        let mut heard = Instant::now();
        loop {
            let response = match receive(&mut responses, heard + attempt).await {
                Ok(None) => {
                    // Silence for a while: ask for a sign of life, a response without events.
                    if requests.request_progress().await.is_err() {
                        return End::Lost(silence(attempt));
                    }
                    receive(&mut responses, heard + 2 * attempt).await
                }
                response => response,
            };
            let response = match response {
                Ok(Some(response)) => response,
                Ok(None) => return End::Lost(silence(2 * attempt)),
                Err(end) => return end,
            };
            if let Err(end) = self.apply(&response).await {
                return end;
            }
            heard = Instant::now(); // not earlier: sending an event may wait for the reader
        }
    }

    async fn apply(&mut self, response: &WatchResponse) -> Result<(), End> {
        if response.compact_revision() > 0 {
            return Err(End::Relist("the changes since were compacted"));
        }
        if response.canceled() {
            return Err(End::Lost(Failure::Unavailable(format!("canceled: {}", response.cancel_reason()))));
        }
        if response.created() {
            if revision_of(response.header()) + 1 < self.next {
                self.catch_up().await?;
            }
            self.waits = None;
        }
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let event = match event.event_type() {
                EventType::Put => self.cluster.member(kv).map(Event::Add),
                EventType::Delete => self.cluster.key(kv).map(Event::Remove),
            };
            if let Some(event) = event {
                self.send(event).await?;
            }
        }
        if let Some(kv) = response.events().last().and_then(etcd_client::Event::kv) {
            self.next = kv.mod_revision().unsigned_abs() + 1;
        }
        Ok(())
    }

    /// A node that knows less than was already seen is either behind, or its cluster was set up anew.
    async fn catch_up(&self) -> Result<(), End> {
        if self.cluster.revision().await.map_err(End::Lost)? + 1 < self.next {
            return Err(End::Relist("etcd has lost its data"));
        }
        Ok(())
    }
}

/// The next response; None if there is none before the time.
async fn receive(responses: &mut WatchResponseStream, until: Instant) -> Result<Option<WatchResponse>, End> {
    let lost = |reason: String| End::Lost(Failure::Unavailable(reason));
    match timeout_at(until, responses.message()).await {
        Ok(Ok(Some(response))) => Ok(Some(response)),
        Ok(Ok(None)) => Err(lost("the stream ended".to_owned())),
        Ok(Err(error)) => Err(lost(error.to_string())),
        Err(_) => Ok(None),
    }
}

fn silence(time: Duration) -> Failure {
    Failure::Unavailable(format!("a watch heard nothing for {time:?}"))
}
