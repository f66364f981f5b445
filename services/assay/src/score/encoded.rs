//! Lines for a model in this process: their conversations as token ids.

use std::sync::Arc;

use prompt::{Encoded, Encoder, ItemError, Options};

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
        Err(error) => {
            if let ItemError::TooLong { tokens, .. } = error {
                let hint = "--max-length and --max-batch-tokens raise it up to the model's, --truncate gives up a side";
                return Err(ItemFailure { problem: format!("{error} ({hint})"), status: Status::TooLong, tokens });
            }
            Err(ItemFailure::new(error.to_string()))
        }
    }
}
