//! Requests to the admin port as they go over the wire.

use std::time::Duration;

use axum::http::header::HOST;
use axum::http::{HeaderMap, Uri};
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{admin, host};
use crate::server::Limits;
use crate::testing::metrics;
use crate::{Health, Network, Shutdown};

struct Port {
    address: String,
    health: Health,
    shutdown: Shutdown,
    ended: JoinHandle<()>,
}

async fn port() -> Port {
    let network = Network::tcp(None, None);
    let listener = network.listen("127.0.0.1:0").await.unwrap();
    let address = listener.address().to_owned();
    let (health, shutdown) = (Health::new().await, Shutdown::new());
    let slow = get(async || {
        sleep(Duration::from_millis(300)).await;
        "slow"
    });
    let router = admin(metrics(), health.clone()).route("/slow", slow);
    let ended = tokio::spawn(network.server(Limits::default()).serve(listener, router, shutdown.token()));
    Port { address, health, shutdown, ended }
}

/// The whole answer.
async fn ask(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[track_caller]
fn is(answer: &str, status: &str, body: &str) {
    let (head, found) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!((head.lines().next().unwrap(), found), (format!("HTTP/1.1 {status}").as_str(), body));
}

#[tokio::test]
async fn the_routes_tell_how_it_is() {
    let port = port().await;
    is(&ask(&port.address, "/livez").await, "200 OK", "alive\n");
    is(&ask(&port.address, "/readyz").await, "503 Service Unavailable", "starting\n");
    port.health.set_ready(true).await;
    is(&ask(&port.address, "/readyz").await, "200 OK", "ready\n");
    port.health.set_unready("draining").await;
    is(&ask(&port.address, "/readyz").await, "503 Service Unavailable", "draining\n");
    is(&ask(&port.address, "/else").await, "404 Not Found", "");
    crate::metrics::counter!("http_tests_total").increment(3);
    let metrics = ask(&port.address, "/metrics").await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("http_tests_total 3\n"), "{metrics}");
}

#[tokio::test]
async fn what_was_asked_before_the_shutdown_is_answered() {
    let port = port().await;
    // Kept open without a request: it must not hold the end up.
    let _idle = TcpStream::connect(&port.address).await.unwrap();
    let address = port.address.clone();
    let asked = tokio::spawn(async move { ask(&address, "/slow").await });
    sleep(Duration::from_millis(100)).await;
    port.shutdown.begin();
    is(&asked.await.unwrap(), "200 OK", "slow");
    timeout(Duration::from_secs(5), port.ended).await.unwrap().unwrap();
    assert!(TcpStream::connect(&port.address).await.is_err());
}

#[test]
fn the_name_is_that_of_the_address_or_of_the_header() {
    let header = |host: &str| HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
    let path = Uri::from_static("/api/status");
    assert_eq!(host(&path, &header("a.example:7600")).as_deref(), Some("a.example"));
    assert_eq!(host(&path, &header("[::1]:7600")).as_deref(), Some("[::1]"));
    assert_eq!(host(&Uri::from_static("http://b.example/"), &header("a.example")).as_deref(), Some("b.example"));
    assert_eq!(host(&path, &HeaderMap::new()), None);
}
