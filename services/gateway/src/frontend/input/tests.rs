//! What is wrong with an item is told by the name of its place.

use super::*;

fn turn(role: &str, content: &str) -> v1::Message {
    v1::Message { role: role.to_owned(), content: content.to_owned() }
}

fn item(input: Given) -> v1::Item {
    v1::Item { input: Some(input) }
}

fn group(prompt: Option<Prompt>, responses: &[&str]) -> v1::Item {
    item(Given::Group(v1::Group { prompt, responses: responses.iter().map(|it| (*it).to_owned()).collect() }))
}

#[track_caller]
fn fails(given: v1::Item, conversations: usize, expected: &str) {
    let read = Read::new("items[3]", given);
    let (said, problem) = read.say(read.input.as_ref().unwrap_err().into());
    assert_eq!((read.conversations, &*said), (conversations, expected));
    let v1::Problem { path, message, .. } = problem.unwrap();
    let between = if path.is_empty() { "" } else { "." };
    assert_eq!(said, format!("items[3]{between}{path}: {message}"));
}

#[test]
fn a_bad_item_names_its_place() {
    let turns = v1::Messages { messages: vec![turn("user", "a"), turn("robot", "b")] };
    let roles = "known are system, developer, user, assistant, tool";
    fails(v1::Item { input: None }, 1, "items[3]: the item is empty");
    fails(
        item(Given::Messages(turns.clone())),
        1,
        &format!("items[3].messages[1].role: unknown role \"robot\", {roles}"),
    );
    let prompt = Some(Prompt::Messages(turns));
    let expected = format!("items[3].prompt[1].role: unknown role \"robot\", {roles}");
    fails(group(prompt, &["a", "b"]), 2, &expected);
    fails(group(None, &["a"]), 1, "items[3]: the prompt is empty");
}

#[test]
fn a_group_costs_its_prompt_for_each_response() {
    let prompt = Prompt::Text("x".repeat(1000));
    let read = Read::new("item", group(Some(prompt), &["aa", "bb", "cc"]));
    assert_eq!((read.conversations, read.bytes), (3, 3006 + 3 * EACH));
}

#[test]
fn more_conversations_than_there_is_room_for_are_not_looked_at() {
    let most = ROOM / EACH;
    assert_eq!(read_all(vec![v1::Item::default(); most]).unwrap().len(), most);
    assert_eq!(read_all(vec![v1::Item::default(); most + 1]).err(), Some(ROOM + EACH));
    let responses = vec![""; most];
    assert!(read_all(vec![group(None, &responses), v1::Item::default()]).is_err());
}
