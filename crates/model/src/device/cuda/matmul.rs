//! Matmuls with weights, by cuBLASLt: for each shape of weights one way to add, so that a row of the result has the same
//! bits whatever the number of rows.
//!
//! The reference is the first of cuBLASLt's suggestions for a full step that does not split the depth and that, tried
//! on random numbers, computes rows alike in steps of many sizes. For small steps, in which its tiles would leave most of
//! the GPU idle, the fastest of the suggestions for such a step is taken whose rows have the reference's bits. What is
//! not documented is thereby tested, on the GPU and with the library that will compute. Rows are multiplied in whole
//! tiles, so there are few sizes to try.

#[cfg(feature = "trial")]
mod algorithms;
mod trial;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use self::trial::Trial;
use super::super::{Address, MATMUL_ROWS, Matrix, Memory};
use super::cublaslt::{Algorithm, CublasLt, Places, Problem, Suggestion, WORKSPACE};
use super::{CudaDevice, Gpu};
use crate::compute::Dtype;
use crate::error::{Error, Result};

/// cuBLASLt on one GPU, for one rank's stream.
pub(super) struct Matmuls {
    library: CublasLt,
    workspace: Memory,
    dtype: Dtype,
    /// Rows that algorithms are tried with.
    rows: usize,
    choices: Arc<Choices>,
}

/// What has been chosen on one GPU, for all ranks and models of the process.
#[derive(Default)]
pub(super) struct Choices(Mutex<HashMap<Question, Choice>>);

/// A shape of weights, [output, input], in some numbers, for steps of up to so many rows.
type Question = (Dtype, (usize, usize), usize);

/// How a shape of weights is multiplied.
#[derive(Debug, Clone, Copy)]
struct Choice {
    /// For any number of rows.
    reference: Algorithm,
    /// For small steps: all compute what the reference does.
    small: [Algorithm; SMALL_STEPS.len()],
    /// A hash of results: how they add.
    bits: u32,
}

/// The steps that algorithms are suggested for: a full one, and others in case none of its passes. Not the budget: that
/// may change, and the bits should not.
const CHOICE_ROWS: [usize; 3] = [8192, 1024, 128];
/// Rows at the least of the step that other numbers of rows are compared with.
const TRIAL_ROWS: usize = 8192;
/// The most rows of steps that have algorithms of their own, each from where the one before it ends.
const SMALL_STEPS: [usize; 5] = [128, 256, 512, 1024, 2048];
/// Suggestions that are tried for a small step: the library puts the fastest first.
const SMALL_SUGGESTIONS: usize = 4;

// === impl Choice ===

impl Choice {
    /// The algorithm for so many rows.
    fn algorithm(&self, rows: usize) -> &Algorithm {
        let small = self.small.iter().zip(SMALL_STEPS).find(|&(_, most)| rows <= most);
        small.map_or(&self.reference, |(algorithm, _)| algorithm)
    }
}

// === impl Matmuls ===

impl Matmuls {
    pub(super) fn new(gpu: &Gpu, dtype: Dtype, step_tokens: usize) -> Result<Self> {
        gpu.bind()?;
        let (library, workspace) = (CublasLt::new()?, gpu.allocate(WORKSPACE)?);
        let rows = step_tokens.max(TRIAL_ROWS).next_multiple_of(MATMUL_ROWS);
        Ok(Self { library, workspace, dtype, rows, choices: gpu.choices() })
    }

    /// The library's version, as one number.
    pub(super) fn version(&self) -> usize {
        self.library.version()
    }

    /// `out` [rows, output] = `x` [rows, input] times the weights [output, input], transposed; both have room for whole
    /// tiles of rows, of which those behind the last are of no interest.
    pub(super) fn multiply(
        &self,
        device: &CudaDevice,
        matrix: &Matrix,
        (x, rows): (Address, usize),
        out: Address,
    ) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        let choice = self.choice(device, (matrix.output, matrix.input))?;
        self.run(device, matrix, (x, rows), (out, choice.algorithm(rows)))
    }

    /// A hash of what is computed with these shapes of weights: two machines with the same add alike.
    pub(super) fn fingerprint(&self, device: &CudaDevice, shapes: &[(usize, usize)]) -> Result<u32> {
        let bits = shapes.iter().map(|&shape| self.choice(device, shape).map(|choice| choice.bits.to_le_bytes()));
        Ok(hashed(bits.collect::<Result<Vec<_>>>()?.as_flattened()))
    }

    /// Whoever asks first chooses, alone on the GPU: a trial needs memory.
    fn choice(&self, device: &CudaDevice, shape: (usize, usize)) -> Result<Choice> {
        let mut choices = self.choices.0.lock().unwrap_or_else(PoisonError::into_inner);
        let question = (self.dtype, shape, self.rows);
        if let Some(choice) = choices.get(&question) {
            return Ok(*choice);
        }
        let choice = self.choose(device, shape)?;
        choices.insert(question, choice);
        Ok(choice)
    }

    fn choose(&self, device: &CudaDevice, shape: (usize, usize)) -> Result<Choice> {
        let trial = Trial::new(self, device, shape)?;
        let reference = self.reference(&trial, shape)?;
        let bits = trial.bits()?;
        let (mut small, mut least) = ([reference; SMALL_STEPS.len()], 1);
        for (algorithm, most) in small.iter_mut().zip(SMALL_STEPS) {
            *algorithm = self.fastest(&trial, shape, (reference, least, most))?;
            least = most + 1;
        }
        Ok(Choice { reference, small, bits })
    }

    /// The first suggestion that computes a row alike in every company; a full step is computed with it.
    fn reference(&self, trial: &Trial<'_>, (output, input): (usize, usize)) -> Result<Algorithm> {
        let (mut tried, mut objections) = (Vec::new(), Vec::new());
        for rows in CHOICE_ROWS {
            let suggestions = match self.suggestions((output, input), rows) {
                Ok(suggestions) => suggestions,
                // it may have some for fewer rows
                Err(Error::Device(problem)) => {
                    objections.push(format!("for {rows} rows: {problem}"));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for Suggestion { algorithm, .. } in suggestions {
                if tried.contains(&algorithm) {
                    continue;
                }
                tried.push(algorithm);
                match trial.objection(&algorithm)? {
                    None => return Ok(algorithm),
                    Some(objection) => objections.push(objection),
                }
            }
        }
        Err(Error::Device(format!(
            "none of cuBLASLt's {} algorithms for weights [{output}, {input}] in {} gives a row the same bits whatever \
             the number of rows ({})",
            tried.len(),
            self.dtype,
            objections.join("; ")
        )))
    }

    /// The fastest for steps of `least` to `most` rows that computes rows as the reference has, which the trial knows.
    fn fastest(
        &self,
        trial: &Trial<'_>,
        shape: (usize, usize),
        (reference, least, most): (Algorithm, usize, usize),
    ) -> Result<Algorithm> {
        let suggestions = match self.suggestions(shape, most) {
            Ok(suggestions) => suggestions,
            Err(Error::Device(_)) => return Ok(reference),
            Err(error) => return Err(error),
        };
        let (mut fastest, mut shortest) = (reference, trial.milliseconds(&reference, most)?);
        for Suggestion { algorithm, .. } in suggestions.into_iter().take(SMALL_SUGGESTIONS) {
            if algorithm == reference || trial.differs(&algorithm, &[least, least.midpoint(most), most])?.is_some() {
                continue;
            }
            let taken = trial.milliseconds(&algorithm, most)?;
            if taken < shortest {
                (fastest, shortest) = (algorithm, taken);
            }
        }
        Ok(fastest)
    }

    /// Suggestions for so many rows.
    fn suggestions(&self, (output, input): (usize, usize), rows: usize) -> Result<Vec<Suggestion>> {
        let rows = rows.next_multiple_of(MATMUL_ROWS);
        self.library.suggestions(&Problem { dtype: self.dtype, output, input, rows })
    }

    fn run(
        &self,
        device: &CudaDevice,
        matrix: &Matrix,
        (x, rows): (Address, usize),
        (out, algorithm): (Address, &Algorithm),
    ) -> Result<()> {
        device.gpu().bind()?;
        let Matrix { weight, output, input } = *matrix;
        let problem = Problem { dtype: self.dtype, output, input, rows: rows.next_multiple_of(MATMUL_ROWS) };
        let places = Places { weight, x, out, workspace: self.workspace.address() };
        // SAFETY: the three matrices lie in memory of this device, in these shapes; the workspace is this stream's own.
        let done = unsafe { self.library.multiply(&problem, &places, algorithm, device.stream().cast()) };
        // the library's status does not tell a GPU that is lost from an algorithm that does not fit
        done.or_else(|error| device.gpu().alive().and(Err(error)))
    }
}

/// FNV-1a, in 32 bits.
fn hashed(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
