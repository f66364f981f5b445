//! Where the time of a step goes: a device that has every operation of another one timed, when told to.
//!
//! A mark lies before and behind each operation on the queue. What is between the marks of one operation is its own,
//! what is between operations is idle: the queue was empty, or the next one had still to start.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use collective::RowSplit;

use crate::compute::Dtype;
use crate::device::{Address, Device, Launch, Matrix, Memory, Read, Slot, SlotSizes};
use crate::error::Result;

/// What an operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Matmul,
    Attention,
    /// Every other kernel.
    Pointwise,
    Copy,
    Collective,
}

/// Marks on a device's queue, with the times at which it passes them.
pub(crate) trait Marks: Send + Sync {
    /// Puts a mark behind what is enqueued.
    fn mark(&self) -> Result<()>;

    /// Waits for the last mark; the seconds from the first mark to each. Forgets them all.
    fn take(&self) -> Result<Vec<f64>>;
}

/// Times at which the CPU, which computes what it is told at once, passed a mark.
#[derive(Default)]
pub(crate) struct HostMarks(Mutex<Vec<Instant>>);

/// A device that is watched.
pub(crate) struct Timed {
    inner: Box<dyn Device>,
    marks: Box<dyn Marks>,
    on: AtomicBool,
    operations: Mutex<Vec<(Kind, String)>>,
}

/// An operation, and its beginning and end in seconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    pub(crate) kind: Kind,
    /// A kernel's, or a matmul's with the shape of its weights, or what is copied or shared.
    pub(crate) name: String,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

struct TimedSlot {
    inner: Box<dyn Slot>,
    timed: Arc<Timed>,
}

// === impl Timed ===

impl Timed {
    pub(crate) fn new(inner: Box<dyn Device>, marks: Box<dyn Marks>) -> Self {
        Self { inner, marks, on: AtomicBool::new(false), operations: Mutex::default() }
    }

    /// Waits until everything that is enqueued is done.
    pub(crate) fn settle(&self) -> Result<()> {
        self.marks.mark()?;
        self.marks.take().map(drop)
    }

    /// The operations of what `work` enqueues on this thread, in order.
    pub(crate) fn spans(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<Span>> {
        self.settle()?;
        self.on.store(true, Ordering::SeqCst);
        let worked = work();
        self.on.store(false, Ordering::SeqCst);
        let times = self.marks.take()?;
        let operations = std::mem::take(&mut *self.operations.lock().unwrap_or_else(PoisonError::into_inner));
        worked?;
        let span = |((kind, name), &[from, to]): ((Kind, String), &[f64; 2])| Span { kind, name, from, to };
        Ok(operations.into_iter().zip(times.as_chunks::<2>().0).map(span).collect())
    }

    /// The seconds that the queue takes for what `work` puts into it, from an empty queue on.
    pub(crate) fn elapsed(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        self.settle()?;
        self.marks.mark()?;
        let worked = work();
        self.marks.mark()?;
        let times = self.marks.take()?;
        worked.map(|()| times.last().copied().unwrap_or(0.0))
    }

    fn run(&self, kind: Kind, name: &str, operation: impl FnOnce(&dyn Device) -> Result<()>) -> Result<()> {
        self.watch((kind, || name.to_owned()), || operation(&*self.inner))
    }

    /// Marks what `operation` puts into the queue; its name is asked for only then.
    fn watch(
        &self,
        (kind, name): (Kind, impl FnOnce() -> String),
        operation: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if !self.on.load(Ordering::Relaxed) {
            return operation();
        }
        self.marks.mark()?;
        operation()?;
        self.marks.mark()?;
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).push((kind, name()));
        Ok(())
    }
}

impl Device for Arc<Timed> {
    fn dtype(&self) -> Dtype {
        self.inner.dtype()
    }

    fn allocate(&self, bytes: usize) -> Result<Memory> {
        self.inner.allocate(bytes)
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<()> {
        self.run(Kind::Copy, "upload", |device| device.upload(to, bytes))
    }

    fn upload_read(&self, to: Address, len: usize, read: Read<'_>) -> Result<()> {
        self.inner.upload_read(to, len, read)
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.inner.download(from, bytes)
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()> {
        self.run(Kind::Copy, "copy", |device| device.copy(from, to, bytes))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let attention = launch.kernel.starts_with("attention");
        let kind = if attention { Kind::Attention } else { Kind::Pointwise };
        self.run(kind, launch.kernel, |device| device.launch(launch))
    }

    fn matmul(&self, matrix: &Matrix, x: Address, rows: usize, out: Address) -> Result<()> {
        let name = || format!("matmul [{}, {}]", matrix.output, matrix.input);
        self.watch((Kind::Matmul, name), || self.inner.matmul(matrix, x, rows, out))
    }

    fn prepare(&self, shapes: &[(usize, usize)]) -> Result<()> {
        self.inner.prepare(shapes)
    }

    fn free_memory(&self) -> Result<Option<usize>> {
        self.inner.free_memory()
    }

    fn slot(&self, sizes: SlotSizes) -> Result<Box<dyn Slot>> {
        Ok(Box::new(TimedSlot { inner: self.inner.slot(sizes)?, timed: Self::clone(self) }))
    }

    fn place(&self) -> (usize, usize) {
        self.inner.place()
    }

    fn exchange(&self, partial: Address, received: Address, split: RowSplit, width: usize) -> Result<()> {
        self.run(Kind::Collective, "exchange", |device| device.exchange(partial, received, split, width))
    }

    fn all_gather(&self, whole: Address, split: RowSplit, width: usize) -> Result<()> {
        self.run(Kind::Collective, "all-gather", |device| device.all_gather(whole, split, width))
    }
}

// === impl TimedSlot ===

impl Slot for TimedSlot {
    fn plan(&self) -> Address {
        self.inner.plan()
    }

    fn results(&self) -> Address {
        self.inner.results()
    }

    fn send(&mut self, plan: &[u8]) -> Result<()> {
        let Self { inner, timed } = self;
        timed.watch((Kind::Copy, || "plan".to_owned()), || inner.send(plan))
    }

    fn receive(&mut self, bytes: usize) -> Result<()> {
        let Self { inner, timed } = self;
        timed.watch((Kind::Copy, || "results".to_owned()), || inner.receive(bytes))
    }

    fn wait(&mut self) -> Result<&[u8]> {
        self.inner.wait()
    }
}

// === impl HostMarks ===

impl Marks for HostMarks {
    fn mark(&self) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        Ok(())
    }

    fn take(&self) -> Result<Vec<f64>> {
        let marks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(&first) = marks.first() else { return Ok(Vec::new()) };
        Ok(marks.iter().map(|mark| mark.duration_since(first).as_secs_f64()).collect())
    }
}
