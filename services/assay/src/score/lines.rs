//! The input: JSON Lines, one [`Line`] each, whatever it holds.
//!
//! A line that cannot be read is a line whose conversations are errors, so that the output keeps its place; only the
//! failure to read the file itself ends the input.

use std::io::{self, BufRead, Read as _};
use std::sync::Arc;

use prompt::{Encoded, Encoder, Input, ItemError, Options};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// A longer line is refused, so that a file without line ends cannot fill the memory.
const LONGEST_LINE: u64 = 64 << 20;

/// One line of input.
#[derive(Debug)]
pub(crate) struct Line {
    /// From 1.
    pub(crate) number: u64,
    /// The bytes up to the end of this line.
    pub(crate) position: u64,
    /// As the line had it.
    pub(crate) id: Option<Box<RawValue>>,
    /// The line's conversations. Never empty.
    pub(crate) items: Vec<Result<Conversation, ItemFailure>>,
}

/// A conversation that can be scored.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    pub(crate) tokens: Arc<[u32]>,
    pub(crate) truncated: bool,
}

/// A conversation that cannot.
#[derive(Debug, Clone)]
pub(crate) struct ItemFailure {
    pub(crate) problem: String,
    /// If it is too long: its tokens.
    pub(crate) too_long: Option<usize>,
}

/// Reads lines and encodes them.
pub(crate) struct Lines<R> {
    input: R,
    encoder: Encoder,
    options: Options,
    number: u64,
    position: u64,
}

// === impl Lines ===

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(input: R, encoder: Encoder, options: Options) -> Self {
        Self { input, encoder, options, number: 0, position: 0 }
    }

    /// The bytes of the next line without its end, or why they are not taken; `None` at the end of the input.
    fn next_bytes(&mut self) -> io::Result<Option<Result<Vec<u8>, ItemFailure>>> {
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(LONGEST_LINE).read_until(b'\n', &mut bytes)? as u64;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.position += read;
        if bytes.pop_if(|last| *last == b'\n').is_none() && read == LONGEST_LINE {
            self.position += self.input.skip_until(b'\n')? as u64;
            return Ok(Some(Err(ItemFailure::new(format!("the line is longer than {LONGEST_LINE} bytes")))));
        }
        Ok(Some(Ok(bytes)))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<io::Result<Line>> {
        let bytes = match self.next_bytes() {
            Ok(bytes) => bytes?,
            Err(error) => return Some(Err(error)),
        };
        let (id, items) = match bytes.and_then(|bytes| parse(&bytes)) {
            Ok((id, object)) => (id, conversations(&self.encoder, &self.options, &object)),
            Err(failure) => (None, vec![Err(failure)]),
        };
        Some(Ok(Line { number: self.number, position: self.position, id, items }))
    }
}

type Object = (Option<Box<RawValue>>, Map<String, Value>);

/// The object of a line, and its id exactly as it is written.
fn parse(bytes: &[u8]) -> Result<Object, ItemFailure> {
    #[derive(Deserialize)]
    struct Id {
        // not an Option, which would take null for no id
        id: Box<RawValue>,
    }
    let not_json = |error: serde_json::Error| ItemFailure::new(format!("not a JSON object: {error}"));
    if bytes.trim_ascii().is_empty() {
        return Err(ItemFailure::new("the line is empty"));
    }
    let object: Map<String, Value> = serde_json::from_slice(bytes).map_err(not_json)?;
    let id = match object.contains_key("id") {
        true => Some(serde_json::from_slice::<Id>(bytes).map_err(not_json)?.id),
        false => None,
    };
    Ok((id, object))
}

/// The conversations of a line's object; a response that is not text fails alone.
fn conversations(
    encoder: &Encoder,
    options: &Options,
    object: &Map<String, Value>,
) -> Vec<Result<Conversation, ItemFailure>> {
    // beside anything but a prompt, responses are a key of the caller's own
    let responses = object.get("responses").filter(|_| object.contains_key("prompt"));
    let responses = responses.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let failures: Vec<Option<ItemFailure>> = responses.iter().enumerate().map(not_text).collect();
    let sound = match failures.iter().any(Option::is_some) {
        true => {
            let texts =
                responses.iter().zip(&failures).filter(|(_, failure)| failure.is_none()).map(|(text, _)| text.clone());
            let mut object = object.clone();
            object.insert("responses".to_owned(), texts.collect());
            Input::from_json(&object)
        }
        false => Input::from_json(object),
    };
    let items = match sound {
        Ok(input) => encoder.encode(&input, options).items,
        // what is wrong with the line is wrong with each of its conversations
        Err(error) => vec![Err(error); responses.len().max(1)],
    };
    let mut encoded = items.into_iter().map(conversation);
    if failures.is_empty() {
        return encoded.collect();
    }
    let nothing = || Err(ItemFailure::new("the group has no responses"));
    failures.into_iter().map(|failure| failure.map_or_else(|| encoded.next().unwrap_or_else(nothing), Err)).collect()
}

fn not_text((number, response): (usize, &Value)) -> Option<ItemFailure> {
    if response.is_string() {
        return None;
    }
    // text parts, too, are text: the encoder judges what is, in a group of this response alone
    let alone = [("prompt", "".into()), ("responses", Value::Array(vec![response.clone()]))];
    let alone = alone.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
    let error = Input::from_json(&alone).err()?.to_string();
    Some(ItemFailure::new(error.replacen("responses[0]", &format!("responses[{number}]"), 1)))
}

fn conversation(item: Result<Encoded, ItemError>) -> Result<Conversation, ItemFailure> {
    match item {
        Ok(encoded) => Ok(Conversation { tokens: encoded.ids.into(), truncated: encoded.truncated_from.is_some() }),
        Err(error) => {
            if let ItemError::TooLong { tokens, .. } = error {
                let hint = "--max-length and --max-batch-tokens raise it up to the model's, --truncate gives up a side";
                return Err(ItemFailure { problem: format!("{error} ({hint})"), too_long: Some(tokens) });
            }
            Err(ItemFailure::new(error.to_string()))
        }
    }
}

// === impl ItemFailure ===

impl ItemFailure {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), too_long: None }
    }
}

#[cfg(test)]
mod tests;
