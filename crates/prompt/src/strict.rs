//! Special tokens inside content as plain text: the strict option. This follows `sanitize_control_tokens` of
//! transformers 5.23 (`mark_control_tokens`, `encode_marked_chat`), and gives the same ids.
//!
//! Before the template runs, every control token inside a client's strings is wrapped in two private-use characters. A
//! template trims, splits and compares as before, for the token's text is still there. In the rendered text each wrapped
//! token is then encoded as plain text, and all the rest normally. A marker that lost its partner on the way is dropped,
//! but still cuts the text, so that its two sides cannot join to a token.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::python::is_space;
use crate::tokenizer::Tokenizer;
use crate::{Fault, ItemError};

const START: char = '\u{f0000}';
const END: char = '\u{f0001}';

/// Finds the control tokens of a model: the special tokens, and those that `chat_control_tokens` lists; without such a
/// list, the other added tokens that the template's literals hold (`<think>`), save those of whitespace only (Gemma's
/// newlines), which templates write as ordinary text.
pub(crate) fn control_tokens(tokenizer: &Tokenizer, listed: Option<&[String]>, literals: &str) -> Option<AhoCorasick> {
    let written = |text: &String| match listed {
        Some(listed) => listed.contains(text),
        None => literals.contains(text.as_str()) && !text.chars().all(is_space),
    };
    let control = tokenizer.added().iter().filter(|token| token.special || written(&token.content));
    let texts = control.map(|token| token.content.as_str()).filter(|text| !text.is_empty());
    AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok()
}

/// A copy of a client's value with the control tokens in its strings marked. Marker characters that were in it are
/// dropped, so that none can be forged.
pub(crate) fn mark(control: &AhoCorasick, value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(mark_text(control, text)),
        Value::Array(list) => list.iter().map(|item| mark(control, item)).collect(),
        Value::Object(map) => map.iter().map(|(key, item)| (key.clone(), mark(control, item))).collect(),
        other => other.clone(),
    }
}

fn mark_text(control: &AhoCorasick, text: &str) -> String {
    let text = text.replace([START, END], "");
    let mut marked = String::with_capacity(text.len());
    let mut from = 0;
    for found in control.find_iter(&text) {
        marked.push_str(&text[from..found.start()]);
        marked.push(START);
        marked.push_str(&text[found.range()]);
        marked.push(END);
        from = found.end();
    }
    marked.push_str(&text[from..]);
    marked
}

/// Whether a rendered text holds markers.
pub(crate) fn is_marked(text: &str) -> bool {
    text.contains([START, END])
}

/// The ids of a rendered text that holds markers.
pub(crate) fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ItemError> {
    let mut ids = Vec::new();
    let mut first = true;
    let mut rest = text;
    loop {
        let at = rest.find([START, END]).unwrap_or(rest.len());
        let (piece, tail) = rest.split_at(at);
        if !piece.is_empty() {
            let encoded =
                if first { tokenizer.encode(piece) } else { tokenizer.encode_inner(piece, Tokenizer::encode) };
            ids.extend(encoded?);
        }
        first = false;
        if tail.is_empty() {
            return Ok(ids);
        }
        rest = match tail.strip_prefix(START).and_then(|tail| tail.split_once(END)) {
            Some((token, after)) if tokenizer.is_added(token) => {
                ids.extend(encode_token(tokenizer, token)?);
                after
            }
            _ => tail.strip_prefix([START, END]).unwrap_or_default(),
        };
    }
}

fn encode_token(tokenizer: &Tokenizer, token: &str) -> Result<Vec<u32>, ItemError> {
    let ids = tokenizer.encode_inner(token, Tokenizer::encode_plain)?;
    match tokenizer.id(token) {
        Some(id) if ids.contains(&id) => Err(Fault::Strict(token.to_owned()).into()),
        _ => Ok(ids),
    }
}
