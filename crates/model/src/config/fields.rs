//! The fields of a config.json, each taken once, so that what nobody took can be named.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Fields that no implemented architecture's scores depend on: training, generation, bookkeeping, outputs, what is made
/// of a score afterwards (OpenRLHF's mean and std), and token ids that the tokenizer's own files decide (conversations
/// are pooled at their true last token, not by `pad_token_id`).
pub(super) const WITHOUT_EFFECT: &str = "
    _attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled _name_or_path
    attention_dropout attn_implementation bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    classifier_dropout decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id gradient_checkpointing hidden_dropout initializer_range is_decoder label2id length_penalty
    max_length mean min_length no_repeat_ngram_size normalize_reward num_beam_groups num_beams num_return_sequences
    output_attentions output_hidden_states output_scores pad_token_id prefix problem_type remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate sep_token_id std suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype
    torchscript transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache
";

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

    /// Takes fields, whatever they say; `names` has blanks in between.
    pub(super) fn without_effect(&mut self, names: &str) {
        names.split_whitespace().for_each(|name| drop(self.left.shift_remove(name)));
    }

    /// Refuses what nobody took.
    pub(super) fn check_unknown(&self, model: &str) -> Result<()> {
        let says_something = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Bool(true) | Value::Number(_) => true,
            Value::String(text) => !text.is_empty(),
            Value::Array(values) => !values.is_empty(),
            Value::Object(values) => !values.is_empty(),
        };
        match self.left.iter().find(|(_, value)| says_something(value)) {
            None => Ok(()),
            Some((name, value)) => Err(self.error(format!(
                "{name} is {value}, which is not implemented for {model} and may change the scores; without the field \
                 the model is read as if there were no such thing"
            ))),
        }
    }
}
