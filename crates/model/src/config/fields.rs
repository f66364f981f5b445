//! The fields of a config.json, each taken once, so that what nobody took can be named.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Fields that no implemented architecture's scores depend on: training, generation, bookkeeping, outputs, and token
/// ids that the tokenizer's own files decide (conversations are pooled at their true last token, not by `pad_token_id`).
pub(super) const WITHOUT_EFFECT: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "attention_dropout",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "decoder_start_token_id",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "hidden_dropout",
    "initializer_range",
    "is_decoder",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "prefix",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tie_word_embeddings",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "unsloth_version",
    "use_cache",
];

/// What is left of a config.json.
pub(super) struct Fields {
    file: PathBuf,
    left: Map<String, Value>,
}

impl Fields {
    pub(super) fn parse(file: &Path, text: &str) -> Result<Self> {
        let file = file.to_owned();
        match serde_json::from_str(text) {
            Ok(left) => Ok(Self { file, left }),
            Err(error) => Err(Error::Config { file, problem: format!("not a JSON object: {error}") }),
        }
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::Config { file: self.file.clone(), problem: problem.into() }
    }

    /// Takes a field; absent and null are the same.
    pub(super) fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        self.or_default(name, None)
    }

    /// Takes a field whose absence means `default`, while null is a value of its own.
    pub(super) fn or_default<T: DeserializeOwned>(&mut self, name: &str, default: Option<T>) -> Result<Option<T>> {
        match self.left.shift_remove(name) {
            None => Ok(default),
            Some(value) => serde_json::from_value(value).map_err(|error| self.error(format!("{name}: {error}"))),
        }
    }

    pub(super) fn required<T: DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        self.optional(name)?.ok_or_else(|| self.error(format!("{name} is missing")))
    }

    /// Takes a field of which only some values are implemented; absence is always one of them.
    pub(super) fn must_be(&mut self, name: &str, implemented: &[Value]) -> Result<()> {
        match self.left.shift_remove(name) {
            Some(value) if !implemented.contains(&value) => {
                let values: Vec<_> = implemented.iter().map(Value::to_string).collect();
                Err(self.error(format!("{name} is {value}; implemented: {}", values.join(", "))))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn without_effect(&mut self, names: &[&str]) {
        for name in names {
            self.left.shift_remove(*name);
        }
    }

    /// Names the fields that nobody took.
    pub(super) fn warnings(&self) -> Vec<String> {
        let file = self.file.display();
        self.left.iter().map(|(name, value)| format!("{file}: unknown field {name} = {value} is ignored")).collect()
    }
}
