//! Items of the protocol as what is given, and answers as results of the protocol.

use prompt::{Bos, Fault, Input, ItemError, Message, Role, Truncate};
use proto::v1;
use proto::v1::group::Prompt;
use proto::v1::item::Input as Wire;
use serde_json::{Map, Value};

use crate::core::Score;
use crate::entrance::{Answer, Given, Shown, Times};
use crate::problem::Problem;

/// Reads an item.
pub(super) fn given(item: v1::Item) -> Given {
    let conversations = item.conversations();
    let input = match item.input {
        None => Err(Fault::Empty("the item").into()),
        Some(Wire::Text(text)) => Ok(Input::Text(text)),
        Some(Wire::TokenIds(ids)) => Ok(Input::TokenIds(ids.ids)),
        Some(Wire::Messages(turns)) => messages("messages", turns).map(Input::Messages),
        Some(Wire::Group(group)) => read_group(group),
    };
    Given::new(conversations, input)
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
    let turns = turns.messages.into_iter().enumerate();
    turns.map(|(number, turn)| message(&format!("{at}[{number}]"), turn)).collect()
}

/// A turn as a chat template reads it: what `extra` says, with the fields of the message over it.
fn message(at: &str, turn: v1::Message) -> Result<Message, ItemError> {
    let v1::Message { role, content, name, tool_call_id, tool_calls, extra } = turn;
    let calls = json(at, "tool_calls", &tool_calls, "a JSON list", Value::is_array)?;
    let extra = json(at, "extra", &extra, "a JSON object", Value::is_object)?;
    let mut fields = match extra {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    fields.extend(calls.map(|calls| ("tool_calls".to_owned(), calls)));
    // beside calls there may be no content
    let silent = fields.contains_key("tool_calls") || fields.contains_key("content");
    for (key, text, may_lack) in [
        ("role", role, false),
        ("content", content, silent),
        ("name", name, true),
        ("tool_call_id", tool_call_id, true),
    ] {
        if !text.is_empty() || !may_lack && !fields.contains_key(key) {
            fields.insert(key.to_owned(), text.into());
        }
    }
    Message::from_json(at, &Value::Object(fields))
}

/// What a field with JSON in it says; None if it is empty.
fn json(
    at: &str,
    key: &str,
    text: &str,
    expected: &'static str,
    fits: fn(&Value) -> bool,
) -> Result<Option<Value>, ItemError> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |found: String| Fault::Shape { expected, found }.at(format!("{at}.{key}"));
    let value: Value = serde_json::from_str(text).map_err(|error| wrong(format!("what is no JSON: {error}")))?;
    if fits(&value) { Ok(Some(value)) } else { Err(wrong("other JSON".to_owned())) }
}

/// Reads options but for the model.
pub(super) fn options(options: &v1::Options) -> Result<prompt::Options, Problem> {
    let truncate = match v1::Truncation::try_from(options.truncation) {
        Ok(v1::Truncation::Unspecified | v1::Truncation::None) => Truncate::None,
        Ok(v1::Truncation::Left) => Truncate::Left,
        Ok(v1::Truncation::Right) => Truncate::Right,
        Err(_) => return Err(Problem::bad_request("truncation", format!("{} is not known", options.truncation))),
    };
    let max_length = Some(options.max_length as usize).filter(|limit| *limit > 0);
    Ok(prompt::Options { max_length, truncate, strict_special_tokens: options.strict_special_tokens })
}

/// The answers to an item that is called `at`.
pub(super) fn result(at: &str, answers: Vec<Answer>) -> v1::ItemResult {
    let result = |answer: Answer| {
        let status = answer.status();
        let Answer { result, tokens, truncated_from } = answer;
        let said = v1::Result { status: status.into(), tokens, truncated_from, ..v1::Result::default() };
        match result {
            Ok(Score { outputs, stamp, fingerprint, tokens: computed_tokens, .. }) => {
                let (score, generation, fingerprint) = (Some(outputs.score), stamp.generation, fingerprint.to_string());
                let outputs = if outputs.others.is_empty() { Vec::new() } else { outputs.iter().collect() };
                v1::Result { score, outputs, computed_tokens, generation, fingerprint, ..said }
            }
            Err(problem) => {
                let error = sentence(at, &problem);
                v1::Result { error, problem: Some(problem.into()), ..said }
            }
        }
    };
    v1::ItemResult { results: answers.into_iter().map(result).collect() }
}

/// The answers to an item of so many conversations that is not looked at.
pub(super) fn refused(conversations: usize, problem: Problem) -> v1::ItemResult {
    let (status, error) = (problem.conversation().into(), problem.to_string());
    let result = v1::Result { status, error, problem: Some(problem.into()), ..v1::Result::default() };
    v1::ItemResult { results: vec![result; conversations] }
}

/// What the model would read of an item that is called `at`.
pub(super) fn tokenized(at: &str, shown: Vec<Shown>) -> v1::TokenizedItem {
    let conversation = |Shown { text, encoded }: Shown| match encoded {
        Ok(encoded) => {
            let status = if encoded.truncated_from.is_some() { v1::Status::Truncated } else { v1::Status::Ok };
            let truncated_from = u32::try_from(encoded.truncated_from.unwrap_or_default()).unwrap_or(u32::MAX);
            let (status, bos) = (status.into(), bos(encoded.bos).into());
            v1::Tokenized { status, text, ids: encoded.ids, bos, truncated_from, ..v1::Tokenized::default() }
        }
        Err(problem) => {
            let (status, error) = (problem.conversation().into(), sentence(at, &problem));
            v1::Tokenized { status, text, error, problem: Some(problem.into()), ..v1::Tokenized::default() }
        }
    };
    v1::TokenizedItem { conversations: shown.into_iter().map(conversation).collect() }
}

fn bos(bos: Bos) -> v1::Bos {
    match bos {
        Bos::Kept => v1::Bos::Kept,
        Bos::Added => v1::Bos::Added,
        Bos::Deduplicated { .. } => v1::Bos::Deduplicated,
        Bos::NotUsed => v1::Bos::NotUsed,
        Bos::AsGiven => v1::Bos::AsGiven,
    }
}

/// What is wrong, for people: what is wrong with the item itself begins with its place.
fn sentence(at: &str, problem: &Problem) -> String {
    match problem.conversation() {
        v1::Status::Invalid | v1::Status::TooLong => problem.clone().within(at).to_string(),
        _ => problem.to_string(),
    }
}

impl From<Times> for v1::Timing {
    fn from(times: Times) -> Self {
        Self { queue_seconds: times.queued().as_secs_f64(), compute_seconds: times.computed().as_secs_f64() }
    }
}

#[cfg(test)]
mod tests;
