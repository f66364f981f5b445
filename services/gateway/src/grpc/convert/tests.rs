//! What is wrong with an item is told by the name of its place.

use proto::v1::ProblemCode as Code;

use super::*;

fn turn(role: &str, content: &str) -> v1::Message {
    v1::Message { role: role.to_owned(), content: content.to_owned() }
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
fn what_is_not_the_items_fault_does_not_name_it() {
    let answer = Answer { result: Err(Problem::deadline()), tokens: 7, truncated_from: 0 };
    let result = result("items[3]", vec![answer]).results.remove(0);
    assert_eq!((result.status(), &*result.error), (v1::Status::DeadlineExceeded, "the deadline has passed"));
    assert_eq!((result.tokens, result.score), (7, None));
}
