//! tokenizer.json, read part by part: the library's own reader goes over the vocabulary several times, and adds the tokens
//! before anybody can say what else is to be added.

use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::models::bpe::BPE;
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use super::pattern;
use crate::Error;
use crate::config::TOKENIZER;

/// What a tokenizer.json holds, but for truncation, padding and decoder.
pub(crate) struct File {
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(super) post_processor: Option<PostProcessorWrapper>,
    pub(super) model: ModelWrapper,
    /// In the order of the file.
    pub(super) added: Vec<(u32, AddedToken)>,
    byte_level: bool,
    /// What of its patterns means something else to Hugging Face.
    pub(super) difference: Option<String>,
}

#[derive(Deserialize)]
struct Parts<'a> {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<Listed>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    #[serde(borrow)]
    model: &'a RawValue,
}

#[derive(Deserialize)]
struct Listed {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

// === impl File ===

impl File {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |error: serde_json::Error| Error::File { file: TOKENIZER, message: error.to_string() };
        let parts: Parts<'_> = serde_json::from_slice(bytes).map_err(wrong)?;
        if let Some(version) = parts.version.filter(|version| version != "1.0") {
            return Err(wrong(serde_json::Error::custom(format!("unknown version {version:?}"))));
        }
        let pipeline = [&parts.pre_tokenizer, &parts.post_processor, &parts.decoder].into_iter().flatten();
        let byte_level = pipeline.map(Value::to_string).any(|part| part.contains("\"ByteLevel\""));
        if let Some(token) = parts.post_processor.as_ref().and_then(unlisted) {
            let problem = format!("the post-processor uses {token}, which its special_tokens do not list");
            return Err(wrong(serde_json::Error::custom(problem)));
        }
        let cutting = [&parts.normalizer, &parts.pre_tokenizer].into_iter().flatten();
        let difference = cutting.filter_map(pattern::difference).next();
        Ok(Self {
            normalizer: parts.normalizer.map(serde_json::from_value).transpose().map_err(wrong)?,
            pre_tokenizer: parts.pre_tokenizer.map(serde_json::from_value).transpose().map_err(wrong)?,
            post_processor: parts.post_processor.map(serde_json::from_value).transpose().map_err(wrong)?,
            model: model(parts.model).map_err(wrong)?,
            added: parts.added_tokens.into_iter().map(|Listed { id, token }| (id, token)).collect(),
            byte_level,
            difference,
        })
    }

    /// Whether a part of its pipeline is byte-level.
    pub(crate) fn is_byte_level(&self) -> bool {
        self.byte_level
    }
}

/// A special token that a template of a post-processor uses and does not list, on which the library would panic.
fn unlisted(part: &Value) -> Option<&Value> {
    if let Some(listed) = part.get("special_tokens") {
        let pieces = ["single", "pair"].into_iter().filter_map(|name| part.get(name)?.as_array()).flatten();
        let mut ids = pieces.filter_map(|piece| piece.get("SpecialToken")?.get("id"));
        return ids.find(|id| id.as_str().is_none_or(|id| listed.get(id).is_none()));
    }
    part.get("processors")?.as_array()?.iter().find_map(unlisted)
}

/// The library's enum of models copies the whole vocabulary before it looks at the kind, so the common one is read directly.
fn model(json: &RawValue) -> Result<ModelWrapper, serde_json::Error> {
    let first: String = json.get().chars().take_while(|c| *c != ',').filter(|c| !c.is_whitespace()).collect();
    match first.as_str() {
        r#"{"type":"BPE""# => serde_json::from_str::<BPE>(json.get()).map(ModelWrapper::BPE),
        _ => serde_json::from_str(json.get()),
    }
}
