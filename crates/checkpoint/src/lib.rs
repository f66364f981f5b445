//! Where a model's files are, and which model they are.
//!
//! [`locate`] turns what a person typed (a directory, or `owner/name` on the hub) into a [`Checkpoint`]: the paths of
//! the files that scoring needs, all of them on disk. [`Checkpoint::digest`] says which model that is, and
//! [`fingerprint`] joins the digest with how the numbers are computed. Nothing here reads a tensor or the environment.

mod digest;
mod directory;
mod error;
mod hub;
#[cfg(any(test, feature = "test-hub"))]
pub mod hub_server;

use std::fmt;
use std::path::{Path, PathBuf};

pub use digest::{Digest, Fingerprint, fingerprint};
pub use error::Error;
pub use hub::HubOptions;

/// The files of one model, all of them on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where the files came from.
    pub source: Source,
    /// `config.json`.
    pub config: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// `tokenizer_config.json`, where there is one.
    pub tokenizer_config: Option<PathBuf>,
    /// `chat_template.jinja`, where there is one; older checkpoints keep the template in `tokenizer_config`.
    pub chat_template: Option<PathBuf>,
    /// `special_tokens_map.json`, where there is one.
    pub special_tokens_map: Option<PathBuf>,
    /// `added_tokens.json`, where there is one.
    pub added_tokens: Option<PathBuf>,
    /// `model.safetensors.index.json`, where the weights are sharded.
    pub index: Option<PathBuf>,
    /// The safetensors files, each once, sorted by name; never empty.
    pub weights: Vec<PathBuf>,
}

/// Where the files of a [`Checkpoint`] came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory on disk.
    Directory(PathBuf),
    /// A repository of the hub, by way of the cache.
    Hub {
        /// `owner/name`.
        repo: String,
        /// The branch, tag or commit that was asked for.
        revision: String,
        /// The commit that the revision stood for.
        commit: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Hub { repo, revision, commit } if revision == commit => write!(f, "{repo} at {commit}"),
            Self::Hub { repo, revision, commit } => write!(f, "{repo} at {revision} ({commit})"),
        }
    }
}

/// What says that a model is on the hub, also where a folder is called like its owner.
const ON_THE_HUB: &str = "hf://";

/// Finds a model's files: `model` is a directory if one of that name exists, else `owner/name` on the hub, fetched into
/// the cache where it is not there yet. Where there is a folder `owner`, a name that is not in it was mistyped: the hub is
/// not asked, unless the name begins with `hf://`.
///
/// # Errors
/// [`Error`], with what to do.
pub fn locate(model: &str, hub: &HubOptions) -> Result<Checkpoint, Error> {
    if let Some(name) = model.strip_prefix(ON_THE_HUB) {
        let known = hub::is_repo_name(name);
        return if known { hub::locate(name, hub) } else { Err(Error::NoSuchModel(model.to_owned())) };
    }
    let path = Path::new(model);
    if path.is_dir() {
        return directory::open(path, Source::Directory(path.to_owned()));
    }
    if path.exists() {
        return Err(Error::NotADirectory(path.to_owned()));
    }
    if !hub::is_repo_name(model) {
        return Err(Error::NoSuchModel(model.to_owned()));
    }
    if let Some(parent) = path.parent().filter(|parent| parent.is_dir()) {
        return Err(Error::NotInFolder { model: model.to_owned(), folder: parent.to_owned() });
    }
    hub::locate(model, hub)
}
