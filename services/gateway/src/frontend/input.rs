//! Items of the protocol as inputs of the encoder, and what is wrong with them, by the name of the place.

use prompt::{Fault, Input, ItemError, Message, Role};
use proto::v1;
use proto::v1::group::Prompt;
use proto::v1::item::Input as Given;

use crate::problem::Problem;
use crate::tokenizers::ROOM;

/// An item that was read.
pub(super) struct Read {
    /// What it is called: `items[3]` in a request, `item` in a stream.
    at: String,
    /// Its conversations, as many as it has answers.
    pub(super) conversations: usize,
    /// Bytes that are in hand for it while it is tokenized, about.
    pub(super) bytes: usize,
    pub(super) input: Result<Input, ItemError>,
}

/// What a conversation takes in hand beside its text: a result, token ids, and what holds them.
const EACH: usize = 512;

/// How many answers an item has.
fn conversations(item: &v1::Item) -> usize {
    match &item.input {
        Some(Given::Group(group)) => group.responses.len().max(1),
        _ => 1,
    }
}

/// Reads the items of a request; `Err` is how many bytes would be in hand for them, if that is too much.
pub(super) fn read_all(items: Vec<v1::Item>) -> Result<Vec<Read>, usize> {
    let least = items.iter().fold(0, |sum: usize, item| sum.saturating_add(conversations(item))).saturating_mul(EACH);
    if least > ROOM {
        return Err(least);
    }
    Ok(items.into_iter().enumerate().map(|(number, item)| Read::new(format!("items[{number}]"), item)).collect())
}

// === impl Read ===

impl Read {
    /// Reads an item that is called this.
    pub(super) fn new(at: impl Into<String>, item: v1::Item) -> Self {
        let conversations = conversations(&item);
        let input = match item.input {
            None => Err(Fault::Empty("the item").into()),
            Some(Given::Text(text)) => Ok(Input::Text(text)),
            Some(Given::TokenIds(ids)) => Ok(Input::TokenIds(ids.ids)),
            Some(Given::Messages(turns)) => messages("messages", turns).map(Input::Messages),
            Some(Given::Group(group)) => read_group(group),
        };
        let bytes = conversations.saturating_mul(EACH).saturating_add(input.as_ref().map_or(0, bytes));
        Self { at: at.into(), conversations, bytes, input }
    }

    /// Whether nothing is left to be tokenized.
    pub(super) fn is_tokenized(&self) -> bool {
        matches!(self.input, Ok(Input::TokenIds(_)) | Err(_))
    }

    /// What is said of a problem with it: a sentence that begins with its place, and the value.
    pub(super) fn say(&self, problem: Problem) -> (String, Option<v1::Problem>) {
        (problem.clone().within(&self.at).to_string(), Some(problem.into()))
    }
}

fn read_group(group: v1::Group) -> Result<Input, ItemError> {
    let prompt = match group.prompt {
        None => return Err(Fault::Empty("the prompt").into()),
        Some(Prompt::Text(text)) => vec![Message::new(Role::User, text)],
        Some(Prompt::Messages(turns)) => messages("prompt", turns)?,
    };
    Ok(Input::Group { prompt, responses: group.responses })
}

fn messages(at: &str, turns: v1::Messages) -> Result<Vec<Message>, ItemError> {
    let message = |(number, message): (usize, v1::Message)| {
        let role = Role::named(&message.role).map_err(|unknown| unknown.at(format!("{at}[{number}].role")))?;
        Ok(Message::new(role, message.content))
    };
    turns.messages.into_iter().enumerate().map(message).collect()
}

/// What is rendered of an input: of a group, the prompt with each response.
fn bytes(input: &Input) -> usize {
    let turns = |messages: &[Message]| messages.iter().map(Message::bytes).sum::<usize>();
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

#[cfg(test)]
mod tests;
