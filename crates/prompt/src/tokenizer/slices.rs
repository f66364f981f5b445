//! Long texts in slices: a text is cut only where the tokenizer provably cuts it, so the ids of its slices are its ids. And
//! how many bytes a token stands for at most, where there is such a bound.
//!
//! Two kinds of tokenizers are known; the texts of others stay whole.
//!
//! - **Words**: a pattern cuts a text into words, and each word becomes ids by itself. All patterns that are known end a
//!   match behind a letter that is followed by something else, look at no more than the character behind a match of
//!   whitespace, and never look back. So between a letter and a space or a punctuation mark a text falls into two, each of
//!   which is matched as if the other were not there. NFC joins nothing across such a place.
//! - **Pairs**: the whole text is merged as one (BPE as in Gemma), and spaces are another character before. Every token is an
//!   entry of the vocabulary, and every merge makes one. If no entry holds two characters side by side, no merge goes
//!   across the place between them; and if each is an entry, neither joins another as unknown.
//!
//! In both, no added token may hold the two characters of such a place, so that none is cut apart.

use std::collections::HashSet;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tokenizers::{AddedToken, Model as _, ModelWrapper};

use super::class::QWEN2_PATTERN;

/// Where a tokenizer's texts can be cut.
pub(super) struct Slices {
    rule: Rule,
    /// Characters that stand side by side in added tokens.
    added: HashSet<(char, char)>,
    /// Bytes of the longest added token.
    longest_added: usize,
    /// How many times as many bytes of a text as it has itself an entry may stand for; None if there is no such bound.
    shrinks: Option<usize>,
    /// Found when it is asked for: it takes a look at all entries.
    longest: OnceLock<usize>,
}

enum Rule {
    Words,
    Pairs { space: char, pairs: OnceLock<Pairs> },
}

/// What the vocabulary holds.
struct Pairs {
    characters: HashSet<char>,
    pairs: HashSet<(char, char)>,
}

/// How long a slice is at least, in bytes: what is done with one at a time takes milliseconds.
pub(super) const SLICE: usize = 16 << 10;
/// What a text may lose in NFC: no character has a decomposition of more than three times its bytes, and none of these has
/// another form of more than three times its own.
const NFC: usize = 9;
/// The patterns of Llama 3, of Qwen 2 and 3, and of GPT-2.
const WORDS: [&str; 3] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    QWEN2_PATTERN,
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
];
/// What stands for a space in Gemma's texts.
const SPACE: char = '\u{2581}';

// === impl Slices ===

impl Slices {
    /// What is known of a tokenizer; None if its texts stay whole.
    pub(super) fn new(inner: &tokenizers::Tokenizer, added: &[AddedToken]) -> Option<Self> {
        let ModelWrapper::BPE(bpe) = inner.get_model() else { return None };
        let plain = |token: &AddedToken| !(token.lstrip || token.rstrip || token.single_word);
        if bpe.continuing_subword_prefix.is_some() || bpe.end_of_word_suffix.is_some() || !added.iter().all(plain) {
            return None;
        }
        let normalizer = serde_json::to_value(inner.get_normalizer()).ok()?;
        let pre_tokenizer = serde_json::to_value(inner.get_pre_tokenizer()).ok()?;
        let is_words = is_words(&pre_tokenizer);
        let has = |token: &str| bpe.token_to_id(token).is_some();
        let (rule, shrinks, is_complete) = match normalizer {
            Value::Null if is_words => (Rule::Words, 1, bytes_as_characters().all(|byte| has(&byte.to_string()))),
            Value::Object(kind) if is_words && kind.get("type") == Some(&json!("NFC")) => {
                (Rule::Words, NFC, bytes_as_characters().all(|byte| has(&byte.to_string())))
            }
            kind if kind == spaces_replaced() && is_one(&pre_tokenizer) => {
                let is_complete = bpe.byte_fallback && (0..=255_u8).all(|byte| has(&format!("<0x{byte:02X}>")));
                (Rule::Pairs { space: SPACE, pairs: OnceLock::new() }, 1, is_complete)
            }
            _ => return None,
        };
        let longest_added = added.iter().map(|token| token.content.len()).max().unwrap_or_default();
        let added = added.iter().flat_map(|token| pairs_of(&token.content)).collect();
        Some(Self { rule, added, longest_added, shrinks: is_complete.then_some(shrinks), longest: OnceLock::new() })
    }

    /// The most bytes of a text that become one token; None if there is no such bound.
    pub(super) fn longest(&self, inner: &tokenizers::Tokenizer) -> Option<usize> {
        let shrinks = self.shrinks?;
        let bytes = |entry: &String| match self.rule {
            // a character each stands for a byte
            Rule::Words => entry.chars().count(),
            Rule::Pairs { .. } => entry.len(),
        };
        let longest = || inner.get_vocab(false).keys().map(bytes).max().unwrap_or_default().max(self.longest_added);
        Some(*self.longest.get_or_init(longest) * shrinks)
    }

    /// The first place at or behind a place of a text where it may be cut; its end if there is none.
    pub(super) fn next(&self, inner: &tokenizers::Tokenizer, text: &str, from: usize) -> usize {
        let from = (from.max(1)..text.len()).find(|place| text.is_char_boundary(*place)).unwrap_or(text.len());
        let mut before = text[..from].chars().next_back();
        for (place, after) in text[from..].char_indices() {
            if before.is_some_and(|before| self.falls_apart(inner, before, after)) {
                return from + place;
            }
            before = Some(after);
        }
        text.len()
    }

    /// Whether a text can be cut wherever these two stand side by side.
    fn falls_apart(&self, inner: &tokenizers::Tokenizer, before: char, after: char) -> bool {
        if self.added.contains(&(before, after)) {
            return false;
        }
        match &self.rule {
            Rule::Words => {
                is_letter(before) && matches!(after, ' ' | '\n' | '.' | ',' | '。' | '，' | '、' | '！' | '？')
            }
            Rule::Pairs { space, pairs } => {
                let pairs = pairs.get_or_init(|| Pairs::of(inner));
                let normal = |character| if character == ' ' { *space } else { character };
                let (before, after) = (normal(before), normal(after));
                let are_known = pairs.characters.contains(&before) && pairs.characters.contains(&after);
                are_known && !pairs.pairs.contains(&(before, after)) && !self.added.contains(&(before, after))
            }
        }
    }
}

// === impl Pairs ===

impl Pairs {
    fn of(inner: &tokenizers::Tokenizer) -> Self {
        let (mut characters, mut pairs) = (HashSet::new(), HashSet::new());
        for entry in inner.get_vocab(false).keys() {
            let mut all = entry.chars();
            match (all.next(), all.next()) {
                (Some(only), None) => drop(characters.insert(only)),
                _ => pairs.extend(pairs_of(entry)),
            }
        }
        Self { characters, pairs }
    }
}

fn pairs_of(text: &str) -> impl Iterator<Item = (char, char)> {
    text.chars().zip(text.chars().skip(1))
}

/// Some of the letters that every version of Unicode calls so.
fn is_letter(character: char) -> bool {
    matches!(character,
        'a'..='z' | 'A'..='Z' | 'à'..='ö' | 'α'..='ω' | 'а'..='я' | 'А'..='Я'
        | 'あ'..='ん' | 'ア'..='ン' | '一'..='龥' | '가'..='힣')
}

/// Whether texts are cut by one of the known patterns, and nothing else is done to them.
fn is_words(pre_tokenizer: &Value) -> bool {
    let is_byte_level = |it: &Value, by_itself: bool| {
        it["type"] == "ByteLevel" && it["add_prefix_space"] == false && it["use_regex"] == by_itself
    };
    if is_byte_level(pre_tokenizer, true) {
        return true;
    }
    let Some([split, bytes]) = pre_tokenizer["pretokenizers"].as_array().map(Vec::as_slice) else { return false };
    let pattern = split["pattern"]["Regex"].as_str().unwrap_or_default();
    let is_split = split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] == false;
    pre_tokenizer["type"] == "Sequence" && is_split && WORDS.contains(&pattern) && is_byte_level(bytes, false)
}

/// Whether a text without spaces stays in one piece.
fn is_one(pre_tokenizer: &Value) -> bool {
    let at_spaces =
        json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false });
    pre_tokenizer.is_null() || *pre_tokenizer == at_spaces
}

fn spaces_replaced() -> Value {
    json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE })
}

/// The characters that stand for bytes.
fn bytes_as_characters() -> impl Iterator<Item = char> {
    tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter()
}

#[cfg(test)]
mod tests;
