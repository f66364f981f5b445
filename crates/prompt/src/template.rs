//! The chat template: messages to text, as `apply_chat_template` of transformers renders them. A template is compiled
//! once and tried on a few conversations: what fails for all of them fails for every one, and is said at the start. So is
//! learned which roles' content the template takes as a list of parts. minijinja runs it, with Python's meaning of what
//! templates do ([`crate::python`]; docs/adr/0018). It comes with a checkpoint, so it may be wrong or hostile: fuel bounds
//! the time it takes and the memory it asks for, and the recursion limit the stack.

mod source;
mod translate;

use std::error::Error as _;
use std::fmt;
use std::str::FromStr;
use std::thread;

use jiff::civil;
use minijinja::machinery::{self, Token};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, Value, context};
use serde_json::{Map, Value as Json, json};

use crate::config::Config;
use crate::input::Role;
use crate::{Error, Fault, python};

/// About a second of work, or 640 MB: a thousand times what a long conversation takes.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat";
/// Bytes of a template; published ones have up to 30,000.
const MAX_TEMPLATE: usize = 1 << 17;
/// Stack that one byte of a template may cost while it is compiled.
const STACK_PER_BYTE: usize = 2048;
/// The names under which a message's reasoning is passed; templates read the first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// What each part of a list of parts says when a template is tried.
const PROBES: [&str; 2] = ["first-part", "second-part"];

/// A day in the Gregorian calendar; `2024-07-26` as text. The default is that day: the date that Llama's templates
/// fall back to, and so the one that their models' published scores were made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date(civil::Date);

pub(crate) struct Template {
    env: Environment<'static>,
    /// The template's own text and string literals, zeros between them.
    literals: String,
    /// Why no conversation can be rendered, if none can.
    failure: Option<String>,
    /// The roles whose content the template takes as a list of parts.
    parts: Vec<Role>,
}

/// What a template said when it called `raise_exception`.
#[derive(Debug)]
struct Raised(String);

// === impl Date ===

impl Default for Date {
    fn default() -> Self {
        Self(civil::date(2024, 7, 26))
    }
}

impl FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let date = civil::Date::strptime("%Y-%m-%d", text);
        date.map(Self).map_err(|_| format!("not a day as in 2024-07-26: {text:?}"))
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Date {
    /// As Python's `strftime` at midnight of the day.
    fn format(self, format: &str) -> Result<String, minijinja::Error> {
        let day = self.0.at(0, 0, 0, 0);
        jiff::fmt::strtime::format(format, day)
            .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
    }
}

// === impl Raised ===

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

// === impl Template ===

impl Template {
    /// Compile the template of a model; `None` if it has none.
    pub(crate) fn new(config: &Config, date: Date) -> Result<Option<Self>, Error> {
        let Some((text, source)) = &config.template else { return Ok(None) };
        let wrong = |message: String| Error::Template { file: source.file, message };
        if text.len() > MAX_TEMPLATE {
            return Err(wrong(format!("{} bytes are more than the limit of {MAX_TEMPLATE}", text.len())));
        }
        let named = config.named.iter().map(|(name, token)| (name.clone(), Value::from(token.content.as_str())));
        let given = [("add_generation_prompt", Value::from(false)), ("tools", ().into()), ("documents", ().into())];
        let variables: Vec<_> = given.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(named).collect();
        let names: Vec<_> = variables.iter().map(|(name, _)| name.clone()).chain(["messages".to_owned()]).collect();
        let text = source::normalized(text).map_err(wrong)?;
        let mut env = engine(date);
        variables.into_iter().for_each(|(name, value)| env.add_global(name, value));
        compile(&mut env, &text, &names).map_err(wrong)?;
        let literals = literals(&text);
        let mut template = Self { env, literals, failure: None, parts: Vec::new() };
        template.failure = template.try_out();
        template.parts = Role::ALL.into_iter().filter(|role| template.takes_parts(*role)).collect();
        Ok(Some(template))
    }

    /// Why no conversation can be rendered, if none can.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether content of this role is given as a list of parts, where the client gave one.
    pub(crate) fn reads_parts(&self, role: Role) -> bool {
        self.parts.contains(&role)
    }

    /// What the template holds itself, as transformers looks for tokens in it: its text and its string literals.
    pub(crate) fn literals(&self) -> &str {
        &self.literals
    }

    /// The text of a conversation.
    pub(crate) fn render(&self, messages: &[Json]) -> Result<String, Fault> {
        match &self.failure {
            Some(failure) => Err(Fault::TemplateFailed(failure.clone())),
            None => self.render_anyway(messages),
        }
    }

    fn render_anyway(&self, messages: &[Json]) -> Result<String, Fault> {
        let messages = Value::from(Serde(messages));
        let render = || self.env.get_template(NAME)?.render(context! { messages });
        render().map_err(|error| match raised(&error) {
            Some(message) => Fault::Refused(message),
            None => Fault::TemplateFailed(error.to_string()),
        })
    }

    /// Renders a few conversations; the last error if none of them can be rendered.
    fn try_out(&self) -> Option<String> {
        let turn = |role: &str, text: &str| json!({"role": role, "content": text});
        let (user, assistant) = (turn("user", "What is 2 + 2?"), turn("assistant", "4"));
        let trials = [
            vec![turn("system", "Be brief."), user.clone(), assistant.clone()],
            vec![user.clone(), assistant.clone(), user.clone(), assistant.clone()],
            vec![user, assistant],
        ];
        let mut last = None;
        for trial in trials {
            match self.render_anyway(&trial) {
                Ok(_) => return None,
                Err(Fault::Refused(message) | Fault::TemplateFailed(message)) => last = Some(message),
                Err(other) => last = Some(other.to_string()),
            }
        }
        last.map(|message| format!("it fails for every conversation: {message}"))
    }

    /// Whether content as a list of parts comes out as their texts, and not as a list that is printed.
    fn takes_parts(&self, role: Role) -> bool {
        let parts: Vec<Json> = PROBES.iter().map(|text| json!({"type": "text", "text": text})).collect();
        let listed = json!({"role": role.as_str(), "content": parts});
        let turns = match role {
            Role::System | Role::Developer => vec![listed, json!({"role": "user", "content": "a"})],
            Role::User => vec![listed],
            Role::Assistant | Role::Tool => vec![json!({"role": "user", "content": "a"}), listed],
        };
        let end = json!({"role": "assistant", "content": "b"});
        let turns: Vec<Json> = turns.into_iter().chain((role != Role::Assistant).then_some(end)).collect();
        let Ok(text) = self.render_anyway(&turns) else { return false };
        PROBES.iter().all(|probe| text.contains(probe)) && !text.contains("'type'") && !text.contains("\"type\"")
    }
}

/// An engine with what transformers gives a template besides its variables.
fn engine(date: Date) -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_fuel(Some(FUEL));
    env.set_auto_escape_callback(|_| AutoEscape::None);
    python::install(&mut env);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", move |format: &str| date.format(format));
    env
}

/// The parser recurses on some nested expressions without a limit, so it gets a stack (of address space, not memory)
/// that the longest template cannot use up.
fn compile(env: &mut Environment<'static>, text: &str, given: &[String]) -> Result<(), String> {
    let mut compile = || {
        let syntax = syntax()?;
        let template = machinery::parse(text, NAME, syntax).map_err(|error| error.to_string())?;
        let text = translate::translated(&template, given)?;
        let exact = SyntaxConfig::builder().keep_trailing_newline(true).build();
        env.set_syntax(exact.map_err(|error| error.to_string())?);
        env.add_template_owned(NAME, text).map_err(|error| error.to_string())
    };
    thread::scope(|scope| {
        let worker = thread::Builder::new().stack_size(MAX_TEMPLATE * STACK_PER_BYTE);
        let worker = worker.spawn_scoped(scope, &mut compile);
        let worker = worker.map_err(|error| format!("no thread to compile it: {error}"))?;
        worker.join().unwrap_or_else(|_| Err("the compiler panicked".to_owned()))
    })
}

fn syntax() -> Result<SyntaxConfig, String> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax.map_err(|error| error.to_string())
}

/// A message as a template sees it. A message's reasoning is found under all its names, as transformers does since 5.
pub(crate) fn message_value(mut fields: Map<String, Json>) -> Json {
    let reasoning = REASONING.iter().find_map(|name| fields.get(*name)).cloned();
    if let Some(reasoning) = reasoning {
        fields.insert(REASONING[0].to_owned(), reasoning.clone());
        if !fields.contains_key(REASONING[1]) {
            fields.shift_insert(0, REASONING[1].to_owned(), reasoning);
        }
    }
    Json::Object(fields)
}

/// The text of a template and its string literals, zeros between them (`_get_template_literal_text` of transformers).
fn literals(template: &str) -> String {
    let tokens = machinery::tokenize(template, false, syntax().unwrap_or_default()).map_while(Result::ok);
    let texts = tokens.filter_map(|(token, _)| match token {
        Token::TemplateData(text) | Token::Str(text) => Some(text.to_owned()),
        Token::String(text) => Some(text.into_string()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\0")
}

fn raise_exception(message: &Value) -> Result<Value, minijinja::Error> {
    let message = message.to_string();
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// What the template raised, if it did; the engine may have wrapped it on the way.
fn raised(error: &minijinja::Error) -> Option<String> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        source = error.source();
    }
    None
}

#[cfg(test)]
mod tests;
