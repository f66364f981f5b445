//! The gateways of an epoch, as the leader sees them: a number for each, what goes out to it, and a task that reads what
//! comes in.

use std::collections::BTreeMap;
use std::time::Instant;

use proto::shard::v1 as wire;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;
use wire::attach_request::Message as FromGateway;
use wire::attach_response::Message as ToGateway;

use super::server::{Call, Outbox};
use crate::convert;
use crate::leader::{Action, Event};
use crate::plan::GatewayId;

/// Gateways that are attached. Dropping it closes their streams.
pub(super) struct Gateways {
    started: Instant,
    attached: BTreeMap<GatewayId, Attached>,
    readers: JoinSet<()>,
    next: u64,
}

struct Attached {
    name: String,
    outbox: Outbox<wire::AttachResponse>,
}

// === impl Gateways ===

impl Gateways {
    /// Nobody is attached; times are counted from `started`.
    pub(super) fn new(started: Instant) -> Self {
        Self { started, attached: BTreeMap::new(), readers: JoinSet::new(), next: 0 }
    }

    /// Takes a gateway in; what it says goes to `events`, at last that it is gone.
    pub(super) fn attach(
        &mut self,
        call: Call<wire::GatewayHello, wire::AttachRequest, wire::AttachResponse>,
        events: mpsc::Sender<Event>,
    ) -> Event {
        let Call { hello, version, mut requests, outbox } = call;
        self.next += 1;
        let id = GatewayId(self.next);
        tracing::info!(gateway = hello.gateway, version, "a gateway is attached");
        self.attached.insert(id, Attached { name: hello.gateway, outbox });
        let started = self.started;
        self.readers.spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let event = match request.message {
                    Some(FromGateway::Piece(piece)) => {
                        Event::Arrived(id, convert::submission(piece, started.elapsed()))
                    }
                    Some(FromGateway::Withdrawal(withdrawal)) => Event::Withdrawn(id, withdrawal.tag()),
                    // a message of a later version
                    None => continue,
                    Some(FromGateway::Hello(_)) => break,
                };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            // the epoch may be over
            let _ = events.send(Event::Detached(id)).await;
        });
        Event::Attached(id)
    }

    /// Forgets a gateway that is gone.
    pub(super) fn detached(&mut self, id: GatewayId) {
        if let Some(attached) = self.attached.remove(&id) {
            tracing::info!(gateway = attached.name, "a gateway is gone");
        }
        while self.readers.try_join_next().is_some() {}
    }

    /// Says something to a gateway. Who does not read what is said is given up: the event to handle then.
    pub(super) fn tell(&mut self, action: Action) -> Option<Event> {
        let (id, message) = match action {
            Action::Credit(change) => {
                let credits = ToGateway::Credits(wire::Credits { tokens: change.tokens });
                (change.gateway, convert::to_gateway(credits))
            }
            Action::Answer(id, answers) => (id, convert::results(&answers)),
            Action::Reject(id, rejections) => (id, convert::rejections(rejections)),
            Action::Draining(id) => (id, convert::to_gateway(ToGateway::Draining(wire::Draining {}))),
            Action::Detach(id, problem) => {
                if let Some(attached) = self.attached.remove(&id) {
                    tracing::warn!(gateway = attached.name, problem, "a gateway is turned out");
                    let _ = attached.outbox.try_send(Err(Status::invalid_argument(problem)));
                }
                return None;
            }
            Action::Compute(_) | Action::End(_) => return None,
        };
        let sent = self.attached.get(&id)?.outbox.try_send(Ok(message));
        sent.is_err().then(|| {
            self.detached(id);
            Event::Detached(id)
        })
    }
}
