//! What clients send is let in before it is read: a message of gRPC whole, by the length in front of it, another body by
//! its own. HTTP/2's flow control holds back who has to wait. What was let in is held until it is answered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderName, Request, StatusCode};
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::ledger::{Held, Ledger, Owner, Permit};

/// How much of what clients send is held at a time.
#[derive(Debug, Clone)]
pub struct Intake {
    /// The largest message, or body.
    pub message: usize,
    /// The name of the setting that says so.
    pub setting: &'static str,
    /// Bytes that all messages take together, from before they are read until they are answered; four times the largest
    /// message or more.
    pub held: usize,
    /// The header that says who a call is charged to.
    pub tenant: Option<HeaderName>,
    /// What a message for this path takes beside its own bytes once it is decoded.
    pub weigh: fn(&str, &[u8]) -> usize,
}

/// The room of one port.
pub(super) struct Door {
    intake: Intake,
    ledger: Ledger,
}

/// What was let in of a request and has no answer: in the request's extensions. It is let go of with the answer, or, of a
/// stream of messages, when the next one is asked for; unless it is taken before.
#[derive(Clone, Default)]
pub struct Admitted(Arc<Mutex<Option<Permit>>>);

/// Why a body is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The message is larger than any may be.
    #[error("a message of {bytes} bytes is larger than the {most} that are read ({setting}): send it in smaller parts")]
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// What it may have.
        most: usize,
        /// What says so.
        setting: &'static str,
    },
    /// It has so many small parts that it would take too much memory.
    #[error("a message of {bytes} bytes would take {weight} bytes of memory: send it in smaller parts")]
    TooHeavy {
        /// Its bytes.
        bytes: usize,
        /// What it would take.
        weight: usize,
    },
    /// There was no room for it in time.
    #[error("there is no room for the message now: come back in {} s", BACK.as_secs())]
    Full,
    /// It came too slowly while others waited.
    #[error("the message came slower than {LEAST} bytes a second while others waited for room: send it again")]
    Slow,
    /// It was silent, with all that it sent answered, while others waited for what its buffer takes.
    #[error("the stream was silent while others waited for room: begin another one")]
    Idle,
}

/// Reads a body.
struct Reader {
    door: Arc<Door>,
    body: Incoming,
    path: String,
    owner: Arc<Owner>,
    admitted: Admitted,
    /// What its head says of its length.
    length: Option<u64>,
    /// What has come and was not handed on.
    ahead: Bytes,
    /// What the reader's buffer takes: as much as the largest message so far.
    buffer: Option<Permit>,
    /// Whether nothing was read.
    first: bool,
}

/// What has to come by when, if somebody waits.
struct Pace {
    until: Instant,
    bytes: usize,
}

/// Less in a second is slow.
const LEAST: usize = 64 << 10;
const SECOND: Duration = Duration::from_secs(1);
/// A buffer that is not asked back.
const SMALL: usize = 64 << 10;
/// How long the first message of a call may wait for room. Later ones of a stream wait as long as those before are not
/// answered.
const PATIENCE: Duration = Duration::from_secs(10);
/// When to come back.
const BACK: Duration = Duration::from_secs(1);
/// What stands before a message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// What a message is taken to be once it is decoded, until that is known.
const GUESS: usize = 4;
const GUESS_AT_MOST: usize = 64 << 10;
const EACH: usize = 1 << 10;
/// JSON's smallest string takes three bytes there, and 24 here.
const JSON: usize = 8;

// === impl Intake ===

impl Default for Intake {
    fn default() -> Self {
        Self { message: 8 << 20, setting: "message", held: 256 << 20, tenant: None, weigh: |_, _| 0 }
    }
}

// === impl Door ===

impl Door {
    pub(super) fn new(intake: Intake) -> Self {
        let ledger = Ledger::new(intake.held);
        Self { intake, ledger }
    }

    /// A request whose body comes in as there is room for it, and what holds that.
    pub(super) fn admit(self: &Arc<Self>, request: Request<Incoming>, connection: &Held) -> (Request<Body>, Admitted) {
        let admitted = Admitted::default();
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(admitted.clone());
        if body.is_end_stream() {
            return (Request::from_parts(parts, Body::new(body)), admitted);
        }
        let said = |name: &HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let tenant = self.intake.tenant.as_ref().and_then(said).unwrap_or_default();
        let length = said(&CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let is_grpc = said(&CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/grpc"));
        let reader = Reader {
            door: Arc::clone(self),
            body,
            path: parts.uri.path().to_owned(),
            owner: Owner::new(tenant, connection),
            admitted: admitted.clone(),
            length,
            ahead: Bytes::new(),
            buffer: None,
            first: true,
        };
        let body = match is_grpc {
            true => Body::new(StreamBody::new(stream::try_unfold(reader, async |mut reader| {
                let message = reader.message().await.map_err(in_grpc)?;
                Ok::<_, BoxError>(message.map(|message| (Frame::data(message), reader)))
            }))),
            false => Body::new(StreamBody::new(stream::try_unfold(reader, async |mut reader| {
                let part = reader.part().await?;
                Ok::<_, BoxError>(part.map(|part| (Frame::data(part), reader)))
            }))),
        };
        (Request::from_parts(parts, body), admitted)
    }
}

/// What a refusal is over gRPC; other errors as they are.
fn in_grpc(error: BoxError) -> BoxError {
    match error.downcast::<Refused>() {
        Ok(refused) => Box::new(Status::from(*refused)),
        Err(error) => error,
    }
}

// === impl Admitted ===

impl Admitted {
    /// Takes what is held, for whoever answers it later than the next message is asked for.
    pub fn take(&self) -> Option<Permit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, permit: Permit) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
    }
}

// === impl Reader ===

impl Reader {
    /// The next message with what stands before it, once it is there as a whole; None at the end.
    async fn message(&mut self) -> Result<Option<Bytes>, BoxError> {
        // the one before is answered, or somebody else holds it
        drop(self.admitted.take());
        while self.ahead.len() < PREFIX {
            match self.beginning().await? {
                Some(part) if self.ahead.is_empty() => self.ahead = part,
                Some(part) => self.ahead = [&*self.ahead, &*part].concat().into(),
                // whoever decodes says what is wrong with a beginning of a message
                None => return Ok(Some(std::mem::take(&mut self.ahead)).filter(|rest| !rest.is_empty())),
            }
        }
        let length = self.ahead.iter().take(PREFIX).skip(1).fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let bytes = self.fitting(length)?;
        let mut permit = self.room(bytes).await?;
        let message = self.whole(PREFIX + bytes).await?;
        let weight = (self.door.intake.weigh)(&self.path, message.get(PREFIX..).unwrap_or_default());
        if bytes + weight > self.door.ledger.largest() {
            return Err(Refused::TooHeavy { bytes, weight: bytes + weight }.into());
        }
        if !permit.resize(bytes + weight) {
            return Err(Refused::Full.into());
        }
        self.admitted.put(permit);
        Ok(Some(message))
    }

    /// So many bytes, if that is no more than a message may have.
    fn fitting(&self, bytes: u64) -> Result<usize, Refused> {
        let Intake { message: most, setting, .. } = self.door.intake;
        let fits = usize::try_from(bytes).ok().filter(|bytes| *bytes <= most);
        fits.ok_or(Refused::TooLarge { bytes, most, setting })
    }

    /// Waits for room for a message of so many bytes, and for the buffer it is read into.
    async fn room(&mut self, bytes: usize) -> Result<Permit, BoxError> {
        let guess = bytes + (GUESS * bytes).min(GUESS_AT_MOST) + EACH;
        // who holds nothing else has room for any message: the buffer's is asked for once more
        let buffer = self.buffer.take().map_or(0, |buffer| buffer.bytes()).max(bytes);
        let mut permit = self.wait(guess + buffer).await?;
        self.buffer = Some(permit.split(buffer));
        Ok(permit)
    }

    async fn wait(&mut self, bytes: usize) -> Result<Permit, BoxError> {
        let turn = self.door.ledger.take(&self.owner, bytes);
        let permit = match std::mem::take(&mut self.first) {
            true => timeout(PATIENCE, turn).await.map_err(|_| Refused::Full)?,
            false => turn.await,
        };
        Ok(permit.ok_or(Refused::Full)?)
    }

    /// So many bytes, once they have come; what comes behind them is kept.
    async fn whole(&mut self, bytes: usize) -> Result<Bytes, BoxError> {
        if self.ahead.len() >= bytes {
            return Ok(self.ahead.split_to(bytes));
        }
        let (mut message, mut pace) = (Vec::with_capacity(bytes), Pace::new());
        message.extend_from_slice(&std::mem::take(&mut self.ahead));
        while message.len() < bytes {
            let Some(mut part) = self.next(&mut pace).await? else { break };
            self.ahead = part.split_off(part.len().min(bytes - message.len()));
            message.extend_from_slice(&part);
        }
        Ok(message.into())
    }

    /// The next part of a body that is no gRPC, for which there is room as a whole.
    async fn part(&mut self) -> Result<Option<Bytes>, BoxError> {
        if self.first {
            // one that does not say how long it is may be as long as any
            let bytes = self.fitting(self.length.unwrap_or(self.door.intake.message as u64))?;
            let permit = self.wait(bytes.saturating_mul(JSON)).await?;
            self.admitted.put(permit);
        }
        self.next(&mut Pace::new()).await
    }

    /// The next part of the body, if it comes in time.
    async fn next(&mut self, pace: &mut Pace) -> Result<Option<Bytes>, BoxError> {
        loop {
            match timeout_at(pace.until, self.body.frame()).await {
                Ok(frame) => {
                    let part = data(frame)?;
                    pace.bytes += part.as_ref().map_or(0, Bytes::len);
                    return Ok(part);
                }
                Err(_) if pace.bytes < LEAST && self.door.ledger.is_pressed() => return Err(Refused::Slow.into()),
                Err(_) => *pace = Pace::new(),
            }
        }
    }

    /// What begins another message. A stream may be silent, but not while others wait for what its buffer takes.
    async fn beginning(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            let Ok(frame) = timeout(SECOND, self.body.frame()).await else {
                let buffer = self.buffer.as_ref().map_or(0, Permit::bytes);
                let is_idle = buffer > SMALL && self.owner.held() == buffer;
                if is_idle && self.door.ledger.is_pressed() {
                    return Err(Refused::Idle.into());
                }
                continue;
            };
            return Ok(data(frame)?);
        }
    }
}

/// The bytes of a frame; trailers have none.
fn data(frame: Option<hyper::Result<Frame<Bytes>>>) -> hyper::Result<Option<Bytes>> {
    Ok(frame.transpose()?.map(|frame| frame.into_data().unwrap_or_default()))
}

// === impl Pace ===

impl Pace {
    fn new() -> Self {
        Self { until: Instant::now() + SECOND, bytes: 0 }
    }
}

// === impl Refused ===

impl Refused {
    /// What it is over HTTP.
    pub fn http(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } | Self::TooHeavy { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Full => StatusCode::TOO_MANY_REQUESTS,
            Self::Slow | Self::Idle => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// When it is worth to come back.
    pub fn retry_after(&self) -> Option<Duration> {
        (*self == Self::Full).then_some(BACK)
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let code = match refused {
            Refused::TooLarge { .. } => Code::OutOfRange,
            Refused::TooHeavy { .. } | Refused::Full => Code::ResourceExhausted,
            Refused::Slow | Refused::Idle => Code::Unavailable,
        };
        match refused.retry_after() {
            None => Self::new(code, refused.to_string()),
            back => Self::with_error_details(code, refused.to_string(), ErrorDetails::with_retry_info(back)),
        }
    }
}

#[cfg(test)]
mod tests;
