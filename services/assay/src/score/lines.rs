//! The input: JSON Lines, one [`Given`] each, whatever it holds.
//!
//! A line that cannot be read is a line whose conversations are errors, so that the output keeps its place; only the
//! failure to read the file itself ends the input. Nothing here knows a model: what is read is the same whether it is
//! scored in this process or sent to a gateway.

use std::io::{self, BufRead, Read as _};

use prompt::{Input, Row};
use proto::v1::Status;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// A longer line is refused, so that a file without line ends cannot fill the memory.
const LONGEST_LINE: u64 = 64 << 20;

/// One line of input; as much is known of its conversations as its text says.
#[derive(Debug)]
pub(crate) struct Line {
    /// From 1.
    pub(crate) number: u64,
    /// The bytes up to the end of this line.
    pub(crate) position: u64,
    /// As the line had it.
    pub(crate) id: Option<Box<RawValue>>,
    /// The line's conversations. Never empty.
    pub(crate) items: Vec<Result<(), ItemFailure>>,
}

/// A line, and what is to be scored of it.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) line: Line,
    /// The conversations that have no failure, in order; `None` if all have one.
    pub(crate) input: Option<Input>,
}

/// Why a conversation has no score.
#[derive(Debug, Clone)]
pub(crate) struct ItemFailure {
    pub(crate) problem: String,
    pub(crate) status: Status,
    /// The tokens that it has, as far as they are known.
    pub(crate) tokens: u32,
}

/// Reads lines.
pub(crate) struct Lines<R> {
    input: R,
    number: u64,
    position: u64,
}

// === impl Lines ===

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, number: 0, position: 0 }
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
    type Item = io::Result<Given>;

    fn next(&mut self) -> Option<io::Result<Given>> {
        let bytes = match self.next_bytes() {
            Ok(bytes) => bytes?,
            Err(error) => return Some(Err(error)),
        };
        let (id, (items, input)) = match bytes.and_then(|bytes| parse(&bytes)) {
            Ok((id, object)) => (id, conversations(object)),
            Err(failure) => (None, (vec![Err(failure)], None)),
        };
        let line = Line { number: self.number, position: self.position, id, items };
        Some(Ok(Given { line, input }))
    }
}

type Object = (Option<Box<RawValue>>, Map<String, Value>);

/// The object of a line, and its id exactly as it is written.
fn parse(bytes: &[u8]) -> Result<Object, ItemFailure> {
    let row = Row::parse(bytes).map_err(ItemFailure::new)?;
    let id = row.id.map(|id| RawValue::from_string(id.to_owned())).transpose();
    Ok((id.map_err(|error| ItemFailure::new(format!("id is not JSON: {error}")))?, row.fields))
}

/// The conversations of a line's object; a response that is not text fails alone.
fn conversations(mut object: Map<String, Value>) -> (Vec<Result<(), ItemFailure>>, Option<Input>) {
    // beside anything but a prompt, responses are a key of the caller's own
    let responses = if object.contains_key("prompt") { object.get_mut("responses") } else { None };
    let failures: Vec<_> = match responses.and_then(Value::as_array_mut) {
        Some(responses) => {
            let failures: Vec<_> = responses.iter().enumerate().map(not_text).collect();
            let mut failed = failures.iter().map(Option::is_some);
            responses.retain(|_| !failed.next().unwrap_or_default());
            failures
        }
        None => Vec::new(),
    };
    let failures = if failures.is_empty() { vec![None] } else { failures };
    match Input::from_json(&object) {
        Ok(input) => (failures.into_iter().map(|failure| failure.map_or(Ok(()), Err)).collect(), Some(input)),
        Err(error) => {
            // what is wrong with the line is wrong with each of its conversations
            let failure = ItemFailure::new(error.to_string());
            (failures.into_iter().map(|own| Err(own.unwrap_or_else(|| failure.clone()))).collect(), None)
        }
    }
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

// === impl ItemFailure ===

impl ItemFailure {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), status: Status::Invalid, tokens: 0 }
    }
}

#[cfg(test)]
mod tests;
