//! Steps in flight on a device: at most two, each with its own slot. Whoever waits for one first, its caller or a caller
//! who needs its slot, lands it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::plan::{CHECKSUM_BYTES, DevicePlan};
use super::{Device, Slot};
use crate::error::{Error, Result};
use crate::layers::PartialLogit;

/// Steps that are planned, sent or computed at the same time.
pub(super) const IN_FLIGHT: usize = 2;

/// The steps of one device: slots that are free, and steps that are not done.
pub(super) struct Flights(Mutex<Board>);

struct Board {
    free: Vec<Box<dyn Slot>>,
    /// The oldest first.
    flying: VecDeque<Arc<Flight>>,
}

/// A step on the device.
pub(super) struct Flight(Mutex<State>);

enum State {
    Flying { slot: Box<dyn Slot>, pooled: usize, pooled_row: Vec<usize> },
    Landed(Result<Vec<PartialLogit>>),
    Taken,
}

// === impl Flights ===

impl Flights {
    pub(super) fn new(device: &dyn Device, step_tokens: usize) -> Result<Self> {
        let sizes = DevicePlan::most_bytes(step_tokens);
        let free = (0..IN_FLIGHT).map(|_| device.slot(sizes)).collect::<Result<_>>()?;
        Ok(Self(Mutex::new(Board { free, flying: VecDeque::new() })))
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a step: `enqueue` gives it to the device, with a slot that is free or that the oldest step leaves.
    pub(super) fn start(
        &self,
        plan: DevicePlan,
        enqueue: impl FnOnce(&DevicePlan, &mut dyn Slot) -> Result<()>,
    ) -> Result<Arc<Flight>> {
        let mut slot = self.slot()?;
        if let Err(error) = enqueue(&plan, &mut *slot) {
            // what has been enqueued may still read the slot; how it ends is of no interest
            let _ = slot.receive(0).and_then(|()| slot.wait().map(drop));
            self.board().free.push(slot);
            return Err(error);
        }
        let DevicePlan { pooled, pooled_row, .. } = plan;
        let flight = Arc::new(Flight(Mutex::new(State::Flying { slot, pooled, pooled_row })));
        self.board().flying.push_back(Arc::clone(&flight));
        Ok(flight)
    }

    /// Waits for a step and takes what it computed.
    pub(super) fn finish(&self, flight: &Arc<Flight>) -> Result<Vec<PartialLogit>> {
        self.land(flight);
        self.board().flying.retain(|other| !Arc::ptr_eq(other, flight));
        flight.take()
    }

    /// Waits for all steps: the device must not write to memory that has been given back.
    pub(super) fn finish_all(&self) {
        loop {
            let oldest = self.board().flying.pop_front();
            let Some(flight) = oldest else { return };
            self.land(&flight);
        }
    }

    /// Waits for a step unless somebody has, and makes its slot free.
    fn land(&self, flight: &Flight) {
        let mut state = flight.state();
        let State::Flying { slot, pooled, pooled_row } = &mut *state else { return };
        let landed = slot.wait().map(|results| partial_logits(results, *pooled, pooled_row));
        if let State::Flying { slot, .. } = std::mem::replace(&mut *state, State::Landed(landed)) {
            self.board().free.push(slot);
        }
    }

    /// A slot, after the oldest step if too many are in flight.
    fn slot(&self) -> Result<Box<dyn Slot>> {
        loop {
            let oldest = {
                let mut board = self.board();
                if let Some(slot) = board.free.pop() {
                    return Ok(slot);
                }
                board.flying.pop_front()
            };
            let oldest = oldest.ok_or_else(|| Error::Device("more steps at once than a device has room for".into()))?;
            self.land(&oldest);
        }
    }
}

// === impl Flight ===

impl Flight {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Vec<PartialLogit>> {
        match std::mem::replace(&mut *self.state(), State::Taken) {
            State::Landed(result) => result,
            State::Flying { .. } | State::Taken => Err(Error::Device("a step's results were taken twice".into())),
        }
    }
}

/// Results of pooled rows, checksums first, to those of sequences.
fn partial_logits(results: &[u8], pooled: usize, pooled_row: &[usize]) -> Vec<PartialLogit> {
    let (checksums, logits) = results.split_at(pooled * CHECKSUM_BYTES);
    let (checksums, logits) = (checksums.as_chunks::<8>().0, logits.as_chunks::<4>().0);
    let of_row = |&row: &usize| PartialLogit {
        logit: f32::from_ne_bytes(logits[row]),
        checksum: u64::from_ne_bytes(checksums[row]),
    };
    pooled_row.iter().map(of_row).collect()
}
