//! What a gateway holds at most with its default limits, when a replica grants no credit: a million conversations that
//! wait, and messages that are as bad as their size allows.

use std::path::Path;
use std::time::{Duration, Instant};

use proto::v1 as wire;
use proto::v1::item::Input;
use proto::v1::reward_service_client::RewardServiceClient;
use proto::v1::status_service_client::StatusServiceClient;
use tokio::task::JoinSet;
use tonic::Request;

use crate::process::Gateway;

/// The conversations that are offered, and who offers them: one tenant alone would get half of the room.
const OFFERED: usize = 1_000_000;
const TENANTS: usize = 20;
/// Conversations of a call.
const BATCH: usize = 1000;
/// What each of them has.
const TOKENS: usize = 8;
/// The size of a bad message.
const MESSAGE: usize = 4 << 20;

/// What may be held: bytes for a conversation that waits, and for one message, beside what an idle gateway has.
const EACH: u64 = 900;
const MOST: u64 = 600_000_000;

/// Prints what is held, and holds it to that.
pub(crate) async fn bench(etcd: &str, model: &Path) {
    println!("\n{:<56} {:>9} {:>9}", "memory of the gateway, MB", "most", "idle");
    million(&Gateway::start(etcd, model).await).await;
    let one = |count: usize| wire::ScoreRequest { items: vec![item(1); count], options: None };
    let responses = |count: usize| wire::Group {
        prompt: Some(wire::group::Prompt::Text(String::new())),
        responses: vec![String::new(); count],
    };
    let group = |count: usize| wire::Item { input: Some(Input::Group(responses(count))) };
    for (what, request) in [
        ("a message of 4 MB, items of one token", fill(one)),
        ("as many items as a call may have", one(200_000)),
        (
            "a message of 4 MB, items with nothing in them",
            fill(|count| wire::ScoreRequest { items: vec![wire::Item::default(); count], options: None }),
        ),
        (
            "a message of 4 MB, a group of empty responses",
            fill(|count| wire::ScoreRequest { items: vec![group(count)], options: None }),
        ),
    ] {
        message(&Gateway::start(etcd, model).await, what, request).await;
    }
}

fn item(tokens: usize) -> wire::Item {
    wire::Item { input: Some(Input::TokenIds(wire::TokenIds { ids: vec![7; tokens] })) }
}

/// The largest of these requests that fits into a message.
fn fill(request: impl Fn(usize) -> wire::ScoreRequest) -> wire::ScoreRequest {
    use proto::Message as _;
    let each = (request(2000).encoded_len() - request(1000).encoded_len()).div_ceil(1000);
    request((MESSAGE - 100) / each)
}

async fn million(gateway: &Gateway) {
    let (idle, _) = gateway.memory();
    let mut calls = JoinSet::new();
    for tenant in 0..TENANTS {
        let client = RewardServiceClient::new(gateway.dial().await).max_decoding_message_size(usize::MAX);
        for _ in 0..OFFERED / TENANTS / BATCH {
            let mut request = Request::new(wire::ScoreRequest { items: vec![item(TOKENS); BATCH], options: None });
            request.metadata_mut().insert("x-assay-tenant", format!("tenant-{tenant}").parse().unwrap());
            let mut client = client.clone();
            calls.spawn(async move { client.score(request).await.map(drop) });
        }
    }
    let held = settled(gateway).await;
    let (_, most) = gateway.memory();
    let what = format!("{OFFERED} conversations of {TOKENS} tokens offered, {held} held");
    println!("{what:<56} {:>9.0} {:>9.0}  ({} bytes each)", mb(most), mb(idle), (most - idle) / held);
    assert!((most - idle) / held <= EACH, "at most {EACH} bytes each");
    calls.shutdown().await;
}

/// Waits until as many conversations are held as there will be.
async fn settled(gateway: &Gateway) -> u64 {
    let mut status = StatusServiceClient::new(gateway.dial().await);
    let (mut held, mut since) = (0, Instant::now());
    while held == 0 || since.elapsed() < Duration::from_secs(2) {
        let now = status.get_status(wire::GetStatusRequest {}).await.unwrap().into_inner().models[0].conversations;
        if now != held {
            (held, since) = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    held
}

async fn message(gateway: &Gateway, what: &str, request: wire::ScoreRequest) {
    let (idle, _) = gateway.memory();
    gateway.forget_peak();
    let client = RewardServiceClient::new(gateway.dial().await);
    let mut client = client.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
    let mut request = Request::new(request);
    request.set_timeout(Duration::from_secs(10));
    let answer = client.score(request).await;
    let answer = answer.map_or_else(|status| format!("{:?}", status.code()), |_| "answered".to_owned());
    let (_, most) = gateway.memory();
    println!("{what:<56} {:>9.0} {:>9.0}  ({answer})", mb(most), mb(idle));
    assert!(most - idle <= MOST, "at most {} MB", mb(MOST));
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
