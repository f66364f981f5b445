//! Keys of the caller's own may hold anything; what is read must be JSON.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn fields(row: &str) -> Value {
    Value::Object(Row::parse(row.as_bytes()).unwrap().fields)
}

#[test]
fn what_is_not_read_is_not_judged() {
    let deep = "[".repeat(5000) + &"]".repeat(5000);
    for own in [
        "NaN",
        "-Infinity",
        "1e999",
        &format!("1{}", "0".repeat(400)),
        r#""\ud83d""#,
        &deep,
        r#"{"a": [NaN, "]}\""]}"#,
        "nul",
    ] {
        assert_eq!(fields(&format!(r#"{{"w": {own}, "text": "a", "v":{own}}}"#)), json!({"text": "a"}), "{own:.40}");
    }
    assert_eq!(fields("\u{feff} {\"text\" : \"a\\\"}\"} \r"), json!({"text": "a\"}"}));
    assert_eq!(fields(r#"{"te\u0078t": "a", "text": "b"}"#), json!({"text": "b"}));
    assert_eq!(fields("{}"), json!({}));
}

#[test]
fn an_id_is_kept_as_it_is_written() {
    for id in ["1.50", "null", r#""\u0041""#, "[1, 2]", "12345678901234567890123"] {
        let row = format!(r#"{{"id": {id}, "text": "a"}}"#);
        assert_eq!(Row::parse(row.as_bytes()).unwrap().id, Some(id));
    }
    assert_eq!(Row::parse(br#"{"text": "a"}"#).unwrap().id, None);
}

#[test]
fn what_is_wrong_is_said() {
    for (row, words) in [
        ("", "empty"),
        ("  ", "empty"),
        ("3", "not a JSON object"),
        ("[{}]", "jq -c"),
        (r#"{"text": NaN}"#, "not a JSON object: text: "),
        (r#"{"text": "a"} x"#, "the end of the line"),
        (r#"{"text": "a""#, "',' or '}'"),
        (r#"{"text""#, "':'"),
        (r#"{"text": "#, "a value"),
        (r#"{"w": [1"#, "the end of a value"),
        (r#"{"w": "a"#, "the end of a string"),
        (r#"{"a": 1,}"#, "a key"),
        ("{'a': 1}", "a key"),
    ] {
        let error = Row::parse(row.as_bytes()).unwrap_err();
        assert!(error.contains(words), "{row}: {error}");
    }
    assert!(Row::parse(b"{\"text\": \"\xff\"}").unwrap_err().contains("UTF-8"));
}

proptest! {
    #[test]
    fn rows_of_json_are_read_as_json(value in "[a-z\"\\\\{}\\[\\],: é]{0,20}", other in any::<f64>()) {
        let row = json!({"own": {"a": [value, other]}, "text": value, "messages": [value]});
        let mut expected = row.clone();
        expected.as_object_mut().unwrap().remove("own");
        prop_assert_eq!(fields(&row.to_string()), expected);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), words in prop::collection::vec(prop::sample::select(vec![
        "{", "}", "[", "]", ":", ",", "\"", "\\", "\"text\"", "1", " ", "é", "null",
    ]), 0..20)) {
        let _ = Row::parse(&bytes);
        let _ = Row::parse(words.concat().as_bytes());
        let _ = Row::parse(format!("{{{}", words.concat()).as_bytes());
    }
}
