//! What clients get when all is well.

use std::time::Duration;

use prompt::{Message, Role as Speaker};
use proto::v1;
use proto::v1::{Bos, Status};

use super::cluster::*;
use super::fake::{Conduct, score};
use crate::TENANT_KEY;
use score::SHORTEST_SHARE;

/// The ids that the encoder makes of a conversation.
fn encoded(prompt: &str, response: &str) -> Vec<u32> {
    let turns = vec![Message::new(Speaker::User, prompt), Message::new(Speaker::Assistant, response)];
    encoder().encode(&prompt::Input::Messages(turns), &prompt::Options::default()).items.remove(0).unwrap().ids
}

const PROMPT: &str = "Jane has 12 apples. She gives 4 apples to her friend Mark. How many has she?";

#[tokio::test]
async fn every_kind_of_item_gets_the_score_of_its_tokens_in_order() {
    let (cluster, fakes) = Cluster::start(&["a"]).await;
    let expected: Vec<serde_json::Value> = golden_conversations();
    let given: Vec<u32> = serde_json::from_value(expected[0]["input_ids"].clone()).unwrap();
    let messages = &expected[0]["messages"];
    let turn = |number: usize| messages[number]["content"].as_str().unwrap();
    let items = vec![
        conversation(turn(0), turn(1)),
        group(PROMPT, &["8", "eight", "I do not know"]),
        ids(&given[..50]),
        text("<bos>some text"),
    ];
    let request = v1::ScoreRequest { items, options: None };
    let response = cluster.client.clone().score(request).await.unwrap().into_inner();
    let shape: Vec<_> = response.items.iter().map(|item| item.results.len()).collect();
    assert_eq!(shape, [1, 3, 1, 1]);
    let results: Vec<_> = response.items.iter().flat_map(|item| &item.results).collect();
    let sequences = [given.clone(), encoded(PROMPT, "8"), encoded(PROMPT, "eight")];
    for (result, ids) in results.iter().zip(&sequences) {
        assert_eq!((result.score, result.tokens as usize), (Some(score(ids)), ids.len()));
    }
    assert_eq!(results[4].score, Some(score(&given[..50])));
    for result in &results {
        assert_eq!((result.status(), result.generation, &*result.fingerprint), (Status::Ok, 3, "fingerprint"));
        assert_eq!((result.truncated_from, &*result.error), (0, ""));
    }
    // what the group shares was computed for none of them alone
    assert!(results[1].computed_tokens + (SHORTEST_SHARE as u32) < results[1].tokens);
    let timing = response.timing.unwrap();
    assert!(timing.queue_seconds > 0.0 && timing.compute_seconds > 0.0, "{timing:?}");
    assert_eq!(fakes[0].pieces(), 4);
}

fn golden_conversations() -> Vec<serde_json::Value> {
    let expected: serde_json::Value = serde_json::from_slice(&golden("expected.json")).unwrap();
    let list = if expected.is_array() { &expected } else { &expected["conversations"] };
    list.as_array().unwrap().clone()
}

#[tokio::test]
async fn what_fails_does_not_take_its_siblings_with_it() {
    let (cluster, _fakes) = Cluster::start(&["a"]).await;
    let long = "word ".repeat(1000);
    let robot = item(v1::item::Input::Messages(turns(&[("user", "a"), ("robot", "b")])));
    let user = item(v1::item::Input::Messages(turns(&[("user", "a")])));
    let items = vec![robot, group("p", &["short", &long, "fine"]), ids(&[1, 768]), ids(&[]), user, text("")];
    let results = cluster.score(items).await.unwrap();
    let found: Vec<_> = results.iter().map(|result| (result.status(), &*result.error)).collect();
    let robot = "items[0].messages[1].role: unknown role \"robot\", known are system, developer, user, assistant, tool";
    let tokens = results[2].tokens;
    let long = format!("items[1].responses[1]: at least {tokens} tokens are more than the limit of {LONGEST}");
    assert!(tokens > 1000);
    let expected = [
        (Status::Invalid, robot),
        (Status::Ok, ""),
        (Status::TooLong, &long),
        (Status::Ok, ""),
        (Status::Invalid, "items[2].token_ids[1]: token id 768 is outside the vocabulary of 768"),
        (Status::Invalid, "items[3].token_ids: there are none"),
        (Status::Invalid, "items[4]: the last turn must be the assistant's, it is from user"),
        (Status::Invalid, "items[5]: text is empty"),
    ];
    assert_eq!(found, expected);
    use v1::ProblemCode::{Empty, LastTurn, TokenId, TooLong, UnknownRole};
    let problems = results.iter().filter_map(|result| result.problem.as_ref()).map(|it| (it.code(), &*it.path));
    let expected = [
        (UnknownRole, "messages[1].role"),
        (TooLong, "responses[1]"),
        (TokenId, "token_ids[1]"),
        (Empty, "token_ids"),
        (LastTurn, ""),
        (Empty, ""),
    ];
    assert_eq!(problems.collect::<Vec<_>>(), expected);
    assert_eq!(
        (results[1].score, results[3].score),
        (Some(score(&encoded("p", "short"))), Some(score(&encoded("p", "fine"))))
    );
    assert!(results.iter().filter(|result| result.status() != Status::Ok).all(|result| result.score.is_none()));
}

#[tokio::test]
async fn a_prompt_that_is_wrong_fails_all_its_responses() {
    let (cluster, _fakes) = Cluster::start(&[]).await;
    let prompt = Some(v1::group::Prompt::Messages(v1::Messages::default()));
    let responses = vec!["a".to_owned(), "b".to_owned()];
    let group = item(v1::item::Input::Group(v1::Group { prompt, responses }));
    let results = cluster.score(vec![group]).await.unwrap();
    let found: Vec<_> = results.iter().map(|result| (result.status(), &*result.error)).collect();
    let why = ["items[0].responses[0]: the conversation is empty", "items[0].responses[1]: the conversation is empty"];
    assert_eq!(found, why.map(|why| (Status::Invalid, why)));
}

#[tokio::test]
async fn what_is_too_long_is_cut_on_the_side_that_is_asked_for() {
    let (cluster, _fakes) = Cluster::start(&["a"]).await;
    let given: Vec<u32> = (10..30).collect();
    for (truncation, expected) in [(v1::Truncation::Left, &given[15..]), (v1::Truncation::Right, &given[..5])] {
        let options = v1::Options { max_length: 5, truncation: truncation.into(), ..Default::default() };
        let request = v1::ScoreRequest { items: vec![ids(&given)], options: Some(options) };
        let response = cluster.client.clone().score(request).await.unwrap().into_inner();
        let result = &response.items[0].results[0];
        assert_eq!((result.status(), result.tokens, result.truncated_from), (Status::Truncated, 5, 20));
        assert_eq!(result.score, Some(score(expected)));
    }
}

#[tokio::test]
async fn tokenize_shows_what_the_model_would_read() {
    let (cluster, _fakes) = Cluster::start(&[]).await;
    let items = vec![conversation(PROMPT, "8"), text("some text"), ids(&[5, 6]), ids(&[999]), group("p", &["a", "b"])];
    let request = v1::TokenizeRequest { items, options: None };
    let shown = cluster.client.clone().tokenize(request).await.unwrap().into_inner().items;
    let shown: Vec<_> = shown.into_iter().flat_map(|item| item.conversations).collect();
    let found: Vec<_> = shown.iter().map(|it| (it.status(), it.bos())).collect();
    let (ok, invalid) = (Status::Ok, Status::Invalid);
    let first_four = [(ok, Bos::Added), (ok, Bos::Added), (ok, Bos::AsGiven), (invalid, Bos::Unspecified)];
    assert_eq!(found[..4], first_four);
    assert_eq!(shown[0].ids, encoded(PROMPT, "8"));
    assert!(shown[0].text.contains(PROMPT), "{}", shown[0].text);
    assert_eq!((&*shown[1].text, &*shown[2].text, &shown[2].ids[..]), ("some text", "", &[5, 6][..]));
    assert_eq!(shown[3].error, "items[3].token_ids[0]: token id 999 is outside the vocabulary of 768");
    let problem = shown[3].problem.as_ref().unwrap();
    assert_eq!((problem.code(), &*problem.path), (v1::ProblemCode::TokenId, "token_ids[0]"));
    assert_eq!(problem.message, "token id 999 is outside the vocabulary of 768");
    assert_eq!((shown.len(), &shown[5].ids), (6, &encoded("p", "b")));
}

#[tokio::test]
async fn models_are_listed_with_what_serves_them() {
    let options = crate::ServiceOptions { models: vec![model("n"), model("m")], ..options() };
    let (cluster, _fakes) = Cluster::with(options, &["a", "b"]).await;
    let models = cluster.client.clone().list_models(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    let model = |name: &str, generation, fingerprint: &str, replicas_ready| v1::Model {
        name: name.to_owned(),
        generation,
        fingerprint: fingerprint.to_owned(),
        max_length: LONGEST as u32,
        replicas_ready,
    };
    assert_eq!(models, [model("m", 3, "fingerprint", 2), model("n", 0, "", 0)]);
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place() {
    let (cluster, fakes) = Cluster::start(&["a"]).await;
    fakes[0].set(Conduct::Hold);
    let mut client = cluster.client.clone();
    let request = v1::ScoreRequest { items: vec![text("a b c"), text("d e f")], options: None };
    let asks = tokio::spawn(async move { client.score(request).await });
    until(|| fakes[0].pieces() == 2).await;
    assert_eq!(cluster.held().await, 2);
    asks.abort();
    cluster.until_held(0).await;
    until(|| fakes[0].state.withdrawn.load(std::sync::atomic::Ordering::SeqCst) == 2).await;
}

#[tokio::test]
async fn tenant_trace_and_deadline_travel_with_the_call() {
    let (cluster, fakes) = Cluster::start(&["a"]).await;
    fakes[0].set(Conduct::Hold);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = tonic::Request::new(v1::ScoreRequest { items: vec![text("a b c")], options: None });
    request.metadata_mut().insert("traceparent", trace.parse().unwrap());
    request.metadata_mut().insert(TENANT_KEY, "lab".parse().unwrap());
    request.set_timeout(Duration::from_millis(1000));
    let response = cluster.client.clone().score(request).await.unwrap().into_inner();
    // the answer comes before the client stops listening, with what there is
    assert_eq!(response.items[0].results[0].status(), Status::DeadlineExceeded);
    let pieces = fakes[0].state.pieces.lock().unwrap();
    assert_eq!((pieces.len(), &*pieces[0].traceparent), (1, trace));
    assert!((500_000..=950_000).contains(&pieces[0].timeout_micros), "{}", pieces[0].timeout_micros);
}

#[tokio::test]
async fn prompts_that_come_one_by_one_are_tokenized_once() {
    let (cluster, fakes) = Cluster::start(&["a", "b"]).await;
    let prompt = PROMPT.repeat(5);
    for response in ["8", "eight", "nine"] {
        let results = cluster.score(vec![conversation(&prompt, response)]).await.unwrap();
        assert_eq!(results[0].score, Some(score(&encoded(&prompt, response))));
    }
    // and computed where the prompt was seen
    let all = [fakes[0].pieces(), fakes[1].pieces()];
    assert!(all == [3, 0] || all == [0, 3], "{all:?}");
    let state = &fakes[usize::from(all[0] == 0)].state;
    let prefixes: Vec<_> = state.pieces.lock().unwrap().iter().map(|piece| piece.prefix.clone()).collect();
    assert!(prefixes[0].len() > 100 && prefixes.iter().all(|prefix| *prefix == prefixes[0]));
}

#[tokio::test]
async fn reflection_knows_the_protocol() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};
    let (cluster, _fakes) = Cluster::start(&[]).await;
    for service in ["assay.v1.RewardService", "assay.v1.StatusService"] {
        let request = MessageRequest::FileContainingSymbol(service.to_owned());
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let mut client = ServerReflectionClient::new(cluster.channel.clone());
        let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap().message_response;
        assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
    }
}
