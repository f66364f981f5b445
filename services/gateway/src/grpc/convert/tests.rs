//! What is wrong with an item is told by the name of its place.

use proto::v1::ProblemCode as Code;

use super::*;

fn turn(role: &str, content: &str) -> v1::Message {
    v1::Message { role: role.to_owned(), content: content.to_owned(), ..v1::Message::default() }
}

fn item(input: Wire) -> v1::Item {
    v1::Item { input: Some(input) }
}

fn group(prompt: Option<Prompt>, responses: &[&str]) -> v1::Item {
    item(Wire::Group(v1::Group { prompt, responses: responses.iter().map(|it| (*it).to_owned()).collect() }))
}

#[track_caller]
fn fails(given: v1::Item, conversations: usize, code: Code, path: &str, said: &str) {
    let read = super::given(given);
    let answer = Answer { result: Err(read.input.as_ref().unwrap_err().into()), tokens: 0, truncated_from: 0 };
    let result = result("items[3]", vec![answer]).results.remove(0);
    let problem = result.problem.unwrap();
    assert_eq!((read.conversations, problem.code(), &*problem.path), (conversations, code, path));
    let between = if path.is_empty() { "" } else { "." };
    assert_eq!(result.error, format!("items[3]{between}{path}: {said}"));
    assert_eq!(problem.message, said);
}

#[test]
fn a_bad_item_names_its_place() {
    let turns = v1::Messages { messages: vec![turn("user", "a"), turn("robot", "b")] };
    let unknown = "unknown role \"robot\", known are system, developer, user, assistant, tool";
    fails(v1::Item { input: None }, 1, Code::Empty, "", "the item is empty");
    fails(item(Wire::Messages(turns.clone())), 1, Code::UnknownRole, "messages[1].role", unknown);
    let prompt = Some(Prompt::Messages(turns));
    fails(group(prompt, &["a", "b"]), 2, Code::UnknownRole, "prompt[1].role", unknown);
    fails(group(None, &["a"]), 1, Code::Empty, "", "the prompt is empty");
}

#[test]
fn a_turn_says_what_a_template_may_read() {
    let calls = r#"[{"id":"1"}]"#.to_owned();
    let called = v1::Message { tool_calls: calls, extra: r#"{"thoughts":"b"}"#.to_owned(), ..turn("assistant", "") };
    let (name, tool_call_id) = ("Jane".to_owned(), "1".to_owned());
    let answered = v1::Message { name, tool_call_id, ..turn("tool", "c") };
    let whole = v1::Message { extra: r#"{"content":"","x":null,"role":"user"}"#.to_owned(), ..v1::Message::default() };
    let read = super::given(item(Wire::Messages(v1::Messages { messages: vec![called, answered, whole] })));
    let Ok(Input::Messages(turns)) = read.input else { panic!("they are turns") };
    let fields: Vec<_> = turns.iter().map(|turn| serde_json::to_string(turn.fields()).unwrap()).collect();
    let expected = [
        r#"{"thoughts":"b","tool_calls":[{"id":"1"}],"role":"assistant"}"#,
        r#"{"role":"tool","content":"c","name":"Jane","tool_call_id":"1"}"#,
        r#"{"content":"","role":"user"}"#,
    ];
    assert_eq!(fields, expected);
    let bad = |turn| item(Wire::Messages(v1::Messages { messages: vec![turn] }));
    let no_list = v1::Message { tool_calls: "{}".to_owned(), ..turn("assistant", "a") };
    fails(bad(no_list), 1, Code::WrongType, "messages[0].tool_calls", "expected a JSON list, found other JSON");
    let null = v1::Message { extra: r#"{"role":"user","content":null}"#.to_owned(), ..v1::Message::default() };
    fails(bad(null), 1, Code::NotText, "messages[0].content", "content must be text, found nothing");
}

#[test]
fn what_is_not_the_items_fault_does_not_name_it() {
    let answer = Answer { result: Err(Problem::deadline()), tokens: 7, truncated_from: 0 };
    let result = result("items[3]", vec![answer]).results.remove(0);
    assert_eq!((result.status(), &*result.error), (v1::Status::DeadlineExceeded, "the deadline has passed"));
    assert_eq!((result.tokens, result.score), (7, None));
}
