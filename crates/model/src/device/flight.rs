//! Steps in flight on a device: at most two, each with its own slot. Whoever waits for one first, its caller or a caller
//! who needs its slot, lands it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use score::{Checksum, Partials};

use super::plan::DevicePlan;
use super::{Device, Slot};
use crate::batch::along_paths;
use crate::error::{Error, Result};

/// Steps that are planned, sent or computed at the same time.
pub(super) const IN_FLIGHT: usize = 2;

/// The steps of one device.
pub(super) struct Flights {
    board: Mutex<Board>,
    outputs: usize,
}

/// Slots that are free, and steps that are not done.
struct Board {
    free: Vec<Box<dyn Slot>>,
    /// The oldest first.
    flying: VecDeque<Arc<Flight>>,
}

/// A step on the device.
pub(super) struct Flight(Mutex<State>);

enum State {
    Flying { slot: Box<dyn Slot>, plan: DevicePlan },
    Landed(Result<Partials>),
    Taken,
}

// === impl Flights ===

impl Flights {
    /// Room for steps of a head with so many outputs.
    pub(super) fn new(device: &dyn Device, step_tokens: usize, outputs: usize) -> Result<Self> {
        let sizes = DevicePlan::most_bytes(step_tokens, outputs);
        let free = (0..IN_FLIGHT).map(|_| device.slot(sizes)).collect::<Result<_>>()?;
        Ok(Self { board: Mutex::new(Board { free, flying: VecDeque::new() }), outputs })
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
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
        let flight = Arc::new(Flight(Mutex::new(State::Flying { slot, plan })));
        self.board().flying.push_back(Arc::clone(&flight));
        Ok(flight)
    }

    /// Waits for a step and takes what it computed.
    pub(super) fn finish(&self, flight: &Arc<Flight>) -> Result<Partials> {
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
        let State::Flying { slot, plan } = &mut *state else { return };
        let landed = slot.wait().and_then(|results| self.partials(results, plan));
        if let State::Flying { slot, .. } = std::mem::replace(&mut *state, State::Landed(landed)) {
            self.board().free.push(slot);
        }
    }

    /// Results of rows, as those of sequences.
    fn partials(&self, results: &[u8], plan: &DevicePlan) -> Result<Partials> {
        let (embedded, results) = results.split_at(plan.embedded_bytes());
        let (pooled, logits) = results.split_at(plan.pooled_bytes());
        let checksums = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes)).collect();
        let logits = logits.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect();
        let partials = Partials::new(self.outputs, logits, checksums(pooled));
        let partials = partials.map_err(|error| Error::Device(error.to_string()))?.select(&plan.pooled_row);
        Ok(match plan.checksum {
            Checksum::Row => partials,
            Checksum::Path => partials.along(&along_paths(&plan.segments, &plan.ends, &checksums(embedded))),
        })
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

    fn take(&self) -> Result<Partials> {
        match std::mem::replace(&mut *self.state(), State::Taken) {
            State::Landed(result) => result,
            State::Flying { .. } | State::Taken => Err(Error::Device("a step's results were taken twice".into())),
        }
    }
}
