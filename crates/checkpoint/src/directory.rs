//! A checkpoint in a directory: which files are needed, and whether they are there.
//!
//! The rules are those of transformers: a single `model.safetensors` comes before an index with shards, and a
//! `chat_template.jinja` is a file of its own. A snapshot in the cache of the hub is such a directory too.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path};

use serde::Deserialize;

use crate::{Checkpoint, Error, Source};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const ADDED_TOKENS: &str = "added_tokens.json";

/// The files that a checkpoint may have besides those that it must have.
pub(crate) const OPTIONAL: [&str; 4] = [TOKENIZER_CONFIG, CHAT_TEMPLATE, SPECIAL_TOKENS_MAP, ADDED_TOKENS];
/// Files that PEFT writes: an adapter, which transformers would add to the weights beside it.
const ADAPTER: [&str; 3] = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"];
/// Files with a head beside the weights, as TRL and LLaMA-Factory write them.
const VALUE_HEAD: [&str; 2] = ["value_head.safetensors", "value_head.bin"];
/// What a file begins with that git-LFS was to replace by its content.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Finds the files of the checkpoint in `directory`.
pub(crate) fn open(directory: &Path, source: Source) -> Result<Checkpoint, Error> {
    let place = directory.display().to_string();
    let has = |file: &str| directory.join(file).is_file();
    let optional = |file: &str| has(file).then(|| directory.join(file));
    check(&place, has)?;

    let index = (!has(WEIGHTS)).then(|| directory.join(INDEX));
    let weights = match &index {
        None => vec![directory.join(WEIGHTS)],
        Some(index) => shards(index)?
            .iter()
            .map(|shard| has(shard).then(|| directory.join(shard)).ok_or_else(|| missing_shard(&place, shard)))
            .collect::<Result<_, _>>()?,
    };
    let checkpoint = Checkpoint {
        source,
        config: directory.join(CONFIG),
        tokenizer: directory.join(TOKENIZER),
        tokenizer_config: optional(TOKENIZER_CONFIG),
        chat_template: optional(CHAT_TEMPLATE),
        special_tokens_map: optional(SPECIAL_TOKENS_MAP),
        added_tokens: optional(ADDED_TOKENS),
        index,
        weights,
    };
    checkpoint.files().try_for_each(refuse_pointer)?;
    Ok(checkpoint)
}

/// Refuses a file that git-LFS has not fetched.
fn refuse_pointer(path: &Path) -> Result<(), Error> {
    let mut start = [0; POINTER.len()];
    let mut file = File::open(path).map_err(Error::io(path))?;
    match file.read_exact(&mut start) {
        Ok(()) if start == POINTER => Err(Error::Malformed {
            file: path.to_owned(),
            reason: "a git-LFS pointer and not the file itself: run git lfs pull in its directory".to_owned(),
        }),
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

/// Refuses a place that lacks a file without which no checkpoint can be served; `has` says what it holds.
pub(crate) fn check(place: &str, has: impl Fn(&str) -> bool) -> Result<(), Error> {
    let missing = |file: &str, hint| Err(Error::Missing { place: place.to_owned(), file: file.to_owned(), hint });
    let unread = |file: &str, hint| Err(Error::Unread { place: place.to_owned(), file: file.to_owned(), hint });
    let merge = "merge it into its base with peft's merge_and_unload() and save that with save_pretrained(..)";
    match ADAPTER.into_iter().find(|file| has(file)) {
        Some(_) if !has(CONFIG) => {
            return missing(
                CONFIG,
                "it is an adapter without its base: merge them with peft's merge_and_unload() and save that",
            );
        }
        Some(file) => return unread(file, merge),
        None => {}
    }
    if let Some(file) = VALUE_HEAD.into_iter().find(|file| has(file)) {
        let hint = "a value head beside the weights: save the model as ...ForSequenceClassification with its head as score.weight";
        return unread(file, hint);
    }
    if !has(CONFIG) {
        return missing(CONFIG, "pass the directory that save_pretrained wrote, not one above or below it");
    }
    if !has(TOKENIZER) {
        return missing(
            TOKENIZER,
            "save the fast tokenizer next to the weights, with AutoTokenizer.from_pretrained(..).save_pretrained(..)",
        );
    }
    if has(WEIGHTS) || has(INDEX) {
        return Ok(());
    }
    if has("pytorch_model.bin") || has("pytorch_model.bin.index.json") {
        return missing(
            WEIGHTS,
            "pytorch_model.bin is not read; save the weights as safetensors, with \
             AutoModelForSequenceClassification.from_pretrained(..).save_pretrained(..)",
        );
    }
    missing("model.safetensors or model.safetensors.index.json", "the weights are not there; copy or fetch them")
}

/// The shards that an index names: each once, sorted by name, none outside of the index's directory.
pub(crate) fn shards(index: &Path) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let malformed = |reason: String| Error::Malformed { file: index.to_owned(), reason };
    let text = std::fs::read(index).map_err(Error::io(index))?;
    let parsed: Index =
        serde_json::from_slice(&text).map_err(|error| malformed(format!("not an index of weights: {error}")))?;
    let shards: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if shards.is_empty() {
        return Err(malformed("weight_map names no shard".to_owned()));
    }
    if let Some(shard) = shards.iter().find(|shard| !is_inside(shard)) {
        return Err(malformed(format!("shard {shard:?} is not inside the checkpoint's directory")));
    }
    Ok(shards.into_iter().collect())
}

/// Whether a relative path stays below where it starts.
pub(crate) fn is_inside(path: &str) -> bool {
    let mut components = Path::new(path).components().peekable();
    components.peek().is_some() && components.all(|component| matches!(component, Component::Normal(_)))
}

/// The error for a shard that the index names and that is not there.
pub(crate) fn missing_shard(place: &str, shard: &str) -> Error {
    Error::Missing {
        place: place.to_owned(),
        file: shard.to_owned(),
        hint: "model.safetensors.index.json names it; copy or fetch it, or save the checkpoint again",
    }
}

#[cfg(test)]
mod tests;
