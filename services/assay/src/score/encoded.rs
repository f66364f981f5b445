//! Lines for a model in this process: their conversations as token ids.

use std::sync::Arc;

use prompt::{Encoded, Encoder, Fault, ItemError, Options};

use super::answers::Status;
use super::lines::{Given, ItemFailure, Line};

/// A conversation that can be scored.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    pub(crate) tokens: Arc<[u32]>,
    pub(crate) truncated: bool,
}

/// Encodes the conversations of a line.
pub(super) fn encode(given: Given, encoder: &Encoder, options: &Options) -> Line<Conversation> {
    let Given { line: Line { number, position, id, items }, input } = given;
    let batch = input.map(|input| encoder.encode(&input, options).items);
    let mut encoded = batch.unwrap_or_default().into_iter().map(conversation);
    let nothing = || Err(ItemFailure::new("the group has no responses"));
    let items = items.into_iter().map(|item| item.and_then(|()| encoded.next().unwrap_or_else(nothing)));
    Line { number, position, id, items: items.collect() }
}

fn conversation(item: Result<Encoded, ItemError>) -> Result<Conversation, ItemFailure> {
    match item {
        Ok(encoded) => Ok(Conversation { tokens: encoded.ids.into(), truncated: encoded.truncated_from.is_some() }),
        Err(ItemError { path, fault }) => {
            let problem = in_line(&path, &fault.to_string());
            if let Fault::TooLong { tokens, .. } = fault {
                let hint = "--max-length and --max-batch-tokens raise it up to the model's, --truncate gives up a side";
                return Err(ItemFailure { problem: format!("{problem} ({hint})"), status: Status::TooLong, tokens });
            }
            Err(ItemFailure::new(problem))
        }
    }
}

/// What is wrong at a place of an item, by the names that a line has for its parts. The number of a response is left out:
/// it would be that among those that can be scored.
pub(crate) fn in_line(path: &str, message: &str) -> String {
    match path.strip_prefix("token_ids") {
        Some("") => "input_ids is empty".to_owned(),
        Some(index) => format!("input_ids{index}: {message}"),
        None if path.is_empty() || path.starts_with("responses[") => message.to_owned(),
        None => format!("{path}: {message}"),
    }
}
