//! One epoch, as a worker that does not lead it: dial the leader, let the ranks meet the others, and compute what comes
//! until the stream breaks or the leader falls silent.

use std::ops::Range;
use std::time::Instant;

use collective::Session;
use proto::shard::v1 as wire;
use service::net::{in_full, status_in_full};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wire::join_request::Message as ToLeader;
use wire::join_response::Message as FromLeader;
use wire::leader_service_client::LeaderServiceClient;

use super::meeting::{self, Ends};
use super::server::largest;
use super::{Context, Local, Locals, Reason};
use crate::convert::{partials, ticket, work};
use crate::leader::Report;

/// Messages that may wait to go to the leader.
const OUTGOING: usize = 256;

/// Takes part in one epoch; None if the worker is to leave and its leader is done with it.
pub(super) async fn follow(context: &Context, locals: &mut Locals<'_>) -> Option<Reason> {
    let mut roster = context.roster.clone();
    let opened = async {
        context.membership.claim().await;
        // the roster outlives the context
        roster.wait_for(|roster| roster.epoch.is_some()).await.ok().and_then(|roster| roster.epoch.clone())
    };
    let (epoch, address) = tokio::select! {
        opened = opened => opened?,
        () = context.stop.cancelled() => return None,
    };
    let joined = tokio::select! {
        joined = Joined::join(context, &mut *locals, epoch, &address) => joined,
        () = context.stop.cancelled() => return None,
    };
    match joined {
        Ok(mut joined) => {
            context.set_state(wire::RankState::Serving, epoch);
            let reason = joined.serve(context, locals).await;
            (!context.stop.is_cancelled()).then_some(reason)
        }
        Err(reason) => Some(format!("epoch {epoch} of {address}: {reason}")),
    }
}

/// An epoch that was joined: what goes to its leader, and what it says.
struct Joined {
    epoch: u64,
    outbox: mpsc::Sender<wire::JoinRequest>,
    messages: Streaming<wire::JoinResponse>,
}

// === impl Joined ===

impl Joined {
    /// Dials the leader, and takes the seats of this worker's ranks.
    async fn join(context: &Context, locals: &mut Locals<'_>, epoch: u64, address: &str) -> Result<Self, Reason> {
        let patience = context.options.patience;
        let channel = context.network.dial(address, patience.forming).await.map_err(|error| in_full(&error))?;
        let mut leader = LeaderServiceClient::new(channel).max_decoding_message_size(largest(&context.options));
        let (outbox, outgoing) = mpsc::channel(OUTGOING);
        let options = &context.options;
        let nccl = context.nccl_version()?.map(|version| wire::Nccl { version, id: Vec::new() });
        let hello = wire::WorkerHello {
            protocol: Some(options.protocol.into()),
            epoch,
            first_rank: options.ranks.ranks.start as u32,
            ranks: options.ranks.ranks.len() as u32,
            generation: options.generation,
            fingerprint: options.fingerprint.clone(),
            incarnation: context.incarnation.number().to_be_bytes().to_vec(),
            nccl,
        };
        tell(&outbox, ToLeader::Hello(hello))?;
        let welcome = async {
            let response = leader.join(ReceiverStream::new(outgoing)).await;
            let mut messages = response.map_err(|status| status_in_full(&status))?.into_inner();
            let first = messages.message().await.map_err(|status| status_in_full(&status))?;
            match first.and_then(|first| first.message) {
                Some(FromLeader::Welcome(welcome)) => Ok((messages, welcome)),
                _ => Err("the leader did not welcome this worker".to_owned()),
            }
        };
        // the leader waits for the slowest worker
        let (messages, welcome) = timeout(patience.forming * 2, welcome).await.map_err(|_| "no welcome came")??;
        if !options.protocol.contains(welcome.protocol) {
            return Err(format!("the leader speaks version {} of the inner protocol", welcome.protocol));
        }
        locals.checksum = welcome.covers().ok_or("the leader asks for checksums of a kind unknown here")?;
        let session = Session {
            id: epoch,
            world_size: options.ranks.world_size,
            forming: patience.forming,
            silence: patience.meeting,
        };
        let (ranks, world_size) = (options.ranks.ranks.clone(), options.ranks.world_size);
        let collectives = match welcome.nccl.map(ticket) {
            Some(ticket) => meeting::by_nccl(ranks, world_size, &ticket),
            None => meet(&welcome.collective, ranks, session).await?,
        };
        locals.ranks.take_seats(collectives);
        tell(&outbox, ToLeader::Seated(wire::Seated {}))?;
        Ok(Self { epoch, outbox, messages })
    }

    /// Computes what comes; returns why no more comes.
    async fn serve(&mut self, context: &Context, locals: &mut Locals<'_>) -> Reason {
        let patience = context.options.patience;
        let mut beat = interval(patience.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut leaving = false;
        loop {
            let done = tokio::select! {
                message = self.messages.message() => {
                    heard = Instant::now();
                    match message {
                        Ok(Some(message)) => self.obey(message, locals),
                        Ok(None) => Err("the leader has ended the epoch".to_owned()),
                        Err(status) => Err(format!("the line to the leader broke: {}", status_in_full(&status))),
                    }
                }
                Some(local) = locals.results.recv() => self.answer(local),
                _ = beat.tick() => match heard.elapsed() {
                    silence if silence > patience.silence => Err(format!("the leader has been silent for {silence:.1?}")),
                    _ => tell(&self.outbox, ToLeader::Heartbeat(wire::Heartbeat {})),
                },
                () = context.stop.cancelled(), if !leaving => {
                    leaving = true;
                    context.set_state(wire::RankState::Draining, self.epoch);
                    tell(&self.outbox, ToLeader::Leaving(wire::Leaving {}))
                }
            };
            if let Err(reason) = done {
                return reason;
            }
        }
    }

    fn obey(&self, message: wire::JoinResponse, locals: &Locals<'_>) -> Result<(), Reason> {
        match message.message {
            Some(FromLeader::Step(step)) => locals.compute(&work(step)?).map_err(|error| error.to_string()),
            Some(FromLeader::Welcome(_)) => Err("the leader welcomed this worker twice".to_owned()),
            // it is there, or speaks a later version
            Some(FromLeader::Heartbeat(_)) | None => Ok(()),
        }
    }

    fn answer(&self, local: Local) -> Result<(), Reason> {
        let Local { stamp, rank, partials: computed } = local;
        match computed {
            Ok(computed) => {
                let report = Report { first_rank: rank, stamp, ranks: vec![computed] };
                tell(&self.outbox, ToLeader::Partials(partials(report)))
            }
            Err(problem) => {
                // it may be known already
                let failed = wire::Failed { stamp: Some(stamp.into()), problem: problem.clone() };
                let _ = tell(&self.outbox, ToLeader::Failed(failed));
                Err(format!("rank {rank} failed: {problem}"))
            }
        }
    }
}

/// Says something to the leader.
fn tell(outbox: &mpsc::Sender<wire::JoinRequest>, message: ToLeader) -> Result<(), Reason> {
    let sent = outbox.try_send(wire::JoinRequest { message: Some(message) });
    sent.map_err(|_| "the leader does not read what it is told".to_owned())
}

/// Lets the ranks of this process meet rank 0.
async fn meet(address: &str, ranks: Range<usize>, session: Session) -> Result<Ends, Reason> {
    let address = tokio::net::lookup_host(address).await.ok().and_then(|mut found| found.next());
    let address = address.ok_or("the leader's collective has no address")?;
    meeting::over_tcp(ranks, address, None, session).await
}
