//! The tensors of a checkpoint's safetensors files, read by position: a rank reads the slice it computes with, straight
//! into the layout it computes with, and nothing else is ever held.
//!
//! Stored f32, f16 and bf16 become f32. A tensor that is missing, misshapen, cut off, or holds a number that is not
//! finite is an error that names the tensor and the file.

mod file;
#[cfg(any(feature = "cuda", feature = "host-kernels"))]
mod stored;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

use self::file::{Stored, WeightFile};
use crate::error::{Error, Result};

/// The tensors of one checkpoint, in one or several files.
pub(crate) struct Weights {
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, (usize, Stored)>,
    used: Mutex<BTreeSet<String>>,
}

/// A stored matrix [out, in] of which a rank takes some rows and some columns.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    pub(crate) name: String,
    pub(crate) shape: [usize; 2],
    pub(crate) rows: Range<usize>,
    pub(crate) columns: Range<usize>,
}

/// A stored vector of which a rank takes some numbers.
#[derive(Debug, Clone)]
pub(crate) struct VectorSlice {
    pub(crate) name: String,
    pub(crate) len: usize,
    pub(crate) own: Range<usize>,
}

/// Bytes that are read from a file before they are converted: large enough to keep a disk busy, small beside a model.
pub(crate) const PANEL_BYTES: usize = 8 << 20;
/// Bytes of one positioned read; a panel is read in parallel.
const READ_BYTES: usize = 1 << 20;
/// What names of tensors begin with, but for the head's. transformers finds a tensor with and without it.
const PREFIX: &str = "model.";
/// The file that says which shard a tensor is in.
const INDEX: &str = "model.safetensors.index.json";
/// Side of the square that is transposed at a time: a cache line of f32.
const TILE: usize = 16;

impl Slice {
    /// How many numbers the rank takes.
    pub(crate) fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

impl VectorSlice {
    pub(crate) fn whole(name: impl Into<String>, len: usize) -> Self {
        Self { name: name.into(), len, own: 0..len }
    }
}

impl Weights {
    /// Reads the headers of `paths`.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new(), used: Mutex::default() };
        for path in paths {
            let (file, tensors) = WeightFile::open(path)?;
            for (name, stored) in tensors {
                let earlier = weights.tensors.get(&name).and_then(|(earlier, _)| weights.files.get(*earlier));
                // one that lies in two shards is taken from the one that the index names
                let is_its_own = match earlier {
                    None => true,
                    Some(earlier) => match owner(path, &name) {
                        Some(owner) if path.ends_with(&owner) => true,
                        Some(owner) if earlier.path().ends_with(&owner) => false,
                        _ => {
                            let earlier = earlier.path().display();
                            let problem = format!("is also in {earlier}, and {INDEX} does not say which one is meant");
                            return Err(file.tensor_error(&name, problem));
                        }
                    },
                };
                if is_its_own {
                    weights.tensors.insert(name, (weights.files.len(), stored));
                }
            }
            weights.files.push(file);
        }
        Ok(weights)
    }

    /// The names of the tensors that nobody has read.
    pub(crate) fn unused(&self) -> Vec<String> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        self.tensors.keys().filter(|name| !used.contains(*name)).cloned().collect()
    }

    /// What to do where a tensor is missing and others say why.
    fn hint(&self) -> &'static str {
        let has = |parts: &[&str]| self.tensors.keys().any(|name| parts.iter().any(|part| name.contains(part)));
        if has(&["lora_", "base_model.", ".base_layer.", "modules_to_save", "original_module"]) {
            "; there are tensors of an adapter: merge it into its base with peft's merge_and_unload() and save that"
        } else if has(&["v_head.", "value_head.", "summary."]) {
            "; there is a value head: save the model as ...ForSequenceClassification with its head as score.weight"
        } else {
            ""
        }
    }

    /// A rank's part of a vector.
    pub(crate) fn vector(&self, part: &VectorSlice) -> Result<Vec<f32>> {
        let (file, stored) = self.find(&part.name, &[part.len])?;
        let mut values = vec![0.0; part.len];
        read_rows(file, &part.name, stored, &mut values)?;
        Ok(values[part.own.clone()].to_vec())
    }

    /// A whole matrix as it is stored, `[rows, columns]`, flat.
    pub(crate) fn matrix(&self, name: &str, shape: [usize; 2]) -> Result<Vec<f32>> {
        let (file, stored) = self.find(name, &shape)?;
        let mut values = vec![0.0; shape[0] * shape[1]];
        read_rows(file, name, stored, &mut values)?;
        Ok(values)
    }

    /// Slices of stored matrices, transposed and side by side: `[in, out of the first + out of the second ...]`, flat.
    ///
    /// The matmul runs at full speed from the first row on when its right side is laid out like this (it need not be
    /// packed again for each call), and gives a row the same bits whatever the number of rows.
    pub(crate) fn transposed(&self, slices: &[Slice]) -> Result<Vec<f32>> {
        let width: usize = slices.iter().map(|slice| slice.rows.len()).sum();
        let depth = slices.first().map_or(0, |slice| slice.columns.len());
        let mut values = vec![0.0; width * depth];
        let mut column = 0;
        for slice in slices {
            let (file, stored) = self.find(&slice.name, &slice.shape)?;
            let target = Target { values: &mut values, width, column };
            transpose(file, stored, slice, target)?;
            column += slice.rows.len();
        }
        Ok(values)
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<(&WeightFile, &Stored)> {
        let missing = || Error::MissingTensor {
            tensor: name.to_owned(),
            files: self.files.len(),
            first: self.files.first().map_or_else(String::new, |file| file.path().display().to_string()),
            hint: self.hint(),
        };
        let other = name.strip_prefix(PREFIX).map_or_else(|| format!("{PREFIX}{name}"), str::to_owned);
        let (name, found) = match (self.tensors.get(name), self.tensors.get(&other)) {
            (Some((file, _)), Some(_)) => {
                let file = self.files.get(*file).ok_or_else(missing)?;
                return Err(file.tensor_error(name, format!("is there as {other} too, and they mean the same")));
            }
            (None, Some(found)) => (other.as_str(), found),
            (found, None) => (name, found.ok_or_else(missing)?),
        };
        let (file, stored) = found;
        let file = self.files.get(*file).ok_or_else(missing)?;
        if stored.shape != shape {
            return Err(file.tensor_error(name, format!("shape is {:?}, expected {shape:?}", stored.shape)));
        }
        if !matches!(stored.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(file.tensor_error(name, format!("dtype is {}, expected F32, F16 or BF16", stored.dtype)));
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok((file, stored))
    }
}

/// The shard that the index beside a file names for a tensor.
fn owner(file: &Path, tensor: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let text = std::fs::read(file.parent()?.join(INDEX)).ok()?;
    serde_json::from_slice::<Index>(&text).ok()?.weight_map.remove(tensor)
}

/// Where a transposed slice goes: columns from `column` on, of a matrix `width` wide.
struct Target<'a> {
    values: &'a mut [f32],
    width: usize,
    column: usize,
}

/// Reads a tensor from its beginning into `values`, in order.
fn read_rows(file: &WeightFile, name: &str, stored: &Stored, values: &mut [f32]) -> Result<()> {
    let size = stored.dtype.bitsize() / 8;
    values.par_chunks_mut(READ_BYTES / size).enumerate().try_for_each(|(chunk, values)| {
        let mut bytes = vec![0; values.len() * size];
        file.read(name, stored.start + (chunk * READ_BYTES) as u64, &mut bytes)?;
        match convert(stored.dtype, &bytes, values) {
            true => Ok(()),
            false => Err(not_finite(file, name)),
        }
    })
}

/// Reads a slice in panels of whole rows and writes each panel transposed.
fn transpose(file: &WeightFile, stored: &Stored, slice: &Slice, target: Target<'_>) -> Result<()> {
    let size = stored.dtype.bitsize() / 8;
    let depth = slice.columns.len();
    let panel_rows = (PANEL_BYTES / (depth * size).max(1)).next_multiple_of(TILE);
    let mut panel = Vec::new();
    for start in slice.rows.clone().step_by(panel_rows) {
        let rows = start..slice.rows.end.min(start + panel_rows);
        panel.resize(rows.len() * depth * size, 0);
        read_panel(file, stored, slice, rows.start, &mut panel)?;
        let column = target.column + (rows.start - slice.rows.start);
        let finite = target.values.par_chunks_mut(target.width * TILE).enumerate().map(|(strip, values)| {
            let panel = Panel { bytes: &panel, dtype: stored.dtype, depth, first: strip * TILE };
            panel.write(values, target.width, column)
        });
        if !finite.reduce(|| true, |a, b| a && b) {
            return Err(not_finite(file, &slice.name));
        }
    }
    Ok(())
}

fn read_panel(file: &WeightFile, stored: &Stored, slice: &Slice, first: usize, panel: &mut [u8]) -> Result<()> {
    let size = stored.dtype.bitsize() / 8;
    let [_, columns] = slice.shape;
    let position = |row: usize| stored.start + ((row * columns + slice.columns.start) * size) as u64;
    let row_bytes = slice.columns.len() * size;
    // whole rows lie one after another in the file
    let chunk_bytes = if slice.columns.len() == columns { READ_BYTES.next_multiple_of(row_bytes) } else { row_bytes };
    let rows = chunk_bytes / row_bytes;
    panel
        .par_chunks_mut(chunk_bytes)
        .enumerate()
        .try_for_each(|(chunk, bytes)| file.read(&slice.name, position(first + chunk * rows), bytes))
}

/// Rows of a stored matrix, `[rows, depth]`, of which columns `first ..` are written as rows of the transposed one.
struct Panel<'a> {
    bytes: &'a [u8],
    dtype: Dtype,
    depth: usize,
    first: usize,
}

impl Panel<'_> {
    /// Fills columns `column ..` of `strip` (up to TILE rows of `width`); false if a number is not finite.
    fn write(&self, strip: &mut [f32], width: usize, column: usize) -> bool {
        let size = self.dtype.bitsize() / 8;
        let height = strip.len() / width;
        let mut finite = true;
        for (tile, rows) in self.bytes.chunks(self.depth * size * TILE).enumerate() {
            let mut square = [[0.0f32; TILE]; TILE];
            let count = rows.len() / (self.depth * size);
            for (values, row) in square.iter_mut().zip(rows.chunks_exact(self.depth * size)) {
                let bytes = &row[self.first * size..(self.first + height) * size];
                finite &= convert(self.dtype, bytes, &mut values[..height]);
            }
            let start = column + tile * TILE;
            for (k, row) in strip.chunks_exact_mut(width).enumerate() {
                for (value, values) in row[start..start + count].iter_mut().zip(&square) {
                    *value = values[k];
                }
            }
        }
        finite
    }
}

/// Converts little-endian numbers; false if one of them is not finite.
fn convert(dtype: Dtype, bytes: &[u8], values: &mut [f32]) -> bool {
    match dtype {
        Dtype::BF16 => fill(bytes, values, |b: [u8; 2]| bf16::from_le_bytes(b).to_f32()),
        Dtype::F16 => fill(bytes, values, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
        _ => fill(bytes, values, f32::from_le_bytes),
    }
}

fn fill<const SIZE: usize>(bytes: &[u8], values: &mut [f32], number: impl Fn([u8; SIZE]) -> f32) -> bool {
    let (numbers, _) = bytes.as_chunks::<SIZE>();
    let mut finite = true;
    for (value, &bytes) in values.iter_mut().zip(numbers) {
        *value = number(bytes);
        finite &= value.is_finite();
    }
    finite
}

fn not_finite(file: &WeightFile, name: &str) -> Error {
    file.tensor_error(name, "holds a number that is not finite (NaN or infinite)")
}

#[cfg(test)]
mod tests;
