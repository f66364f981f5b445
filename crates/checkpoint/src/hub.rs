//! A checkpoint on the hub: resolve the revision to a commit, fetch the files it needs into the cache, open the snapshot.
//!
//! The cache has the layout that Python's huggingface_hub uses too, so whatever either has fetched serves both. The
//! revision's entry in the cache is written last: offline never finds a snapshot that this crate left half-made.

mod download;
mod link;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use hf_hub::{Cache, Repo, RepoType};

use self::download::Commit;
use self::link::Link;
use crate::directory::{self, CONFIG, INDEX, OPTIONAL, TOKENIZER, WEIGHTS};
use crate::{Checkpoint, Error, Source};

/// How to reach the hub. It holds a token, hence no `Debug`. Only the HTTP client's proxy comes from the environment.
#[derive(Clone)]
pub struct HubOptions {
    /// The hub's address, for a mirror; the public hub by default.
    pub endpoint: Option<String>,
    /// The cache of fetched files, the `hub` folder; `~/.cache/huggingface/hub` by default.
    pub cache_dir: Option<PathBuf>,
    /// What opens private and gated repositories; by default the `token` file beside the cache, if there is one.
    pub token: Option<String>,
    /// Branch, tag or commit; `main` by default.
    pub revision: Option<String>,
    /// Never use the network.
    pub offline: bool,
    /// Show a progress bar on standard error, if that is a terminal.
    pub progress: bool,
    /// How long the hub may stay silent before the connection counts as lost.
    pub timeout: Duration,
    /// How often a failure that may pass is tried again without progress.
    pub retries: u32,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            endpoint: None,
            cache_dir: None,
            token: None,
            revision: None,
            offline: false,
            progress: false,
            timeout: Duration::from_secs(30),
            retries: 4,
        }
    }
}

/// Whether this can be the name of a repository: `owner/name`.
pub(crate) fn is_repo_name(model: &str) -> bool {
    model.split_once('/').is_some_and(|(owner, name)| is_plain(owner) && is_plain(name))
}

/// Whether this is safe as one component of a path and of an address: nothing hidden, no separator, no escape.
fn is_plain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && !name.starts_with(['.', '-']) && name.bytes().all(allowed)
}

/// Finds the files of a repository, in the cache or on the hub.
pub(crate) fn locate(name: &str, options: &HubOptions) -> Result<Checkpoint, Error> {
    let repository = Repository::new(name, options)?;
    if options.offline {
        return repository.offline();
    }
    // A commit never changes: once it is here as a whole, the hub need not be asked.
    if repository.recorded().is_some_and(|commit| commit == repository.revision)
        && let Ok(checkpoint) = repository.open(&repository.revision)
    {
        return Ok(checkpoint);
    }
    let commit = repository.fetch(options)?;
    repository.open(&commit)
}

/// A repository at a revision, and the cache that its files go to.
pub(crate) struct Repository {
    name: String,
    revision: String,
    cache: Cache,
}

// === impl Repository ===

impl Repository {
    fn new(name: &str, options: &HubOptions) -> Result<Self, Error> {
        let revision = options.revision.clone().unwrap_or_else(|| "main".to_owned());
        if !revision.split('/').all(is_plain) {
            return Err(Error::Revision(revision));
        }
        let cache = Cache::new(options.cache_dir.clone().ok_or(Error::NoCacheDirectory)?);
        Ok(Self { name: name.to_owned(), revision, cache })
    }

    /// The repository as hf-hub names it, at its own revision or at a commit.
    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.name.clone(), RepoType::Model, revision.to_owned())
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.repo(self.at(commit)).pointer_path(commit)
    }

    /// The commit that the cache has recorded for the revision.
    fn recorded(&self) -> Option<String> {
        let repo = self.at(&self.revision);
        let path = self.cache.path().join(repo.folder_name()).join("refs").join(&self.revision);
        let commit = std::fs::read_to_string(path).ok()?.trim().to_owned();
        is_plain(&commit).then_some(commit)
    }

    fn open(&self, commit: &str) -> Result<Checkpoint, Error> {
        let source =
            Source::Hub { repo: self.name.clone(), revision: self.revision.clone(), commit: commit.to_owned() };
        directory::open(&self.snapshot(commit), source)
    }

    /// The checkpoint from the cache alone.
    fn offline(&self) -> Result<Checkpoint, Error> {
        let commit = self.recorded().unwrap_or_else(|| self.revision.clone());
        if !self.snapshot(&commit).is_dir() {
            return Err(self.not_cached("the model".to_owned()));
        }
        self.open(&commit).map_err(|error| match error {
            Error::Missing { file, .. } => self.not_cached(file),
            other => other,
        })
    }

    /// Completes the snapshot of the commit that the revision stands for now, and returns that commit.
    fn fetch(&self, options: &HubOptions) -> Result<String, Error> {
        let link = Link::new(self, options)?;
        let info = link.info()?;
        let held: HashSet<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let place = format!("{} at {}", self.name, self.revision);
        directory::check(&place, |file| held.contains(file))?;

        let commit = Commit::new(&link, &info.sha)?;
        let sharded = !held.contains(WEIGHTS);
        let mut documents = vec![CONFIG, TOKENIZER];
        documents.extend(OPTIONAL.into_iter().filter(|file| held.contains(file)));
        documents.extend(sharded.then_some(INDEX));
        commit.fetch(&documents)?;

        let weights = match sharded {
            true => directory::shards(&self.snapshot(&info.sha).join(INDEX))?,
            false => vec![WEIGHTS.to_owned()],
        };
        if let Some(shard) = weights.iter().find(|shard| !held.contains(shard.as_str())) {
            return Err(directory::missing_shard(&place, shard));
        }
        commit.fetch(&weights.iter().map(String::as_str).collect::<Vec<_>>())?;
        let record = self.cache.repo(self.at(&self.revision));
        record.create_ref(&info.sha).map_err(Error::io(self.cache.path()))?;
        Ok(info.sha)
    }

    fn not_cached(&self, what: String) -> Error {
        Error::NotCached {
            what,
            repo: self.name.clone(),
            revision: self.revision.clone(),
            cache: self.cache.path().clone(),
        }
    }
}

#[cfg(test)]
mod tests;
