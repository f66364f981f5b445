//! What goes over the wire is the whole line or nothing, and what comes back reads as if it were computed here.

use serde_json::{Map, json};

use super::*;

fn sent(line: serde_json::Value) -> Result<v1::Item, String> {
    let object: Map<String, Value> = line.as_object().unwrap().clone();
    item(Input::from_json(&object).unwrap()).map_err(|failure| failure.problem)
}

fn message(role: &str, content: &str) -> v1::Message {
    v1::Message { role: role.to_owned(), content: content.to_owned() }
}

#[test]
fn every_kind_of_line_has_its_item() {
    let turns = vec![message("user", "a"), message("assistant", "bc")];
    let parts = json!([{ "type": "text", "text": "b" }, { "type": "text", "text": "c" }]);
    let line = json!({ "messages": [{ "role": "user", "content": "a", "name": null }, { "role": "assistant", "content": parts }] });
    let messages = |messages| v1::Messages { messages };
    assert_eq!(sent(line).unwrap().input, Some(Wire::Messages(messages(turns))));
    let group = v1::Group {
        prompt: Some(Prompt::Messages(messages(vec![message("user", "a")]))),
        responses: vec!["b".to_owned(), String::new()],
    };
    assert_eq!(sent(json!({ "prompt": "a", "responses": ["b", ""] })).unwrap().input, Some(Wire::Group(group)));
    assert_eq!(sent(json!({ "text": "a" })).unwrap().input, Some(Wire::Text("a".to_owned())));
    let ids = v1::TokenIds { ids: vec![1, 2] };
    assert_eq!(sent(json!({ "input_ids": [1, 2] })).unwrap().input, Some(Wire::TokenIds(ids)));
}

#[test]
fn what_the_wire_does_not_carry_is_refused_by_name() {
    let calls = json!([{ "role": "user", "content": "a" }, { "role": "assistant", "tool_calls": [{ "id": "1" }] }]);
    let problem = sent(json!({ "messages": calls })).unwrap_err();
    assert!(problem.starts_with("messages[1].tool_calls: a gateway takes role and content"), "{problem}");
    let prompt = json!([{ "role": "user", "content": "a", "name": "Jane" }]);
    let problem = sent(json!({ "prompt": prompt, "responses": ["b"] })).unwrap_err();
    assert!(problem.starts_with("prompt[0].name: "), "{problem}");
}

#[test]
fn a_result_is_a_score_or_says_why_there_is_none() {
    let result = |status: v1::Status, score| v1::Result {
        status: status.into(),
        score,
        tokens: 7,
        error: "item: why".to_owned(),
        ..v1::Result::default()
    };
    let scored = outcome(Some(&result(v1::Status::Truncated, Some(0.5)))).unwrap();
    assert_eq!(scored, Scored { score: 0.5, tokens: 7, truncated: true });
    assert!(!outcome(Some(&result(v1::Status::Ok, Some(0.5)))).unwrap().truncated);
    let failed = |status| {
        let failure = outcome(Some(&result(status, None))).unwrap_err();
        (failure.status, failure.problem, failure.tokens)
    };
    let why = || "why".to_owned();
    assert_eq!(failed(v1::Status::Invalid), (Status::Invalid, why(), 7));
    assert_eq!(failed(v1::Status::DeadlineExceeded), (Status::DeadlineExceeded, why(), 7));
    assert_eq!(failed(v1::Status::Unavailable), (Status::Unavailable, why(), 7));
    assert_eq!(failed(v1::Status::Internal), (Status::Internal, why(), 7));
    let (status, problem, tokens) = failed(v1::Status::TooLong);
    assert_eq!((status, tokens), (Status::TooLong, 7));
    assert!(problem.starts_with("why (--max-length"), "{problem}");
    for broken in [None, Some(result(v1::Status::Ok, None)), Some(result(v1::Status::Ok, Some(f32::NAN)))] {
        assert_eq!(outcome(broken.as_ref()).unwrap_err().status, Status::Internal);
    }
    let newer = v1::Result { status: 99, ..v1::Result::default() };
    assert!(outcome(Some(&newer)).unwrap_err().problem.contains("99"));
}

#[test]
fn a_gateways_words_are_those_of_this_process() {
    for (theirs, ours) in [
        ("item: text is empty", "text is empty"),
        ("item.responses[12]: 9 tokens are more than the limit of 8", "9 tokens are more than the limit of 8"),
        (
            "item.token_ids[3]: token id 9 is outside the vocabulary of 8",
            "input_ids[3]: token id 9 is outside the vocabulary of 8",
        ),
        ("item.token_ids: there are none", "input_ids is empty"),
        ("item.messages[0].role: unknown role", "messages[0].role: unknown role"),
        ("items[0]: text is empty", "text is empty"),
        ("items[0].token_ids: there are none", "input_ids is empty"),
        ("items are many", "items are many"),
        ("the replica is gone", "the replica is gone"),
    ] {
        assert_eq!(here(theirs), ours);
    }
}
