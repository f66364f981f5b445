//! The whole way from an [`Input`] to token ids: render, tokenize (a group's prompt once), apply the BOS rule, hold to
//! the limit. Each conversation has a result of its own; one that fails does not take the others with it.

use std::borrow::Cow;
use std::sync::Arc;

use aho_corasick::AhoCorasick;
use serde_json::Value;

use crate::cache::Cache;
use crate::config::{Config, Sources, TemplateSource};
use crate::input::{Input, Message, Role};
use crate::template::{self, Template};
use crate::tokenizer::{self, BosRule, Bound, LONGEST_PART, Tokenizer};
use crate::{Error, Fault, ItemError, strict};

/// What a call may ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// The most tokens a conversation may have, the BOS token included.
    pub max_length: Option<usize>,
    /// What happens to one that has more.
    pub truncate: Truncate,
    /// Whether the text of special tokens inside the messages of [`Input::Messages`] and [`Input::Group`] is plain text.
    ///
    /// Off (as in Hugging Face by default), `<end_of_turn>` in a user's text becomes the token that ends a turn. On,
    /// every occurrence of a control token's text inside a string of a message is encoded as text: by itself, without
    /// the added tokens, the text on both sides of it as usual. Control tokens are the special tokens, and the other
    /// added tokens that the template's source holds (`<think>`). The characters U+F0000 and U+F0001 are dropped from
    /// messages. This is `sanitize_control_tokens` of transformers, and gives its ids. It has no effect on
    /// [`Input::Text`], whose special tokens are meant. A template that changes letters (`| lower`) or joins pieces of
    /// content may still make a token's text that was not there before.
    pub strict_special_tokens: bool,
}

/// Which side of a conversation that is too long is given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Truncate {
    /// Neither: it is an error.
    #[default]
    None,
    /// The oldest tokens; the BOS token stays.
    Left,
    /// The newest tokens.
    Right,
}

/// The token ids of one conversation, and what was done to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// What the model reads.
    pub ids: Vec<u32>,
    /// What the BOS rule did.
    pub bos: Bos,
    /// How many tokens there were before truncation, at least, if some were cut off.
    pub truncated_from: Option<usize>,
}

/// What the BOS rule did to one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bos {
    /// One was there.
    Kept,
    /// None was there, one was put in front.
    Added,
    /// Several stood in front, one was kept.
    Deduplicated {
        /// How many were taken away.
        removed: usize,
    },
    /// The model has no BOS rule.
    NotUsed,
    /// The caller gave token ids.
    AsGiven,
}

/// The conversations of one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// One for each conversation, in order; a group without responses has one item, the error.
    pub items: Vec<Result<Encoded, ItemError>>,
    /// Bytes of text that went through the tokenizer: of a group's common head only those of the first conversation,
    /// where it ends behind an added token. What follows that token in the prompt is tokenized with each response.
    pub tokenized_bytes: usize,
    /// Tokens of the first conversation, as it is after the BOS rule, that come from its prompt; 0 if nobody knows.
    pub prompt: usize,
}

/// The ids of texts before the BOS rule, how many bytes were tokenized for them, and how many ids their head has.
struct Tokenized {
    ids: Vec<Result<Vec<u32>, ItemError>>,
    bytes: usize,
    head: usize,
}

/// Memory that tokenizing takes for each byte of what is tokenized at a time: a text that is one word to a tokenizer is the
/// worst. A test holds it.
const RATIO: usize = 200;
/// A longer text is not read to its end, or not at all, where that can be avoided.
const LONG: usize = 64 << 10;
/// Shorter heads, in bytes, are not worth a place in the cache.
const SHORTEST_PROMPT: usize = 128;

/// Turns conversations into token ids for one model. Shared by reference; every method may run in any number of threads.
pub struct Encoder {
    tokenizer: Tokenizer,
    template: Option<Template>,
    source: Option<TemplateSource>,
    control: Option<AhoCorasick>,
    vocab_size: Option<u32>,
    cache: Option<Cache>,
    warnings: Vec<String>,
}

// === impl Bos ===

impl Bos {
    /// How many tokens a head has after the rule was applied.
    fn applied_to(self, head: usize) -> usize {
        match self {
            Self::Added => head + 1,
            Self::Deduplicated { removed } => head.saturating_sub(removed),
            Self::Kept | Self::NotUsed | Self::AsGiven => head,
        }
    }
}

// === impl Encoder ===

impl Encoder {
    /// An encoder from the contents of a model's files.
    pub fn new(sources: &Sources) -> Result<Self, Error> {
        let mut config = Config::new(sources)?;
        let file = tokenizer::File::read(&sources.tokenizer)?;
        let class = config.names.class(file.is_byte_level())?;
        config.name_by_default(class.named_by_default());
        let tokenizer = Tokenizer::new(file, class, &config)?;
        let template = Template::new(&config, sources.date)?;
        let literals = template.as_ref().map(Template::literals).unwrap_or_default();
        let control = strict::control_tokens(&tokenizer, config.control.as_deref(), literals);
        let mut warnings = config.warnings;
        if let (Some(failure), Some((_, file))) = (template.as_ref().and_then(Template::failure), &config.template) {
            warnings.push(format!("{file}: {failure}; messages are refused, text and token ids are not"));
        }
        let source = config.template.map(|(_, source)| source);
        Ok(Self { tokenizer, template, source, control, vocab_size: sources.vocab_size, cache: None, warnings })
    }

    /// The same encoder, which keeps the ids of prompts that it has seen in so many bytes of memory; 0 for none. The ids
    /// it gives are the same.
    #[must_use]
    pub fn with_cache(self, bytes: usize) -> Self {
        Self { cache: (bytes > 0).then(|| Cache::new(bytes)), ..self }
    }

    /// How often a prompt was found in the cache, and how often it was not.
    pub fn cache_hits_and_misses(&self) -> (u64, u64) {
        self.cache.as_ref().map_or((0, 0), Cache::hits_and_misses)
    }

    /// What happens in front of a text.
    pub fn bos_rule(&self) -> &BosRule {
        self.tokenizer.bos()
    }

    /// What a person should know who starts the model: fields that nobody knows, a template that always fails.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where the chat template is from; `None` if the model has none.
    pub fn template_source(&self) -> Option<&TemplateSource> {
        self.source.as_ref()
    }

    /// The token of an id, as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.token(id)
    }

    /// The text of each conversation before it is tokenized, as Hugging Face renders it; nothing for token ids.
    pub fn render(&self, input: &Input) -> Vec<Result<String, ItemError>> {
        self.texts(input, false).into_iter().map(|text| text.map(Cow::into_owned)).collect()
    }

    /// The memory that tokenizing takes in bytes, beside texts and ids, where the longest text has so many bytes.
    pub fn working_memory(&self, longest: usize) -> usize {
        let part = if self.tokenizer.cuts_texts() { longest.min(LONGEST_PART) } else { longest };
        part.saturating_mul(RATIO)
    }

    /// The token ids of each conversation.
    pub fn encode(&self, input: &Input, options: &Options) -> Batch {
        self.encode_while(input, options, &|| true)
    }

    /// The same for as long as somebody waits for it; what is not done then is [`Fault::Unwanted`].
    pub fn encode_while(&self, input: &Input, options: &Options, wanted: &(dyn Fn() -> bool + Sync)) -> Batch {
        if let Input::TokenIds(ids) = input {
            let item = match ids.is_empty() {
                true => Err(Fault::NoTokenIds.at("token_ids")),
                false => self.finish(ids.clone(), Bos::AsGiven, options),
            };
            return Batch { items: vec![item], tokenized_bytes: 0, prompt: 0 };
        }
        let strict = options.strict_special_tokens && !matches!(input, Input::Text(_));
        let texts = self.texts(input, strict);
        let Tokenized { ids, bytes, head } = self.tokenize(texts, options, strict, wanted);
        let finish = |ids| {
            let (ids, bos) = self.apply_bos(ids);
            self.finish(ids, bos, options)
        };
        let named = |(number, item): (usize, Result<Encoded, ItemError>)| match input {
            Input::Group { responses, .. } if !responses.is_empty() => {
                item.map_err(|error| error.fault.at(format!("responses[{number}]")))
            }
            _ => item,
        };
        let items: Vec<_> = ids.into_iter().map(|ids| ids.and_then(finish)).enumerate().map(named).collect();
        let prompt = match items.first() {
            Some(Ok(Encoded { bos, truncated_from: None, .. })) if head > 0 => bos.applied_to(head),
            _ => 0,
        };
        Batch { items, tokenized_bytes: bytes, prompt }
    }

    fn texts<'a>(&self, input: &'a Input, strict: bool) -> Vec<Result<Cow<'a, str>, ItemError>> {
        match input {
            Input::TokenIds(_) => Vec::new(),
            Input::Text(text) if text.is_empty() => vec![Err(Fault::Empty("text").into())],
            Input::Text(text) => vec![Ok(Cow::Borrowed(text))],
            Input::Messages(messages) => vec![self.render_messages(messages, strict)],
            Input::Group { responses, .. } if responses.is_empty() => vec![Err(Fault::NoResponses.into())],
            Input::Group { prompt, responses } if prompt.is_empty() => {
                responses.iter().map(|_| Err(Fault::EmptyConversation.into())).collect()
            }
            Input::Group { prompt, responses } => {
                let mut turns: Vec<Value> = prompt.iter().map(|message| self.value(message, strict)).collect();
                let texts = responses.iter().map(|response| {
                    turns.push(self.value(&Message::new(Role::Assistant, response.as_str()), strict));
                    let text = self.render_turns(&turns);
                    turns.pop();
                    text
                });
                texts.collect()
            }
        }
    }

    fn render_messages<'a>(&self, messages: &[Message], strict: bool) -> Result<Cow<'a, str>, ItemError> {
        match messages.last().map(Message::role) {
            None => return Err(Fault::EmptyConversation.into()),
            Some(Role::Assistant) => {}
            Some(role) => return Err(Fault::LastTurn(role).into()),
        }
        let turns: Vec<Value> = messages.iter().map(|message| self.value(message, strict)).collect();
        self.render_turns(&turns)
    }

    fn render_turns<'a>(&self, turns: &[Value]) -> Result<Cow<'a, str>, ItemError> {
        let text = self.template.as_ref().ok_or(Fault::NoTemplate)?.render(turns)?;
        if text.is_empty() { Err(Fault::Empty("the rendered conversation").into()) } else { Ok(Cow::Owned(text)) }
    }

    fn value(&self, message: &Message, strict: bool) -> Value {
        let mut fields = message.fields().clone();
        let reads_parts = self.template.as_ref().is_some_and(|template| template.reads_parts(message.role()));
        if let (true, Some(parts)) = (reads_parts, message.parts()) {
            fields.insert("content".to_owned(), Value::Array(parts.to_vec()));
        }
        if let (true, Some(control)) = (strict, &self.control) {
            fields.values_mut().for_each(|value| *value = strict::mark(control, value));
        }
        template::message_value(fields)
    }

    /// Only texts rendered for strict mode can hold markers: elsewhere those characters are a client's own.
    fn tokenize(
        &self,
        mut texts: Vec<Result<Cow<'_, str>, ItemError>>,
        options: &Options,
        strict: bool,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Tokenized {
        let is_marked = |text: &str| strict && strict::is_marked(text);
        let bound = Bound { most: options.max_length.unwrap_or(usize::MAX), wanted };
        for text in &mut texts {
            if let Ok(it) = &text
                && !is_marked(it)
                && let Some(fault) = self.too_long(it, options)
            {
                *text = Err(fault.into());
            }
        }
        let good: Vec<&str> = texts.iter().flatten().map(AsRef::as_ref).collect();
        let head = if good.iter().any(|text| is_marked(text)) { "" } else { self.head(&good) };
        // one that is longer than all that is wanted is no prompt, and not kept
        let encode_head = || match self.tokenizer.beginning(head, &bound)? {
            (ids, true) => Ok(ids),
            (ids, false) => Err(Fault::TooLong { tokens: ids.len(), limit: bound.most }.into()),
        };
        let (head_ids, mut bytes) = match &self.cache {
            Some(cache) if head.len() >= SHORTEST_PROMPT => cache.get_or(head, encode_head),
            _ => (encode_head().map(Arc::from), head.len()),
        };
        let mut tokenize = |text: &str| {
            bytes += text.len() - head.len();
            if is_marked(text) {
                return strict::encode(&self.tokenizer, text);
            }
            match (&head_ids, options.truncate) {
                (_, Truncate::Left) if text.len() > LONG => Ok(self.tokenizer.end(text, &bound)?.0),
                (Ok(head_ids), _) => {
                    let counted = head_ids.len() - self.tokenizer.bos_run(head_ids);
                    let bound = Bound { most: bound.most.saturating_sub(counted), wanted };
                    Ok([&**head_ids, &self.tokenizer.beginning(&text[head.len()..], &bound)?.0].concat())
                }
                (Err(ItemError { fault: Fault::TooLong { .. }, .. }), Truncate::Left | Truncate::Right) => {
                    Ok(self.tokenizer.beginning(text, &bound)?.0)
                }
                (Err(error), _) => Err(error.clone()),
            }
        };
        let ids =
            texts.iter().map(|text| text.as_ref().map_err(Clone::clone).and_then(|text| tokenize(text))).collect();
        Tokenized { ids, bytes, head: head_ids.as_ref().map_or(0, |ids| ids.len()) }
    }

    /// What is wrong with a text that is longer than so many of the longest tokens, however it is tokenized.
    fn too_long(&self, text: &str, options: &Options) -> Option<Fault> {
        // of a short one the tokens can as well be counted
        let is_refused = options.truncate == Truncate::None && text.len() > LONG;
        let limit = options.max_length.filter(|_| is_refused)?;
        let longest = self.tokenizer.longest()?;
        // any number of these become one
        let counted = match self.bos_rule() {
            BosRule::One { token, .. } if !token.is_empty() => text.trim_start_matches(token.as_str()),
            _ => text,
        };
        let tokens = counted.len().div_ceil(longest);
        (tokens > limit).then_some(Fault::TooLong { tokens, limit })
    }

    /// What is tokenized for itself: what several texts share; of one text its prompt, if that can be kept.
    fn head<'a>(&self, texts: &[&'a str]) -> &'a str {
        match texts {
            [only] if self.cache.is_some() => {
                let head = &only[..self.tokenizer.prompt_head(only)];
                if head.len() >= SHORTEST_PROMPT { head } else { "" }
            }
            [first, _, ..] => &first[..self.tokenizer.shared_head(texts)],
            _ => "",
        }
    }

    fn apply_bos(&self, mut ids: Vec<u32>) -> (Vec<u32>, Bos) {
        let BosRule::One { id: bos, .. } = self.bos_rule() else { return (ids, Bos::NotUsed) };
        let removed = match ids.iter().take_while(|id| *id == bos).count() {
            0 => {
                ids.insert(0, *bos);
                return (ids, Bos::Added);
            }
            1 => return (ids, Bos::Kept),
            count => count - 1,
        };
        ids.drain(..removed);
        (ids, Bos::Deduplicated { removed })
    }

    /// Check the ids against the vocabulary and the limit.
    fn finish(&self, mut ids: Vec<u32>, bos: Bos, options: &Options) -> Result<Encoded, ItemError> {
        if ids.is_empty() {
            return Err(Fault::Empty("the tokenized conversation").into());
        }
        if let Some(vocab_size) = self.vocab_size
            && let Some(index) = ids.iter().position(|id| *id >= vocab_size)
        {
            return Err(Fault::TokenId { id: ids[index], vocab_size }.at(format!("token_ids[{index}]")));
        }
        let tokens = ids.len();
        let Some(limit) = options.max_length.filter(|limit| *limit < tokens) else {
            return Ok(Encoded { ids, bos, truncated_from: None });
        };
        let leads = matches!(self.bos_rule(), BosRule::One { id, .. } if ids.first() == Some(id));
        let kept = usize::from(leads);
        if options.truncate == Truncate::None || limit <= kept {
            return Err(Fault::TooLong { tokens, limit }.into());
        }
        match options.truncate {
            Truncate::Left => drop(ids.drain(kept..tokens - (limit - kept))),
            Truncate::Right | Truncate::None => ids.truncate(limit),
        }
        Ok(Encoded { ids, bos, truncated_from: Some(tokens) })
    }
}

#[cfg(test)]
mod tests;
