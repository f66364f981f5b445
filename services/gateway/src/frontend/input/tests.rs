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
    let read = Read::new(Some(3), given);
    let error = read.input.as_ref().unwrap_err();
    assert_eq!((read.conversations, &*read.problem(0, error)), (conversations, expected));
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
fn errors_of_the_encoder_get_a_place() {
    let read = Read::new(Some(0), group(Some(Prompt::Text("p".to_owned())), &["a", "b"]));
    let long = ItemError::TooLong { tokens: 9, limit: 8 };
    assert_eq!(read.problem(1, &long), "items[0].responses[1]: 9 tokens are more than the limit of 8");
    let read = Read::new(Some(0), item(Given::TokenIds(v1::TokenIds { ids: vec![5] })));
    let id = ItemError::TokenId { index: 0, id: 5, vocab_size: 4 };
    assert_eq!(read.problem(0, &id), "items[0].token_ids[0]: token id 5 is outside the vocabulary of 4");
    assert_eq!(read.problem(0, &ItemError::Empty("input_ids")), "items[0].token_ids: there are none");
}

#[test]
fn a_group_costs_its_prompt_for_each_response() {
    let prompt = Prompt::Text("x".repeat(1000));
    let read = Read::new(None, group(Some(prompt), &["aa", "bb", "cc"]));
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
