//! Everything that can go wrong between a model's name and its files; each message says what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model's files could not be found, fetched or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither a directory nor the name of a repository.
    #[error(
        "no directory {0:?} and not of the form owner/name: pass the directory of a checkpoint or a repository of the hub"
    )]
    NoSuchModel(String),

    /// The name of a repository, by the looks of it, whose owner's name is that of a folder here.
    #[error(
        "no directory {model:?}, but {} is one: check the name, or pass hf://{model} for the repository of the hub", .folder.display()
    )]
    NotInFolder {
        /// What was asked for.
        model: String,
        /// The folder that is there.
        folder: PathBuf,
    },

    /// The path of a file where a directory is meant.
    #[error("{} is a file: pass the directory that holds the checkpoint", .0.display())]
    NotADirectory(PathBuf),

    /// A file that every checkpoint must have is not there.
    #[error("{place} has no {file}: {hint}")]
    Missing {
        /// The directory or repository.
        place: String,
        /// The file's name.
        file: String,
        /// What to do about it.
        hint: &'static str,
    },

    /// A file is there that transformers would read, and that is not read here: the scores would be others.
    #[error("{place} has {file}, which is not read: {hint}")]
    Unread {
        /// The directory or repository.
        place: String,
        /// The file's name.
        file: String,
        /// What to do about it.
        hint: &'static str,
    },

    /// A file is there and its content cannot be used.
    #[error("{}: {reason}", .file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// Reading or writing a file failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// Offline was asked for, and the cache does not have it.
    #[error(
        "{what} of {repo} at {revision} is not in the cache {} and offline was asked for: \
         fetch it once without offline, or pass the directory of a copy", .cache.display()
    )]
    NotCached {
        /// What is missing.
        what: String,
        /// `owner/name`.
        repo: String,
        /// The revision that was asked for.
        revision: String,
        /// The cache that was searched.
        cache: PathBuf,
    },

    /// A revision that could not be a branch, a tag or a commit.
    #[error("{0:?} cannot be a revision: pass a branch, a tag or a commit")]
    Revision(String),

    /// There is no home directory to keep the cache in.
    #[error("no home directory for the cache of the hub: pass a cache directory")]
    NoCacheDirectory,

    /// The hub refused: 401 or 403.
    #[error("the hub refused {repo} at {revision} (status {status}): {hint}")]
    Refused {
        /// `owner/name`.
        repo: String,
        /// The revision that was asked for.
        revision: String,
        /// The HTTP status.
        status: u16,
        /// What to do about it.
        hint: &'static str,
    },

    /// The hub does not know it: 404.
    #[error(
        "the hub knows no repository {repo} with a revision {revision}, or the token may not see it, and there is no directory \
         of that name: check the name, the revision and the token"
    )]
    Unknown {
        /// `owner/name`.
        repo: String,
        /// The revision that was asked for.
        revision: String,
    },

    /// The hub could not be reached, or broke off, more often than is worth trying again.
    #[error(
        "{what} of {repo} failed: {reason}: run again to go on where it stopped, or ask for offline if the model is in the \
         cache {}", .cache.display()
    )]
    Unreachable {
        /// What was being fetched.
        what: String,
        /// `owner/name`.
        repo: String,
        /// The last failure.
        reason: String,
        /// Where fetched files are kept.
        cache: PathBuf,
    },

    /// The hub answered with something that is not a hub's answer.
    #[error("{what} of {repo}: {reason}: check that the endpoint is a hub")]
    Protocol {
        /// What was being fetched.
        what: String,
        /// `owner/name`.
        repo: String,
        /// What was wrong with the answer.
        reason: String,
    },

    /// A file arrived with another content than the hub announced; what was fetched is thrown away.
    #[error("{file} of {repo} arrived damaged, sha-256 {found} instead of {expected}: run again to fetch it anew")]
    Damaged {
        /// The file's name.
        file: String,
        /// `owner/name`.
        repo: String,
        /// The hash of what arrived.
        found: String,
        /// The hash that the hub announced.
        expected: String,
    },
}

impl Error {
    /// For `map_err`: an i/o error, with the path that it is about.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
