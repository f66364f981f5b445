//! The fields of tokenizer_config.json, each taken once, as those of config.json are in crates/model: used, checked, or
//! on a list of fields without effect. What nobody took is named in a warning, for it may change token ids.
//!
//! Read beside `_from_pretrained` and `__init__` of transformers 5.23, tokenization_utils_base.py and
//! tokenization_utils_tokenizers.py.

use serde_json::{Map, Value};

use super::{CONFIG, bad};
use crate::Error;

/// Fields that no token id depends on here: of decoding, padding and truncation (which are not done as a file says), of
/// training, of processors for images, of the slow tokenizers, and bookkeeping. transformers does not read
/// `add_eos_token` and the vocabulary's files beside a tokenizer.json either.
const WITHOUT_EFFECT: &[&str] = &[
    "_commit_hash",
    "add_eos_token",
    "backend",
    "clean_up_tokenization_spaces",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    "device_map",
    "do_lower_case",
    "errors",
    "files_loaded",
    "from_slow",
    "is_local",
    "keep_accents",
    "local_files_only",
    "max_len",
    "max_length",
    "merges_file",
    "model_input_names",
    "model_max_length",
    "name_or_path",
    "pad_to_multiple_of",
    "pad_token_type_id",
    "padding",
    "padding_side",
    "processor_class",
    "remove_space",
    "response_schema",
    "response_template",
    "return_token_type_ids",
    "sp_model_kwargs",
    "spaces_between_special_tokens",
    "special_tokens_map_file",
    "stride",
    "tokenizer_file",
    "tokenizer_version",
    "truncation",
    "truncation_side",
    "truncation_strategy",
    "trust_remote_code",
    "use_default_system_prompt",
    "use_fast",
    "verbose",
    "vocab_file",
];

/// What is left of a tokenizer_config.json.
#[derive(Default)]
pub(super) struct Fields {
    left: Map<String, Value>,
}

impl Fields {
    pub(super) fn new(left: Map<String, Value>) -> Self {
        Self { left }
    }

    /// Puts the fields of another file over these.
    pub(super) fn extend(&mut self, fields: Map<String, Value>) {
        self.left.extend(fields);
    }

    /// Takes a field; absent and null are the same.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.left.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Whether a field is there, null included.
    pub(super) fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(bad(CONFIG, format!("{name} is neither true nor false"))),
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(bad(CONFIG, format!("{name} is not a string"))),
        }
    }

    /// The fields whose name ends so, in the order of the file.
    pub(super) fn ending(&self, end: &str) -> Vec<String> {
        self.left.keys().filter(|name| name.ends_with(end)).cloned().collect()
    }

    /// Refuses what would change token ids and is not done here.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        let files = self.take("fast_tokenizer_files");
        if files
            .is_some_and(|files| files.as_array().is_none_or(|files| files.iter().any(|file| file != "tokenizer.json")))
        {
            let message = "fast_tokenizer_files names files for other versions, which are not read: leave only \
                           tokenizer.json";
            return Err(bad(CONFIG, message.to_owned()));
        }
        if self.take("init_inputs").is_some_and(|inputs| inputs.as_array().is_none_or(|list| !list.is_empty())) {
            return Err(bad(CONFIG, "init_inputs gives arguments to a class, which is not done here".to_owned()));
        }
        if self.flag("fix_mistral_regex")? == Some(true) {
            let message = "fix_mistral_regex replaces the pattern of tokenizer.json, which is not done here: load and save \
                           the tokenizer with transformers, and remove the field";
            return Err(bad(CONFIG, message.to_owned()));
        }
        if self.take("auto_map").is_some_and(|map| map.get("AutoTokenizer").is_none_or(|class| !class.is_null())) {
            let message = "auto_map names a tokenizer with code of its own, which is not run: if tokenizer.json alone \
                           gives the same ids, remove the field";
            return Err(bad(CONFIG, message.to_owned()));
        }
        Ok(())
    }

    /// Names the fields that nobody took.
    pub(super) fn warnings(&self) -> Vec<String> {
        let unknown = |(name, value): &(&String, &Value)| !WITHOUT_EFFECT.contains(&name.as_str()) && !value.is_null();
        let unknown = self.left.iter().filter(unknown);
        unknown.map(|(name, _)| format!("{CONFIG}: unknown field {name} is ignored")).collect()
    }
}
