//! The files beside tokenizer.json: which chat template is used, which special tokens have a name, which added tokens
//! Hugging Face would put into the tokenizer on top of tokenizer.json, and what else of them decides token ids
//! ([`fields`]). generation_config.json and processors' files decide none, and are not read.

mod fields;

use std::collections::HashSet;
use std::fmt;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use self::fields::Fields;
use crate::Error;
use crate::template::Date;
use crate::tokenizer::class::{Names, Settings};

pub(crate) const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const SPECIAL: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";
const MODEL: &str = "config.json";
/// The special tokens that have a name in every tokenizer, and that templates may read.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Everything an encoder is made from: the contents of a model's files, as read from disk.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// tokenizer.json.
    pub tokenizer: Vec<u8>,
    /// tokenizer_config.json, where there is one.
    pub tokenizer_config: Option<Vec<u8>>,
    /// chat_template.jinja, where there is one; it wins over the template in tokenizer_config.json.
    pub chat_template: Option<Vec<u8>>,
    /// special_tokens_map.json, where there is one; read only if tokenizer_config.json has no `added_tokens_decoder`.
    pub special_tokens_map: Option<Vec<u8>>,
    /// added_tokens.json, where there is one; read only if tokenizer_config.json has no `added_tokens_decoder`.
    pub added_tokens: Option<Vec<u8>>,
    /// config.json, of which the names of the architecture and of the tokenizer's class are read.
    pub model_config: Option<Vec<u8>>,
    /// Rows of the model's embedding: ids from here on are refused. `None` lets every id pass.
    pub vocab_size: Option<u32>,
    /// The day that templates are told when they ask for today's date.
    pub date: Date,
}

/// Where the chat template was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSource {
    /// The file's name, without a folder.
    pub file: &'static str,
    /// Its name, where the file holds several.
    pub name: Option<String>,
}

/// What the files say, resolved.
#[derive(Default)]
pub(crate) struct Config {
    pub(crate) template: Option<(String, TemplateSource)>,
    /// (`bos_token`, `<bos>`) and so on, the seven that every tokenizer may have first: the template's variables.
    pub(crate) named: Vec<(String, AddedToken)>,
    /// Names of [`Config::named`] that are null in a file, which a class's defaults do not fill.
    pub(crate) unnamed: Vec<&'static str>,
    /// Special tokens without a name.
    pub(crate) extra: Vec<AddedToken>,
    /// What the tokenizer must hold, exactly these: `added_tokens_decoder`, or the older added_tokens.json.
    pub(crate) decoder: Decoder,
    /// Tokens that count as special in strict mode beside the special ones; `None` leaves it to the template.
    pub(crate) control: Option<Vec<String>>,
    pub(crate) add_bos_token: Option<bool>,
    /// Whether the text of special tokens is plain text everywhere, in the template too.
    pub(crate) split_special_tokens: bool,
    pub(crate) names: Names,
    pub(crate) settings: Settings,
    /// Fields that nobody knows.
    pub(crate) warnings: Vec<String>,
}

/// Tokens by their id, in its order.
pub(crate) enum Decoder {
    /// All there are: a class that builds its own pipeline takes none from tokenizer.json.
    Whole(Vec<(u32, AddedToken)>),
    /// Those that come before the ones of tokenizer.json.
    Older(Vec<(u32, AddedToken)>),
}

// === impl Decoder ===

impl Default for Decoder {
    fn default() -> Self {
        Self::Older(Vec::new())
    }
}

// === impl TemplateSource ===

impl fmt::Display for TemplateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} (template {name})", self.file),
            None => f.write_str(self.file),
        }
    }
}

// === impl Config ===

impl Config {
    pub(crate) fn new(sources: &Sources) -> Result<Self, Error> {
        let mut fields = Fields::new(object(CONFIG, sources.tokenizer_config.as_deref())?);
        fields.check()?;
        let names = names(&mut fields, sources.model_config.as_deref())?;
        let decoder = fields.take("added_tokens_decoder").map(|decoder| decoder_tokens(&decoder)).transpose()?;
        let mut extra =
            fields.take("extra_special_tokens").filter(is_filled).or(fields.take("additional_special_tokens"));
        if decoder.is_none() {
            // as transformers merges the older file over the newer one
            let mut older = object(SPECIAL, sources.special_tokens_map.as_deref())?;
            let more = older.shift_remove("additional_special_tokens").filter(|_| extra.is_none());
            extra = merged(extra, older.shift_remove("extra_special_tokens").or(more));
            fields.extend(older);
        }
        let mut config = Self { names, ..Self::default() };
        config.take_tokens(&mut fields, extra.unwrap_or_default())?;
        config.decoder = match decoder {
            Some(decoder) => Decoder::Whole(decoder),
            None => Decoder::Older(config.older_tokens(sources.added_tokens.as_deref())?),
        };
        config.control =
            fields.take("chat_control_tokens").map(|list| texts("chat_control_tokens", &list)).transpose()?;
        config.add_bos_token = fields.flag("add_bos_token")?;
        config.split_special_tokens = fields.flag("split_special_tokens")?.unwrap_or(false);
        config.settings =
            Settings { add_prefix_space: fields.flag("add_prefix_space")?, legacy: fields.flag("legacy")? };
        config.template = template(sources.chat_template.as_deref(), fields.take("chat_template"))?;
        config.warnings = fields.warnings();
        Ok(config)
    }

    /// Takes the special tokens, those with a name and the others.
    fn take_tokens(&mut self, fields: &mut Fields, extra: Value) -> Result<(), Error> {
        for name in NAMED {
            let known = fields.has(name);
            match fields.take(name) {
                Some(token) => self.named.push((name.to_owned(), special_token(name, &token)?)),
                None if known => self.unnamed.push(name),
                None => {}
            }
        }
        let mut specific = Map::new();
        for name in
            fields.ending("_token").into_iter().filter(|name| name != "add_bos_token" && name != "add_eos_token")
        {
            specific.extend(fields.take(&name).map(|token| (name, token)));
        }
        let of_model = fields.take("model_specific_special_tokens").unwrap_or_default();
        for tokens in [of_model, extra] {
            match tokens {
                Value::Object(map) => specific.extend(map),
                Value::Array(list) => {
                    for token in &list {
                        self.extra.push(special_token("extra_special_tokens", token)?);
                    }
                }
                Value::Null => {}
                _ => return Err(bad(CONFIG, "extra_special_tokens is neither a list nor an object".to_owned())),
            }
        }
        for (name, token) in specific {
            let token = special_token(&name, &token)?;
            self.named.push((name, token));
        }
        Ok(())
    }

    /// The tokens of added_tokens.json, which say only their ids.
    fn older_tokens(&self, file: Option<&[u8]>) -> Result<Vec<(u32, AddedToken)>, Error> {
        let named = self.named.iter().filter(|(name, _)| NAMED.contains(&name.as_str())).map(|(_, token)| token);
        let special: HashSet<_> = named.chain(&self.extra).map(|token| token.content.as_str()).collect();
        let mut tokens = Vec::new();
        for (text, id) in object(ADDED, file)? {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| bad(ADDED, format!("the id of {text:?} is no token id")))?;
            let special = special.contains(text.as_str());
            tokens.push((id, AddedToken::from(text, special)));
        }
        tokens.sort_by_key(|(id, _)| *id);
        Ok(tokens)
    }

    /// Fills in the names that a class of transformers gives where the files say nothing.
    pub(crate) fn name_by_default(&mut self, defaults: &[(&'static str, &str)]) {
        let (mut given, specific): (Vec<_>, Vec<_>) =
            self.named.drain(..).partition(|(name, _)| NAMED.contains(&name.as_str()));
        for (name, token) in defaults {
            if !self.unnamed.contains(name) && given.iter().all(|(known, _)| known != name) {
                given.push(((*name).to_owned(), AddedToken::from(*token, true)));
            }
        }
        given.sort_by_key(|(name, _)| NAMED.iter().position(|known| known == name));
        given.extend(specific);
        self.named = given;
    }

    pub(crate) fn named(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, token)| token.content.as_str())
    }
}

/// Which class of transformers reads the tokenizer is a matter of both configurations.
fn names(fields: &mut Fields, model: Option<&[u8]>) -> Result<Names, Error> {
    let mut model = Fields::new(object(MODEL, model)?);
    Ok(Names {
        tokenizer_class: fields.text("tokenizer_class")?,
        config_class: model.take("tokenizer_class").and_then(|class| class.as_str().map(str::to_owned)),
        model_type: model.take("model_type").and_then(|class| class.as_str().map(str::to_owned)),
    })
}

fn is_filled(tokens: &Value) -> bool {
    match tokens {
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// Extra tokens of two files: lists are joined, else the later one counts.
fn merged(first: Option<Value>, second: Option<Value>) -> Option<Value> {
    match (first, second) {
        (Some(Value::Array(mut first)), Some(Value::Array(second))) => {
            let new: Vec<_> = second.into_iter().filter(|token| !first.contains(token)).collect();
            first.extend(new);
            Some(Value::Array(first))
        }
        (first, second) => second.or(first),
    }
}

fn texts(name: &str, value: &Value) -> Result<Vec<String>, Error> {
    let list = value.as_array().map(|list| list.iter().map(|text| text.as_str().map(str::to_owned)).collect());
    list.flatten().ok_or_else(|| bad(CONFIG, format!("{name} is not a list of strings")))
}

fn bad(file: &'static str, message: String) -> Error {
    Error::File { file, message }
}

/// A JSON object, empty where the file is missing.
fn object(file: &'static str, bytes: Option<&[u8]>) -> Result<Map<String, Value>, Error> {
    let Some(bytes) = bytes else { return Ok(Map::new()) };
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(bad(file, "not a JSON object".to_owned())),
        Err(error) => Err(bad(file, error.to_string())),
    }
}

/// The template and where it is from, as transformers chooses it.
fn template(file: Option<&[u8]>, field: Option<Value>) -> Result<Option<(String, TemplateSource)>, Error> {
    if let Some(bytes) = file {
        let text = std::str::from_utf8(bytes).map_err(|error| bad(TEMPLATE, error.to_string()))?;
        return Ok(Some((text.to_owned(), TemplateSource { file: TEMPLATE, name: None })));
    }
    let named: Vec<(String, Value)> = match field {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => return Ok(Some((text, TemplateSource { file: CONFIG, name: None }))),
        Some(Value::Object(map)) => map.into_iter().collect(),
        Some(Value::Array(list)) => list
            .into_iter()
            .map(|mut entry| match (entry.get("name").and_then(Value::as_str), entry.get("template")) {
                (Some(name), Some(_)) => Ok((name.to_owned(), entry["template"].take())),
                _ => Err(bad(CONFIG, "an entry of chat_template has no name or no template".to_owned())),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(bad(CONFIG, "chat_template is neither a string nor a list".to_owned())),
    };
    let names = named.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    // the last one wins, as in a Python dict
    match named.into_iter().rev().find(|(name, _)| name == "default") {
        Some((name, Value::String(text))) => Ok(Some((text, TemplateSource { file: CONFIG, name: Some(name) }))),
        Some(_) => Err(bad(CONFIG, "the chat template named default is not a string".to_owned())),
        None => Err(Error::NoDefaultTemplate { file: CONFIG, names }),
    }
}

/// A special token, given as its text or as an object with flags.
fn special_token(name: &str, value: &Value) -> Result<AddedToken, Error> {
    if let Value::String(text) = value {
        return Ok(AddedToken::from(text.as_str(), true));
    }
    let token = added_token(value).ok_or_else(|| bad(CONFIG, format!("{name} is not the text of a token")))?;
    Ok(token.special(true))
}

fn decoder_tokens(decoder: &Value) -> Result<Vec<(u32, AddedToken)>, Error> {
    let wrong = || bad(CONFIG, "added_tokens_decoder is not an object of tokens by their id".to_owned());
    let mut tokens = Vec::new();
    for (id, token) in decoder.as_object().ok_or_else(wrong)? {
        tokens.push((id.parse::<u32>().map_err(|_| wrong())?, added_token(token).ok_or_else(wrong)?));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens)
}

/// `{"content": "<bos>", "lstrip": false, ...}`, with the defaults that the tokenizers library has.
fn added_token(value: &Value) -> Option<AddedToken> {
    let flag = |name: &str, default: bool| value.get(name).map_or(Some(default), Value::as_bool);
    let special = flag("special", false)?;
    let token = AddedToken::from(value.get("content")?.as_str()?, special)
        .lstrip(flag("lstrip", false)?)
        .rstrip(flag("rstrip", false)?)
        .single_word(flag("single_word", false)?)
        .normalized(flag("normalized", !special)?);
    Some(token)
}

#[cfg(test)]
mod tests;
