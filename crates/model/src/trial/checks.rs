//! Every kernel against float64, on random numbers: the same checks on a GPU and on the CPU that plays one.
//!
//! Each check draws its inputs, rounds them to the device's numbers, computes in float64 what the kernel should, and
//! compares. Shapes are chosen to meet the borders: rows that are no multiple of a tile, windows, shared prefixes.

use score::Checksum;

use super::hash;
use crate::batch::{PackedBatch, Segment};
use crate::compute::Dtype;
use crate::device::kernels::{
    Attention, Embed, Gated, Gather, Head, Kernels, Norm, Rope, RopeTable, TILE_ROWS, WIDEST_ROW,
};
use crate::device::numbers::{from_bytes, to_bytes};
use crate::device::plan::DevicePlan;
use crate::device::{Address, Device, MATMUL_ROWS, Matrix, Memory};
use crate::error::Result;

/// The longest conversation of the models at hand, and the width of the largest one's heads.
const LONG_ROWS: usize = 8192;
const LONG_HEAD: usize = 128;

/// What a kernel did with random numbers.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Check {
    /// Which kernel, and on what.
    pub name: String,
    /// The largest difference from float64.
    pub worst: f64,
    /// The largest absolute value of the reference.
    pub largest: f64,
    /// What `worst` / `largest` must stay below.
    pub tolerance: f64,
}

impl Check {
    /// Whether the kernel is as exact as promised.
    pub fn holds(&self) -> bool {
        self.worst <= self.tolerance * self.largest
    }
}

/// What the largest difference may be, in parts of the largest number.
pub(crate) fn tolerance(dtype: Dtype) -> f64 {
    if dtype == Dtype::F32 { 1e-5 } else { 2e-2 }
}

/// Runs all checks on a device, or only those whose names begin like one of `only`.
///
/// # Errors
/// If the device refuses.
pub(crate) fn run(device: &dyn Device, only: &[&str]) -> Result<Vec<Check>> {
    let lab = Lab { device };
    let wanted = |name: &str| only.is_empty() || only.iter().any(|start| name.starts_with(start));
    let mut found = Vec::new();
    for (name, check) in checks().into_iter().filter(|(name, _)| wanted(name)) {
        found.extend(check(&lab)?.into_iter().map(|outcome| outcome.check(name, device.dtype())));
    }
    Ok(found)
}

/// A kernel's name, and what is tried with it.
type Named = (&'static str, Box<dyn Fn(&Lab<'_>) -> Result<Vec<Outcome>>>);

fn checks() -> Vec<Named> {
    let mut all: Vec<Named> = vec![
        ("embedding", Box::new(|lab| lab.embed())),
        ("gated", Box::new(|lab| lab.gated("gelu", true))),
        ("gated", Box::new(|lab| lab.gated("silu", false))),
        ("gather", Box::new(|lab| lab.gather())),
        ("matmul", Box::new(|lab| lab.matmul(70, 192, 128))),
        ("matmul", Box::new(|lab| lab.matmul(1, 64, 256))),
        ("head", Box::new(|lab| lab.head())),
    ];
    for (name, parts, residual, branch) in [
        ("plain", 1, false, false),
        ("residual", 1, true, false),
        ("branch", 1, true, true),
        ("2 parts", 2, true, true),
        ("4 parts", 4, true, true),
    ] {
        all.push(("norm", Box::new(move |lab| lab.norm((name, 1032), (parts, residual, branch)))));
    }
    // as wide as the norms take
    all.push(("norm", Box::new(|lab| lab.norm(("widest", WIDEST_ROW), (2, true, true)))));
    for (head_dim, biased, normed) in [(64, false, false), (128, false, true), (256, true, false), (80, true, true)] {
        all.push(("rope", Box::new(move |lab| lab.rope(head_dim, biased, normed))));
    }
    for (head_dim, window, soft_cap, biased) in [
        (64, 0, 0.0, false),
        (64, 24, 50.0, true),
        (128, 0, 50.0, false),
        (128, 70, 0.0, true),
        (256, 0, 0.0, true),
        (256, 40, 50.0, false),
        (80, 33, 30.0, true),
    ] {
        all.push(("attention", Box::new(move |lab| lab.attention(head_dim, (window, soft_cap), biased))));
    }
    for window in [0, 4096] {
        all.push(("attention", Box::new(move |lab| lab.long_attention(window))));
    }
    all
}

/// What a kernel computed, and what it should have.
struct Outcome {
    what: String,
    computed: Vec<f64>,
    reference: Vec<f64>,
}

impl Outcome {
    fn check(&self, name: &str, dtype: Dtype) -> Check {
        let missing = if self.computed.len() == self.reference.len() { 0.0 } else { f64::INFINITY };
        let apart = |(x, y): (&f64, &f64)| if x.is_finite() { (x - y).abs() } else { f64::INFINITY };
        Check {
            name: format!("{name} {}, {dtype}", self.what),
            worst: self.computed.iter().zip(&self.reference).map(apart).fold(missing, f64::max),
            largest: self.reference.iter().map(|x| x.abs()).fold(0.0, f64::max),
            tolerance: tolerance(dtype),
        }
    }
}

/// Draws numbers and brings them to the device and back.
struct Lab<'a> {
    device: &'a dyn Device,
}

/// A matrix on both sides: rounded to the device's numbers, and in its memory.
struct Sample {
    values: Vec<f64>,
    memory: Memory,
}

impl Sample {
    fn address(&self) -> Address {
        self.memory.address()
    }
}

/// Numbers in -1/2 .. 1/2 that look random and are the same each time.
fn uniform(seed: u64, counter: u64) -> f64 {
    f64::from(hash::uniform(seed, counter)) - 0.5
}

impl Lab<'_> {
    fn kernels(&self) -> Kernels<'_> {
        Kernels { device: self.device }
    }

    fn draw(&self, seed: u64, count: usize, scale: f64) -> Result<Sample> {
        let dtype = self.device.dtype();
        let values: Vec<f32> = (0..count).map(|i| dtype.round((uniform(seed, i as u64) * scale) as f32)).collect();
        let memory = self.device.allocate(count * dtype.size())?;
        self.device.upload(memory.address(), &to_bytes(dtype, values.iter().copied()))?;
        Ok(Sample { values: values.into_iter().map(f64::from).collect(), memory })
    }

    fn draw_f32(&self, seed: u64, count: usize) -> Result<Sample> {
        let values: Vec<f32> = (0..count).map(|i| uniform(seed, i as u64) as f32 + 1.0).collect();
        let memory = self.words(&values.iter().map(|x| x.to_bits()).collect::<Vec<_>>())?;
        Ok(Sample { values: values.into_iter().map(f64::from).collect(), memory })
    }

    fn words(&self, words: &[u32]) -> Result<Memory> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let memory = self.device.allocate(bytes.len())?;
        self.device.upload(memory.address(), &bytes)?;
        Ok(memory)
    }

    fn room(&self, count: usize) -> Result<Memory> {
        self.device.allocate(count * self.device.dtype().size())
    }

    fn read(&self, memory: &Memory, count: usize) -> Result<Vec<f64>> {
        let dtype = self.device.dtype();
        let mut bytes = vec![0; count * dtype.size()];
        self.device.download(memory.address(), &mut bytes)?;
        Ok(from_bytes(dtype, &bytes).into_iter().map(f64::from).collect())
    }

    fn outcome(what: impl Into<String>, computed: Vec<f64>, reference: Vec<f64>) -> Vec<Outcome> {
        vec![Outcome { what: what.into(), computed, reference }]
    }

    fn embed(&self) -> Result<Vec<Outcome>> {
        let (vocab, hidden, scale) = (50, 192, 13.5);
        let weight = self.draw(1, vocab * hidden, 2.0)?;
        let tokens: Vec<u32> = (0..37).map(|i| i * 7 % 50).collect();
        let (ids, out) = (self.words(&tokens)?, self.room(tokens.len() * hidden)?);
        let (tokens_at, checksums) = (ids.address(), self.words(&vec![0; 2 * tokens.len()])?);
        let (weight_at, out_at, checksums_at) = (weight.address(), out.address(), checksums.address());
        let embed = Embed { tokens: tokens_at, weight: weight_at, out: out_at, hidden, scale, checksums: checksums_at };
        self.kernels().embed(&embed, tokens.len())?;
        let row = |&token: &u32| &weight.values[token as usize * hidden..][..hidden];
        let reference: Vec<f64> = tokens.iter().flat_map(|token| row(token).iter().map(|x| x * scale)).collect();
        let rows = self.read(&out, reference.len())?;
        // a token's id counts like the number behind its row
        let share = |(place, bits): (usize, u32)| hash::mixed((place as u64) << 32 | u64::from(bits), 0);
        let of_row = |(row, &token): (&[f64], &u32)| {
            let bits = row.iter().map(|x| (*x as f32).to_bits()).chain([token]);
            bits.enumerate().map(share).fold(0, u64::wrapping_add)
        };
        let expected: Vec<u64> = rows.chunks_exact(hidden).zip(&tokens).map(of_row).collect();
        let mut sums = vec![0; tokens.len() * 8];
        self.device.download(checksums.address(), &mut sums)?;
        let good = sums.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes)).eq(expected);
        let mut outcomes = Self::outcome("checksums", vec![f64::from(u8::from(good))], vec![1.0]);
        outcomes.extend(Self::outcome("of rows", rows, reference));
        Ok(outcomes)
    }

    fn gather(&self) -> Result<Vec<Outcome>> {
        let (width, rows) = (64, [3u32, 11, 4, 19, 0]);
        let x = self.draw(2, 10 * width, 1.0)?; // rows 2 .. 12 of a whole
        let (places, out) = (self.words(&rows)?, self.room(rows.len() * width)?);
        let (x_address, first, end) = (x.address(), 2, 12);
        let gather =
            Gather { x: x_address, rows: places.address(), out: out.address(), width, stride: width, first, end };
        self.kernels().gather(&gather, rows.len())?;
        let number = |row: u32, i: usize| match (first..end).contains(&(row as usize)) {
            true => x.values[(row as usize - first) * width + i],
            false => 0.0,
        };
        let reference: Vec<f64> = rows.iter().flat_map(|&row| (0..width).map(move |i| number(row, i))).collect();
        Ok(Self::outcome("of rows", self.read(&out, reference.len())?, reference))
    }

    fn gated(&self, name: &str, gelu: bool) -> Result<Vec<Outcome>> {
        let (rows, width) = (3, 2064);
        let gate_up = self.draw(3, rows * 2 * width, 12.0)?;
        let out = self.room(rows * width)?;
        self.kernels().gated(&Gated { gate_up: gate_up.address(), out: out.address(), width, gelu }, rows)?;
        let activation = |x: f64| match gelu {
            true => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
            false => x / (1.0 + (-x).exp()),
        };
        let pair = |row: usize, i: usize| {
            let row = &gate_up.values[row * 2 * width..][..2 * width];
            activation(row[i]) * row[width + i]
        };
        let reference: Vec<f64> = (0..rows).flat_map(|row| (0..width).map(move |i| pair(row, i))).collect();
        Ok(Self::outcome(name, self.read(&out, reference.len())?, reference))
    }

    fn matmul(&self, rows: usize, output: usize, input: usize) -> Result<Vec<Outcome>> {
        let whole = rows.next_multiple_of(MATMUL_ROWS);
        let (weight, x) = (self.draw(4, output * input, 1.0)?, self.draw(5, whole * input, 1.0)?);
        let out = self.room(whole * output)?;
        let matrix = Matrix { weight: weight.address(), output, input };
        self.device.matmul(&matrix, x.address(), rows, out.address())?;
        let product = |row: usize, column: usize| -> f64 {
            let (x, w) = (&x.values[row * input..][..input], &weight.values[column * input..][..input]);
            x.iter().zip(w).map(|(x, w)| x * w).sum()
        };
        let reference: Vec<f64> =
            (0..rows).flat_map(|row| (0..output).map(move |column| product(row, column))).collect();
        Ok(Self::outcome(format!("of {rows} rows"), self.read(&out, reference.len())?, reference))
    }

    fn norm(
        &self,
        (name, hidden): (&str, usize),
        (parts, with_residual, with_branch): (usize, bool, bool),
    ) -> Result<Vec<Outcome>> {
        let rows = 5;
        let x = self.draw(6, parts * rows * hidden, 3.0)?;
        let residual = self.draw(7, rows * hidden, 5.0)?;
        let (branch, weight) = (self.draw_f32(8, hidden)?, self.draw_f32(9, hidden)?);
        let out = self.room(rows * hidden)?;
        let norm = Norm {
            x: x.address(),
            parts,
            part_stride: rows * hidden,
            residual: if with_residual { residual.address() } else { Address::NONE },
            residual_out: if with_residual { residual.address() } else { Address::NONE },
            branch_weight: if with_branch { branch.address() } else { Address::NONE },
            weight: weight.address(),
            out: out.address(),
            hidden,
            eps: 1e-6,
        };
        self.kernels().norm(&norm, rows)?;
        let mut reference = Vec::new();
        for row in 0..rows {
            let part = |part: usize, i: usize| x.values[(part * rows + row) * hidden + i];
            let sum: Vec<f64> = (0..hidden).map(|i| (0..parts).map(|p| part(p, i)).sum()).collect();
            let branch = if with_branch { normed(&sum, &branch.values) } else { sum };
            let of = |i: usize| if with_residual { residual.values[row * hidden + i] } else { 0.0 };
            let h: Vec<f64> = branch.iter().enumerate().map(|(i, x)| x + of(i)).collect();
            reference.extend(normed(&h, &weight.values));
        }
        Ok(Self::outcome(name, self.read(&out, reference.len())?, reference))
    }

    fn head(&self) -> Result<Vec<Outcome>> {
        let (rows, hidden, first, columns, outputs) = (4, 264, 66, 132, 2);
        let (x, weight) = (self.draw(10, rows * hidden, 3.0)?, self.draw_f32(11, hidden)?);
        let score = self.draw_f32(12, outputs * columns)?;
        let (logits, checksums) = (self.words(&vec![0; outputs * rows])?, self.words(&vec![0; 2 * rows])?);
        let norm = Norm { weight: weight.address(), ..Norm::of(x.address(), hidden, 1e-6) };
        let (logits_at, checksums_at) = (logits.address(), checksums.address());
        let head =
            Head { weight: score.address(), first, columns, outputs, logits: logits_at, checksums: checksums_at };
        self.kernels().head(&norm, &head, rows)?;
        let mut bytes = vec![0; outputs * rows * 4];
        self.device.download(logits.address(), &mut bytes)?;
        let computed: Vec<f64> = from_bytes(Dtype::F32, &bytes).into_iter().map(f64::from).collect();
        let mut sums = vec![0; rows * 8];
        self.device.download(checksums.address(), &mut sums)?;
        let row = |row: usize| normed(&x.values[row * hidden..][..hidden], &weight.values);
        let part = |row: &[f64], weight: &[f64]| row.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>();
        let logits = |i: usize| {
            let row = row(i);
            score.values.chunks_exact(columns).map(move |weight| part(&row[first..first + columns], weight)).collect()
        };
        let reference: Vec<f64> = (0..rows).flat_map(|i| -> Vec<f64> { logits(i) }).collect();
        // equal rows have equal checksums, others have not: the device computes the same rows once more
        self.kernels().head(&norm, &head, rows)?;
        let mut again = vec![0; rows * 8];
        self.device.download(checksums.address(), &mut again)?;
        let mut distinct: Vec<[u8; 8]> = sums.as_chunks::<8>().0.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let good = sums == again && distinct.len() == rows;
        let mut outcomes = Self::outcome("checksums", vec![f64::from(u8::from(good))], vec![1.0]);
        outcomes.extend(Self::outcome("partial logits", computed, reference));
        Ok(outcomes)
    }

    fn rope(&self, head_dim: usize, biased: bool, normed: bool) -> Result<Vec<Outcome>> {
        let (rows, heads, stride) = (5, 3, 4 * head_dim);
        let x = self.draw(13, rows * stride, 2.0)?;
        let (weight, bias) = (self.draw_f32(14, head_dim)?, self.draw_f32(18, heads * head_dim)?);
        let positions = [0u32, 1, 77, 4095, 8191];
        let frequencies: Vec<f32> =
            (0..head_dim / 2).map(|pair| 1e4f32.powf(-2.0 * pair as f32 / head_dim as f32)).collect();
        let inverse = self.words(&frequencies.iter().map(|x| x.to_bits()).collect::<Vec<_>>())?;
        let (places, table) = (self.words(&positions)?, self.words(&vec![0; rows * head_dim])?);
        let rope_table = RopeTable {
            positions: places.address(),
            inverse_frequencies: inverse.address(),
            table: table.address(),
            pairs: head_dim / 2,
        };
        self.kernels().rope_table(&rope_table, rows)?;
        let rope = Rope {
            x: x.address(),
            stride,
            table: table.address(),
            heads,
            head_dim,
            bias: if biased { bias.address() } else { Address::NONE },
            weight: if normed { weight.address() } else { Address::NONE },
            eps: 1e-6,
        };
        self.kernels().rope(&rope, rows)?;
        let mut reference = x.values.clone();
        for (row, &position) in positions.iter().enumerate() {
            for number in 0..heads {
                let head = &mut reference[row * stride + number * head_dim..][..head_dim];
                if biased {
                    head.iter_mut().zip(&bias.values[number * head_dim..]).for_each(|(x, b)| *x += b);
                }
                if normed {
                    head.copy_from_slice(&self::normed(head, &weight.values));
                }
                rotate(head, position, &frequencies);
            }
        }
        let said = |yes: bool, what: &'static str| if yes { what } else { "" };
        let name = format!("of {head_dim}{}{}", said(biased, ", biased"), said(normed, ", normed"));
        Ok(Self::outcome(name, self.read(&x.memory, reference.len())?, reference))
    }

    fn attention(&self, head_dim: usize, (window, soft_cap): (usize, f64), biased: bool) -> Result<Vec<Outcome>> {
        let batch = tree();
        let (rows, heads, group) = (batch.tokens.len(), 4, 2);
        let (query_width, key_width) = (heads * head_dim, heads / group * head_dim);
        let (queries, keys) = (self.draw(15, rows * query_width, 4.0)?, self.draw(16, rows * key_width, 4.0)?);
        let (mut values, bias) = (self.draw(17, rows * key_width, 2.0)?, self.draw_f32(19, key_width)?);
        let out = self.room(rows * query_width)?;
        let plan = DevicePlan::new(&batch, Checksum::Path);
        let bytes = plan.bytes();
        let sent = self.device.allocate(bytes.len())?;
        self.device.upload(sent.address(), &bytes)?;
        let at = plan.at(sent.address());
        let scale = (head_dim as f64).powf(-0.5);
        let attention = Attention {
            queries: queries.address(),
            query_stride: query_width,
            keys: keys.address(),
            values: values.address(),
            value_bias: if biased { bias.address() } else { Address::NONE },
            key_stride: key_width,
            out: out.address(),
            out_stride: query_width,
            tiles: at.tiles,
            segments: at.segments,
            head_dim,
            group,
            scale,
            soft_cap,
            window,
        };
        self.kernels().attention(&attention, plan.tiles, heads)?;
        if biased {
            values.values.iter_mut().zip(bias.values.iter().cycle()).for_each(|(x, b)| *x += b);
        }
        let reference =
            Reference { batch: &batch, queries: &queries.values, keys: &keys.values, values: &values.values };
        let reference = reference.attention(&attention, heads);
        let name = format!("of {head_dim}, window {window}, cap {soft_cap}, bias {biased}");
        Ok(Self::outcome(name, self.read(&out, reference.len())?, reference))
    }

    /// Some tiles of the longest conversation that models take, and some of their rows in float64: what a tile computes
    /// depends on no other.
    fn long_attention(&self, window: usize) -> Result<Vec<Outcome>> {
        let (rows, heads, group, head_dim) = (LONG_ROWS, 2, 2, LONG_HEAD);
        let batch = chain(&[(rows, None)]);
        let (query_width, key_width) = (heads * head_dim, heads / group * head_dim);
        let (queries, keys) = (self.draw(18, rows * query_width, 4.0)?, self.draw(19, rows * key_width, 4.0)?);
        let values = self.draw(20, rows * key_width, 2.0)?;
        let out = self.room(rows * query_width)?;
        let bytes = DevicePlan::new(&batch, Checksum::Path).bytes();
        let sent = self.device.allocate(bytes.len())?;
        self.device.upload(sent.address(), &bytes)?;
        let at = DevicePlan::new(&batch, Checksum::Path).at(sent.address());
        let sampled = [rows / 2 + TILE_ROWS, rows - TILE_ROWS];
        let tiles: Vec<u32> = sampled.iter().flat_map(|&row| [row as u32, TILE_ROWS as u32, row as u32, 0]).collect();
        let tiles_at = self.words(&tiles)?;
        let attention = Attention {
            queries: queries.address(),
            query_stride: query_width,
            keys: keys.address(),
            values: values.address(),
            value_bias: Address::NONE,
            key_stride: key_width,
            out: out.address(),
            out_stride: query_width,
            tiles: tiles_at.address(),
            segments: at.segments,
            head_dim,
            group,
            scale: (head_dim as f64).powf(-0.5),
            soft_cap: 50.0,
            window,
        };
        self.kernels().attention(&attention, sampled.len(), heads)?;
        let computed = self.read(&out, rows * query_width)?;
        let reference =
            Reference { batch: &batch, queries: &queries.values, keys: &keys.values, values: &values.values };
        let (mut found, mut wanted) = (Vec::new(), Vec::new());
        let path: Vec<usize> = (0..rows).collect();
        for (row, head) in sampled.iter().flat_map(|&tile| [(tile, 0), (tile + 17, 1), (tile + TILE_ROWS - 1, 0)]) {
            let from = if window == 0 { 0 } else { (row + 1).saturating_sub(window) };
            let mut number = vec![0.0; head_dim];
            reference.row(&attention, (row, head), &path[from..=row], &mut number);
            wanted.extend(number);
            found.extend_from_slice(&computed[row * query_width + head * head_dim..][..head_dim]);
        }
        Ok(Self::outcome(format!("of {head_dim} over {rows} rows, window {window}, cap 50"), found, wanted))
    }
}

/// x / rms(x) * weight.
fn normed(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + 1e-6).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

/// Turns the pairs (i, i + half) of a head; the angle is a product of f32 numbers, as in transformers.
fn rotate(head: &mut [f64], position: u32, frequencies: &[f32]) {
    let half = head.len() / 2;
    for (i, frequency) in frequencies.iter().enumerate() {
        let (sine, cosine) = f64::from(position as f32 * frequency).sin_cos();
        let (a, b) = (head[i], head[half + i]);
        (head[i], head[half + i]) = (a * cosine - b * sine, b * cosine + a * sine);
    }
}

/// A tree with a long root, a short branch, leaves that cross tiles and key blocks, and a conversation of its own.
fn tree() -> PackedBatch {
    chain(&[(75, None), (18, Some(0)), (130, Some(1)), (1, Some(1)), (61, Some(0)), (100, None), (64, None)])
}

/// Segments of these lengths, each with its parent.
fn chain(segments: &[(usize, Option<usize>)]) -> PackedBatch {
    let mut batch = PackedBatch { tokens: Vec::new(), segments: Vec::<Segment>::new(), ends: Vec::new() };
    for (number, &(len, parent)) in segments.iter().enumerate() {
        let start = batch.tokens.len();
        batch.tokens.extend(0..len as u32);
        let position =
            parent.map_or(0, |parent: usize| batch.segments[parent].position + batch.segments[parent].rows.len());
        batch.segments.push(Segment { rows: start..start + len, position, parent });
        batch.ends.push(number);
    }
    batch
}

/// Attention in float64, straight from its definition.
struct Reference<'a> {
    batch: &'a PackedBatch,
    queries: &'a [f64],
    keys: &'a [f64],
    values: &'a [f64],
}

impl Reference<'_> {
    fn attention(&self, attention: &Attention, heads: usize) -> Vec<f64> {
        let mut out = vec![0.0; self.batch.tokens.len() * attention.query_stride];
        for (number, segment) in self.batch.segments.iter().enumerate() {
            let path = self.path(number);
            for (i, row) in segment.rows.clone().enumerate() {
                let visible = &path[..segment.position + i + 1];
                let window = if attention.window == 0 { visible.len() } else { attention.window.min(visible.len()) };
                let visible = &visible[visible.len() - window..];
                for head in 0..heads {
                    let to = &mut out[row * attention.query_stride + head * attention.head_dim..][..attention.head_dim];
                    self.row(attention, (row, head), visible, to);
                }
            }
        }
        out
    }

    /// The rows of a segment's ancestors and its own, in order.
    fn path(&self, segment: usize) -> Vec<usize> {
        let segments = &self.batch.segments;
        let mut path = segments[segment].parent.map_or_else(Vec::new, |parent| self.path(parent));
        path.extend(segments[segment].rows.clone());
        path
    }

    fn row(&self, attention: &Attention, (row, head): (usize, usize), visible: &[usize], out: &mut [f64]) {
        let head_dim = attention.head_dim;
        let query = &self.queries[row * attention.query_stride + head * head_dim..][..head_dim];
        let kv = head / attention.group * head_dim;
        let score = |&key: &usize| {
            let key = &self.keys[key * attention.key_stride + kv..][..head_dim];
            let score = query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * attention.scale;
            if attention.soft_cap > 0.0 { attention.soft_cap * (score / attention.soft_cap).tanh() } else { score }
        };
        let scores: Vec<f64> = visible.iter().map(score).collect();
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (&key, weight) in visible.iter().zip(&weights) {
            let value = &self.values[key * attention.key_stride + kv..][..head_dim];
            out.iter_mut().zip(value).for_each(|(out, v)| *out += weight / sum * v);
        }
    }
}
