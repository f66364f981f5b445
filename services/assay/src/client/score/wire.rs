//! Lines as items of the protocol, and results of the protocol as answers.

use prompt::{Input, Message, Truncate};
use proto::v1;
use proto::v1::group::Prompt;
use proto::v1::item::Input as Wire;
use serde_json::Value;

use crate::args::LimitArgs;
use crate::score::answers::{Scored, Status};
use crate::score::lines::ItemFailure;

/// A line's conversations as an item; what the protocol does not carry is refused, for without it the line would be
/// another conversation.
pub(super) fn item(input: Input) -> Result<v1::Item, ItemFailure> {
    let input = match input {
        Input::Messages(turns) => Wire::Messages(messages("messages", &turns)?),
        Input::Group { prompt, responses } => {
            Wire::Group(v1::Group { prompt: Some(Prompt::Messages(messages("prompt", &prompt)?)), responses })
        }
        Input::Text(text) => Wire::Text(text),
        Input::TokenIds(ids) => Wire::TokenIds(v1::TokenIds { ids }),
    };
    Ok(v1::Item { input: Some(input) })
}

fn messages(at: &str, turns: &[Message]) -> Result<v1::Messages, ItemFailure> {
    let message = |(number, turn): (usize, &Message)| {
        if let Some(key) = turn.fields().keys().find(|key| !matches!(key.as_str(), "role" | "content")) {
            return Err(ItemFailure::new(format!(
                "{at}[{number}].{key}: a gateway takes role and content of a message, and nothing else: \
                 give the rendered text or token ids, or score without --endpoint"
            )));
        }
        let content = turn.fields().get("content").and_then(Value::as_str).unwrap_or_default();
        Ok(v1::Message { role: turn.role().as_str().to_owned(), content: content.to_owned() })
    };
    Ok(v1::Messages { messages: turns.iter().enumerate().map(message).collect::<Result<_, _>>()? })
}

/// How the gateway is to read the items.
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

/// What a result says; nothing is what a gateway leaves out.
pub(super) fn outcome(result: Option<&v1::Result>) -> Result<Scored, ItemFailure> {
    let internal = |problem: &str| ItemFailure { status: Status::Internal, ..ItemFailure::new(problem) };
    let result = result.ok_or_else(|| internal("the gateway has no result for it"))?;
    let tokens = result.tokens as usize;
    let failed = |status: Status, problem: String| Err(ItemFailure { problem, status, tokens });
    let problem = || here(&result.error);
    match v1::Status::try_from(result.status) {
        Ok(status @ (v1::Status::Ok | v1::Status::Truncated)) => match result.score.filter(|score| score.is_finite()) {
            Some(score) => Ok(Scored { score, tokens, truncated: status == v1::Status::Truncated }),
            None => Err(internal("the gateway has no finite score for it")),
        },
        Ok(v1::Status::TooLong) => {
            let hint = "--max-length raises it up to the model's, --truncate gives up a side";
            failed(Status::TooLong, format!("{} ({hint})", problem()))
        }
        Ok(v1::Status::Invalid) => failed(Status::Invalid, problem()),
        Ok(v1::Status::DeadlineExceeded) => failed(Status::DeadlineExceeded, problem()),
        Ok(v1::Status::Unavailable) => failed(Status::Unavailable, problem()),
        Ok(v1::Status::Internal) => failed(Status::Internal, problem()),
        Ok(v1::Status::Unspecified) | Err(_) => {
            Err(internal(&format!("the gateway gives it the status {}, which is not known", result.status)))
        }
    }
}

/// A gateway's message as it would read without one: it calls what it was sent `item` in a stream and `items[0]` in a
/// call, and the line is named already.
fn here(error: &str) -> String {
    let rest = error.strip_prefix("items[0]").or_else(|| error.strip_prefix("item"));
    let Some(rest) = rest else { return error.to_owned() };
    if let Some(rest) = rest.strip_prefix(": ") {
        return rest.to_owned();
    }
    if let Some(rest) = rest.strip_prefix(".token_ids") {
        return if rest == ": there are none" { "input_ids is empty".to_owned() } else { format!("input_ids{rest}") };
    }
    // the number would be that of the response among those that were sent
    if let Some((number, rest)) = rest.strip_prefix(".responses[").and_then(|rest| rest.split_once("]: "))
        && number.bytes().all(|digit| digit.is_ascii_digit())
    {
        return rest.to_owned();
    }
    rest.strip_prefix('.').unwrap_or(error).to_owned()
}

#[cfg(test)]
mod tests;
