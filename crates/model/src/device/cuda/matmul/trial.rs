//! Random numbers on which the algorithms for a shape of weights are tried.

use super::{Matmuls, hashed};
use crate::device::cuda::CudaDevice;
use crate::device::cuda::cublaslt::Algorithm;
use crate::device::kernels::{Fill, Kernels};
use crate::device::{Device, MATMUL_ROWS, Matrix, Memory};
use crate::error::{Error, Result};

/// Numbers of rows that must agree with a full step: around tiles, and large odd ones.
const TRIED_ROWS: [usize; 15] = [1, 5, 17, 65, 130, 129, 200, 1, 256, 333, 1000, 2048, 4097, 6144, 8191];
/// Rows that are compared at the beginning, in the middle and at the end of a product.
const COMPARED: usize = 64;
/// Of which the median is taken.
const TIMES: usize = 5;

/// Random numbers to try algorithms on.
pub(super) struct Trial<'a> {
    matmuls: &'a Matmuls,
    device: &'a CudaDevice,
    matrix: Matrix,
    _weight: Memory,
    x: Memory,
    whole: Memory,
    part: Memory,
}

impl<'a> Trial<'a> {
    pub(super) fn new(matmuls: &'a Matmuls, device: &'a CudaDevice, (output, input): (usize, usize)) -> Result<Self> {
        device.gpu().bind()?;
        // a part from the middle has a whole tile behind it
        let (size, rows) = (matmuls.dtype.size(), matmuls.rows + MATMUL_ROWS);
        let random = |seed: usize, count: usize| -> Result<Memory> {
            let memory = device.allocate(count * size)?;
            let fill = Fill { out: memory.address(), count, seed, scale: 1.0, offset: 0.0 };
            Kernels { device }.fill(&fill)?;
            Ok(memory)
        };
        let (weight, x) = (random(1, output * input)?, random(2, rows * input)?);
        let room = || device.allocate(rows * output * size);
        let matrix = Matrix { weight: weight.address(), output, input };
        Ok(Self { matmuls, device, matrix, _weight: weight, x, whole: room()?, part: room()? })
    }

    /// Why an algorithm cannot be taken: it refuses some number of rows, or computes a row otherwise among them. A full step
    /// has been computed with it afterwards.
    pub(super) fn objection(&self, algorithm: &Algorithm) -> Result<Option<String>> {
        match self.refuses(algorithm, (0, self.matmuls.rows), &self.whole)? {
            Some(objection) => Ok(Some(objection)),
            None => self.differs(algorithm, &TRIED_ROWS),
        }
    }

    /// Where an algorithm refuses some rows of the full step, as many as one of the numbers says, or computes them
    /// otherwise than they are there. Each part is taken from the beginning, the middle and the end of the step in turn.
    pub(super) fn differs(&self, algorithm: &Algorithm, numbers: &[usize]) -> Result<Option<String>> {
        let all = self.matmuls.rows;
        for (place, &rows) in numbers.iter().enumerate() {
            let first = [0, (all - rows) / 2, all - rows][place % 3];
            if let Some(objection) = self.refuses(algorithm, (first, rows), &self.part)? {
                return Ok(Some(objection));
            }
            let compared = rows.min(COMPARED);
            for at in [0, (rows - compared) / 2, rows - compared] {
                if self.read(&self.whole, first + at, compared)? != self.read(&self.part, at, compared)? {
                    return Ok(Some(format!("differs between {all} and {rows} rows, near row {}", first + at)));
                }
            }
        }
        Ok(None)
    }

    /// Whether an algorithm takes a full step, which it then computes.
    #[cfg(feature = "trial")]
    pub(super) fn computes_all(&self, algorithm: &Algorithm) -> Result<bool> {
        Ok(self.refuses(algorithm, (0, self.matmuls.rows), &self.whole)?.is_none())
    }

    /// What the library says when it does not multiply these rows.
    fn refuses(&self, algorithm: &Algorithm, (first, rows): (usize, usize), to: &Memory) -> Result<Option<String>> {
        let x = self.x.address() + first * self.matrix.input * self.matmuls.dtype.size();
        match self.matmuls.run(self.device, &self.matrix, (x, rows), (to.address(), algorithm)) {
            Ok(()) => Ok(None),
            Err(Error::Device(problem)) => Ok(Some(problem)),
            Err(error) => Err(error),
        }
    }

    /// A hash of a full step's first rows, as they were computed last.
    pub(super) fn bits(&self) -> Result<u32> {
        Ok(hashed(&self.read(&self.whole, 0, COMPARED)?))
    }

    /// The median time of so many rows.
    pub(super) fn milliseconds(&self, algorithm: &Algorithm, rows: usize) -> Result<f32> {
        let mut taken = [0.0; TIMES];
        for time in &mut taken {
            *time = self.device.gpu().milliseconds(|| self.refuses(algorithm, (0, rows), &self.part).map(drop))?;
        }
        taken.sort_by(f32::total_cmp);
        Ok(taken[TIMES / 2])
    }

    fn read(&self, memory: &Memory, first: usize, rows: usize) -> Result<Vec<u8>> {
        let row = self.matrix.output * self.matmuls.dtype.size();
        let mut bytes = vec![0; rows * row];
        self.device.download(memory.address() + first * row, &mut bytes)?;
        Ok(bytes)
    }
}
