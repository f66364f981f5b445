//! Conversations to token ids, as Hugging Face makes them: the model's chat template, its tokenizer, one rule for the
//! BOS token, truncation. Pure: everything comes in as values ([`Sources`]) and an [`Encoder`] never changes once it is
//! made, so that any number of threads may share one.
//!
//! ```text
//! Input --render--> text --tokenize--> ids --BOS rule--> ids --limit--> Encoded
//! ```
//!
//! # What is decided here
//! - **Tokenizer.** What transformers 5.23 makes of the files: some of its classes build normalizer and pre-tokenizer
//!   themselves, whatever tokenizer.json says. Every field of tokenizer_config.json is used, checked, on a list of fields
//!   without effect, or named in a warning.
//! - **Template.** `chat_template.jinja` wins over `tokenizer_config.json`; of several named templates `default` is used.
//!   It runs as in `apply_chat_template(..., add_generation_prompt=False)` of transformers 5, with one difference:
//!   `strftime_now` knows a fixed day ([`Sources::date`]), for a score must not change overnight.
//! - **Special tokens.** Text is tokenized without what the post-processor would add; only the BOS rule adds a token. An
//!   end-of-sequence token that a post-processor appends is therefore not added, as in `apply_chat_template`.
//! - **BOS.** If the tokenizer puts a token in front of every text by itself ([`BosRule`]), the ids start with exactly
//!   one of it, whether the template or the text wrote none, one or several. Otherwise the ids are what the template's
//!   text gives. The post-processor of tokenizer.json outranks `add_bos_token: false`, as in transformers 5, which does
//!   not read that flag beside a tokenizer.json; `add_bos_token: true` adds the rule where the post-processor has none.
//!   Token ids given by the caller are never touched.
//! - **Special tokens inside content** (`<end_of_turn>` in a user's text) become the special token, as in Hugging Face.
//!   [`Options::strict_special_tokens`] makes them plain text; see there for the exact meaning.
//! - **Groups.** A prompt's tokens are computed once and joined to each response where that provably changes nothing:
//!   behind an added token, see [`Batch::tokenized_bytes`]. An encoder [with a cache](Encoder::with_cache) does the same
//!   for conversations that share a prompt and come one by one.

mod cache;
mod config;
mod encoder;
mod error;
#[cfg(test)]
mod fuzz;
mod input;
mod python;
mod row;
mod strict;
mod template;
mod tokenizer;

pub use config::{Sources, TemplateSource};
pub use encoder::{Batch, Bos, Encoded, Encoder, Options, Truncate};
pub use error::{Error, Fault, ItemError};
pub use input::{Input, Message, Role};
pub use row::Row;
pub use template::Date;
pub use tokenizer::{BosReason, BosRule};
