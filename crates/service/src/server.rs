//! The server of every port: HTTP/1.1 and HTTP/2, with or without TLS, for one router. What a stranger can hold of it is
//! bounded in number, bytes and time by [`Limits`].
//!
//! A connection holds a place. While no request of it is open the place has a time by which something must have come: the
//! handshake, the first head, the next request. Whoever lets it pass is hung up on, and when all places are taken the
//! one whose time is over first gives way; so nobody is shut out by those who say nothing.

mod intake;
mod ledger;
mod places;

use std::convert::Infallible;
use std::io;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::either::Either;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use self::intake::Door;
pub use self::intake::{Admitted, Intake, Refused};
use self::ledger::Held;
pub use self::ledger::Permit;
use self::places::{Place, Places};
use crate::config::{BytesText, DurationText};
use crate::metrics::{counter, gauge};
use crate::net::{Connection, Listener, Pings};

/// What those who connect may hold of a port, together and each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at a time.
    pub most: NonZeroUsize,
    /// TLS handshakes at a time.
    pub handshakes: NonZeroUsize,
    /// How long a TLS handshake may take.
    #[serde(with = "DurationText")]
    pub handshake: Duration,
    /// How long the head of a request may take: the first from the connection on, others from their first byte.
    #[serde(with = "DurationText")]
    pub head: Duration,
    /// The largest head of a request; at least 8 KiB.
    #[serde(with = "BytesText")]
    pub head_size: usize,
    /// How long a connection is kept that has no request.
    #[serde(with = "DurationText")]
    pub idle: Duration,
    /// Requests of one connection at a time, over HTTP/2.
    pub streams: u32,
}

/// Serves connections of one port.
pub struct Server {
    limits: Limits,
    pings: Pings,
    tls: Option<TlsAcceptor>,
    door: Arc<Door>,
}

/// What is known of the protocol of a connection.
enum Spoken {
    /// So many bytes of HTTP/2's preface.
    Preface(usize),
    Http1,
    Http2,
}

/// The header that names a request, as the client does or else as it is named here.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How often places are looked at whose time is over.
const SWEEP: Duration = Duration::from_millis(250);
/// How long a connection may take to close when nothing of it is open.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Without descriptors nothing is accepted for so long, and so many idle connections give way.
const PAUSE: Duration = Duration::from_millis(100);
const GIVE_WAY: usize = 16;
/// How often that is said.
const QUIET: Duration = Duration::from_secs(10);
/// hyper's least.
const SMALLEST_HEAD: usize = 8 << 10;
/// The longest name of a request.
const LONGEST_ID: usize = 128;
/// What a client may send of a stream before it is read, and for how many streams more than there may be there is room on a
/// connection.
const STREAM_WINDOW: u32 = 128 << 10;
const SPARE: u32 = 8;
/// The widest window of HTTP/2.
const WIDEST: u32 = (1 << 31) - 1;
/// So many times as many calls as there may be at a time may be taken back before they are looked at.
const BURST: u32 = 8;

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            most: NonZeroUsize::MIN.saturating_add(4095),
            handshakes: NonZeroUsize::MIN.saturating_add(255),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            head_size: 64 << 10,
            idle: Duration::from_secs(300),
            streams: 256,
        }
    }
}

// === impl Server ===

impl Server {
    pub(crate) fn new(limits: Limits, pings: Pings, tls: Option<Arc<ServerConfig>>) -> Self {
        Self { limits, pings, tls: tls.map(TlsAcceptor::from), door: Arc::new(Door::new(Intake::default())) }
    }

    /// With other bounds of what is held of messages.
    #[must_use]
    pub fn with_intake(self, intake: Intake) -> Self {
        Self { door: Arc::new(Door::new(intake)), ..self }
    }

    /// Answers until the shutdown, and then what was asked by then. If the future is dropped, connections end as in a
    /// shutdown, by themselves.
    pub async fn serve(self, mut listener: Listener, router: Router, shutdown: CancellationToken) {
        let server = Arc::new(self);
        let (places, handshakes) = (Places::new(server.limits.most), Places::new(server.limits.handshakes));
        let (ending, connections) = (shutdown.child_token(), TaskTracker::new());
        let _ends = ending.clone().drop_guard();
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut next, mut told) = (None, None);
        while !ending.is_cancelled() {
            match next.take() {
                // whoever is here already gives way to whoever comes, if it asks nothing
                Some(connection) if places.are_taken() => {
                    places.give_way(1);
                    next = Some(connection);
                }
                Some(connection) => {
                    let (server, handshakes, router) = (Arc::clone(&server), handshakes.clone(), router.clone());
                    let (place, ending) = (Arc::new(places.take(server.limits.head)), ending.clone());
                    connections.spawn(async move {
                        gauge!("assay_connections").increment(1.0);
                        let open = server.open(connection, &place, &handshakes);
                        if let Some(Some(io)) = ending.run_until_cancelled(open).await {
                            server.converse(io, place, router, ending).await;
                        }
                        gauge!("assay_connections").decrement(1.0);
                    });
                }
                None => {}
            }
            tokio::select! {
                () = ending.cancelled() => {}
                _ = sweep.tick() => places.sweep(),
                () = places.change(), if next.is_some() => {}
                accepted = listener.accept(), if next.is_none() => match accepted {
                    Ok(connection) => next = Some(connection),
                    Err(error) => pause(&error, &places, &mut told).await,
                },
            }
        }
        drop(listener);
        connections.close();
        let mut ended = pin!(connections.wait());
        loop {
            tokio::select! {
                () = &mut ended => return,
                _ = sweep.tick() => places.sweep(),
            }
        }
    }

    /// A connection as what is spoken over it: with TLS, after the handshake.
    async fn open(&self, connection: Connection, place: &Place, handshakes: &Places) -> Option<impl Io> {
        let Some(tls) = &self.tls else { return Some(Either::Left(connection)) };
        place.expect(self.limits.handshake);
        let turn = handshakes.take(self.limits.handshake);
        let accepted = tokio::select! {
            accepted = tls.accept(connection) => accepted,
            () = turn.is_over() => Err(io::ErrorKind::TimedOut.into()),
            () = place.is_over() => Err(io::ErrorKind::TimedOut.into()),
        };
        place.expect(self.limits.head);
        accepted.inspect_err(|error| tracing::debug!(%error, "a TLS handshake failed")).ok().map(Either::Right)
    }

    /// Answers the requests of a connection.
    async fn converse(&self, io: impl Io, place: Arc<Place>, router: Router, ending: CancellationToken) {
        let (Limits { head, idle, .. }, mut spoken) = (self.limits, Spoken::Preface(0));
        let heard = Arc::clone(&place);
        let io = InspectReader::new(io, move |bytes: &[u8]| {
            spoken.hear(bytes);
            match spoken {
                Spoken::Preface(_) => {}
                Spoken::Http1 => heard.begins(head),
                Spoken::Http2 => heard.introduced(idle),
            }
        });
        let (asked, door, held) = (Arc::clone(&place), Arc::clone(&self.door), Held::default());
        let service = service_fn(move |request| {
            let (request, admitted) = door.admit(request, &held);
            answer(router.clone(), request, (asked.ask(idle), admitted))
        });
        let builder = self.builder();
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            // what goes wrong on a connection is its client's to know
            _ = connection.as_mut() => return,
            () = ending.cancelled() => {}
            () = place.is_over() => {}
        }
        connection.as_mut().graceful_shutdown();
        let silent = async {
            place.is_over().await;
            sleep(LAST_WORDS).await;
            while place.is_asked() {
                sleep(LAST_WORDS).await;
            }
        };
        tokio::select! {
            _ = connection => {}
            () = silent => {}
        }
    }

    fn builder(&self) -> Builder<TokioExecutor> {
        let Limits { head_size, streams, .. } = self.limits;
        let mut builder = Builder::new(TokioExecutor::new());
        // its own timer would also run while a connection is idle
        builder.http1().header_read_timeout(None).max_buf_size(head_size.max(SMALLEST_HEAD));
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.pings.interval)
            .keep_alive_timeout(self.pings.timeout)
            .initial_stream_window_size(STREAM_WINDOW)
            // streams that nobody reads leave room for calls
            .initial_connection_window_size(streams.saturating_add(SPARE).saturating_mul(STREAM_WINDOW).min(WIDEST))
            .max_header_list_size(u32::try_from(head_size).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(streams.saturating_mul(BURST) as usize)
            .max_concurrent_streams(streams);
        builder
    }
}

/// What requests come in over.
trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for I {}

/// Nothing can be accepted: usually the process has no more descriptors.
async fn pause(error: &io::Error, places: &Places, told: &mut Option<Instant>) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    counter!("assay_accept_errors_total").increment(1);
    if told.is_none_or(|told| told.elapsed() > QUIET) {
        tracing::warn!(%error, "connections cannot be accepted");
        *told = Some(Instant::now());
    }
    places.give_way(GIVE_WAY);
    sleep(PAUSE).await;
}

/// Answers a request; it is open, and held, until its answer is sent, or nobody waits for that any more.
async fn answer(
    mut router: Router,
    mut request: Request<Body>,
    open: (places::Request, Admitted),
) -> Result<Response<Body>, Infallible> {
    let id = request_id(request.headers());
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = router.call(request).await?;
    response.headers_mut().insert(REQUEST_ID, id);
    Ok(response.map(|body| {
        Body::new(body.map_err(move |error| {
            let _open = &open;
            error
        }))
    }))
}

/// What a client calls a request, or a name of our own.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fits = |id: &&HeaderValue| (1..=LONGEST_ID).contains(&id.len()) && id.to_str().is_ok();
    let random = || HeaderValue::try_from(format!("{:032x}", fastrand::u128(..)));
    let given = headers.get(REQUEST_ID).filter(fits).cloned();
    given.or_else(|| random().ok()).unwrap_or(HeaderValue::from_static("none"))
}

// === impl Spoken ===

impl Spoken {
    fn hear(&mut self, bytes: &[u8]) {
        if let Self::Preface(heard) = *self {
            let (rest, most) = (&PREFACE[heard..], bytes.len().min(PREFACE.len() - heard));
            *self = match rest[..most] == bytes[..most] {
                false => Self::Http1,
                true if most == rest.len() => Self::Http2,
                true => Self::Preface(heard + most),
            };
        }
    }
}

#[cfg(test)]
mod tests;
