//! The matmuls alone: how fast the model's own shapes are multiplied, how exactly, by which algorithms, and whether a
//! row's bits depend on its company.

use std::sync::Arc;

use collective::Solo;

use super::checks::{self, Check};
use super::timed::Timed;
use super::{Trial, hash, open};
use crate::compute::Compute;
#[cfg(feature = "cuda")]
use crate::compute::Device as Place;
use crate::config::Config;
#[cfg(feature = "cuda")]
use crate::device::cuda::CudaDevice;
use crate::device::kernels::{Fill, Kernels};
use crate::device::layers::DeviceLayer;
use crate::device::numbers::from_bytes;
use crate::device::{Device, MATMUL_ROWS, Matrix, Memory};
use crate::error::{Error, Result};
use crate::share::Share;

/// How fast the four large matmuls of the layers run when nothing else does.
#[derive(Debug, Clone, serde::Serialize)]
pub struct MatmulRate {
    /// Rows of each.
    pub rows: usize,
    /// Floating-point operations a second, all four together: each counts by its share of the work.
    pub rate: f64,
    /// Output, input, and operations a second, of each.
    pub shapes: Vec<(usize, usize, f64)>,
}

/// Whether one shape's rows are the same bits whatever the number of rows.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RowTrial {
    /// Of the weights.
    pub output: usize,
    /// Of the weights.
    pub input: usize,
    /// Numbers of rows that were tried.
    pub tried: usize,
    /// First row and number of rows where a row came out otherwise.
    pub differing: Vec<(usize, usize)>,
}

/// An algorithm that cuBLASLt suggests for a shape of weights, and what a trial makes of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct AlgorithmTrial {
    /// Of the weights.
    pub output: usize,
    /// Of the weights.
    pub input: usize,
    /// The number of rows for which it is suggested.
    pub rows: usize,
    /// Its place among the suggestions for so many rows.
    pub place: usize,
    /// What it says of itself, numbers of cublasLt.h.
    pub made_of: Vec<(&'static str, Option<u32>)>,
    /// Bytes of workspace.
    pub workspace: usize,
    /// How often it fills the GPU with so many rows.
    pub waves: f32,
    /// Why it is not taken, or nothing.
    pub refused: Option<String>,
    /// A hash of what it computes for a full step: equal hashes, equal sums.
    pub bits: Option<String>,
    /// A full step's time in milliseconds.
    pub milliseconds: Option<f32>,
    /// The most rows of the steps that it is taken for: those of a full step if it is for any.
    pub taken_for: Vec<usize>,
}

/// Rows that are compared at the beginning, in the middle and at the end of a product.
const COMPARED: usize = 64;
/// Numbers of a product that are computed in float64.
const SAMPLED: u64 = 64;
/// Of the random weights and rows.
const SEEDS: [usize; 2] = [3, 4];
/// A standard deviation of one, of numbers that are uniform.
const WIDTH: f64 = 3.464_101_615_137_754_6;

impl Trial {
    /// The speed of the layers' matmuls on random numbers, with the layers' own weights, one behind another: all four
    /// of a layer in turn over at least `seconds`, then each shape alone over all layers.
    ///
    /// # Errors
    /// If the memory does not suffice or the device fails.
    pub fn matmul_rate(&self, rows: usize, seconds: f64) -> Result<MatmulRate> {
        let (device, layers) = (&self.device, self.model.layers());
        let shapes = layers.first().map_or_else(Vec::new, |layer| matrices(layer).into());
        let widest = |width: fn(&Matrix) -> usize| shapes.iter().map(width).max().unwrap_or(0);
        let whole = rows.next_multiple_of(MATMUL_ROWS);
        let x = random(device, 2, whole * widest(|matrix| matrix.input))?;
        let out = device.allocate(whole * widest(|matrix| matrix.output) * device.dtype().size())?;
        let multiply = |matrix: Matrix| device.matmul(&matrix, x.address(), rows, out.address());
        let pass = || device.elapsed(|| layers.iter().flat_map(matrices).try_for_each(multiply));
        pass()?; // warm
        let (mut taken, mut passes) = (pass()?, 1);
        while taken < seconds {
            taken += pass()?;
            passes += 1;
        }
        let work = |matrix: &Matrix| 2.0 * (rows * layers.len()) as f64 * matrix.output as f64 * matrix.input as f64;
        let mut each = Vec::new();
        for (i, matrix) in shapes.iter().enumerate() {
            let alone = device.elapsed(|| layers.iter().map(|layer| matrices(layer)[i]).try_for_each(multiply))?;
            each.push((matrix.output, matrix.input, work(matrix) / alone));
        }
        let all: f64 = shapes.iter().map(work).sum();
        Ok(MatmulRate { rows, rate: f64::from(passes) * all / taken, shapes: each })
    }
}

fn matrices(layer: &DeviceLayer) -> [Matrix; 4] {
    [layer.queries_keys_values, layer.output, layer.gate_up, layer.down]
}

/// Random numbers with a standard deviation of one.
fn random(device: &Arc<Timed>, seed: usize, count: usize) -> Result<Memory> {
    let memory = device.allocate(count * device.dtype().size())?;
    let fill = Fill { out: memory.address(), count, seed, scale: WIDTH, offset: 0.0 };
    Kernels { device }.fill(&fill)?;
    Ok(memory)
}

/// Multiplies parts of a full step's rows, from its beginning, its middle and its end, by every shape of the model's
/// matrices, and compares them with the same rows of the full step, bit for bit.
///
/// # Errors
/// If the memory does not suffice or the device fails.
pub fn rows(compute: Compute, config: &Config, numbers: &[usize]) -> Result<Vec<RowTrial>> {
    let device = Arc::new(open(&compute, Arc::new(Solo))?);
    let shapes = Share::new(config, 0, 1).matrix_shapes();
    device.prepare(&shapes)?;
    shapes.iter().map(|&shape| Sweep::new(&device, shape, compute.step_tokens)?.run(numbers)).collect()
}

/// Every shape of the model's matrices with a full step's rows, some numbers of the product against float64.
///
/// # Errors
/// If the memory does not suffice or the device fails.
pub fn products(compute: Compute, config: &Config) -> Result<Vec<Check>> {
    let device = Arc::new(open(&compute, Arc::new(Solo))?);
    let shapes = Share::new(config, 0, 1).matrix_shapes();
    device.prepare(&shapes)?;
    shapes.iter().map(|&shape| Sweep::new(&device, shape, compute.step_tokens)?.product()).collect()
}

/// Every algorithm that the matmul library of a device suggests for the model's matrices and one of these numbers of
/// rows, tried; each is told as soon as it is known.
///
/// # Errors
/// If the device has no such library, or fails.
pub fn algorithms(
    compute: Compute,
    config: &Config,
    rows: &[usize],
    tell: &mut dyn FnMut(AlgorithmTrial) -> Result<()>,
) -> Result<()> {
    match compute.device {
        #[cfg(feature = "cuda")]
        Place::Cuda(ordinal) => {
            let device = CudaDevice::open(ordinal, &compute, Arc::new(Solo))?;
            Share::new(config, 0, 1).matrix_shapes().iter().try_for_each(|&shape| device.algorithms(shape, rows, tell))
        }
        device => {
            let _ = (config, rows, tell);
            Err(Error::Device(format!("{device} has no matmul library whose algorithms could be chosen")))
        }
    }
}

/// One shape's products.
struct Sweep<'a> {
    device: &'a Arc<Timed>,
    matrix: Matrix,
    most: usize,
    _weight: Memory,
    x: Memory,
    whole: Memory,
    part: Memory,
}

impl<'a> Sweep<'a> {
    fn new(device: &'a Arc<Timed>, (output, input): (usize, usize), most: usize) -> Result<Self> {
        // a part from anywhere has whole tiles behind it
        let whole = most.next_multiple_of(MATMUL_ROWS) + MATMUL_ROWS;
        let (weight, x) = (random(device, SEEDS[0], output * input)?, random(device, SEEDS[1], whole * input)?);
        let room = || device.allocate(whole * output * device.dtype().size());
        let (whole, part) = (room()?, room()?);
        let matrix = Matrix { weight: weight.address(), output, input };
        device.matmul(&matrix, x.address(), most, whole.address())?;
        Ok(Self { device, matrix, most, _weight: weight, x, whole, part })
    }

    fn run(&self, numbers: &[usize]) -> Result<RowTrial> {
        let (most, mut tried, mut differing) = (self.most, 0, Vec::new());
        for &rows in numbers.iter().filter(|&&rows| 0 < rows && rows <= most) {
            for first in [0, (most - rows) / 2, most - rows] {
                tried += 1;
                if !self.agrees(first, rows)? {
                    differing.push((first, rows));
                }
            }
        }
        Ok(RowTrial { output: self.matrix.output, input: self.matrix.input, tried, differing })
    }

    fn agrees(&self, first: usize, rows: usize) -> Result<bool> {
        let x = self.x.address() + first * self.matrix.input * self.device.dtype().size();
        self.device.matmul(&self.matrix, x, rows, self.part.address())?;
        let compared = rows.min(COMPARED);
        for at in [0, (rows - compared) / 2, rows - compared] {
            if self.read(&self.whole, first + at, compared)? != self.read(&self.part, at, compared)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Numbers from all over the product.
    fn product(&self) -> Result<Check> {
        let (dtype, Matrix { output, input, .. }) = (self.device.dtype(), self.matrix);
        // as kernels/rows.h makes them
        let number = |seed: usize, i: usize| -> f64 {
            dtype.round((hash::uniform(seed as u64, i as u64) - 0.5) * WIDTH as f32).into()
        };
        let (mut worst, mut largest) = (0.0f64, 0.0f64);
        for sample in 0..SAMPLED {
            let at = |of: u64, most: usize| (hash::mixed(of, sample) % most as u64) as usize;
            // the last row and column among them
            let (row, column) =
                if sample == 0 { (self.most - 1, output - 1) } else { (at(5, self.most), at(6, output)) };
            let mut bytes = vec![0; dtype.size()];
            let place = self.whole.address() + (row * output + column) * dtype.size();
            self.device.download(place, &mut bytes)?;
            let found = from_bytes(dtype, &bytes).first().copied().map_or(f64::NAN, f64::from);
            let product = |i| number(SEEDS[1], row * input + i) * number(SEEDS[0], column * input + i);
            let wanted: f64 = (0..input).map(product).sum();
            let apart = (found - wanted).abs();
            worst = if apart.is_finite() { worst.max(apart) } else { f64::INFINITY };
            largest = largest.max(wanted.abs());
        }
        let name = format!("matmul of {} rows with [{output}, {input}], {dtype}", self.most);
        Ok(Check { name, worst, largest, tolerance: checks::tolerance(dtype) })
    }

    fn read(&self, memory: &Memory, first: usize, rows: usize) -> Result<Vec<u8>> {
        let row = self.matrix.output * self.device.dtype().size();
        let mut bytes = vec![0; rows * row];
        self.device.download(memory.address() + first * row, &mut bytes)?;
        Ok(bytes)
    }
}
