//! What is given to be scored, and what it takes in hand.

use prompt::{Input, ItemError, Message};

use crate::problem::Problem;
use crate::tokenizers::ROOM;

/// One conversation or a group of them, or why it cannot be read.
pub(crate) struct Given {
    /// As many as it has answers.
    pub(crate) conversations: usize,
    /// Bytes that are in hand for it while it is tokenized, about.
    pub(super) bytes: usize,
    /// Bytes of the longest text that is tokenized for it, about.
    pub(super) longest: usize,
    pub(crate) input: Result<Input, ItemError>,
}

/// What a conversation takes in hand beside its text: an answer, token ids, and what holds them.
const EACH: usize = 512;

// === impl Given ===

impl Given {
    /// So many conversations.
    pub(crate) fn new(conversations: usize, input: Result<Input, ItemError>) -> Self {
        let bytes = conversations.saturating_mul(EACH).saturating_add(input.as_ref().map_or(0, bytes));
        let longest = input.as_ref().map_or(0, longest);
        Self { conversations, bytes, longest, input }
    }

    /// Refuses more conversations of one call than there is room for, before any of them is read.
    pub(crate) fn check_room(conversations: usize) -> Result<(), Problem> {
        let least = conversations.saturating_mul(EACH);
        if least > ROOM { Err(Problem::too_large(least)) } else { Ok(()) }
    }

    /// Whether nothing is left to be tokenized.
    pub(super) fn is_tokenized(&self) -> bool {
        matches!(self.input, Ok(Input::TokenIds(_)) | Err(_))
    }
}

fn turns(messages: &[Message]) -> usize {
    messages.iter().map(Message::bytes).sum()
}

/// What is rendered of an input: of a group, the prompt with each response.
fn bytes(input: &Input) -> usize {
    match input {
        Input::Messages(messages) => turns(messages),
        Input::Text(text) => text.len(),
        Input::TokenIds(ids) => ids.len() * size_of::<u32>(),
        Input::Group { prompt, responses } => {
            let responses_bytes: usize = responses.iter().map(String::len).sum();
            turns(prompt).saturating_mul(responses.len()).saturating_add(responses_bytes)
        }
    }
}

/// The longest of these texts.
fn longest(input: &Input) -> usize {
    match input {
        Input::Messages(messages) => turns(messages),
        Input::Text(text) => text.len(),
        Input::TokenIds(_) => 0,
        Input::Group { prompt, responses } => {
            turns(prompt).saturating_add(responses.iter().map(String::len).max().unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests;
