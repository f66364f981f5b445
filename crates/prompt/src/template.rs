//! The chat template: messages to text, as `apply_chat_template` of transformers renders them. A template is compiled
//! once and tried on a few conversations: what fails for all of them fails for every one, and is said at the start. So is
//! learned which roles' content the template takes as a list of parts. It comes with a checkpoint, so it may be wrong or hostile: fuel bounds the time it takes and the memory it asks
//! for, and the recursion limit the stack. One thing stays unbounded: printing a list that a template built to hold
//! itself twice, many levels deep. A template comes with the weights, from whoever the operator trusts for those.

use std::borrow::Cow;
use std::error::Error as _;
use std::fmt;
use std::str::FromStr;
use std::thread;

use jiff::civil;
use minijinja::machinery::{Token, tokenize};
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
        let wrong = |error: minijinja::Error| Error::Template { file: source.file, message: error.to_string() };
        let mut env = Environment::new();
        env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(wrong)?);
        env.set_debug(false);
        env.set_fuel(Some(FUEL));
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_unknown_method_callback(python::method);
        env.add_filter("tojson", python::tojson);
        env.add_filter("trim", python::trim);
        env.add_test("sequence", python::is_sequence);
        env.add_function("raise_exception", raise_exception);
        env.add_function("strftime_now", move |format: &str| date.format(format));
        env.add_global("add_generation_prompt", false);
        env.add_global("tools", ());
        env.add_global("documents", ());
        for (name, token) in &config.named {
            env.add_global(name.clone(), token.content.as_str());
        }
        let text = without_generation_tags(text).into_owned();
        if text.len() > MAX_TEMPLATE {
            let message = format!("{} bytes are more than the limit of {MAX_TEMPLATE}", text.len());
            return Err(Error::Template { file: source.file, message });
        }
        let literals = literals(&text);
        compile(&mut env, text).map_err(wrong)?;
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

/// The compiler recurses on some nested expressions without a limit, so it gets a stack (of address space, not memory)
/// that the longest template cannot use up.
fn compile(env: &mut Environment<'static>, text: String) -> Result<(), minijinja::Error> {
    let failed = |what: &str| minijinja::Error::new(ErrorKind::InvalidOperation, what.to_owned());
    thread::scope(|scope| {
        let worker = thread::Builder::new().stack_size(MAX_TEMPLATE * STACK_PER_BYTE);
        let worker = worker.spawn_scoped(scope, || env.add_template_owned(NAME, text));
        let worker = worker.map_err(|error| failed(&format!("no thread to compile it: {error}")))?;
        worker.join().unwrap_or_else(|_| Err(failed("the compiler panicked")))
    })
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
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let tokens = tokenize(template, false, syntax.unwrap_or_default()).map_while(Result::ok);
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

/// transformers adds the tags `{% generation %}` and `{% endgeneration %}`, which mark what the assistant wrote and print
/// it unchanged, with a scope of its own for variables. `{% with %}` does just that, so it takes their place.
fn without_generation_tags(template: &str) -> Cow<'_, str> {
    if !template.contains("generation") {
        return Cow::Borrowed(template);
    }
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    let mut raw = false;
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{{")).chain(rest.find("{#")).min() {
        let (before, block) = rest.split_at(at);
        out.push_str(before);
        let length = match &block[..2] {
            _ if raw && !block.starts_with("{%") => 2,
            "{#" => block.find("#}").map_or(block.len(), |end| end + 2),
            "{{" => block_length(block, "}}"),
            _ => block_length(block, "%}"),
        };
        let (block, after) = block.split_at(length);
        rest = after;
        let inner = block.strip_prefix("{%").and_then(|block| block.strip_suffix("%}")).unwrap_or_default();
        let tag = inner.trim_matches(['-', '+']).trim();
        match tag {
            "raw" => raw = true,
            "endraw" => raw = false,
            _ => {}
        }
        match tag {
            "generation" if !raw => out.push_str(&block.replace("generation", "with")),
            "endgeneration" if !raw => out.push_str(&block.replace("endgeneration", "endwith")),
            _ => out.push_str(block),
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The length of a block up to and with its end, which is not looked for inside string literals.
fn block_length(block: &str, end: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in block.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if block[at..].starts_with(end) => return at + end.len(),
            None => {}
        }
    }
    block.len()
}

#[cfg(test)]
mod tests;
