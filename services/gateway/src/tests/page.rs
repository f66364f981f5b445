//! The page's routes and `StatusService`: what there is to see, and scores on the same path as those of the RPC.

use std::time::Duration;

use proto::v1;
use proto::v1::status_service_client::StatusServiceClient;
use proto::v1::status_service_server::StatusService;
use serde_json::{Value, json};
use service::axum::Router;
use service::axum::body::{Body, to_bytes};
use service::axum::http::{HeaderMap, Request, StatusCode};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tower::{Service as _, ServiceExt};

use super::cluster::*;
use super::fake::{Conduct, score};
use crate::{ServiceLimits, ServiceOptions, TENANT_KEY};

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

const JSON: (&str, &str) = ("content-type", "application/json");

async fn ask(page: Router, path: &str, headers: &[(&str, &str)], body: Option<String>) -> Answer {
    let mut request = Request::builder().uri(path).method(if body.is_some() { "POST" } else { "GET" });
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = page.oneshot(request.body(Body::from(body.unwrap_or_default())).unwrap()).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Answer { status, headers, text: String::from_utf8(body.to_vec()).unwrap() }
}

async fn scores(cluster: &Cluster, body: Value) -> Answer {
    ask(cluster.page.clone(), "/api/score", &[JSON], Some(body.to_string())).await
}

async fn status(cluster: &Cluster) -> Value {
    let answer = ask(cluster.page.clone(), "/api/status", &[], None).await;
    assert_eq!(answer.status, StatusCode::OK);
    answer.json()
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    #[track_caller]
    fn refused(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["error"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn every_answer_tells_the_browser_to_be_careful() {
    let (cluster, _fakes) = Cluster::start(&[]).await;
    for (path, body) in [("/", None), ("/api/status", None), ("/api/score", Some("{".to_owned()))] {
        let answer = ask(cluster.page.clone(), path, &[JSON], body).await;
        let header = |name: &str| answer.headers[name].to_str().unwrap();
        assert!(header("content-security-policy").starts_with("default-src 'none'; script-src 'sha256-"), "{path}");
        let others = ["x-content-type-options", "referrer-policy", "cache-control"].map(header);
        assert_eq!(others, ["nosniff", "no-referrer", "no-store"], "{path}");
        let kind = if path == "/" { "text/html; charset=utf-8" } else { "application/json" };
        assert_eq!(header("content-type"), kind);
    }
}

#[tokio::test]
async fn page_and_service_say_the_same() {
    let options = ServiceOptions { name: "here".to_owned(), models: vec![model("n"), model("m")], ..options() };
    let (cluster, _fakes) = Cluster::with(options, &["a", "b"]).await;
    let options = Some(v1::Options { model: "m".to_owned(), ..v1::Options::default() });
    let items = vec![group("a prompt of some length", &["x", "y y"]), ids(&[1, 2, 3]), ids(&[9999])];
    let results = cluster.client.clone().score(v1::ScoreRequest { items, options }).await.unwrap().into_inner().items;
    let tokens: u32 = results[..2].iter().flat_map(|item| &item.results).map(|result| result.tokens).sum();

    let mut client = StatusServiceClient::new(cluster.channel.clone());
    let said = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    let shown = status(&cluster).await;
    assert_eq!((&*said.gateway, &shown["gateway"]), ("here", &json!("here")));
    let (models, replicas) = (shown["models"].as_array().unwrap(), shown["replicas"].as_array().unwrap());
    assert_eq!((said.models.len(), models.len(), said.replicas.len(), replicas.len()), (2, 2, 2, 2));
    let (model, counted) = (&said.models[0], &models[0]);
    assert_eq!((&*model.name, model.generation, &*model.fingerprint), ("m", 3, "fingerprint"));
    assert_eq!((model.scores, model.scored_tokens, model.max_length), (3, tokens.into(), LONGEST as u32));
    assert_eq!((model.replicas_ready, model.conversations, model.waiting.len()), (2, 0, 0));
    let expected = json!({
        "name": "m", "max_length": LONGEST, "generation": 3, "fingerprint": "fingerprint", "replicas_ready": 2,
        "replicas_standby": 0, "conversations": 0, "waiting_tokens": 0, "sent_tokens": 0,
        "tokens_per_second": counted["tokens_per_second"], "retried": 0, "waiting": [],
        "scored_tokens": tokens, "scores": 3,
    });
    assert_eq!(*counted, expected);
    assert_eq!((said.models[1].generation, said.models[1].scores, &*said.models[1].fingerprint), (0, 0, ""));
    let replica = &said.replicas[0];
    assert_eq!((&*replica.name, replica.state(), replica.epoch), ("a", v1::ReplicaState::Ready, 1));
    assert_eq!(replica.ranks, [v1::RankStatus { rank: 0, progress: v1::RankProgress::Serving.into() }]);
    let expected = json!({
        "name": "a", "model": "m", "address": "a", "epoch": 1, "world_size": 2,
        "ranks": [{ "rank": 0, "progress": "serving" }], "state": "ready", "reason": "",
    });
    assert_eq!(replicas[0], expected);
}

#[tokio::test]
async fn why_a_replica_is_refused_is_shown() {
    let (cluster, _fakes) = Cluster::start(&[]).await;
    let mut other = cluster.fake("other").await;
    *other.state.text_digest.lock().unwrap() = "another".to_owned();
    other.announce().await;
    cluster.until(|replicas, _| replicas.first().is_some_and(|it| it.state() == v1::ReplicaState::Refused)).await;
    let shown = &status(&cluster).await["replicas"][0];
    assert_eq!(shown["state"], "refused");
    assert!(shown["reason"].as_str().unwrap().contains("another tokenizer"), "{shown}");
}

#[tokio::test]
async fn scores_are_those_of_the_rpc() {
    let (cluster, _fakes) = Cluster::start(&["a"]).await;
    let expected = cluster.score(vec![group("p", &["a", "b b", "c"])]).await.unwrap();
    let turns = json!([{ "role": "user", "content": "p" }]);
    for prompt in [json!("p"), turns] {
        let body = json!({ "model": "m", "prompt": prompt, "responses": ["a", "b b", "c"] });
        let answer = scores(&cluster, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let result = |it: &v1::Result| json!({ "status": "ok", "score": it.score, "tokens": it.tokens, "error": null });
        assert_eq!(answer.json(), json!({ "results": expected.iter().map(result).collect::<Vec<_>>() }));
    }
    // a response that cannot be read does not harm the others
    let answer = scores(&cluster, json!({ "prompt": "p", "responses": ["a", "b ".repeat(LONGEST)] })).await.json();
    let statuses: Vec<_> = answer["results"].as_array().unwrap().iter().map(|it| &it["status"]).collect();
    assert_eq!(statuses, ["ok", "too_long"]);
    assert_eq!(
        (&answer["results"][0]["score"], &answer["results"][1]["score"]),
        (&json!(expected[0].score), &json!(null))
    );
    let error = answer["results"][1]["error"].as_str().unwrap();
    assert!(error.starts_with("responses[1]: "), "{error}");
    assert_ne!(expected[0].score, Some(score(&[])));
}

#[tokio::test]
async fn what_cannot_be_scored_is_refused_with_a_fitting_status() {
    let limits = ServiceLimits { message: 4096, ..limits() };
    let options = ServiceOptions { models: vec![model("m"), model("n")], limits, ..options() };
    let (cluster, _fakes) = Cluster::with(options, &[]).await;
    let cases = [
        (json!({ "model": "m", "prompt": "p", "responses": [] }), 400, "responses: there are none"),
        (json!({ "prompt": "p", "responses": ["a"] }), 400, "model: name one of m, n"),
        (
            json!({ "model": "<x>", "prompt": "p", "responses": ["a"] }),
            404,
            "the model \"<x>\" is not served, but: m, n",
        ),
        (json!({ "model": "m", "responses": ["a"] }), 422, "missing field `prompt`"),
        (json!({ "model": "m", "prompt": 7, "responses": ["a"] }), 422, "prompt: the prompt is a string, or a list of"),
        (json!({ "model": "m", "prompt": "p", "responses": ["a", 7] }), 422, "responses[1]: invalid type"),
        (json!({ "model": "m", "prompt": "p", "response": ["a"] }), 422, "unknown field `response`"),
        (json!({ "model": "m", "prompt": "p", "responses": ["a".repeat(5000)] }), 413, "length limit exceeded"),
    ];
    for (body, status, problem) in cases {
        let (found, error) = scores(&cluster, body).await.refused();
        assert!(found == status && error.contains(problem), "{status} {problem}: {found} {error}");
    }
    let good = || Some(json!({ "model": "m", "prompt": "p", "responses": ["a"] }).to_string());
    let ask = |headers: Vec<(&'static str, &'static str)>, body: Option<String>| {
        let page = cluster.page.clone();
        async move { ask(page, "/api/score", &headers, body).await.refused() }
    };
    // what a form of another site could send is not read
    assert_eq!(ask(vec![("content-type", "text/plain")], good()).await.0, 415);
    assert_eq!(ask(vec![JSON], Some("{".to_owned())).await.0, 400);
    let (status, error) = ask(vec![JSON, (TENANT_KEY, "")], good()).await;
    assert!(status == 400 && error.starts_with(TENANT_KEY), "{status} {error}");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let limits = ServiceLimits { queue_conversations: 2, ..limits() };
    let (cluster, _fakes) = Cluster::with(ServiceOptions { limits, ..options() }, &[]).await;
    let score = || {
        let (page, body) = (cluster.page.clone(), json!({ "prompt": "p", "responses": ["a"] }).to_string());
        async move { ask(page, "/api/score", &[JSON, (TENANT_KEY, "lab")], Some(body)).await }
    };
    let waits = tokio::spawn(score());
    cluster.until_held(1).await;
    // it waits for the tenant that it names
    let waiting = &status(&cluster).await["models"][0]["waiting"];
    assert_eq!((waiting.as_array().unwrap().len(), &waiting[0]["tenant"]), (1, &json!("lab")), "{waiting}");
    assert!(waiting[0]["tokens"].as_u64().unwrap() > 0 && waiting[0]["oldest_seconds"].as_f64().unwrap() < 10.0);
    let answer = score().await;
    assert_eq!(answer.refused().0, 429, "{}", answer.text);
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    // who goes away frees the place
    waits.abort();
    cluster.until_held(0).await;
}

/// Asks over the connection of a client.
async fn ask_over(mut channel: Channel, body: Value) -> Answer {
    let request = Request::builder().uri("/api/score").method("POST").header(JSON.0, JSON.1);
    let request = request.body(tonic::body::Body::new(Body::from(body.to_string()))).unwrap();
    let response = channel.ready().await.unwrap().call(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let body = to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap();
    Answer { status, headers, text: String::from_utf8(body.to_vec()).unwrap() }
}

#[tokio::test]
async fn a_gateway_that_drains_finishes_what_the_page_asked_and_can_be_watched() {
    let (cluster, fakes) = Cluster::start(&["a"]).await;
    fakes[0].set(Conduct::Hold);
    let body = json!({ "prompt": "p", "responses": ["a"] });
    let held = tokio::spawn(ask_over(cluster.channel.clone(), body.clone()));
    cluster.until_held(1).await;
    cluster.shutdown.cancel();
    sleep(Duration::from_millis(50)).await;
    assert!(!cluster.serving.is_finished());
    let (status_code, error) = scores(&cluster, body).await.refused();
    assert_eq!((status_code, &*error), (503, "the gateway is about to end"));
    assert_eq!(status(&cluster).await["models"][0]["conversations"], 1);
    // so can the service, on whatever connection it is asked
    let said = cluster.observer.get_status(tonic::Request::new(v1::GetStatusRequest {})).await.unwrap().into_inner();
    assert_eq!(said.models[0].conversations, 1);
    fakes[0].set(Conduct::Answer);
    fakes[0].cut();
    assert_eq!(held.await.unwrap().json()["results"][0]["status"], "ok");
    timeout(Duration::from_secs(5), cluster.serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_the_page_asked_and_is_not_finished_in_time_is_given_up() {
    let options =
        ServiceOptions { limits: ServiceLimits { drain: Duration::from_millis(50), ..limits() }, ..options() };
    let (cluster, fakes) = Cluster::with(options, &["a"]).await;
    fakes[0].set(Conduct::Hold);
    let held = tokio::spawn(ask_over(cluster.channel.clone(), json!({ "prompt": "p", "responses": ["a"] })));
    cluster.until_held(1).await;
    cluster.shutdown.cancel();
    assert_eq!(held.await.unwrap().refused().0, 503);
    timeout(Duration::from_secs(5), cluster.serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn one_port_speaks_to_everybody_and_names_each_request() {
    let (cluster, _fakes) = Cluster::start(&["a"]).await;
    let answer = ask_over(cluster.channel.clone(), json!({ "prompt": "p", "responses": ["a"] })).await;
    assert_eq!((answer.status, answer.headers["x-request-id"].len()), (StatusCode::OK, 32));
    let mut request = tonic::Request::new(v1::ScoreRequest { items: vec![text("a")], options: None });
    request.metadata_mut().insert("x-request-id", "mine".parse().unwrap());
    let response = cluster.client.clone().score(request).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "mine");
    let nothing = ask(cluster.page.clone(), "/nothing", &[], None).await;
    assert_eq!(nothing.refused(), (404, "nothing is served at /nothing".to_owned()));
}
