//! Whatever the bytes are: one line for each line of input, and a score or a message for each of its conversations.

use std::io::BufReader;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::json;

use super::*;

/// Sound lines of every kind, to be damaged.
const SOUND: [&str; 6] = [
    r#"{"id": 1, "messages": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "4."}]}"#,
    r#"{"id": "é", "prompt": [{"role": "user", "content": "How\nmany?"}], "responses": ["Four.", "4", "<eos>"]}"#,
    r#"{"id": {"a": [1.50]}, "prompt": "How many?", "responses": [[{"type": "text", "text": "Four."}], ""]}"#,
    r#"{"id": null, "text": "<bos><start_of_turn>user\nHow many?<end_of_turn>\n"}"#,
    r#"{"input_ids": [2, 4, 325, 323, 384, 6, 767]}"#,
    r#"{"messages": [{"role": "assistant", "content": "\u00e9 \ud83d\ude00"}], "responses": [null], "note": 1e30}"#,
];

/// The lines of an input that comes in pieces of this many bytes.
fn read(bytes: &[u8], piece: usize) -> Vec<Given> {
    Lines::new(BufReader::with_capacity(piece.max(1), bytes)).map(Result::unwrap).collect()
}

/// The one line of an input.
fn one(text: &str) -> Given {
    let mut lines = read(text.as_bytes(), 4096);
    assert_eq!(lines.len(), 1, "{text}");
    lines.remove(0)
}

/// What a line's conversations came to.
fn outcomes(text: &str) -> Vec<Result<(), String>> {
    one(text).line.items.into_iter().map(|item| item.map_err(|failure| failure.problem)).collect()
}

/// Checks what holds for every input, and gives back its lines.
fn check(bytes: &[u8], piece: usize) -> Vec<Given> {
    let lines = read(bytes, piece);
    let pieces: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), pieces.len());
    let mut position = 0;
    for (number, (Given { line, input }, piece)) in lines.iter().zip(pieces).enumerate() {
        position += piece.len() as u64;
        assert_eq!((line.number, line.position), (number as u64 + 1, position));
        assert!(!line.items.is_empty());
        assert_eq!(input.is_some(), line.items.iter().any(Result::is_ok) || is_empty_group(input.as_ref()));
        for failure in line.items.iter().filter_map(|item| item.as_ref().err()) {
            assert!(!failure.problem.is_empty() && (failure.status, failure.tokens) == (Status::Invalid, 0));
        }
    }
    lines
}

/// A group all of whose responses fail is no group, and its failures are its own.
fn is_empty_group(input: Option<&Input>) -> bool {
    matches!(input, Some(Input::Group { responses, .. }) if responses.is_empty())
}

// === examples ===

#[test]
fn sound_lines_of_every_kind_are_read() {
    let counts = SOUND.map(|line| one(line).line.items.iter().filter(|item| item.is_ok()).count());
    assert_eq!(counts, [1, 3, 2, 1, 1, 1]);
    assert_eq!(one(SOUND[4]).input, Some(Input::TokenIds(vec![2, 4, 325, 323, 384, 6, 767])));
}

#[test]
fn the_end_of_a_line_is_no_part_of_it() {
    let input = format!("{0}\n{0}\r\n\r\n{0}", SOUND[4]);
    let lines = check(input.as_bytes(), 7);
    assert_eq!(lines.iter().map(|given| given.line.items[0].is_ok()).collect::<Vec<_>>(), [true, true, false, true]);
    assert_eq!(read(b"", 7).len(), 0);
    assert_eq!(read(b"\n", 7).len(), 1);
}

#[test]
fn ids_are_what_the_line_has_to_the_letter() {
    for id in ["1", "1.50", "123456789012345678901234567890", "-0.0", "null", r#""\u00e9""#, r#"{"b": 1,  "a": [2]}"#] {
        for line in [format!(r#"{{"id": {id}, "text": "a"}}"#), format!(r#"{{"messages": 3, "id":{id}}}"#)] {
            assert_eq!(one(&line).line.id.map(|id| id.get().to_owned()).as_deref(), Some(id), "{line}");
        }
    }
    assert!(one(r#"{"text": "a"}"#).line.id.is_none());
    // escaped, it is the same key
    assert_eq!(one(r#"{"\u0069d": 7, "text": "a"}"#).line.id.map(|id| id.get().to_owned()).as_deref(), Some("7"));
}

#[test]
fn responses_fail_alone_and_are_named_by_their_own_number() {
    let line = r#"{"prompt": "a", "responses": ["b", 3, [], [{"type": "image"}], "c", null]}"#;
    let problem = |i, found| Err(format!("responses[{i}]: content must be text, found {found}"));
    let [b, three, none, image, c, null] = &outcomes(line)[..] else { panic!("six responses, six conversations") };
    assert!(b.is_ok() && c.is_ok());
    assert_eq!(three, &problem(1, "the number 3"));
    assert_eq!(none, &problem(2, "an empty list"));
    assert_eq!(image, &Err(r#"responses[3][0]: content must be text, found a part of type "image""#.to_owned()));
    assert_eq!(null, &problem(5, "nothing"));
    // what is wrong with the prompt is wrong with each of them
    let refused = outcomes(r#"{"prompt": [{"role": "x", "content": "a"}], "responses": ["b", null]}"#);
    assert!(refused[0].as_ref().is_err_and(|problem| problem.starts_with("prompt[0].role")));
    assert!(refused[1].as_ref().is_err_and(|problem| problem.starts_with("responses[1]")));
    // elsewhere the key is the caller's own
    assert_eq!(outcomes(r#"{"text": "a", "responses": ["b", null]}"#), outcomes(r#"{"text": "a"}"#));
}

#[test]
fn a_line_without_an_end_does_not_fill_the_memory() {
    let long = io::repeat(b'x').take(LONGEST_LINE + 5).chain(&b"\n"[..]).chain(SOUND[4].as_bytes());
    let lines: Vec<Line> = Lines::new(BufReader::new(long)).map(|given| given.unwrap().line).collect();
    assert_eq!((lines.len(), lines[0].position), (2, LONGEST_LINE + 6));
    assert!(matches!(&lines[0].items[..], [Err(failure)] if failure.problem.contains("longer than")));
    assert!(lines[1].items[0].is_ok());
    assert_eq!((lines[1].number, lines[1].position), (2, LONGEST_LINE + 6 + SOUND[4].len() as u64));
}

#[test]
fn an_input_that_cannot_be_read_is_an_error_and_no_line() {
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let input = BufReader::new((&b"{\"text\": \"a\"}\n{\"te"[..]).chain(Broken));
    let mut lines = Lines::new(input);
    assert!(lines.next().unwrap().unwrap().line.items[0].is_ok());
    assert_eq!(lines.next().unwrap().unwrap_err().to_string(), "the disk is gone");
}

// === properties ===

/// Any JSON, small; its strings are mostly those that mean something.
fn value() -> impl Strategy<Value = Value> {
    let words = ["", "a", "user", "assistant", "system", "text", "image", "<end_of_turn>", "<bos>", "\u{0}", "é"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![0i64..800, any::<i64>()].prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(words.to_vec()).prop_map(Value::from),
    ];
    let keys = select(vec!["role", "content", "type", "text", "tool_calls", "name"]);
    leaf.prop_recursive(4, 24, 5, move |inner| {
        let list = prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from);
        let pairs = prop::collection::vec((keys.clone(), inner), 0..4);
        prop_oneof![
            list,
            pairs.prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
        ]
    })
}

/// A message that may be sound.
fn message() -> impl Strategy<Value = Value> {
    let role = prop_oneof![4 => select(vec!["user", "assistant", "system"]).prop_map(Value::from), 1 => value()];
    let content = prop_oneof![4 => ".{0,12}".prop_map(Value::from), 1 => value()];
    (role, content).prop_map(|(role, content)| json!({ "role": role, "content": content }))
}

/// An object that is nearly a line.
fn object() -> impl Strategy<Value = Map<String, Value>> {
    let messages = || prop::collection::vec(message(), 0..4).prop_map(Value::from);
    let texts = prop::collection::vec(prop_oneof![3 => ".{0,12}".prop_map(Value::from), 1 => value()], 0..5);
    let member = prop_oneof![
        3 => messages().prop_map(|value| ("messages", value)),
        3 => prop_oneof![messages(), ".{0,12}".prop_map(Value::from)].prop_map(|value| ("prompt", value)),
        3 => texts.prop_map(|value| ("responses", value.into())),
        1 => prop::collection::vec(0u32..800, 0..80).prop_map(|ids| ("input_ids", ids.into())),
        2 => (select(vec!["id", "messages", "prompt", "responses", "text", "input_ids", "note"]), value()),
    ];
    let members = prop::collection::vec(member, 0..4);
    members.prop_map(|members| members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// One change of some bytes.
fn damage() -> impl Strategy<Value = (u8, Index, Index, u8)> {
    let telling = select(b"\n\r\"\\{}[]:,0-.eu\x00\xff\xc3 ".to_vec());
    (0u8..5, any::<Index>(), any::<Index>(), prop_oneof![telling, any::<u8>()])
}

fn damaged(mut bytes: Vec<u8>, changes: Vec<(u8, Index, Index, u8)>) -> Vec<u8> {
    for (kind, from, to, byte) in changes {
        let (from, to) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
        let range = from.min(to)..from.max(to).min(from.min(to) + 20);
        match kind {
            0 => bytes.insert(from, byte),
            1 => drop(bytes.drain(range)),
            2 => bytes.extend_from_within(range),
            3 => bytes.truncate(from.max(to)),
            _ => bytes.iter_mut().skip(from).take(1).for_each(|at| *at = byte),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_lines(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..40) {
        check(&bytes, piece);
    }

    #[test]
    fn damaged_lines_are_lines(
        lines in prop::collection::vec(select(SOUND.to_vec()), 1..4),
        changes in prop::collection::vec(damage(), 1..6),
        piece in 1usize..200,
    ) {
        check(&damaged(lines.join("\n").into_bytes(), changes), piece);
    }

    #[test]
    fn any_object_has_as_many_conversations_as_responses(object in object()) {
        let line = Value::Object(object.clone()).to_string();
        let lines = check(line.as_bytes(), 64);
        let responses = object.get("responses").and_then(Value::as_array).filter(|_| object.contains_key("prompt"));
        prop_assert_eq!(lines[0].line.items.len(), responses.map_or(1, |list| list.len().max(1)), "{}", line);
        let id = lines[0].line.id.as_ref().map(|id| serde_json::from_str::<Value>(id.get()).unwrap());
        let read: Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(id.as_ref(), read.get("id"));
    }
}
