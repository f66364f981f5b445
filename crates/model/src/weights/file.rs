//! One safetensors file: its header, checked against the file's length, and reads by position.
//!
//! The format: 8 bytes with the length of the header, the header as JSON, the data. Source: the safetensors crate.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::error::{Error, Result};

/// A safetensors file that is open for reading.
pub(super) struct WeightFile {
    path: PathBuf,
    file: File,
}

/// Where a tensor lies in its file.
pub(super) struct Stored {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// The position of its first byte, from the start of the file.
    pub(super) start: u64,
}

/// The safetensors crate refuses longer headers, too.
const LONGEST_HEADER: u64 = 100_000_000;

impl WeightFile {
    /// Opens a file and returns what its header lists.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<(String, Stored)>)> {
        let error = |problem: String| Error::File { file: path.to_owned(), problem };
        let file = File::open(path).map_err(|e| error(format!("cannot be opened: {e}")))?;
        let length = file.metadata().map_err(|e| error(format!("cannot be examined: {e}")))?.len();
        let mut header_length = [0; 8];
        file.read_exact_at(&mut header_length, 0).map_err(|e| error(format!("no safetensors header: {e}")))?;
        let header_length = u64::from_le_bytes(header_length);
        if header_length > LONGEST_HEADER || header_length.saturating_add(8) > length {
            return Err(error(format!("the header would be {header_length} bytes long, the file is {length}")));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact_at(&mut header, 8).map_err(|e| error(format!("the header cannot be read: {e}")))?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| error(format!("malformed header: {e}")))?;
        let opened = Self { path: path.to_owned(), file };
        let data = 8 + header_length;
        let mut tensors = Vec::new();
        // in the order of the file, so that the first one that is wrong is always the same
        let mut listed: Vec<_> = metadata.tensors().into_iter().collect();
        listed.sort_unstable_by_key(|(_, info)| info.data_offsets);
        for (name, info) in listed {
            let (from, to) = info.data_offsets;
            let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |product, &size| product.checked_mul(size));
            if to.checked_sub(from).and_then(|bytes| bytes.checked_mul(8)) != bits {
                let problem = format!("bytes {from} to {to} do not hold {:?} of {}", info.shape, info.dtype);
                return Err(opened.tensor_error(&name, problem));
            }
            let end = data.saturating_add(to as u64);
            if end > length {
                return Err(
                    opened.tensor_error(&name, format!("ends at byte {end}, the file at {length}: it was cut off"))
                );
            }
            tensors.push((name, Stored { dtype: info.dtype, shape: info.shape.clone(), start: data + from as u64 }));
        }
        Ok((opened, tensors))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `bytes` from a position in the file, for the sake of tensor `name`.
    pub(super) fn read(&self, name: &str, position: u64, bytes: &mut [u8]) -> Result<()> {
        let error = |error| self.tensor_error(name, format!("cannot be read: {error}"));
        self.file.read_exact_at(bytes, position).map_err(error)
    }

    pub(super) fn tensor_error(&self, name: &str, problem: impl Into<String>) -> Error {
        Error::Tensor { file: self.path.clone(), tensor: name.to_owned(), problem: problem.into() }
    }
}
