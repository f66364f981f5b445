//! The tokenizer of a model: text to ids without anything added, where a text may be cut without changing its ids, and
//! the token that the tokenizer would put in front by itself.

pub(crate) mod class;
mod file;
mod pattern;
mod slices;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::tokenizer::pre_tokenizer::PreTokenizedString;
use tokenizers::{AddedToken, Model, ModelWrapper, NormalizedString, Normalizer, PostProcessorWrapper, PreTokenizer};

use self::class::Class;
pub(crate) use self::file::File;
use self::slices::{SLICE, Slices};
use crate::config::{Config, Decoder, TOKENIZER};
use crate::{Error, Fault, ItemError};

/// What happens in front of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BosRule {
    /// Exactly one of this token, whatever the template wrote.
    One {
        /// Its id.
        id: u32,
        /// Its text.
        token: String,
        /// Where the rule is from.
        reason: BosReason,
    },
    /// Nothing is added or removed.
    None,
}

/// Why a model has a BOS rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BosReason {
    /// The post-processor of tokenizer.json puts the token in front.
    PostProcessor,
    /// `add_bos_token` in tokenizer_config.json is true.
    AddBosToken,
}

pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: BosRule,
    /// Finds the added tokens as the tokenizer does; `None` where cutting behind them is not proven safe.
    cuts: Option<Cuts>,
    added: Vec<AddedToken>,
    added_text: HashSet<String>,
    newline: Vec<u32>,
    /// Where long texts are cut; `None` where they stay whole.
    slices: Option<Slices>,
}

/// How far a text is read.
pub(crate) struct Bound<'a> {
    /// More ids than that are not needed; a BOS token in front does not count.
    pub(crate) most: usize,
    /// Whether somebody waits for them.
    pub(crate) wanted: &'a (dyn Fn() -> bool + Sync),
}

/// The longest part of a text that is tokenized at a time, in bytes, where texts can be cut.
pub(crate) const LONGEST_PART: usize = 512 << 10;
/// What a token stands for where nobody knows, in bytes.
const TYPICAL: usize = 4;

/// Finds the added tokens of a text.
struct Cuts {
    search: AhoCorasick,
    /// For each of its patterns whether the token is special.
    special: Vec<bool>,
}

// === impl BosRule ===

impl fmt::Display for BosRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One { id, token, reason: BosReason::PostProcessor } => {
                write!(f, "exactly one {token} ({id}): the tokenizer's post-processor puts it in front")
            }
            Self::One { id, token, reason: BosReason::AddBosToken } => {
                write!(f, "exactly one {token} ({id}): add_bos_token is set")
            }
            Self::None => f.write_str("none: the tokenizer adds no token by itself"),
        }
    }
}

// === impl Tokenizer ===

impl Tokenizer {
    /// The tokenizer that `class` makes of its file and the configuration.
    pub(crate) fn new(file: File, class: Class, config: &Config) -> Result<Self, Error> {
        let wrong = |message: String| Error::File { file: TOKENIZER, message };
        let failed = |error: tokenizers::Error| wrong(error.to_string());
        let added = added_tokens(&file, class, config);
        let model = class.adapt(file.model, config.named("unk_token")).map_err(wrong)?;
        if let ModelWrapper::BPE(bpe) = &model
            && let Some(dropout) = bpe.dropout.filter(|dropout| *dropout > 0.0)
        {
            return Err(Error::Dropout(dropout.to_string()));
        }
        let own = class.pipeline(config.settings).map_err(|error| wrong(error.to_string()))?;
        if let (None, Some(difference)) = (&own, file.difference) {
            return Err(wrong(format!("{difference} would cut texts in other places than Hugging Face does")));
        }
        let (normalizer, pre_tokenizer) = own.unwrap_or((file.normalizer, file.pre_tokenizer));
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_normalizer(normalizer).map_err(failed)?;
        inner.with_pre_tokenizer(pre_tokenizer).with_post_processor(file.post_processor);
        inner.add_tokens(added).map_err(failed)?;
        inner.set_encode_special_tokens(config.split_special_tokens);
        let bos = bos_rule(&inner, config)?;
        // nothing of it is left to do: it adds tokens, and sets offsets that nobody reads
        inner.with_post_processor(None::<PostProcessorWrapper>);

        let added: Vec<_> = inner.get_added_tokens_decoder().into_values().collect();
        let added_text = added.iter().map(|token| token.content.clone()).collect();
        let cuts = if config.split_special_tokens { None } else { cuts(&inner, &added) };
        let mut tokenizer = Self { cuts, inner, bos, added, added_text, newline: Vec::new(), slices: None };
        tokenizer.newline = tokenizer.encode("\n").unwrap_or_default();
        tokenizer.slices = Slices::new(&tokenizer.inner, &tokenizer.added);
        Ok(tokenizer)
    }

    pub(crate) fn bos(&self) -> &BosRule {
        &self.bos
    }

    pub(crate) fn added(&self) -> &[AddedToken] {
        &self.added
    }

    pub(crate) fn is_added(&self, text: &str) -> bool {
        self.added_text.contains(text)
    }

    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The ids of a text, nothing added.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, ItemError> {
        Ok(self.beginning(text, &Bound { most: usize::MAX, wanted: &|| true })?.0)
    }

    /// Whether long texts are cut.
    pub(crate) fn cuts_texts(&self) -> bool {
        self.slices.is_some()
    }

    /// The most bytes of a text that become one token, if there is such a bound.
    pub(crate) fn longest(&self) -> Option<usize> {
        self.slices.as_ref()?.longest(&self.inner)
    }

    /// How many BOS tokens there are in front.
    pub(crate) fn bos_run(&self, ids: &[u32]) -> usize {
        match self.bos {
            BosRule::One { id: bos, .. } => ids.iter().take_while(|id| **id == bos).count(),
            BosRule::None => 0,
        }
    }

    /// The ids of a text from its beginning on: all, or more than are needed; and whether it is all.
    pub(crate) fn beginning(&self, text: &str, bound: &Bound<'_>) -> Result<(Vec<u32>, bool), ItemError> {
        let (mut ids, mut from) = (Vec::new(), 0);
        while from < text.len() && ids.len() - self.bos_run(&ids) <= bound.most {
            if !(bound.wanted)() {
                return Err(Fault::Unwanted.into());
            }
            let end = match &self.slices {
                Some(slices) if text.len() - from > 2 * SLICE => slices.next(&self.inner, text, from + SLICE),
                _ => text.len(),
            };
            if self.slices.is_some() && end - from > LONGEST_PART {
                let bytes = end - from;
                return Err(
                    Fault::Tokenizer(format!("{bytes} bytes of it cannot be cut, {LONGEST_PART} may be")).into()
                );
            }
            ids.extend(self.encode_part(&text[from..end])?);
            from = end;
        }
        Ok((ids, from == text.len()))
    }

    /// The ids of a text to its end, with the BOS tokens in front of it: all, or more than are needed; and whether it is all.
    pub(crate) fn end(&self, text: &str, bound: &Bound<'_>) -> Result<(Vec<u32>, bool), ItemError> {
        let all = Bound { most: usize::MAX, ..*bound };
        let Some(slices) = &self.slices else { return self.beginning(text, &all) };
        let (mut front, _) = self.beginning(text, &Bound { most: 0, ..*bound })?;
        let run = self.bos_run(&front);
        if run == front.len() {
            return self.beginning(text, &all);
        }
        front.truncate(run);
        let mut span = bound.most.saturating_mul(TYPICAL).max(SLICE);
        loop {
            let from = text.len().checked_sub(span).map_or(0, |from| slices.next(&self.inner, text, from));
            if from == 0 {
                return self.beginning(text, &all);
            }
            let (ids, _) = self.beginning(&text[from..], &all)?;
            if ids.len() > bound.most {
                return Ok(([front, ids].concat(), false));
            }
            span = span.saturating_mul(2);
        }
    }

    fn encode_part(&self, text: &str) -> Result<Vec<u32>, ItemError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let encoding = self.inner.encode_fast(text, false).map_err(tokenizer_error)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text in which no added token is recognised.
    pub(crate) fn encode_plain(&self, text: &str) -> Result<Vec<u32>, ItemError> {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = self.inner.get_normalizer() {
            normalizer.normalize(&mut normalized).map_err(tokenizer_error)?;
        }
        let mut pieces = PreTokenizedString::from(normalized);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(tokenizer_error)?;
        }
        let model = self.inner.get_model();
        pieces.tokenize(|piece| model.tokenize(piece.get())).map_err(tokenizer_error)?;
        let encoding = pieces.into_encoding(None, 0, tokenizers::OffsetType::None).map_err(tokenizer_error)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a piece from the middle of a text. It is encoded behind a newline, so that no space is put in front of
    /// it as some tokenizers do at the start of a text; the newline is then removed.
    pub(crate) fn encode_inner(
        &self,
        piece: &str,
        encode: fn(&Self, &str) -> Result<Vec<u32>, ItemError>,
    ) -> Result<Vec<u32>, ItemError> {
        let mut ids = encode(self, &format!("\n{piece}"))?;
        if !self.newline.is_empty() && ids.starts_with(&self.newline) {
            return Ok(ids.split_off(self.newline.len()));
        }
        encode(self, piece)
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The length in bytes of the longest head that all texts share and that can be encoded for itself: for each of
    /// them, ids(text) = ids(head) + ids(rest). 0 if there is none.
    ///
    /// The tokenizer first cuts a text at its added tokens, leftmost and longest first, and each piece between them goes
    /// through normalizer, pre-tokenizer and model alone. If such a match ends at byte e in the search over the whole
    /// text, the search over the head text[..e] finds the same matches (its candidates are a subset that holds all of
    /// them), and the search over text[e..] finds the rest (a search goes on from the end of a match and knows nothing of
    /// what was before). So both sides fall into the same pieces as the whole does. `cuts` is `None` where a flag or a
    /// pre-tokenizer looks beyond its piece.
    pub(crate) fn shared_head(&self, texts: &[&str]) -> usize {
        let (Some(cuts), Some((first, others))) = (&self.cuts, texts.split_first()) else { return 0 };
        let common = others.iter().map(|other| common_prefix(first, other)).min().unwrap_or(0);
        let ends = |text| cuts.search.find_iter(text).map(|found| found.end()).take_while(|end| *end <= common);
        let mut shared: Vec<usize> = ends(*first).collect();
        for other in others {
            let ends: HashSet<usize> = ends(*other).collect();
            shared.retain(|end| ends.contains(end));
        }
        shared.last().copied().unwrap_or(0)
    }

    /// The length in bytes of the head of a text that ends with the last special token that has text of its own behind
    /// it: in a conversation, what comes before the last turn. Such a head can be encoded for itself, as with
    /// [`Tokenizer::shared_head`]. 0 if there is none.
    pub(crate) fn prompt_head(&self, text: &str) -> usize {
        let Some(Cuts { search, special }) = &self.cuts else { return 0 };
        let (mut head, mut last) = (0, 0);
        let is_special = |found: &aho_corasick::Match| special.get(found.pattern().as_usize()) == Some(&true);
        for found in search.find_iter(text).filter(is_special) {
            if !text[last..found.start()].trim().is_empty() {
                head = last;
            }
            last = found.end();
        }
        if text[last..].trim().is_empty() { head } else { last }
    }
}

fn tokenizer_error(error: tokenizers::Error) -> ItemError {
    Fault::Tokenizer(error.to_string()).into()
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}

/// The added tokens in the order in which transformers adds them: later ones take the place of earlier ones of the same
/// text (`TokenizersBackend.__init__` of transformers 5.23).
fn added_tokens(file: &File, class: Class, config: &Config) -> Vec<AddedToken> {
    let kept: &[(u32, AddedToken)] = if class == Class::File { &file.added } else { &[] };
    let in_file: HashMap<&str, &AddedToken> = kept.iter().map(|(_, token)| (token.content.as_str(), token)).collect();
    let is_named: HashSet<&str> = config.named.iter().map(|(_, token)| token.content.as_str()).collect();
    let listed: BTreeMap<u32, &AddedToken> = match &config.decoder {
        Decoder::Whole(tokens) => tokens.iter().map(|(id, token)| (*id, token)).collect(),
        Decoder::Older(tokens) => tokens.iter().chain(&file.added).map(|(id, token)| (*id, token)).collect(),
    };
    let new = listed.into_values().filter(|token| in_file.get(token.content.as_str()) != Some(token));
    let new = new.map(|token| {
        let special = token.special || is_named.contains(token.content.as_str());
        token.clone().special(special)
    });
    let mut added: Vec<AddedToken> = kept.iter().map(|(_, token)| token.clone()).chain(new).collect();
    let mut known: HashSet<String> = added.iter().map(|token| token.content.clone()).collect();
    let special = || config.named.iter().map(|(_, token)| token).chain(&config.extra);
    added.extend(special().filter(|token| known.insert(token.content.clone())).cloned());
    if class == Class::Qwen2 {
        added.extend(special().map(|token| AddedToken::from(token.content.as_str(), true)));
    }
    added
}

/// Ask the post-processor what it does, rather than read how it is written: there are five kinds of them.
fn bos_rule(inner: &tokenizers::Tokenizer, config: &Config) -> Result<BosRule, Error> {
    let file = |error: tokenizers::Error| Error::File { file: TOKENIZER, message: error.to_string() };
    for probe in ["a", "0", ".", "\n"] {
        if !inner.encode(probe, false).is_ok_and(|encoding| !encoding.is_empty()) {
            continue;
        }
        let encoding = inner.encode(probe, true).map_err(file)?;
        let count = encoding.get_special_tokens_mask().iter().take_while(|mask| **mask == 1).count();
        if count > 1 {
            return Err(Error::Prefix { count });
        }
        if count == 1 {
            if config.add_bos_token == Some(false) {
                tracing::warn!(
                    "add_bos_token is false, but the post-processor in tokenizer.json adds one and is followed"
                );
            }
            let id = encoding.get_ids().first().copied().unwrap_or_default();
            let token = inner.id_to_token(id).unwrap_or_default();
            return Ok(BosRule::One { id, token, reason: BosReason::PostProcessor });
        }
        break;
    }
    if config.add_bos_token != Some(true) {
        return Ok(BosRule::None);
    }
    let token = config.named("bos_token").ok_or(Error::NoBosToken)?;
    let id = inner.token_to_id(token).ok_or(Error::NoBosToken)?;
    Ok(BosRule::One { id, token: token.to_owned(), reason: BosReason::AddBosToken })
}

/// A search that finds what the tokenizer cuts at, if cutting there is safe: no token swallows whitespace or looks at
/// the characters around it, and no pre-tokenizer treats the start of the whole text in its own way (a metaspace that
/// is put in front of the first word only is the one that does).
fn cuts(inner: &tokenizers::Tokenizer, added: &[AddedToken]) -> Option<Cuts> {
    let raw: Vec<_> = added.iter().filter(|token| !token.normalized).collect();
    let plain = |token: &&AddedToken| !(token.lstrip || token.rstrip || token.single_word);
    let pre_tokenizer = serde_json::to_string(&inner.get_pre_tokenizer()).ok()?;
    if raw.is_empty() || !raw.iter().all(plain) || pre_tokenizer.contains(r#""prepend_scheme":"first""#) {
        return None;
    }
    let texts = raw.iter().map(|token| token.content.as_str());
    let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok()?;
    Some(Cuts { search, special: raw.iter().map(|token| token.special).collect() })
}

#[cfg(test)]
mod tests;
