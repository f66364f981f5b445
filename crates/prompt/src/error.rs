//! What can go wrong: [`Error`] when a model's files are loaded, [`ItemError`] when one conversation is encoded. Both
//! are for branching on; they name the file, or the place in the input, that is at fault.

use crate::input::Role;

/// A model's tokenizer or template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is not what its name says, or one of its fields has the wrong type.
    #[error("{file}: {message}")]
    File {
        /// The file's name, without a folder.
        file: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The chat template does not compile.
    #[error("{file}: the chat template does not compile: {message}")]
    Template {
        /// The file that holds the template.
        file: &'static str,
        /// What the template engine says.
        message: String,
    },
    /// There are several named chat templates, none of them called `default`.
    #[error("{file}: no chat template is named default, there are: {names}")]
    NoDefaultTemplate {
        /// The file that holds the templates.
        file: &'static str,
        /// The names that exist, separated by commas.
        names: String,
    },
    /// The post-processor puts more than one token in front of a text.
    #[error("tokenizer.json: the post-processor puts {count} tokens in front of a text, at most one is supported")]
    Prefix {
        /// How many it puts there.
        count: usize,
    },
    /// transformers builds the tokenizer by code that is not implemented here, and not from tokenizer.json alone.
    #[error(
        "tokenizer_config.json: tokenizer_class {0} makes its own pipeline, which is not implemented: if tokenizer.json alone \
         gives the same ids, set tokenizer_class to PreTrainedTokenizerFast"
    )]
    Class(String),
    /// The tokenizer drops merges at random, so that its scores would be random too.
    #[error("tokenizer.json: a dropout of {0} makes the tokens random")]
    Dropout(String),
    /// `add_bos_token` asks for a BOS token, and none is defined.
    #[error("tokenizer_config.json: add_bos_token is set, but the tokenizer knows no bos_token")]
    NoBosToken,
}

/// Why one conversation cannot be encoded, and where; the others of its group are not affected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{fault}", lead(path))]
pub struct ItemError {
    /// Where in the input, as in `messages[3].role`, `responses[1]` or `token_ids[7]`; empty if it is all of it.
    pub path: String,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with a conversation. The text says nothing of the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A conversation or a prompt without a single message.
    #[error("the conversation is empty")]
    EmptyConversation,
    /// A text with nothing in it, or a conversation that renders to nothing.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A list of token ids with nothing in it.
    #[error("there are none")]
    NoTokenIds,
    /// A group without a single response.
    #[error("the group has no responses")]
    NoResponses,
    /// A value of the wrong type.
    #[error("expected {expected}, found {found}")]
    Shape {
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A key beside the messages that a template would render into the prompt, which is not done here.
    #[error("{0} are not supported: give the rendered text or token ids")]
    Unsupported(&'static str),
    /// A role that is none of [`Role::ALL`].
    #[error("unknown role {0:?}, known are {names}", names = Role::names())]
    UnknownRole(String),
    /// Content that is not text: null, a number, an image.
    #[error("content must be text, found {0}")]
    NotText(String),
    /// The last turn is not the assistant's, so there is nothing to score.
    #[error("the last turn must be the assistant's, it is from {0}")]
    LastTurn(Role),
    /// Messages were given, and the model has no chat template.
    #[error("the model has no chat template: give rendered text or token ids")]
    NoTemplate,
    /// The template itself refused the conversation (`raise_exception`).
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// The template failed on this conversation, or went past its limits.
    #[error("the chat template failed: {0}")]
    TemplateFailed(String),
    /// The text cannot be tokenized.
    #[error("the text cannot be tokenized: {0}")]
    Tokenizer(String),
    /// More tokens than the limit allows, and truncation is off or would leave nothing.
    #[error("at least {tokens} tokens are more than the limit of {limit}")]
    TooLong {
        /// At least so many tokens the input has, the BOS token included: a long text is not read to its end.
        tokens: usize,
        /// The limit in tokens.
        limit: usize,
    },
    /// Nobody waits for it any more.
    #[error("nobody waits for it any more")]
    Unwanted,
    /// A token id that the model has no embedding for.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    TokenId {
        /// The id.
        id: u32,
        /// Ids are below this.
        vocab_size: u32,
    },
    /// Strict mode was asked for, but the tokenizer makes this special token from plain text too.
    #[error("the special token {0:?} inside content cannot be made plain text with this tokenizer")]
    Strict(String),
}

// === impl Fault ===

impl Fault {
    /// This fault at a place in the input.
    pub fn at(self, path: impl Into<String>) -> ItemError {
        ItemError { path: path.into(), fault: self }
    }
}

impl From<Fault> for ItemError {
    fn from(fault: Fault) -> Self {
        fault.at("")
    }
}

fn lead(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}
