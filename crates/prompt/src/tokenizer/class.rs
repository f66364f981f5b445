//! Which class of transformers reads a tokenizer, for some do not take tokenizer.json as it is: they take vocabulary,
//! merges, added tokens and post-processor from it, and make normalizer and pre-tokenizer themselves.
//!
//! Follows `AutoTokenizer.from_pretrained` of transformers 5.23 (models/auto/tokenization_auto.py) for the architectures
//! that are served, and the classes' `__init__` (models/{gemma,llama,qwen2,gpt2}/tokenization_*.py).

use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use crate::Error;

/// What transformers makes a tokenizer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// tokenizer.json, as it is.
    File,
    /// GemmaTokenizer.
    Gemma,
    /// LlamaTokenizer: SentencePiece's vocabulary, words that begin with a metaspace.
    Llama,
    /// Qwen2Tokenizer.
    Qwen2,
    /// GPT2Tokenizer.
    Gpt2,
}

/// What decides about the class.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// `tokenizer_class` of tokenizer_config.json.
    pub(crate) tokenizer_class: Option<String>,
    /// `tokenizer_class` of config.json.
    pub(crate) config_class: Option<String>,
    /// `model_type` of config.json.
    pub(crate) model_type: Option<String>,
}

/// Settings of a class in tokenizer_config.json.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Settings {
    pub(crate) add_prefix_space: Option<bool>,
    pub(crate) legacy: Option<bool>,
}

/// The classes that build a pipeline of their own, and that are not implemented here.
const NOT_IMPLEMENTED: &[&str] = &[
    "AlbertTokenizer",
    "BarthezTokenizer",
    "BertTokenizer",
    "BigBirdTokenizer",
    "BlenderbotTokenizer",
    "CamembertTokenizer",
    "CLIPTokenizer",
    "CodeGenTokenizer",
    "CodeLlamaTokenizer",
    "CohereTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "FunnelTokenizer",
    "GPTNeoXTokenizer",
    "HerbertTokenizer",
    "MBart50Tokenizer",
    "MBartTokenizer",
    "MPNetTokenizer",
    "NllbTokenizer",
    "OpenAIGPTTokenizer",
    "PegasusTokenizer",
    "Qwen3_5Tokenizer",
    "ReformerTokenizer",
    "RemBertTokenizer",
    "RobertaTokenizer",
    "SeamlessM4TTokenizer",
    "Siglip2Tokenizer",
    "SplinterTokenizer",
    "T5Tokenizer",
    "WhisperTokenizer",
    "XGLMTokenizer",
    "XLMRobertaTokenizer",
    "XLNetTokenizer",
];
/// How Qwen 2 and 3 cut a text into words.
pub(super) const QWEN2_PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What happens to a text before the model reads it.
pub(crate) type Pipeline = (Option<NormalizerWrapper>, Option<PreTokenizerWrapper>);

// === impl Names ===

impl Names {
    /// The class; `byte_level` says whether tokenizer.json has a byte-level pre-tokenizer or decoder.
    pub(crate) fn class(&self, byte_level: bool) -> Result<Class, Error> {
        let plain =
            |name: &Option<String>| name.as_deref().map(|name| name.strip_suffix("Fast").unwrap_or(name).to_owned());
        let (own, config) = (plain(&self.tokenizer_class), plain(&self.config_class));
        let named = own.as_ref().or(config.as_ref());
        let registered = match self.model_type.as_deref() {
            Some("gemma2") => Some("GemmaTokenizer"),
            Some("qwen2" | "qwen3") => Some("Qwen2Tokenizer"),
            Some("mistral") => Some("TokenizersBackend"),
            _ => None,
        };
        match (named, registered) {
            (Some(named), _)
                if named == "LlamaTokenizer" && byte_level && self.model_type.as_deref() != Some("qwen2") =>
            {
                Ok(Class::File)
            }
            (Some(named), Some(registered)) if named != registered => match (registered, self.model_type.as_deref()) {
                ("TokenizersBackend", _) => Ok(Class::File),
                (_, Some("qwen2")) => Class::by_name(registered),
                _ => Class::by_name(named),
            },
            (Some(named), _) => Class::by_name(named),
            (None, Some(registered)) => Class::by_name(registered),
            (None, None) => Ok(Class::File),
        }
    }
}

// === impl Class ===

impl Class {
    fn by_name(name: &str) -> Result<Self, Error> {
        match name {
            "GemmaTokenizer" => Ok(Self::Gemma),
            "LlamaTokenizer" => Ok(Self::Llama),
            "Qwen2Tokenizer" => Ok(Self::Qwen2),
            "GPT2Tokenizer" => Ok(Self::Gpt2),
            other if NOT_IMPLEMENTED.contains(&other) => Err(Error::Class(other.to_owned())),
            // a class that transformers does not know means tokenizer.json as it is
            _ => Ok(Self::File),
        }
    }

    /// Special tokens that a class names where tokenizer_config.json does not.
    pub(crate) fn named_by_default(self) -> &'static [(&'static str, &'static str)] {
        const END: &str = "<|endoftext|>";
        match self {
            Self::File => &[],
            Self::Gemma => &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::Llama => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
            Self::Qwen2 => &[("eos_token", END), ("unk_token", END), ("pad_token", END)],
            Self::Gpt2 => &[("bos_token", END), ("eos_token", END), ("unk_token", END)],
        }
    }

    /// Brings a model to what the class gives it; `unk_token` is the one that the configuration names.
    pub(crate) fn adapt(self, model: ModelWrapper, unk_token: Option<&str>) -> Result<ModelWrapper, String> {
        if self == Self::File {
            return Ok(model);
        }
        let ModelWrapper::BPE(mut bpe) = model else {
            return Err("tokenizer_class builds a BPE model, and this is another kind".to_owned());
        };
        let affixes = [&bpe.continuing_subword_prefix, &bpe.end_of_word_suffix];
        if affixes.into_iter().flatten().any(|affix| !affix.is_empty()) {
            return Err("the model has a prefix or suffix of subwords, which its tokenizer_class leaves out".to_owned());
        }
        self.set_flags(&mut bpe, unk_token);
        Ok(ModelWrapper::BPE(bpe))
    }

    fn set_flags(self, bpe: &mut BPE, unk_token: Option<&str>) {
        bpe.dropout = None;
        bpe.ignore_merges = false;
        bpe.unk_token = unk_token.filter(|_| self == Self::Gemma).map(str::to_owned);
        bpe.fuse_unk = matches!(self, Self::Gemma | Self::Llama);
        bpe.byte_fallback = matches!(self, Self::Gemma | Self::Llama);
    }

    /// The class's own normalizer and pre-tokenizer; `None` where the file's are used.
    pub(crate) fn pipeline(self, settings: Settings) -> Result<Option<Pipeline>, serde_json::Error> {
        let prefix_space = settings.add_prefix_space.unwrap_or(self == Self::Llama);
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true, "use_regex": use_regex});
        let (normalizer, pre_tokenizer) = match self {
            Self::File => return Ok(None),
            Self::Gemma => (
                json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
                json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
            ),
            Self::Llama => {
                let scheme = match (prefix_space, settings.legacy) {
                    (false, _) => "never",
                    (true, Some(true)) => "always",
                    (true, _) => "first",
                };
                (
                    Value::Null,
                    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false}),
                )
            }
            Self::Qwen2 => {
                let split = json!({"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": false});
                (json!({"type": "NFC"}), json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]}))
            }
            Self::Gpt2 => (Value::Null, byte_level(true)),
        };
        Ok(Some((serde_json::from_value(normalizer)?, serde_json::from_value(pre_tokenizer)?)))
    }
}

#[cfg(test)]
mod tests;
