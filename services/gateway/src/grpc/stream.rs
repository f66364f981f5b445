//! A stream of items: each is a call of its own, all of them on the stream's lane. A task reads on as long as few enough
//! items have no answer, and ends with the client, with the gateway, or when all is answered.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use proto::v1;
use service::server::{Admitted, Permit};
use service::trace::STAGE;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use super::{Rewards, convert};
use crate::entrance::{Caller, Counted, Reading, Scored, Turn};
use crate::problem::Problem;

/// What comes out of a stream.
type Answer = Result<v1::ScoreStreamResponse, Status>;

struct Session {
    rewards: Rewards,
    caller: Caller,
    turn: Turn,
    /// How the next item without options is read.
    reading: Result<Reading, Problem>,
    /// Room for the item that has just been read.
    admitted: Admitted,
    /// Items that have no answer.
    open: HashSet<u64>,
}

/// Answers that wait for a slow client.
const PENDING: usize = 64;

/// Starts to answer a stream.
pub(super) fn start(
    rewards: Rewards,
    caller: Caller,
    request: Request<Streaming<v1::ScoreStreamRequest>>,
    counted: Counted,
) -> ReceiverStream<Answer> {
    let admitted = request.extensions().get::<Admitted>().cloned().unwrap_or_default();
    let inbound = request.into_inner();
    let (answers, outbound) = mpsc::channel(PENDING);
    let turn = rewards.0.turn(true);
    let reading = rewards.reading(None);
    let session = Session { rewards, caller, turn, reading, admitted, open: HashSet::new() };
    tokio::spawn(async move {
        let ended = session.run(inbound, &answers).await;
        counted.with(ended.as_ref().err().map_or(Code::Ok, Status::code));
        if let Err(status) = ended {
            // whoever is gone needs no answer
            let _ = answers.send(Err(status)).await;
        }
    });
    ReceiverStream::new(outbound)
}

// === impl Session ===

impl Session {
    async fn run(
        mut self,
        mut inbound: Streaming<v1::ScoreStreamRequest>,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<(), Status> {
        let entrance = Arc::clone(&self.rewards.0);
        let (mut ending, mut ended) = (pin!(entrance.ending.cancelled()), pin!(entrance.ended.cancelled()));
        let timeout = self.caller.timeout.map(|timeout| self.caller.received + timeout);
        let mut late = pin!(sleep_until(timeout.unwrap_or_else(Instant::now)));
        let mut work = FuturesUnordered::new();
        let (mut reading, mut last_word) = (true, Ok(()));
        while reading || !work.is_empty() {
            tokio::select! {
                Some(answer) = work.next(), if !work.is_empty() => {
                    // what was held of the item is let go of once its answer is on the way
                    let (answer, _held): (v1::ScoreStreamResponse, Option<Permit>) = answer;
                    self.open.remove(&answer.id);
                    tokio::select! {
                        sent = answers.send(Ok(answer)) => sent.map_err(|_| gone())?,
                        () = &mut ended => return Err(Problem::ending().into()),
                    }
                }
                item = inbound.message(), if reading && work.len() < entrance.stream_items => match item? {
                    Some(item) => work.push(self.open(item)?),
                    None => reading = false,
                },
                () = &mut ending, if reading => (reading, last_word) = (false, Err(Problem::ending().into())),
                () = &mut ended => return Err(Problem::ending().into()),
                () = &mut late, if timeout.is_some() => return Err(Problem::deadline().into()),
                () = answers.closed() => return Err(gone()),
            }
        }
        last_word
    }

    /// Begins with an item that has come in.
    fn open(
        &mut self,
        request: v1::ScoreStreamRequest,
    ) -> Result<impl Future<Output = (v1::ScoreStreamResponse, Option<Permit>)> + use<>, Problem> {
        let held = self.admitted.take();
        let v1::ScoreStreamRequest { id, item, options } = request;
        if !self.open.insert(id) {
            return Err(Problem::bad_request("id", format!("the item {id} has no answer yet")));
        }
        if options.is_some() {
            self.reading = self.rewards.reading(options.as_ref());
        }
        let entrance = Arc::clone(&self.rewards.0);
        let caller = self.caller.item(entrance.default_timeout);
        let (turn, reading) = (self.turn, self.reading.clone());
        let receive = tracing::debug_span!(target: STAGE, parent: &caller.span, "receive", items = 1);
        let given = receive.in_scope(|| convert::given(item.unwrap_or_default()));
        Ok(async move {
            let conversations = given.conversations;
            let scored = match reading {
                Ok(reading) => entrance.score(&caller, &reading, vec![given], turn).await,
                Err(problem) => Err(problem),
            };
            let (item, timing) = match scored {
                Ok(Scored { mut answers, times }) => {
                    (answers.pop().map(|answers| convert::result("item", answers)), times.into())
                }
                Err(problem) => (Some(convert::refused(conversations, problem)), v1::Timing::default()),
            };
            (v1::ScoreStreamResponse { id, item, timing: Some(timing) }, held)
        })
    }
}

fn gone() -> Status {
    Status::cancelled("the client is gone")
}
