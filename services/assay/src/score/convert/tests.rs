//! What goes over the wire is the whole line, and what comes back reads as the line does.

use serde_json::{Map, json};

use super::*;

fn sent(line: serde_json::Value) -> Wire {
    let object: Map<String, Value> = line.as_object().unwrap().clone();
    item(Input::from_json(&object).unwrap()).input.unwrap()
}

fn plain(role: &str, content: &str) -> v1::Message {
    v1::Message { role: role.to_owned(), content: content.to_owned(), ..v1::Message::default() }
}

#[test]
fn every_kind_of_line_has_its_item() {
    let turns = vec![plain("user", "a"), plain("assistant", "bc")];
    let line = json!({ "messages": [{ "role": "user", "content": "a", "name": null }, { "role": "assistant", "content": "bc" }] });
    let messages = |messages| v1::Messages { messages };
    assert_eq!(sent(line), Wire::Messages(messages(turns)));
    let group = v1::Group {
        prompt: Some(Prompt::Messages(messages(vec![plain("user", "a")]))),
        responses: vec!["b".to_owned(), String::new()],
    };
    assert_eq!(sent(json!({ "prompt": "a", "responses": ["b", ""] })), Wire::Group(group));
    assert_eq!(sent(json!({ "text": "a" })), Wire::Text("a".to_owned()));
    assert_eq!(sent(json!({ "input_ids": [1, 2] })), Wire::TokenIds(v1::TokenIds { ids: vec![1, 2] }));
}

#[test]
fn what_else_a_turn_says_goes_along_in_its_order() {
    let turn = json!({ "tool_calls": [{ "id": "1", "n": 1.50 }], "role": "assistant", "name": "Jane", "x": "" });
    let Wire::Messages(turns) = sent(json!({ "messages": [turn.clone()] })) else { panic!("messages are messages") };
    assert_eq!(turns.messages, [v1::Message { extra: turn.to_string(), ..v1::Message::default() }]);
}

#[test]
fn content_in_parts_goes_along_in_parts() {
    let turn =
        json!({ "role": "assistant", "content": [{ "type": "text", "text": "b" }, { "type": "text", "text": "c" }] });
    let Wire::Messages(turns) = sent(json!({ "messages": [turn.clone()] })) else { panic!("messages are messages") };
    assert_eq!(turns.messages, [v1::Message { extra: turn.to_string(), ..v1::Message::default() }]);
}

#[test]
fn a_failure_has_the_names_of_the_line() {
    let said = |status, path: &str, message: &str| {
        let (path, message, code) = (path.to_owned(), message.to_owned(), v1::ProblemCode::Unspecified);
        let failed = failure(Failure { status, code, path, message, tokens: 7 }, "make it longer");
        assert_eq!((failed.status, failed.tokens), (status, 7));
        failed.problem
    };
    use v1::Status::{Invalid, TooLong, Unavailable};
    assert_eq!(said(Invalid, "", "text is empty"), "text is empty");
    assert_eq!(said(TooLong, "responses[12]", "9 tokens"), "9 tokens (make it longer)");
    assert_eq!(said(Invalid, "token_ids[3]", "9 is outside"), "input_ids[3]: 9 is outside");
    assert_eq!(said(Invalid, "token_ids", "there are none"), "input_ids is empty");
    assert_eq!(said(Invalid, "messages[0].role", "unknown role"), "messages[0].role: unknown role");
    assert_eq!(said(Unavailable, "", "the replica is gone"), "the replica is gone");
}
