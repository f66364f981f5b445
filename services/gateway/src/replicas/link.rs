//! A link to the leader of one replica, for one epoch: dial, introduce ourselves, pass on what both sides say.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use proto::shard::v1::attach_request::Message as Request;
use proto::shard::v1::attach_response::Message as Response;
use proto::shard::v1::leader_service_client::LeaderServiceClient;
use proto::shard::v1::{self as wire, AttachRequest, AttachResponse, GatewayHello};
use score::Versions;
use service::Network;
use service::net::{in_full, status_in_full};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use super::convert;
use crate::core::{Event, LinkId, NoLink, Version, Welcome};
use crate::runner::Outgoing;

/// What a gateway brings to the replicas of one model.
pub(crate) struct Dialer {
    pub(crate) gateway: Arc<str>,
    pub(crate) protocol: Versions,
    pub(crate) text_digest: String,
    pub(crate) network: Network,
}

/// How long a replica may take to accept a connection, and to introduce itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest message of a replica.
const LARGEST: usize = 64 << 20;

// === impl Dialer ===

impl Dialer {
    /// Opens a link to a leader that serves in this epoch, sends what is to go out, and tells what it says; until it
    /// ends, and why.
    pub(crate) async fn run(
        &self,
        to: (LinkId, &str, u64),
        outgoing: mpsc::UnboundedReceiver<Outgoing>,
        tell: impl Fn(Event),
    ) -> NoLink {
        match self.talk(to, outgoing, tell).await {
            Ok(never) => match never {},
            Err(why) => why,
        }
    }

    async fn talk(
        &self,
        (link, address, epoch): (LinkId, &str, u64),
        outgoing: mpsc::UnboundedReceiver<Outgoing>,
        tell: impl Fn(Event),
    ) -> Result<Infallible, NoLink> {
        let greeted = timeout(PATIENCE, self.greet(address, epoch, outgoing)).await;
        let (mut responses, welcome) = greeted.map_err(|_| NoLink::Silent)??;
        let outputs = welcome.outputs.max(1) as usize;
        tell(Event::Welcomed { link, welcome });
        loop {
            let message = responses.message().await.map_err(broken)?.ok_or(NoLink::Closed)?;
            tell(heard(link, message, outputs)?);
        }
    }

    /// Dials, says hello and waits for the welcome.
    async fn greet(
        &self,
        address: &str,
        epoch: u64,
        outgoing: mpsc::UnboundedReceiver<Outgoing>,
    ) -> Result<(Streaming<AttachResponse>, Welcome), NoLink> {
        let dialed = self.network.dial(address, PATIENCE).await;
        let channel = dialed.map_err(|error| NoLink::Unreachable(in_full(&error)))?;
        let mut client = LeaderServiceClient::new(channel).max_decoding_message_size(LARGEST);
        let hello = Request::Hello(GatewayHello {
            protocol: Some(self.protocol.into()),
            gateway: self.gateway.to_string(),
            epoch,
            text_digest: self.text_digest.clone(),
        });
        let hello = tokio_stream::once(AttachRequest { message: Some(hello) });
        let requests = hello.chain(UnboundedReceiverStream::new(outgoing).map(convert::request));
        let mut responses = client.attach(requests).await.map_err(broken)?.into_inner();
        match responses.message().await.map_err(broken)?.ok_or(NoLink::Closed)?.message {
            Some(Response::Welcome(welcome)) => Ok((responses, welcomed(welcome))),
            _ => Err(NoLink::Protocol("the first message is no welcome")),
        }
    }
}

fn welcomed(welcome: wire::ReplicaWelcome) -> Welcome {
    let wire::ReplicaWelcome { protocol, epoch, generation, fingerprint, ranks, step_tokens, vocab, outputs } = welcome;
    let version = Version { generation, fingerprint: fingerprint.into() };
    Welcome { protocol, epoch, version, ranks, outputs, step_tokens, vocab }
}

/// What a replica says after its welcome, of a head with so many outputs.
fn heard(link: LinkId, message: AttachResponse, outputs: usize) -> Result<Event, NoLink> {
    match message.message {
        Some(Response::Credits(credits)) => Ok(Event::Granted { link, tokens: credits.tokens }),
        Some(Response::Results(results)) => Ok(Event::Answered { link, answers: convert::results(results, outputs) }),
        Some(Response::Rejections(those)) => Ok(Event::Answered { link, answers: convert::rejections(those) }),
        Some(Response::Draining(wire::Draining {})) => Ok(Event::Draining(link)),
        Some(Response::Welcome(_)) => Err(NoLink::Protocol("a second welcome")),
        None => Err(NoLink::Protocol("a message of an unknown kind")),
    }
}

fn broken(status: Status) -> NoLink {
    match status.code() {
        Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied => {
            NoLink::Refuses(status.message().to_owned())
        }
        code => NoLink::Broken(format!("{code:?}: {}", status_in_full(&status))),
    }
}
