//! Ranks that are GPUs, joined by NCCL: what they share never leaves the devices.
//!
//! An [`Nccl`] is formed over any other [`Collective`], which carries the id that the ranks must agree on. It belongs to
//! one stream: operations are queued there, and nothing here waits for a GPU. It is made so that calls of NCCL do not
//! wait either, for only then can another thread abort it at any time; a call that is "in progress" is asked about until
//! it is done. docs/adr/0007 says in which order sums are taken, and what that costs.
//!
//! CUDA and NCCL are loaded when they are asked for: without them there is an [`Error::Library`].

#![allow(unsafe_code, reason = "NCCL is a C library that works on the memory of GPUs")]

mod backend;
mod device;
#[cfg(test)]
mod fake;
mod forming;
mod library;
mod slot;
mod transfers;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::CudaStream;

use crate::{Collective, Error, RowSplit, Ticket};
use backend::{Backend, Comm, Status};
use device::Device;
use library::Library;
pub(crate) use slot::Slot;

/// How long ranks may take to form a communicator, and to come to an operation that connects them. The library is read
/// from the disk, and looks at every GPU, connection and kernel of its own: seconds as a rule, a minute on some machines.
/// A rank that is gone is noticed at once, by what the ranks have in common besides.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How long a communicator that ends in peace may wait for what is still in the stream.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a number is in the memory of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, 5 of them exponent.
    F16,
    /// 16 bits, 8 of them exponent.
    Bf16,
}

/// What a row is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Numbers in a row.
    pub width: usize,
    /// What they are.
    pub dtype: Dtype,
}

/// One rank's end of an NCCL communicator, on one stream.
///
/// A CUDA graph that holds one of its operations must be destroyed before, or as soon as, the communicator ends: NCCL
/// frees nothing while there is such a graph, and the graph is of no use in the next communicator.
pub struct Nccl {
    rank: usize,
    world_size: usize,
    patience: Duration,
    backend: Box<dyn Backend>,
    /// None once it has been aborted. The lock is held for one call of NCCL at a time, and none of them waits.
    comm: Mutex<Option<Comm>>,
}

/// The version of the NCCL that is there.
pub(crate) fn version() -> Result<u32, Error> {
    Library::get()?.version()
}

/// What ranks form a communicator by, which this process makes up.
pub(crate) fn issue() -> Result<Ticket, Error> {
    let library = Library::get()?;
    Ok(Ticket { version: library.version()?, id: library.unique_id()?.to_vec() })
}

// === impl Dtype ===

impl Dtype {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

// === impl Row ===

impl Row {
    /// Bytes of this many rows.
    fn bytes(self, rows: usize) -> u64 {
        (rows * self.width * self.dtype.bytes()) as u64
    }
}

// === impl Nccl ===

impl Nccl {
    /// The version of the NCCL that is there, such as "2.30.3", if both it and the CUDA driver can be loaded.
    ///
    /// # Errors
    /// [`Error::Library`] saying what is missing. cudarc panics where the driver is missing, so ask here before using it.
    pub fn available() -> Result<String, Error> {
        // SAFETY: what the driver does when it is loaded has no conditions
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            let problem = "libcuda.so.1 cannot be loaded; it comes with NVIDIA's driver".to_owned();
            return Err(Error::Library { library: "the CUDA driver", problem });
        }
        Ok(forming::dotted(Library::get()?.version()?))
    }

    /// Joins the ranks of `control`, all of which call this, each with a stream on the GPU that it computes on.
    ///
    /// `patience` is how long forming may take, and later how long the other ranks may be late for an operation that
    /// sets up a connection to them.
    ///
    /// # Errors
    /// [`Error::Library`] without NCCL, [`Error::RankLeft`] if a rank will never come, [`Error::Overdue`] if it does not
    /// come in time, [`Error::Nccl`] if NCCL refuses. `control` is aborted then, and no rank waits for this one, be it in
    /// `control` or in NCCL: either all ranks have the communicator, or none.
    pub fn form<C>(control: &C, stream: &Arc<CudaStream>, patience: Duration) -> Result<Self, Error>
    where
        C: Collective + ?Sized,
    {
        Self::form_unless(control, stream, patience, &AtomicBool::new(false))
    }

    /// As [`Self::form`], but ends soon with [`Error::RankLeft`] when another thread sets `cancelled`.
    pub(crate) fn form_unless<C>(
        control: &C,
        stream: &Arc<CudaStream>,
        patience: Duration,
        cancelled: &AtomicBool,
    ) -> Result<Self, Error>
    where
        C: Collective + ?Sized,
    {
        let backend = || Ok(Box::new(Device::new(stream)?) as Box<dyn Backend>);
        forming::form(control, backend, patience, cancelled)
    }

    /// The number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Gives every rank its slice of the rows of all ranks: `send` has `split.rows()` rows, `receive` gets as many slices
    /// of `split.range(self.rank()).len()` rows as there are ranks, in rank order. Who then adds them up in this order
    /// has a sum that depends on nothing else.
    ///
    /// # Errors
    /// [`Error::RankLeft`] after an abort, and what NCCL says; [`Error::Nccl`] if the rows are split over another number of
    /// ranks. The communicator is aborted after an error of NCCL; this goes for all operations.
    ///
    /// # Safety
    /// Both buffers are memory of the stream's GPU with as many numbers, which do not overlap, and which nothing but the
    /// stream uses until the stream has done the work. All ranks call the same operations with the same rows in the same
    /// order.
    pub unsafe fn exchange(&self, send: u64, receive: u64, split: RowSplit, row: Row) -> Result<(), Error> {
        self.check_split("exchange", split)?;
        let (own, peers) = transfers::exchange(self.rank, split, row, send, receive);
        // SAFETY: the caller's promise
        self.run("exchange", |comm| unsafe { self.backend.transfer(comm, own, &peers, row) })
    }

    /// Gives every rank the slices of all ranks: `slice` has `split.range(self.rank()).len()` rows, `whole` gets
    /// `split.rows()`. The slice may already be in its place in the whole.
    ///
    /// # Errors
    /// As [`Self::exchange`].
    ///
    /// # Safety
    /// As [`Self::exchange`]; the buffers do not overlap otherwise.
    pub unsafe fn all_gather(&self, slice: u64, whole: u64, split: RowSplit, row: Row) -> Result<(), Error> {
        self.check_split("all-gather", split)?;
        let own = split.range(self.rank);
        if split.is_even() {
            let count = own.len() * row.width;
            // SAFETY: the caller's promise
            let call = |comm: &Comm| unsafe { self.backend.all_gather(comm, (slice, whole), count, row.dtype) };
            return self.run("all-gather", call);
        }
        let (own, peers) = transfers::all_gather(self.rank, split, row, slice, whole);
        // SAFETY: the caller's promise
        self.run("all-gather", |comm| unsafe { self.backend.transfer(comm, own, &peers, row) })
    }

    /// Whether the communicator still works. What the stream has computed counts only if this is so afterwards: kernels
    /// of an aborted communicator end early, and leave anything in their buffers.
    ///
    /// # Errors
    /// [`Error::RankLeft`] after an abort, [`Error::Nccl`] if NCCL has found an error since.
    pub fn check(&self) -> Result<(), Error> {
        self.with(|comm| self.backend.state(comm)).map(drop).or_else(|error| self.fail(error))
    }

    /// Ends the communicator, from any thread: operations that wait in the stream end, and so do those that are called.
    /// Other ranks notice only when they abort theirs.
    pub fn abort(&self) {
        let comm = self.lock().take();
        if let Some(comm) = comm {
            self.backend.abort(comm);
        }
    }

    /// Makes one call, and has it done when this returns.
    fn run(&self, operation: &'static str, call: impl FnOnce(&Comm) -> Result<Status, Error>) -> Result<(), Error> {
        match self.with(call) {
            Ok(Status::Done) => Ok(()),
            Ok(Status::InProgress) => self.settle(operation, self.patience, &|| None),
            Err(error) => self.fail(error),
        }
    }

    /// Asks until the last call is done, or `left` names a rank that has left.
    fn settle(
        &self,
        operation: &'static str,
        patience: Duration,
        left: &dyn Fn() -> Option<usize>,
    ) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            match self.with(|comm| self.backend.state(comm)) {
                Ok(Status::Done) => return Ok(()),
                Ok(Status::InProgress) => {}
                Err(Error::Nccl { problem, .. }) => return self.fail(Error::Nccl { operation, problem }),
                Err(error) => return self.fail(error),
            }
            if let Some(rank) = left() {
                return self.fail(Error::RankLeft { rank });
            }
            if start.elapsed() >= patience {
                return self.fail(Error::Overdue { operation, patience });
            }
            pause(start.elapsed());
        }
    }

    fn with<T>(&self, call: impl FnOnce(&Comm) -> Result<T, Error>) -> Result<T, Error> {
        self.lock().as_ref().ok_or(Error::RankLeft { rank: self.rank }).and_then(call)
    }

    fn fail(&self, error: Error) -> Result<(), Error> {
        self.abort();
        Err(error)
    }

    fn check_split(&self, operation: &'static str, split: RowSplit) -> Result<(), Error> {
        if split.world_size() == self.world_size {
            return Ok(());
        }
        let problem = format!("rows are split over {} ranks, and there are {}", split.world_size(), self.world_size);
        Err(Error::Nccl { operation, problem })
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Option<Comm>> {
        self.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Most calls are done in microseconds, when a wait of the scheduler's would be long; forming takes a second.
fn pause(waited: Duration) {
    match waited.as_micros() {
        0..1_000 => std::thread::yield_now(),
        1_000..100_000 => std::thread::sleep(Duration::from_micros(50)),
        _ => std::thread::sleep(Duration::from_millis(2)),
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        let finalized = match self.with(|comm| self.backend.finalize(comm)) {
            Ok(Status::Done) => Ok(()),
            Ok(Status::InProgress) => self.settle("finalize", FAREWELL, &|| None),
            Err(error) => self.fail(error),
        };
        let comm = self.lock().take();
        if let (Ok(()), Some(comm)) = (finalized, comm) {
            self.backend.destroy(comm);
        }
    }
}

#[cfg(test)]
mod tests;
