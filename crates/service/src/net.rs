//! Listening and dialing: over TCP with or without TLS, or inside this process, with the same on top.
//!
//! An address is `host:port`; inside a process it is any name. A peer that is there and says nothing is noticed by
//! HTTP/2 pings, so that a stream to it breaks within seconds.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::rustls::{self, AlertDescription, ServerConfig};
use tokio_util::either::Either;
use tonic::Status;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Uri};

use crate::server::{Limits, Server};

/// How the processes of a cluster, or the parts of one, reach each other. Clones share it.
#[derive(Clone)]
pub struct Network {
    kind: Kind,
    pings: Pings,
}

/// How a silent peer is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pings {
    /// A ping goes out when nothing was heard for so long.
    pub interval: Duration,
    /// And the connection is given up when it is not answered for so long.
    pub timeout: Duration,
}

#[derive(Clone)]
enum Kind {
    Tcp(Box<Secured>),
    Memory(Arc<Mutex<HashMap<String, mpsc::Sender<DuplexStream>>>>),
}

#[derive(Clone)]
struct Secured {
    server: Option<Arc<ServerConfig>>,
    client: Option<ClientTlsConfig>,
}

/// Connections that come in at an address. It listens until it is dropped.
pub struct Listener {
    accept: Accept,
    address: String,
}

enum Accept {
    Tcp(TcpListener),
    Memory(mpsc::Receiver<DuplexStream>),
}

/// A connection that came in: from another process, or from this one.
pub type Connection = Either<TcpStream, DuplexStream>;

/// Connections of a process to itself that wait to be accepted.
const BACKLOG: usize = 64;
/// Bytes on the way inside a process.
const BUFFER: usize = 256 * 1024;
/// What a side says that will have none of the other.
const ALERTS: [AlertDescription; 12] = [
    AlertDescription::AccessDenied,
    AlertDescription::BadCertificate,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRequired,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
    AlertDescription::DecryptError,
    AlertDescription::HandshakeFailure,
    AlertDescription::NoApplicationProtocol,
    AlertDescription::ProtocolVersion,
    AlertDescription::UnknownCA,
    AlertDescription::UnsupportedCertificate,
];
/// The window of a stream, and of a connection, for who dials: a step's answers fit in.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

// === impl Pings ===

impl Default for Pings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), timeout: Duration::from_secs(2) }
    }
}

// === impl Network ===

impl Network {
    /// Over TCP; with TLS where it is given: `server` for those who listen, `client` for those who dial.
    pub fn tcp(server: Option<Arc<ServerConfig>>, client: Option<ClientTlsConfig>) -> Self {
        Self { kind: Kind::Tcp(Box::new(Secured { server, client })), pings: Pings::default() }
    }

    /// Inside this process.
    pub fn memory() -> Self {
        Self { kind: Kind::Memory(Arc::default()), pings: Pings::default() }
    }

    /// With other pings.
    #[must_use]
    pub fn with_pings(self, pings: Pings) -> Self {
        Self { pings, ..self }
    }

    /// Listens at an address; port 0 is any free port.
    ///
    /// # Errors
    /// If the address is no address, or is taken.
    pub async fn listen(&self, address: &str) -> io::Result<Listener> {
        match &self.kind {
            Kind::Tcp(_) => {
                let listener = TcpListener::bind(address).await?;
                let address = listener.local_addr()?.to_string();
                Ok(Listener { accept: Accept::Tcp(listener), address })
            }
            Kind::Memory(listeners) => {
                let (sender, inbox) = mpsc::channel(BACKLOG);
                let mut listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner);
                if listeners.get(address).is_some_and(|taken| !taken.is_closed()) {
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{address} is taken")));
                }
                listeners.insert(address.to_owned(), sender);
                Ok(Listener { accept: Accept::Memory(inbox), address: address.to_owned() })
            }
        }
    }

    /// Connects to whoever listens at an address, within `patience`.
    ///
    /// # Errors
    /// If the address is no address, nobody listens there, or TLS fails.
    pub async fn dial(&self, address: &str, patience: Duration) -> Result<Channel, tonic::transport::Error> {
        match &self.kind {
            Kind::Tcp(secured) => {
                let client = &secured.client;
                let scheme = if client.is_some() { "https" } else { "http" };
                let mut endpoint = self.endpoint(&format!("{scheme}://{address}"), patience)?;
                if let Some(tls) = client {
                    endpoint = endpoint.tls_config(tls.clone())?;
                }
                endpoint.connect_with_connector(tower::service_fn(connect)).await
            }
            Kind::Memory(listeners) => {
                let listener = listeners.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned();
                let connect = move |_| {
                    let listener = listener.clone();
                    async move {
                        let (ours, theirs) = tokio::io::duplex(BUFFER);
                        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
                        listener.ok_or_else(refused)?.send(theirs).await.map_err(|_| refused())?;
                        Ok::<_, io::Error>(TokioIo::new(ours))
                    }
                };
                let endpoint = self.endpoint("http://memory", patience)?;
                endpoint.connect_with_connector(tower::service_fn(connect)).await
            }
        }
    }

    /// A server for those who listen here, with these bounds.
    pub fn server(&self, limits: Limits) -> Server {
        let tls = match &self.kind {
            Kind::Tcp(secured) => secured.server.clone(),
            Kind::Memory(_) => None,
        };
        Server::new(limits, self.pings, tls)
    }

    fn endpoint(&self, uri: &str, patience: Duration) -> Result<Endpoint, tonic::transport::Error> {
        Ok(Endpoint::from_shared(uri.to_owned())?
            .connect_timeout(patience)
            .http2_keep_alive_interval(self.pings.interval)
            .keep_alive_timeout(self.pings.timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .tcp_nodelay(true))
    }
}

/// A connection to the host and port of an address. An endpoint's own connector would limit the time for TCP, and wait
/// forever for a peer that is silent in TLS.
pub(crate) async fn connect(address: Uri) -> io::Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect(address.authority().map_or("", |authority| authority.as_str())).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

/// Whether only this machine reaches an address, with or without a port.
pub fn is_loopback(address: &str) -> bool {
    let ip = address.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| address.parse());
    let name = address.rsplit_once(':').map_or(address, |(host, _)| host);
    ip.map_or(name == "localhost", |ip| ip.is_loopback())
}

/// An error and its causes, from the outermost on.
pub fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What an error says, with its causes: what TLS or the system said is at the bottom, and tonic's texts leave it out.
pub fn in_full(error: &dyn Error) -> String {
    with_causes(error.to_string(), error.source())
}

/// The same of a status, from its message on.
pub fn status_in_full(status: &Status) -> String {
    with_causes(status.message().to_owned(), status.source())
}

/// What is wrong if two sides do not agree on TLS, and on which side it is: dialing again does not mend it.
pub fn tls_refusal(error: &(dyn Error + 'static)) -> Option<String> {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage, PeerIncompatible};
    let error = causes(error).find_map(of_tls)?;
    match &error {
        InvalidCertificate(_) => Some(format!(
            "this side refuses the other's certificate, {error}: `ca` names the authority, `domain` the name in it"
        )),
        AlertReceived(alert) if ALERTS.contains(alert) => Some(format!(
            "the other side refuses this one, {error}: it may ask for a `certificate` of an authority that it trusts"
        )),
        InvalidMessage(_) => Some(format!("the other side speaks no TLS: {error}")),
        PeerIncompatible(_) => Some(format!("the two sides have no way to speak TLS in common: {error}")),
        _ => None,
    }
}

/// An error as TLS had it. Behind a handshake HTTP/2 keeps of it what it says, and nothing else.
fn of_tls(cause: &(dyn Error + 'static)) -> Option<rustls::Error> {
    let within = |error: &io::Error| error.get_ref()?.downcast_ref().cloned();
    let typed = cause.downcast_ref().cloned().or_else(|| cause.downcast_ref().and_then(within));
    let said = cause.to_string();
    let mut alerts = ALERTS.into_iter().map(rustls::Error::AlertReceived);
    typed.or_else(|| alerts.find(|alert| said.ends_with(&alert.to_string())))
}

fn with_causes(mut text: String, mut cause: Option<&(dyn Error + 'static)>) -> String {
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

// === impl Listener ===

impl Listener {
    /// Where it listens; over TCP with the port that was chosen.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next connection. What is dropped has accepted nothing.
    pub(crate) async fn accept(&mut self) -> io::Result<Connection> {
        match &mut self.accept {
            Accept::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Accept::Memory(inbox) => match inbox.recv().await {
                Some(stream) => Ok(Either::Right(stream)),
                // nobody can dial any more
                None => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests;
