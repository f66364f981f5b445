//! Fetching the files of one commit into the cache, so that a broken connection costs only what was in flight.
//!
//! Names, addresses and the layout of the cache are hf-hub's. Its own `download` is not used (0.5.0), because it has no
//! timeouts; a retry that starts before the first byte appends the whole file to what is there; a file whose last byte
//! arrived before the rename can never be completed (416); the size is not checked; a file that is there is fetched
//! again; a second process gives up on the lock after five seconds; and the token is sent along to the storage that the
//! hub redirects to. The `.part` and `.lock` files below are named and used as hf-hub does, so both can work side by side.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use hf_hub::CacheRepo;
use hf_hub::api::sync::ApiRepo;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::Response;

use super::is_plain;
use super::link::{Failure, Link};
use crate::Error;

const BUFFER: usize = 1 << 18;
const MAX_HOPS: usize = 5;

/// The way to the files of one commit.
pub(super) struct Commit<'a> {
    link: &'a Link<'a>,
    repo: ApiRepo,
    cache: CacheRepo,
    snapshot: PathBuf,
}

/// A file as the hub announces it.
struct Remote {
    file: String,
    url: String,
    etag: String,
    size: u64,
}

// === impl Commit ===

impl<'a> Commit<'a> {
    pub(super) fn new(link: &'a Link<'a>, commit: &str) -> Result<Self, Error> {
        if !is_plain(commit) {
            return Err(Error::Protocol {
                what: "the list of files".to_owned(),
                repo: link.repository.name.clone(),
                reason: format!("{commit:?} is not a commit"),
            });
        }
        let repo = link.repository.at(commit);
        Ok(Self {
            link,
            repo: link.api.repo(repo.clone()),
            cache: link.repository.cache.repo(repo),
            snapshot: link.repository.snapshot(commit),
        })
    }

    /// Brings these files into the snapshot, those that are not there yet.
    pub(super) fn fetch(&self, files: &[&str]) -> Result<(), Error> {
        let missing = files.iter().filter(|file| !self.snapshot.join(file).exists());
        let remotes =
            missing.map(|file| self.link.retry(file, || 0, || self.probe(file))).collect::<Result<Vec<_>, _>>()?;
        if remotes.is_empty() {
            return Ok(());
        }
        let bar = self.bar(remotes.iter().map(|remote| remote.size).sum());
        let mut done = 0;
        for remote in &remotes {
            bar.set_message(remote.file.clone());
            self.fetch_one(remote, &|bytes| bar.set_position(done + bytes))?;
            done += remote.size;
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn bar(&self, size: u64) -> ProgressBar {
        if !self.link.options.progress {
            return ProgressBar::hidden();
        }
        let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(size).with_style(style)
    }

    /// Asks for a file's hash and size. The hub itself answers, before it redirects to its storage.
    fn probe(&self, file: &str) -> Result<Remote, Failure> {
        let protocol = |reason: &str| Failure::Protocol(reason.to_owned());
        let url = self.repo.url(file);
        let mut at = url.clone();
        for _ in 0..MAX_HOPS {
            let response = self.link.get(&at, "bytes=0-0").config().max_redirects(0).build().call()?;
            let location = header(&response, "location").filter(|_| response.status().is_redirection());
            // A path without a host is the hub's own: the repository was renamed.
            if let Some(path) = location.filter(|to| to.starts_with('/') && !to.starts_with("//")) {
                at = at.split('/').take(3).collect::<Vec<_>>().join("/") + path;
                continue;
            }
            let etag = header(&response, "x-linked-etag").or(header(&response, "etag"));
            let etag = etag.ok_or_else(|| protocol("the answer has no etag"))?;
            let etag = etag.trim_start_matches("W/").replace('"', "");
            if !is_plain(&etag) {
                return Err(protocol("the answer's etag cannot be the name of a file"));
            }
            let size = match size(&response) {
                Some(size) => Some(size),
                // Followed by the agent, which leaves the token behind.
                None if location.is_some() => size_of_range(&self.link.get(&at, "bytes=0-0").call()?),
                None => None,
            };
            let size = size.ok_or_else(|| protocol("the answer does not say the size"))?;
            return Ok(Remote { file: file.to_owned(), url, etag, size });
        }
        Err(protocol("too many redirects"))
    }

    fn fetch_one(&self, remote: &Remote, arrived: &dyn Fn(u64)) -> Result<(), Error> {
        let blob = self.cache.blob_path(&remote.etag);
        let pointer = self.snapshot.join(&remote.file);
        for path in [&blob, &pointer] {
            let folder = path.parent().unwrap_or(path);
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let _held = hold(&blob.with_extension("lock"), &remote.file)?;
        if length(&blob) != remote.size {
            let part = blob.with_extension("part");
            self.link.retry(&remote.file, || length(&part), || self.transfer(remote, &part, arrived))?;
            self.verify(remote, &part)?;
            std::fs::rename(&part, &blob).map_err(Error::io(&blob))?;
        }
        let up = "../".repeat(Path::new(&remote.file).components().count() + 1);
        link(&PathBuf::from(format!("{up}blobs/{}", remote.etag)), &pointer)
    }

    /// Appends to the part what it lacks.
    fn transfer(&self, remote: &Remote, part: &Path, arrived: &dyn Fn(u64)) -> Result<(), Failure> {
        let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(Error::io(part))?;
        let mut have = file.metadata().map_err(Error::io(part))?.len();
        if have == remote.size {
            return Ok(());
        }
        if have > remote.size {
            file.set_len(0).map_err(Error::io(part))?;
            have = 0;
        }
        let response = self.link.get(&remote.url, &format!("bytes={have}-")).call()?;
        let goes_on = header(&response, "content-range").is_some_and(|it| it.starts_with(&format!("bytes {have}-")));
        if have > 0 && !goes_on {
            file.set_len(0).map_err(Error::io(part))?;
            have = 0;
        }
        let mut body = response.into_body().into_reader().take(remote.size - have);
        let mut buffer = vec![0; BUFFER];
        while have < remote.size {
            arrived(have);
            let read = body.read(&mut buffer).map_err(|error| Failure::Network(error.to_string()))?;
            if read == 0 {
                return Err(Failure::Network(format!("ended after {have} of {} bytes", remote.size)));
            }
            file.write_all(&buffer[..read]).map_err(Error::io(part))?;
            have += read as u64;
        }
        arrived(have);
        Ok(())
    }

    /// Compares the content with the hub's sha-256. Only large files have one; the size of the others was checked.
    fn verify(&self, remote: &Remote, part: &Path) -> Result<(), Error> {
        if remote.etag.len() != 64 || !remote.etag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(());
        }
        let found = sha256(part).map_err(Error::io(part))?;
        if found == remote.etag.to_ascii_lowercase() {
            return Ok(());
        }
        std::fs::remove_file(part).map_err(Error::io(part))?;
        Err(Error::Damaged {
            file: remote.file.clone(),
            repo: self.link.repository.name.clone(),
            found,
            expected: remote.etag.clone(),
        })
    }
}

/// The sha-256 of a whole file, in hex.
fn sha256(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn header<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

/// The size of the whole file, from the answer to a request for its first byte.
fn size(response: &Response<Body>) -> Option<u64> {
    let linked = header(response, "x-linked-size").and_then(|size| size.parse().ok());
    linked.or_else(|| size_of_range(response).filter(|_| !response.status().is_redirection()))
}

fn size_of_range(response: &Response<Body>) -> Option<u64> {
    match header(response, "content-range") {
        Some(range) => range.rsplit('/').next()?.parse().ok(),
        // Ranges are not understood: this is the length of the whole.
        None => header(response, "content-length")?.parse().ok(),
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Waits for its turn on a file, however long another process takes; the lock of a process that died is free.
fn hold(lock: &Path, file: &str) -> Result<File, Error> {
    let handle = File::create(lock).map_err(Error::io(lock))?;
    match handle.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tracing::info!(file, "waiting for another process that fetches this file");
            handle.lock().map_err(Error::io(lock))?;
        }
        // Some network file systems have no locks; the checksum then finds what two writers would spoil.
        Err(TryLockError::Error(error)) => tracing::warn!(%error, file, "fetching without a lock"),
    }
    Ok(handle)
}

/// Makes the snapshot's entry for a blob; another process may have been faster.
fn link(target: &Path, pointer: &Path) -> Result<(), Error> {
    if pointer.is_symlink() && !pointer.exists() {
        std::fs::remove_file(pointer).map_err(Error::io(pointer))?;
    }
    match std::os::unix::fs::symlink(target, pointer) {
        Err(_) if pointer.exists() => Ok(()),
        other => other.map_err(Error::io(pointer)),
    }
}
