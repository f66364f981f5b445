//! Lines as items of the protocol, and what became of them in the words of the input.

use std::mem;

use client::Failure;
use prompt::{Input, Message, Truncate};
use proto::v1;
use proto::v1::group::Prompt;
use proto::v1::item::Input as Wire;
use serde_json::Value;

use super::lines::ItemFailure;
use crate::args::LimitArgs;

/// A line's conversations as an item.
pub(super) fn item(input: Input) -> v1::Item {
    let input = match input {
        Input::Messages(turns) => Wire::Messages(messages(turns)),
        Input::Group { prompt, responses } => {
            Wire::Group(v1::Group { prompt: Some(Prompt::Messages(messages(prompt))), responses })
        }
        Input::Text(text) => Wire::Text(text),
        Input::TokenIds(ids) => Wire::TokenIds(v1::TokenIds { ids }),
    };
    v1::Item { input: Some(input) }
}

fn messages(turns: Vec<Message>) -> v1::Messages {
    v1::Messages { messages: turns.into_iter().map(message).collect() }
}

/// A turn of role and content has a field for each; what there is besides is for the template, in the order of the line.
fn message(turn: Message) -> v1::Message {
    let role = turn.role().as_str().to_owned();
    let mut fields = turn.into_fields();
    if fields.len() == 2
        && let Some(Value::String(content)) = fields.get_mut("content")
    {
        return v1::Message { role, content: mem::take(content), ..v1::Message::default() };
    }
    v1::Message { extra: Value::Object(fields).to_string(), ..v1::Message::default() }
}

/// How the items are to be read.
pub(super) fn options(model: Option<&str>, limits: &LimitArgs) -> v1::Options {
    let truncation = match Truncate::from(limits.truncate) {
        Truncate::None => v1::Truncation::None,
        Truncate::Left => v1::Truncation::Left,
        Truncate::Right => v1::Truncation::Right,
    };
    v1::Options {
        model: model.unwrap_or_default().to_owned(),
        max_length: limits.max_length.map_or(0, |length| u32::try_from(length.get()).unwrap_or(u32::MAX)),
        truncation: truncation.into(),
        strict_special_tokens: limits.strict_special_tokens,
    }
}

/// A failure by the names that a line has for its parts. The number of a response is left out: it would be that among
/// those that were sent.
pub(super) fn failure(failure: Failure, longer: &str) -> ItemFailure {
    let Failure { status, path, message, tokens, .. } = failure;
    let problem = match path.strip_prefix("token_ids") {
        Some("") => "input_ids is empty".to_owned(),
        Some(index) => format!("input_ids{index}: {message}"),
        None if path.is_empty() || path.starts_with("responses[") => message,
        None => format!("{path}: {message}"),
    };
    let hint = if status == v1::Status::TooLong { format!(" ({longer})") } else { String::new() };
    ItemFailure { problem: problem + &hint, status, tokens }
}

#[cfg(test)]
mod tests;
