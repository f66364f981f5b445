//! The matmuls alone: how fast the model's own shapes are multiplied, and whether a row's bits depend on its company.

use std::sync::Arc;

use collective::Solo;

use super::timed::Timed;
use super::{Trial, open};
use crate::compute::Compute;
use crate::config::Config;
use crate::device::kernels::{Fill, Kernels};
use crate::device::layers::DeviceLayer;
use crate::device::{Device, Matrix, Memory};
use crate::error::Result;
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

/// Rows that are compared at either end of a product: what lies between was computed by the same tiles.
const COMPARED: usize = 64;

impl Trial {
    /// The speed of the layers' matmuls on random numbers, with the layers' own weights, over at least `seconds` of
    /// them.
    ///
    /// # Errors
    /// If the memory does not suffice or the device fails.
    pub fn matmul_rate(&self, rows: usize, seconds: f64) -> Result<MatmulRate> {
        let device = &self.device;
        let shapes = self.model.layers().first().map_or_else(Vec::new, |layer| matrices(layer).into());
        let widest = |width: fn(&Matrix) -> usize| shapes.iter().map(width).max().unwrap_or(0);
        let x = random(device, 2, rows * widest(|matrix| matrix.input))?;
        let out = device.allocate(rows * widest(|matrix| matrix.output) * device.dtype().size())?;
        let pass = || -> Result<[f64; 4]> {
            let spans = device.spans(|| {
                let all = self.model.layers().iter().flat_map(matrices);
                all.into_iter().try_for_each(|matrix| device.matmul(&matrix, x.address(), rows, out.address()))
            })?;
            let mut taken = [0.0; 4];
            spans.iter().enumerate().for_each(|(i, (_, from, to))| taken[i % 4] += to - from);
            Ok(taken)
        };
        pass()?; // warm
        let (mut total, mut passes) = ([0.0; 4], 0);
        while total.iter().sum::<f64>() < seconds || passes == 0 {
            for (total, taken) in total.iter_mut().zip(pass()?) {
                *total += taken;
            }
            passes += 1;
        }
        let times = passes * self.model.layers().len();
        let work = |matrix: &Matrix| 2.0 * (rows * times) as f64 * matrix.output as f64 * matrix.input as f64;
        let each = shapes.iter().zip(total).map(|(matrix, taken)| (matrix.output, matrix.input, work(matrix) / taken));
        let all: f64 = shapes.iter().map(work).sum();
        Ok(MatmulRate { rows, rate: all / total.iter().sum::<f64>(), shapes: each.collect() })
    }
}

fn matrices(layer: &DeviceLayer) -> [Matrix; 4] {
    [layer.queries_keys_values, layer.output, layer.gate_up, layer.down]
}

/// Random numbers with a standard deviation of one.
fn random(device: &Arc<Timed>, seed: usize, count: usize) -> Result<Memory> {
    let memory = device.allocate(count * device.dtype().size())?;
    let fill = Fill { out: memory.address(), count, seed, scale: 12.0f64.sqrt(), offset: 0.0 };
    Kernels { device }.fill(&fill)?;
    Ok(memory)
}

/// Multiplies parts of a full step's rows, from its beginning and from its middle, by every shape of the model's
/// matrices, and compares them with the same rows of the full step, bit for bit.
///
/// # Errors
/// If the memory does not suffice or the device fails.
pub fn rows(compute: Compute, config: &Config, numbers: &[usize]) -> Result<Vec<RowTrial>> {
    let Compute { device, dtype, step_tokens } = compute;
    let device = Arc::new(open(device, dtype, Arc::new(Solo))?);
    let shapes = Share::new(config, 0, 1).matrix_shapes();
    device.prepare(&shapes)?;
    shapes.iter().map(|&shape| Sweep::new(&device, shape, step_tokens)?.run(numbers)).collect()
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
        let (weight, x) = (random(device, 3, output * input)?, random(device, 4, most * input)?);
        let room = || device.allocate(most * output * device.dtype().size());
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
        for at in [0, rows - compared] {
            if self.read(&self.whole, first + at, compared)? != self.read(&self.part, at, compared)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read(&self, memory: &Memory, first: usize, rows: usize) -> Result<Vec<u8>> {
        let row = self.matrix.output * self.device.dtype().size();
        let mut bytes = vec![0; rows * row];
        self.device.download(memory.address() + first * row, &mut bytes)?;
        Ok(bytes)
    }
}
