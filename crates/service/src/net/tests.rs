//! Calls over every kind of network, and what is said when they cannot be made.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{Network, Pings, tls_refusal};
use crate::Health;
use crate::testing::{Authority, check, serve};
use crate::tls::{ClientTls, ServerTls};

const ANY: &str = "127.0.0.1:0";
const PATIENCE: Duration = Duration::from_secs(5);

/// Two calls over one connection, and the end of the server.
async fn serves(network: &Network, address: &str) {
    let listener = network.listen(address).await.unwrap();
    let address = listener.address().to_owned();
    let health = Health::new().await;
    let shutdown = serve(network, listener, &health);
    let channel = network.dial(&address, PATIENCE).await.unwrap();
    assert_eq!(check(&channel, "").await.unwrap(), ServingStatus::NotServing);
    health.set_ready(true).await;
    assert_eq!(check(&channel, "").await.unwrap(), ServingStatus::Serving);
    drop(channel);
    shutdown.begin();
    let mut gone = false;
    for _ in 0..100 {
        gone = network.dial(&address, PATIENCE).await.is_err();
        if gone {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(gone, "the address is still answered after the shutdown");
}

fn server_tls(authority: &Authority, host: &str, client_ca: bool) -> ServerTls {
    let (certificate, key) = authority.sign(host);
    ServerTls { certificate, key, client_ca: client_ca.then(|| authority.certificate()) }
}

fn client_tls(authority: &Authority, host: Option<&str>) -> ClientTls {
    let (certificate, key) = host.map(|host| authority.sign(host)).unzip();
    ClientTls { ca: Some(authority.certificate()), certificate, key, domain: None }
}

fn tls(server: &ServerTls, client: &ClientTls) -> Network {
    Network::tcp(Some(server.load().unwrap()), Some(client.load().unwrap()))
}

/// Whether a call gets through, or what TLS has against it; TLS 1.3 turns a client away after the client believes to be
/// connected.
async fn gets_through(network: &Network) -> Result<(), Option<String>> {
    let listener = network.listen(ANY).await.unwrap();
    let address = listener.address().to_owned();
    let health = Health::new().await;
    let _shutdown = serve(network, listener, &health);
    match network.dial(&address, PATIENCE).await {
        Ok(channel) => check(&channel, "liveness").await.map(drop).map_err(|status| tls_refusal(&status)),
        Err(error) => Err(tls_refusal(&error)),
    }
}

#[tokio::test]
async fn calls_get_through() {
    serves(&Network::tcp(None, None), ANY).await;
    serves(&Network::memory(), "rank-0").await;
}

#[tokio::test]
async fn calls_get_through_tls() {
    let authority = Authority::new();
    serves(&tls(&server_tls(&authority, "127.0.0.1", false), &client_tls(&authority, None)), ANY).await;
    serves(&tls(&server_tls(&authority, "127.0.0.1", true), &client_tls(&authority, Some("gateway"))), ANY).await;
    let named = ClientTls { domain: Some("shard.assay".to_owned()), ..client_tls(&authority, None) };
    serves(&tls(&server_tls(&authority, "shard.assay", false), &named), ANY).await;
}

#[tokio::test]
async fn tls_turns_strangers_away_and_says_which_side_did() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = server_tls(&ours, "127.0.0.1", true);
    let refused = async |network: &Network, words: &str, who: &str| {
        // a call may break off before the other side's verdict is there
        for _ in 0..100 {
            if let Some(refusal) = gets_through(network).await.unwrap_err() {
                assert!(refusal.starts_with(words), "{who}: {refusal:?}");
                return;
            }
        }
        panic!("{who}: there is no verdict");
    };
    gets_through(&tls(&server, &client_tls(&ours, Some("gateway")))).await.unwrap();
    let (here, there) = ("this side refuses the other's certificate", "the other side refuses this one");
    refused(&tls(&server, &client_tls(&ours, None)), there, "a client without a certificate").await;
    let (certificate, key) = theirs.sign("gateway");
    let stranger = ClientTls { certificate: Some(certificate), key: Some(key), ..client_tls(&ours, None) };
    refused(&tls(&server, &stranger), there, "a certificate of another authority").await;
    let open = server_tls(&ours, "127.0.0.1", false);
    refused(&tls(&open, &client_tls(&theirs, None)), here, "a server of another authority").await;
    let other = server_tls(&ours, "elsewhere", false);
    refused(&tls(&other, &client_tls(&ours, None)), here, "a server of another name").await;
    let plain = Network::tcp(None, Some(client_tls(&ours, None).load().unwrap()));
    refused(&plain, "the other side speaks no TLS", "a server without TLS").await;
    // what comes back is no HTTP/2, and may be anything
    let no_tls = Network::tcp(Some(open.load().unwrap()), None);
    assert_eq!(gets_through(&no_tls).await, Err(None), "a client without TLS");
}

#[tokio::test]
async fn an_address_is_taken_until_its_listener_is_gone() {
    for (network, address) in [(Network::tcp(None, None), ANY), (Network::memory(), "shard")] {
        let first = network.listen(address).await.unwrap();
        let address = first.address().to_owned();
        let second = network.listen(&address).await.err().unwrap();
        assert_eq!(second.kind(), ErrorKind::AddrInUse);
        drop(first);
        network.listen(&address).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_address_is_refused() {
    let network = Network::tcp(None, None);
    assert!(network.listen("nowhere").await.is_err());
    assert!(network.dial("a b", PATIENCE).await.is_err());
}

#[tokio::test]
async fn a_dial_that_nobody_hears_fails() {
    let began = Instant::now();
    let network = Network::tcp(None, None);
    let free = network.listen(ANY).await.unwrap().address().to_owned();
    assert!(network.dial(&free, PATIENCE).await.is_err());
    assert!(Network::memory().dial("nobody", PATIENCE).await.is_err());
    let memory = Network::memory();
    drop(memory.listen("gone").await.unwrap());
    assert!(memory.dial("gone", PATIENCE).await.is_err());
    assert!(began.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_tls_handshake_that_nobody_answers_fails_within_patience() {
    let authority = Authority::new();
    let silent = TcpListener::bind(ANY).await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let network = Network::tcp(None, Some(client_tls(&authority, None).load().unwrap()));
    let began = Instant::now();
    assert!(network.dial(&address, Duration::from_millis(300)).await.is_err());
    assert!(began.elapsed() < PATIENCE, "it took {:?}", began.elapsed());
}

#[tokio::test]
async fn a_call_to_a_silent_peer_breaks() {
    let silent = TcpListener::bind(ANY).await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let pings = Pings { interval: Duration::from_millis(100), timeout: Duration::from_millis(100) };
    let network = Network::tcp(None, None).with_pings(pings);
    let began = Instant::now();
    let channel = network.dial(&address, PATIENCE).await.unwrap();
    assert!(check(&channel, "").await.is_err());
    assert!(began.elapsed() < PATIENCE, "it took {:?}", began.elapsed());
}
