//! What a client asks to have scored, checked as far as it can be without a model: roles, content, the order of the
//! last turn. Errors name the place, as in `messages[3].content`.

use std::fmt;

use serde_json::{Map, Value};

use crate::{Fault, ItemError};

/// Who speaks in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions that stand before the conversation.
    System,
    /// As system, under the name that newer clients use.
    Developer,
    /// The one who asks.
    User,
    /// The model whose answers are scored.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// One turn. Besides role and content it keeps every other field (`name`, `tool_calls`, `reasoning_content`) for the
/// template to read.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    role: Role,
    /// As the template sees it: no null values, content is a string or (with tool calls) absent.
    fields: Map<String, Value>,
    /// The content as a list of text parts, where it was given as one.
    parts: Option<Vec<Value>>,
}

/// One input: a conversation, or a group of them that share a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A conversation that ends with the assistant's turn.
    Messages(Vec<Message>),
    /// One prompt with N responses: N conversations, each the prompt followed by one assistant's turn.
    Group {
        /// The turns before the response.
        prompt: Vec<Message>,
        /// What the assistant said, one conversation each.
        responses: Vec<String>,
    },
    /// A conversation that is already rendered; its special tokens are meant.
    Text(String),
    /// A conversation that is already tokenized; taken as it is.
    TokenIds(Vec<u32>),
}

// === impl Role ===

impl Role {
    /// All roles there are.
    pub const ALL: [Self; 5] = [Self::System, Self::Developer, Self::User, Self::Assistant, Self::Tool];

    /// The role's name in a message and in the template.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// The role with this name.
    ///
    /// # Errors
    /// [`Fault::UnknownRole`], with the beginning of the name.
    pub fn named(name: &str) -> Result<Self, Fault> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == name);
        role.ok_or_else(|| Fault::UnknownRole(name.chars().take(80).collect()))
    }

    pub(crate) fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Message ===

impl Message {
    /// A turn of plain text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        let fields = [("role", role.as_str().into()), ("content", Value::String(content.into()))];
        Self { role, fields: fields.map(|(key, value)| (key.to_owned(), value)).into_iter().collect(), parts: None }
    }

    /// Who speaks.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Bytes of its content, and of what else the template may read.
    pub fn bytes(&self) -> usize {
        let content = self.fields.get("content").and_then(Value::as_str).map_or(0, str::len);
        let others = self.fields.iter().filter(|(key, _)| !matches!(key.as_str(), "role" | "content"));
        others.fold(content, |bytes, (key, value)| bytes + key.len() + value.to_string().len())
    }

    /// Its fields, as the template sees them: role, content, and whatever else the client gave.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// The same as the client gave it, for whoever needs the turn no more: content may be a list of text parts.
    pub fn into_fields(self) -> Map<String, Value> {
        let mut fields = self.fields;
        fields.extend(self.parts.map(|parts| ("content".to_owned(), Value::Array(parts))));
        fields
    }

    /// The content as a list of text parts, for a template that looks at parts; `None` where it was given as one text.
    pub fn parts(&self) -> Option<&[Value]> {
        self.parts.as_deref()
    }

    /// A list of turns from JSON. `at` is what errors call the list, as in `messages`.
    ///
    /// Content is a string, or a list of text parts (`{"type": "text", "text": ...}`): a template that takes parts sees
    /// the list, for any other they are joined without anything between them. It may be absent or null only beside
    /// `tool_calls`. Fields that are null are dropped, as in transformers.
    pub fn list_from_json(at: &str, value: &Value) -> Result<Vec<Self>, ItemError> {
        let list = value.as_array().ok_or_else(|| shape(at, "a list of messages", value))?;
        if list.is_empty() {
            return Err(Fault::EmptyConversation.into());
        }
        list.iter().enumerate().map(|(i, message)| Self::from_json(&format!("{at}[{i}]"), message)).collect()
    }

    /// One turn of such a list. `at` is what errors call it, as in `messages[3]`.
    ///
    /// # Errors
    /// If it has no role that is known, or no content.
    pub fn from_json(at: &str, value: &Value) -> Result<Self, ItemError> {
        let object = value.as_object().ok_or_else(|| shape(at, "an object with role and content", value))?;
        let name = object.get("role").unwrap_or(&Value::Null);
        let name = name.as_str().ok_or_else(|| shape(&format!("{at}.role"), "a string", name))?;
        let role = Role::named(name).map_err(|unknown| unknown.at(format!("{at}.role")))?;
        let mut fields: Map<String, Value> = object.clone();
        fields.retain(|_, value| !value.is_null());
        let calls = fields.get("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty());
        let content = fields.get("content");
        let parts = content.and_then(Value::as_array).cloned();
        if content.is_some() || !calls {
            let text = text_of(&format!("{at}.content"), content.unwrap_or(&Value::Null))?;
            fields.insert("content".to_owned(), Value::String(text));
        }
        Ok(Self { role, fields, parts })
    }
}

fn text_of(at: &str, content: &Value) -> Result<String, ItemError> {
    let not_text = |at: &str, found: String| Fault::NotText(found).at(at);
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) if parts.is_empty() => Err(not_text(at, "an empty list".to_owned())),
        Value::Array(parts) => {
            let part = |(i, part): (usize, &Value)| match (part.get("type").and_then(Value::as_str), part.get("text")) {
                (Some("text"), Some(Value::String(text))) => Ok(text.clone()),
                (Some(kind), _) => Err(not_text(&format!("{at}[{i}]"), format!("a part of type {kind:?}"))),
                (None, _) => Err(not_text(&format!("{at}[{i}]"), describe(part))),
            };
            parts.iter().enumerate().map(part).collect()
        }
        other => Err(not_text(at, describe(other))),
    }
}

// === impl Input ===

impl Input {
    /// One input from a JSON object that holds `messages`, `prompt` (a list of messages, or a string that is the user's
    /// turn) with `responses`, `text` or `input_ids`; other keys are the caller's own, but for `tools` and `documents` beside
    /// messages, which are refused.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, ItemError> {
        let kinds = ["messages", "prompt", "text", "input_ids"];
        let mut given = kinds.into_iter().filter_map(|kind| Some((kind, object.get(kind)?)));
        let expected = "exactly one of messages, prompt with responses, text, input_ids";
        let input = match (given.next(), given.next()) {
            (Some(("messages", value)), None) => Ok(Self::Messages(Message::list_from_json("messages", value)?)),
            (Some(("prompt", value)), None) => Self::group_from_json(value, object.get("responses")),
            (Some(("text", Value::String(text))), None) => Ok(Self::Text(text.clone())),
            (Some(("text", value)), None) => Err(shape("text", "a string", value)),
            (Some((at, value)), None) => {
                let ids = ids_from_json(at, value)?;
                Self::check_mask(object, ids.len())?;
                Ok(Self::TokenIds(ids))
            }
            (None, _) => {
                let found = hint(object).unwrap_or("none of them").to_owned();
                Err(Fault::Shape { expected, found }.at("input"))
            }
            (Some((a, _)), Some((b, _))) => Err(Fault::Shape { expected, found: format!("{a} and {b}") }.at("input")),
        }?;
        // a template would render them: without them it would be another conversation
        let rendered = ["tools", "documents", "chat_template_kwargs"]
            .into_iter()
            .find(|key| object.get(*key).is_some_and(|value| !value.is_null()));
        match rendered {
            Some(key) if matches!(input, Self::Messages(_) | Self::Group { .. }) => Err(Fault::Unsupported(key).into()),
            _ => Ok(input),
        }
    }

    /// Padded ids are scored with their padding: pooling goes by the last token that there is.
    fn check_mask(object: &Map<String, Value>, ids: usize) -> Result<(), ItemError> {
        let mask = object.get("attention_mask").filter(|mask| !mask.is_null());
        let whole = |mask: &Value| {
            mask.as_array().is_some_and(|mask| mask.len() == ids && mask.iter().all(|seen| seen.as_u64() == Some(1)))
        };
        match mask {
            Some(mask) if !whole(mask) => {
                let expected =
                    "ones for all of input_ids: ids that are hidden would be scored, give them without padding";
                Err(Fault::Shape { expected, found: "another mask".to_owned() }.at("attention_mask"))
            }
            _ => Ok(()),
        }
    }

    fn group_from_json(prompt: &Value, responses: Option<&Value>) -> Result<Self, ItemError> {
        let prompt = match prompt {
            Value::String(text) => vec![Message::new(Role::User, text.clone())],
            list => Message::list_from_json("prompt", list)?,
        };
        let responses = responses.unwrap_or(&Value::Null);
        let list = responses.as_array().ok_or_else(|| shape("responses", "a list of strings", responses))?;
        let text = |(i, value): (usize, &Value)| text_of(&format!("responses[{i}]"), value);
        let responses = list.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?;
        if responses.is_empty() { Err(Fault::NoResponses.into()) } else { Ok(Self::Group { prompt, responses }) }
    }
}

/// What a line of another tool's form would be here.
fn hint(object: &Map<String, Value>) -> Option<&'static str> {
    let has = |key: &str| object.contains_key(key);
    if has("chosen") || has("rejected") {
        return Some(
            "chosen and rejected: give {\"prompt\": [...], \"responses\": [chosen, rejected]}, or a line of messages for each",
        );
    }
    if has("conversations") {
        return Some("conversations as ShareGPT has them: give {\"messages\": [{\"role\": ..., \"content\": ...}]}");
    }
    None
}

fn ids_from_json(at: &str, value: &Value) -> Result<Vec<u32>, ItemError> {
    let list = value.as_array().ok_or_else(|| shape(at, "a list of token ids", value))?;
    let id = |(i, value): (usize, &Value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| shape(&format!("{at}[{i}]"), "a token id", value))
    };
    list.iter().enumerate().map(id).collect()
}

fn shape(at: &str, expected: &'static str, found: &Value) -> ItemError {
    Fault::Shape { expected, found: describe(found) }.at(at)
}

/// A value in few words: client data is not repeated in messages.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("{value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests;
