//! What clients send, right and wrong.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parse(value: Value) -> Result<Input, ItemError> {
    Input::from_json(value.as_object().unwrap())
}

fn message(value: Value) -> Result<Vec<Message>, ItemError> {
    Message::list_from_json("messages", &json!([{"role": "user", "content": "x"}, value]))
}

fn error(value: Value) -> String {
    parse(value).unwrap_err().to_string()
}

#[test]
fn the_four_kinds_of_input() {
    let turns = vec![Message::new(Role::User, "q"), Message::new(Role::Assistant, "a")];
    let list = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    assert_eq!(parse(json!({"id": 1, "messages": list})), Ok(Input::Messages(turns.clone())));
    let group = Input::Group { prompt: turns[..1].to_vec(), responses: vec!["a".to_owned(), String::new()] };
    assert_eq!(parse(json!({"prompt": "q", "responses": ["a", ""]})), Ok(group.clone()));
    assert_eq!(parse(json!({"prompt": [list[0]], "responses": ["a", ""]})), Ok(group));
    assert_eq!(parse(json!({"text": "q"})), Ok(Input::Text("q".to_owned())));
    assert_eq!(parse(json!({"input_ids": [1, 4294967295_u32]})), Ok(Input::TokenIds(vec![1, u32::MAX])));
}

#[test]
fn wrong_shapes_are_named_with_their_place() {
    let one_of = "input: expected exactly one of messages, prompt with responses, text, input_ids, found";
    assert_eq!(error(json!({"id": 3})), format!("{one_of} none of them"));
    assert_eq!(error(json!({"text": "a", "messages": []})), format!("{one_of} messages and text"));
    assert_eq!(error(json!({"messages": "x"})), "messages: expected a list of messages, found a string");
    assert_eq!(
        error(json!({"messages": [1]})),
        "messages[0]: expected an object with role and content, found the number 1"
    );
    assert_eq!(error(json!({"messages": [{"content": "x"}]})), "messages[0].role: expected a string, found nothing");
    assert_eq!(error(json!({"prompt": "q"})), "responses: expected a list of strings, found nothing");
    assert_eq!(error(json!({"prompt": 3, "responses": []})), "prompt: expected a list of messages, found the number 3");
    assert_eq!(
        error(json!({"prompt": "q", "responses": ["a", 1]})),
        "responses[1]: content must be text, found the number 1"
    );
    assert_eq!(error(json!({"text": ["a"]})), "text: expected a string, found a list");
    assert_eq!(error(json!({"input_ids": [1, -1]})), "input_ids[1]: expected a token id, found the number -1");
    assert_eq!(
        error(json!({"input_ids": [4294967296_u64]})),
        "input_ids[0]: expected a token id, found the number 4294967296"
    );
    assert_eq!(parse(json!({"messages": []})), Err(Fault::EmptyConversation.into()));
    assert_eq!(parse(json!({"prompt": [], "responses": ["a"]})), Err(Fault::EmptyConversation.into()));
    assert_eq!(parse(json!({"prompt": "q", "responses": []})), Err(Fault::NoResponses.into()));
}

#[test]
fn roles_are_five() {
    for role in Role::ALL {
        assert_eq!(message(json!({"role": role.as_str(), "content": "x"})).unwrap()[1].role(), role);
    }
    let wrong = message(json!({"role": "bot", "content": "x"})).unwrap_err();
    assert!(matches!(wrong.fault, Fault::UnknownRole(_)));
    let known = "system, developer, user, assistant, tool";
    assert_eq!(wrong.to_string(), format!("messages[1].role: unknown role \"bot\", known are {known}"));
}

#[test]
fn content_is_text() {
    let text = |content: Value| message(json!({"role": "user", "content": content})).map(|list| list[1].clone());
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let turn = text(parts.clone()).unwrap();
    assert_eq!(
        (turn.fields(), turn.parts()),
        (Message::new(Role::User, "ab").fields(), parts.as_array().map(Vec::as_slice))
    );
    let check = |content: Value, wanted: &str| {
        let error = text(content).unwrap_err();
        assert!(matches!(error.fault, Fault::NotText(_)));
        assert_eq!(error.to_string(), wanted);
    };
    check(Value::Null, "messages[1].content: content must be text, found nothing");
    check(json!(3.5), "messages[1].content: content must be text, found the number 3.5");
    check(json!({"text": "a"}), "messages[1].content: content must be text, found an object");
    check(json!([]), "messages[1].content: content must be text, found an empty list");
    let image = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]);
    check(image, "messages[1].content[1]: content must be text, found a part of type \"image_url\"");
    check(json!(["a"]), "messages[1].content[0]: content must be text, found a string");
    assert!(message(json!({"role": "user"})).is_err());
}

#[test]
fn content_may_be_missing_beside_tool_calls_only() {
    let calls = json!([{"type": "function", "function": {"name": "f", "arguments": {}}}]);
    let list = message(json!({"role": "assistant", "content": null, "tool_calls": calls, "name": null})).unwrap();
    assert_eq!(list[1].fields().keys().collect::<Vec<_>>(), ["role", "tool_calls"]);
    assert!(message(json!({"role": "assistant", "content": null, "tool_calls": []})).is_err());
}

fn any_json() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec!["role", "content", "user", "assistant", "text", "type", "é"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        words.prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let keys = prop::sample::select(vec!["role", "content", "type", "text", "tool_calls", "x"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys, inner), 0..4)
                .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_input_panics(key in prop::sample::select(vec!["messages", "prompt", "text", "input_ids"]), value in any_json(), responses in any_json()) {
        let _ = parse(json!({key: value, "responses": responses}));
    }
}
