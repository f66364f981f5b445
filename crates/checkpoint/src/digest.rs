//! Which model it is: a digest of a checkpoint's files, and a fingerprint of the digest with the numerics.
//!
//! The digest is a sha-256 over `config.json`, the tokenizer's files, the chat template and the weight index in full, and
//! over a **sample** of each weight file: its size, its whole safetensors header, every tensor of up to 64 KiB in full
//! (norms, biases, the score head) and eight pieces of 4 KiB, evenly spread, of each larger one. Training touches every
//! tensor that it trains nearly everywhere, so a fine-tuned checkpoint of the same shapes has another digest, and 54 GB
//! take some 20 MB of reading. It tells models apart; it is no proof that every byte of the weights is intact.
//!
//! Every part enters with its name and its length, so that no two checkpoints can be confused by moving a border. Where
//! the directory lies does not enter.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::directory::CHAT_TEMPLATE;
use crate::{Checkpoint, Error};

const WHOLE: u64 = 64 * 1024;
const PIECE: u64 = 4 * 1024;
const PIECES: u64 = 8;

/// The longest safetensors header that is believed; the safetensors library draws the same line.
const MAX_HEADER: u64 = 100_000_000;

/// Which model it is, wherever its files lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// Which scores to expect: the same fingerprint promises the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

/// Joins a model with how its numbers are computed: device kind, dtype, tensor parallelism, kernel version.
pub fn fingerprint(digest: &Digest, numerics: &str) -> Fingerprint {
    let mut hasher = Hasher::new("assay fingerprint 1");
    hasher.part("model", &digest.0);
    hasher.part("numerics", numerics.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finish()[..16]);
    Fingerprint(short)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

// === impl Checkpoint ===

impl Checkpoint {
    /// The sha-256 that tells this model from others: over all of the files but the weights, of which it takes the size,
    /// the header and a sample of each tensor. It reads some 20 MB of a model of 54 GB, and does not prove the rest intact.
    pub fn digest(&self) -> Result<Digest, Error> {
        let mut hasher = Hasher::new("assay checkpoint 1");
        self.documents(&mut hasher)?;
        if let Some(index) = &self.index {
            self.document(index, &mut hasher)?;
        }
        for path in &self.weights {
            hasher.part(&self.name(path), b"");
            sample(path, &mut hasher)?;
        }
        Ok(Digest(hasher.finish()))
    }

    /// The sha-256 that tells how this model reads text: over config, tokenizer and chat template, not over the weights.
    /// Whoever has the same makes the same token ids.
    pub fn text_digest(&self) -> Result<Digest, Error> {
        let mut hasher = Hasher::new("assay text 1");
        self.documents(&mut hasher)?;
        Ok(Digest(hasher.finish()))
    }

    /// The files that say how text is read.
    fn texts(&self) -> impl Iterator<Item = &Path> {
        let optional = [&self.tokenizer_config, &self.chat_template, &self.special_tokens_map, &self.added_tokens];
        [&self.config, &self.tokenizer].into_iter().chain(optional.into_iter().flatten()).map(PathBuf::as_path)
    }

    /// All files of the checkpoint.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.texts().chain(self.index.as_deref()).chain(self.weights.iter().map(PathBuf::as_path))
    }

    /// Takes in all files but the weights and their index.
    fn documents(&self, hasher: &mut Hasher) -> Result<(), Error> {
        self.texts().try_for_each(|path| self.document(path, hasher))
    }

    fn document(&self, path: &Path, hasher: &mut Hasher) -> Result<(), Error> {
        let content = std::fs::read(path).map_err(Error::io(path))?;
        hasher.part(&self.name(path), &content);
        Ok(())
    }

    /// The file's name within the checkpoint; shards may lie in a folder of it.
    /// What a file is called in the checkpoint; a chat template from elsewhere is in the place of its own.
    fn name(&self, path: &Path) -> String {
        if self.chat_template.as_deref() == Some(path) {
            return CHAT_TEMPLATE.to_owned();
        }
        let root = self.config.parent().unwrap_or(Path::new(""));
        path.strip_prefix(root).unwrap_or(path).display().to_string()
    }
}

/// Takes in the header and a sample of each tensor of one safetensors file.
fn sample(path: &Path, hasher: &mut Hasher) -> Result<(), Error> {
    let weights = Weights::open(path)?;
    hasher.part("size", &weights.size.to_le_bytes());
    let header = weights.header()?;
    hasher.part("header", &header);
    for (start, end) in weights.tensors(&header)? {
        for (offset, length) in pieces(end - start) {
            let bytes = weights.read(start + offset, length)?;
            hasher.part("tensor", &bytes);
        }
    }
    Ok(())
}

/// The pieces, as offset and length, that stand for a tensor of this many bytes.
fn pieces(length: u64) -> Vec<(u64, u64)> {
    if length <= WHOLE {
        return vec![(0, length)];
    }
    let last = length - PIECE;
    let spread = |piece| (u128::from(last) * u128::from(piece) / u128::from(PIECES - 1)) as u64;
    (0..PIECES).map(|piece| (spread(piece), PIECE)).collect()
}

// === impl Hasher ===

/// A sha-256 over parts, each framed by its name and length.
struct Hasher(Sha256);

impl Hasher {
    fn new(what: &str) -> Self {
        let mut hasher = Self(Sha256::new());
        hasher.part("what", what.as_bytes());
        hasher
    }

    fn part(&mut self, name: &str, content: &[u8]) {
        for bytes in [name.as_bytes(), content] {
            self.0.update((bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }
    }

    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

// === impl Weights ===

/// A safetensors file under positioned reads: the length of the header, the header, the tensors.
struct Weights {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Weights {
    fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path))?;
        let size = file.metadata().map_err(Error::io(path))?.len();
        Ok(Self { path: path.to_owned(), file, size })
    }

    /// The header as it stands in the file, with the eight bytes of its length.
    fn header(&self) -> Result<Vec<u8>, Error> {
        if self.size < 8 {
            return Err(self.malformed(format!("{} bytes are too few for a safetensors file", self.size)));
        }
        let mut length = [0; 8];
        length.copy_from_slice(&self.read(0, 8)?);
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER || length > self.size - 8 {
            let size = self.size;
            return Err(
                self.malformed(format!("a header of {length} bytes in a file of {size}: damaged, or not safetensors"))
            );
        }
        self.read(0, 8 + length)
    }

    /// Where the tensors lie in the file, in order.
    fn tensors(&self, header: &[u8]) -> Result<Vec<(u64, u64)>, Error> {
        #[derive(Deserialize)]
        struct Tensor {
            data_offsets: (u64, u64),
        }
        let bad = |error| self.malformed(format!("its header is not a safetensors header: {error}"));
        let entries: Map<String, Value> = serde_json::from_slice(&header[8..]).map_err(bad)?;
        let data = header.len() as u64;
        let mut tensors = Vec::with_capacity(entries.len());
        for (name, entry) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
            let Tensor { data_offsets: (start, end) } = serde_json::from_value(entry).map_err(bad)?;
            if start > end || end > self.size - data {
                return Err(self
                    .malformed(format!("tensor {name} ends beyond the file: the file is cut short, fetch it again")));
            }
            tensors.push((data + start, data + end));
        }
        tensors.sort_unstable();
        Ok(tensors)
    }

    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, offset).map_err(Error::io(&self.path))?;
        Ok(bytes)
    }

    fn malformed(&self, reason: String) -> Error {
        Error::Malformed { file: self.path.clone(), reason }
    }
}

#[cfg(test)]
mod tests;
