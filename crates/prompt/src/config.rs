//! The files beside tokenizer.json: which chat template is used, which special tokens have a name, which added tokens
//! Hugging Face would put into the tokenizer on top of tokenizer.json.

use std::fmt;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::Error;
use crate::template::Date;

pub(crate) const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const SPECIAL: &str = "special_tokens_map.json";
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
pub(crate) struct Config {
    pub(crate) template: Option<(String, TemplateSource)>,
    /// (`bos_token`, `<bos>`) and so on: the template's variables.
    pub(crate) named: Vec<(&'static str, String)>,
    /// What the tokenizer must hold: exactly these, or (`exact` false) at least a token of this text.
    pub(crate) added: Vec<(AddedToken, bool)>,
    pub(crate) add_bos_token: Option<bool>,
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
        let mut fields = object(CONFIG, sources.tokenizer_config.as_deref())?;
        let decoder = fields.remove("added_tokens_decoder").filter(|decoder| !decoder.is_null());
        let mut added = Vec::new();
        match decoder {
            Some(decoder) => added = decoder_tokens(&decoder)?.into_iter().map(|token| (token, true)).collect(),
            // as transformers merges the older file over the newer one
            None => fields.extend(object(SPECIAL, sources.special_tokens_map.as_deref())?),
        }
        let mut named = Vec::new();
        for name in NAMED {
            if let Some(token) = fields.get(name).filter(|token| !token.is_null()) {
                let token = special_token(name, token)?;
                named.push((name, token.content.clone()));
                added.push((token, false));
            }
        }
        for name in ["additional_special_tokens", "extra_special_tokens"] {
            let tokens: Vec<&Value> = match fields.get(name) {
                Some(Value::Array(list)) => list.iter().collect(),
                Some(Value::Object(map)) => map.values().collect(),
                Some(Value::Null) | None => Vec::new(),
                Some(_) => return Err(bad(CONFIG, format!("{name} is neither a list nor an object"))),
            };
            for token in tokens {
                added.push((special_token(name, token)?, false));
            }
        }
        let add_bos_token = match fields.get("add_bos_token") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(add)) => Some(*add),
            Some(_) => return Err(bad(CONFIG, "add_bos_token is neither true nor false".to_owned())),
        };
        let template = template(sources.chat_template.as_deref(), fields.remove("chat_template"))?;
        Ok(Self { template, named, added, add_bos_token })
    }

    pub(crate) fn bos_token(&self) -> Option<&str> {
        self.named.iter().find(|(name, _)| *name == "bos_token").map(|(_, token)| token.as_str())
    }
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

fn decoder_tokens(decoder: &Value) -> Result<Vec<AddedToken>, Error> {
    let wrong = || bad(CONFIG, "added_tokens_decoder is not an object of tokens by their id".to_owned());
    let mut tokens = Vec::new();
    for (id, token) in decoder.as_object().ok_or_else(wrong)? {
        tokens.push((id.parse::<u32>().map_err(|_| wrong())?, added_token(token).ok_or_else(wrong)?));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
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
