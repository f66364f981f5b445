//! Strangers on real sockets: silent, slow, huge, idle and many. Others are served all the while.

use std::time::Instant;

use axum::routing::get;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::testing::Authority;
use crate::tls::{ClientTls, ServerTls};
use crate::{Health, Network};

const SOON: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(400);
/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

struct Port {
    address: String,
    end: CancellationToken,
    ended: JoinHandle<()>,
}

fn limits() -> Limits {
    Limits { head: LONG, handshake: LONG, idle: LONG, ..Limits::default() }
}

fn some(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

impl Port {
    async fn open(limits: Limits) -> Self {
        Self::over(&Network::tcp(None, None), limits).await
    }

    async fn over(network: &Network, limits: Limits) -> Self {
        let listener = network.listen("127.0.0.1:0").await.unwrap();
        let (address, end) = (listener.address().to_owned(), CancellationToken::new());
        let slow = get(async || {
            sleep(SHORT).await;
            "slow"
        });
        let health = Health::new().await;
        let routes = tonic::service::Routes::new(health.service()).into_axum_router();
        let routes = routes.route("/", get(async || "here")).route("/slow", slow);
        let ended = tokio::spawn(network.server(limits).serve(listener, routes, end.clone()));
        Self { address, end, ended }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// A connection that says this and then nothing.
    async fn say(&self, text: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// Whoever comes is served.
    async fn serves(&self) {
        let mut stream = self.say(&get_(&self.address, "/")).await;
        assert!(answer(&mut stream).await.ends_with("here"));
    }

    /// Comes to its end when it is told to.
    async fn ends(self) {
        self.end.cancel();
        timeout(SOON, self.ended).await.unwrap().unwrap();
    }
}

fn get_(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")
}

/// One answer of a connection that stays open.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"here") && !answer.ends_with(b"slow") {
            if stream.read_buf(&mut answer).await.unwrap() == 0 {
                break;
            }
        }
    };
    timeout(SOON, read).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// Waits until a connection is closed by the other side; says how long that took and what was said before.
async fn closed(stream: &mut TcpStream) -> (Duration, String) {
    let (start, mut said) = (Instant::now(), Vec::new());
    // a reset is an end too
    let _ = timeout(SOON, stream.read_to_end(&mut said)).await.expect("it is never closed");
    (start.elapsed(), String::from_utf8_lossy(&said).into_owned())
}

async fn stays_open(stream: &mut TcpStream, time: Duration) {
    let read = timeout(time, stream.read_u8()).await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn who_says_nothing_is_hung_up_on_in_time() {
    let port = Port::open(Limits { head: SHORT, ..limits() }).await;
    let preface = std::str::from_utf8(&PREFACE[..20]).unwrap();
    for said in ["", "G", "GET / HTTP/1.1\r\nhost: a\r\n", preface] {
        let mut silent = port.say(said).await;
        let (time, _) = closed(&mut silent).await;
        assert!(time >= SHORT / 2, "{said:?} was closed after {time:?}");
    }
    port.serves().await;
    port.ends().await;
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_has_no_more_time_than_others() {
    let port = Port::open(Limits { head: SHORT, ..limits() }).await;
    // the first head of a connection, and the second
    for before in ["", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let mut slow = port.say(before).await;
        if !before.is_empty() {
            answer(&mut slow).await;
        }
        let start = Instant::now();
        let drips = async {
            while slow.write_all(b"x").await.is_ok() {
                sleep(SHORT / 20).await;
            }
        };
        timeout(SOON, drips).await.expect("it may drip for ever");
        assert!(start.elapsed() >= SHORT / 2);
    }
    port.serves().await;
}

#[tokio::test]
async fn a_head_has_a_largest_size() {
    let port = Port::open(Limits { head_size: 16 << 10, ..limits() }).await;
    let head = |bytes: usize| format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "x".repeat(bytes));
    let mut fits = port.say(&head(12 << 10)).await;
    assert!(answer(&mut fits).await.starts_with("HTTP/1.1 200"));
    let mut stream = port.connect().await;
    // it may be closed before all of it is written
    let _ = stream.write_all(head(1 << 20).as_bytes()).await;
    let (_, said) = closed(&mut stream).await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 431"), "{said}");
    port.serves().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_request_is_not() {
    let port = Port::open(Limits { idle: SHORT / 4, ..limits() }).await;
    let mut stream = port.say(&get_(&port.address, "/slow")).await;
    assert!(answer(&mut stream).await.ends_with("slow"));
    closed(&mut stream).await;
    // over HTTP/2, pings do not count
    let network = Network::tcp(None, None).with_pings(Pings { interval: SHORT / 16, timeout: LONG });
    let channel = network.dial(&port.address, SOON).await.unwrap();
    crate::testing::check(&channel, "liveness").await.unwrap();
    sleep(SHORT).await;
    crate::testing::check(&channel, "liveness").await.unwrap();
    port.ends().await;
}

#[tokio::test]
async fn when_all_places_are_taken_the_idle_give_way_and_the_busy_stay() {
    let port = Port::open(Limits { most: some(8), ..limits() }).await;
    let mut busy = port.say(&get_(&port.address, "/slow")).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(port.connect().await);
    }
    for _ in 0..4 {
        port.serves().await;
    }
    assert!(answer(&mut busy).await.ends_with("slow"));
    closed(&mut silent[0]).await;
    stays_open(silent.last_mut().unwrap(), SHORT / 4).await;
    port.ends().await;
}

#[tokio::test]
async fn when_all_places_are_busy_who_comes_waits() {
    let port = Port::open(Limits { most: some(2), ..limits() }).await;
    let mut busy = [port.say(&get_(&port.address, "/slow")).await, port.say(&get_(&port.address, "/slow")).await];
    sleep(SHORT / 8).await;
    let start = Instant::now();
    port.serves().await;
    assert!(start.elapsed() >= SHORT / 2, "it was served while both places were busy");
    for busy in &mut busy {
        assert!(answer(busy).await.ends_with("slow"));
    }
}

#[tokio::test]
async fn silent_handshakes_end_and_keep_nobody_out() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("127.0.0.1");
    let server = ServerTls { certificate, key, client_ca: None }.load().unwrap();
    let client = ClientTls { ca: Some(authority.certificate()), ..ClientTls::default() }.load().unwrap();
    let network = Network::tcp(Some(server), Some(client));
    let port = Port::over(&network, Limits { handshakes: some(2), ..limits() }).await;
    let mut silent = port.connect().await;
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(port.say("\x16\x03\x01").await);
    }
    let channel = network.dial(&port.address, SOON).await.unwrap();
    crate::testing::check(&channel, "liveness").await.unwrap();
    closed(&mut silent).await;
    let slow = Port::over(&network, Limits { handshake: SHORT, ..limits() }).await;
    closed(&mut slow.say("\x16\x03\x01").await).await;
    // who speaks without TLS is not understood
    let mut plain = port.say(&get_(&port.address, "/")).await;
    let (_, said) = closed(&mut plain).await;
    assert!(!said.contains("HTTP"), "{said}");
    slow.ends().await;
}

#[tokio::test]
async fn over_tls_clients_choose_between_http_1_and_2() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("127.0.0.1");
    let server = ServerTls { certificate, key, client_ca: None }.load().unwrap();
    let port = Port::over(&Network::tcp(Some(server), None), limits()).await;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(authority.certificate()).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    for protocols in [&["h2", "http/1.1"][..], &["http/1.1"], &[]] {
        let mut config = ClientConfig::builder().with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| Vec::from(*name)).collect();
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = connector.connect(name, port.connect().await).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), protocols.first().map(|name| name.as_bytes()));
        if protocols.first() == Some(&"h2") {
            continue;
        }
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert!(said.ends_with("here"), "{said}");
    }
}

#[tokio::test]
async fn a_request_keeps_its_name_and_gets_one_if_it_has_none() {
    let port = Port::open(limits()).await;
    let named = |id: &str| format!("GET / HTTP/1.1\r\nhost: a\r\nx-request-id: {id}\r\n\r\n");
    let name = async |said: &str| {
        let answer = answer(&mut port.say(said).await).await;
        let line = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
        line.to_owned()
    };
    assert_eq!(name(&named("mine")).await, "mine");
    let made = name(&get_("a", "/")).await;
    assert!(made.len() == 32 && made != name(&get_("a", "/")).await, "{made}");
    assert_eq!(name(&named(&"x".repeat(LONGEST_ID + 1))).await.len(), 32);
}

#[test]
fn limits_have_defaults_and_no_other_keys() {
    let limits: Limits = toml::from_str("idle = \"5s\"\nhead_size = \"32KiB\"").unwrap();
    assert_eq!(limits, Limits { idle: Duration::from_secs(5), head_size: 32 << 10, ..Limits::default() });
    assert!(toml::from_str::<Limits>("idol = \"5s\"").is_err());
    assert_eq!(toml::from_str::<Limits>("").unwrap(), Limits::default());
}

#[test]
fn a_preface_is_known_in_any_pieces() {
    let after = |pieces: &[&[u8]]| {
        let mut spoken = Spoken::Preface(0);
        pieces.iter().for_each(|piece| spoken.hear(piece));
        spoken
    };
    assert!(matches!(after(&[PREFACE]), Spoken::Http2));
    assert!(matches!(after(&[&PREFACE[..5], &PREFACE[5..], b"more"]), Spoken::Http2));
    assert!(matches!(after(&[b"P"]), Spoken::Preface(1)));
    assert!(matches!(after(&[b"P", b"OST /"]), Spoken::Http1));
    assert!(matches!(after(&[b"GET"]), Spoken::Http1));
}
