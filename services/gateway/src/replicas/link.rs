//! The line to the leader of one replica: dial, introduce ourselves, pass on what both sides say; and again.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::shard::v1::attach_request::Message as Request;
use proto::shard::v1::attach_response::Message as Response;
use proto::shard::v1::leader_service_client::LeaderServiceClient;
use proto::shard::v1::{self as wire, AttachRequest, AttachResponse, GatewayHello, ReplicaWelcome};
use service::Backoff;
use service::net::{in_full, status_in_full};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::{Model, Setting, Target, id, wire as convert};
use crate::core::{Announcement, Event, ReplicaId, Version};
use crate::observer::Line as Shown;
use crate::runner::{Line, Outgoing};

/// Keeps a line to a replica, as long as there is a reason to.
pub(super) struct Link {
    setting: Arc<Setting>,
    name: String,
    id: ReplicaId,
    busy: Arc<AtomicBool>,
}

/// Why there is no line any more, or yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("did not answer in time")]
    Silent,
    #[error("refuses this gateway: {0}")]
    Refuses(String),
    #[error("is not suited: {0}")]
    Unsuited(String),
    #[error("does not keep to the protocol: {0}")]
    Protocol(&'static str),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("closed the connection")]
    Closed,
    #[error("had work and did nothing")]
    Stalled,
    #[error("a newer epoch was opened")]
    Replaced,
}

/// A replica that has joined; it leaves when this is dropped.
struct Joined<'a> {
    model: &'a Model,
    replica: ReplicaId,
    epoch: u64,
    /// The outputs of its head.
    outputs: usize,
}

/// How long a replica may take to accept a connection, and to introduce itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// The waits before a replica is dialed again.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);
/// The largest message of a replica.
const LARGEST: usize = 64 << 20;
/// The most ranks of a replica.
const RANKS: u32 = 1024;
/// The most outputs of a head.
const OUTPUTS: u32 = 1 << 16;

// === impl Link ===

impl Link {
    /// `busy` is true while it has a target in hand.
    pub(super) fn new(setting: Arc<Setting>, replica: &str, busy: Arc<AtomicBool>) -> Self {
        Self { setting, name: replica.to_owned(), id: id(replica), busy }
    }

    /// Runs until nobody can name a target any more.
    pub(super) async fn run(self, mut target: watch::Receiver<Option<Target>>) {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        loop {
            self.busy.store(false, Ordering::SeqCst);
            let take = |wanted: &Option<Target>| {
                self.busy.fetch_or(wanted.is_some(), Ordering::SeqCst);
                wanted.is_some()
            };
            let Ok(Some(wanted)) = target.wait_for(take).await.map(|wanted| wanted.clone()) else { return };
            let dialed = Instant::now();
            let problem = self.attach(&wanted, &mut target).await;
            tracing::info!(replica = self.name, epoch = wanted.epoch, %problem, "no line to a replica");
            self.setting.roster.line(&self.name, shown(&problem));
            if problem == Problem::Replaced || dialed.elapsed() > 2 * LONGEST {
                backoff.reset();
            }
            let other = target.wait_for(|now| now.as_ref() != Some(&wanted));
            match timeout(backoff.wait(), other).await {
                Ok(Ok(_)) => backoff.reset(),
                Ok(Err(_)) => return,
                Err(_) => {}
            }
        }
    }

    /// Opens a line and keeps it until it breaks, or there is a newer epoch.
    async fn attach(&self, wanted: &Target, target: &mut watch::Receiver<Option<Target>>) -> Problem {
        let newer = async {
            let is_newer = |now: &Option<Target>| now.as_ref().is_some_and(|now| now.epoch > wanted.epoch);
            if target.wait_for(is_newer).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = self.talk(wanted) => match ended {
                Ok(never) => match never {},
                Err(problem) => problem,
            },
            () = newer => Problem::Replaced,
        }
    }

    async fn talk(&self, wanted: &Target) -> Result<Infallible, Problem> {
        let model = self.setting.models.get(&wanted.model);
        let model = model.ok_or_else(|| Problem::Unsuited("another model".to_owned()))?;
        self.setting.roster.line(&self.name, Shown::Dialing);
        let (outbox, outgoing) = mpsc::unbounded_channel();
        let greeted = timeout(PATIENCE, self.greet(wanted, model, outgoing)).await;
        let (mut responses, announcement) = greeted.map_err(|_| Problem::Silent)??;
        let version = announcement.version.clone();
        let Announcement { epoch, ranks, outputs, .. } = announcement;
        tracing::info!(replica = self.name, epoch, ranks, fingerprint = %version.fingerprint, "a replica is attached");
        let close = CancellationToken::new();
        model.runner.joined(announcement, Line { outbox, close: close.clone() });
        let joined = Joined { model, replica: self.id, epoch, outputs };
        self.setting.roster.line(&self.name, Shown::Open { version, draining: false });
        let mut closed = pin!(close.cancelled());
        loop {
            let message = tokio::select! {
                message = responses.message() => message.map_err(broken)?.ok_or(Problem::Closed)?,
                () = &mut closed => return Err(Problem::Stalled),
            };
            self.hear(&joined, message)?;
        }
    }

    /// Dials, says hello and waits for the welcome.
    async fn greet(
        &self,
        wanted: &Target,
        model: &Model,
        outgoing: mpsc::UnboundedReceiver<Outgoing>,
    ) -> Result<(Streaming<AttachResponse>, Announcement), Problem> {
        let dialed = self.setting.network.dial(&wanted.address, PATIENCE).await;
        let channel = dialed.map_err(|error| Problem::Unreachable(in_full(&error)))?;
        let mut client = LeaderServiceClient::new(channel).max_decoding_message_size(LARGEST);
        let hello = Request::Hello(GatewayHello {
            protocol: Some(self.setting.protocol.into()),
            gateway: self.setting.name.clone(),
            epoch: wanted.epoch,
            text_digest: model.text_digest.to_string(),
        });
        let hello = tokio_stream::once(AttachRequest { message: Some(hello) });
        let requests = hello.chain(UnboundedReceiverStream::new(outgoing).map(convert::request));
        let mut responses = client.attach(requests).await.map_err(broken)?.into_inner();
        match responses.message().await.map_err(broken)?.ok_or(Problem::Closed)?.message {
            Some(Response::Welcome(welcome)) => {
                let announcement = self.check(wanted, model, welcome)?;
                Ok((responses, announcement))
            }
            _ => Err(Problem::Protocol("the first message is no welcome")),
        }
    }

    /// Holds a welcome to what is needed.
    fn check(&self, wanted: &Target, model: &Model, welcome: ReplicaWelcome) -> Result<Announcement, Problem> {
        let ReplicaWelcome { protocol, epoch, generation, fingerprint, ranks, step_tokens, vocab, outputs } = welcome;
        let unsuited = |problem: String| Err(Problem::Unsuited(problem));
        if !self.setting.protocol.contains(protocol) {
            return unsuited(format!("it speaks version {protocol} of the protocol"));
        }
        if epoch != wanted.epoch {
            return unsuited(format!("it is in epoch {epoch}, not {}", wanted.epoch));
        }
        if vocab != model.vocab {
            return unsuited(format!("its vocabulary has {vocab} tokens, not {}", model.vocab));
        }
        if step_tokens < model.max_length as u64 {
            let longest = model.max_length;
            return unsuited(format!("its steps take {step_tokens} tokens, a conversation may have {longest}"));
        }
        if ranks == 0 || ranks > RANKS || outputs > OUTPUTS || fingerprint.is_empty() {
            return Err(Problem::Protocol("the welcome has no ranks, too many ranks or outputs, or no fingerprint"));
        }
        let version = Version { generation, fingerprint: fingerprint.into() };
        let (ranks, outputs) = (ranks as usize, outputs.max(1) as usize);
        Ok(Announcement { replica: self.id, epoch, version, ranks, outputs, step_tokens })
    }

    /// Passes on what a replica says.
    fn hear(&self, joined: &Joined<'_>, message: AttachResponse) -> Result<(), Problem> {
        let Joined { model, replica, epoch, .. } = *joined;
        let event = match message.message {
            Some(Response::Credits(credits)) => Event::Granted { replica, epoch, tokens: credits.tokens },
            Some(Response::Results(results)) => {
                Event::Answered { replica, epoch, answers: convert::results(results, joined.outputs) }
            }
            Some(Response::Rejections(rejections)) => {
                Event::Answered { replica, epoch, answers: convert::rejections(rejections) }
            }
            Some(Response::Draining(wire::Draining {})) => {
                self.setting.roster.draining(&self.name);
                Event::Draining { replica, epoch }
            }
            Some(Response::Welcome(_)) => return Err(Problem::Protocol("a second welcome")),
            None => return Err(Problem::Protocol("a message of an unknown kind")),
        };
        model.runner.said(event);
        Ok(())
    }
}

fn broken(status: Status) -> Problem {
    match status.code() {
        Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied => {
            Problem::Refuses(status.message().to_owned())
        }
        code => Problem::Broken(format!("{code:?}: {}", status_in_full(&status))),
    }
}

fn shown(problem: &Problem) -> Shown {
    match problem {
        Problem::Refuses(_) | Problem::Unsuited(_) | Problem::Protocol(_) => Shown::Refused(problem.to_string()),
        _ => Shown::Lost(problem.to_string()),
    }
}

// === impl Joined ===

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.model.runner.said(Event::Left { replica: self.replica, epoch: self.epoch });
    }
}
