//! Marks on a GPU's stream: events that keep the time.

use std::sync::{Mutex, PoisonError};

use cudarc::driver::{CudaEvent, sys};

use super::{Gpu, failed};
use crate::error::Result;
use crate::trial::timed::Marks;

pub(crate) struct CudaMarks {
    gpu: Gpu,
    events: Mutex<Events>,
}

/// Events are made once and used again: to make one takes longer than to record one.
#[derive(Default)]
struct Events {
    made: Vec<CudaEvent>,
    used: usize,
}

// === impl CudaMarks ===

impl CudaMarks {
    pub(crate) fn new(gpu: &Gpu) -> Self {
        Self { gpu: gpu.clone(), events: Mutex::default() }
    }
}

impl Marks for CudaMarks {
    fn mark(&self) -> Result<()> {
        self.gpu.bind()?;
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.used == events.made.len() {
            let timing = sys::CUevent_flags::CU_EVENT_DEFAULT;
            events.made.push(self.gpu.context.new_event(Some(timing)).map_err(failed("an event"))?);
        }
        let used = events.used;
        if let Some(event) = events.made.get(used) {
            event.record(&self.gpu.stream).map_err(failed("an event"))?;
        }
        events.used += 1;
        Ok(())
    }

    fn take(&self) -> Result<Vec<f64>> {
        self.gpu.bind()?;
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let marked = std::mem::take(&mut events.used);
        self.gpu.alive()?;
        let Some(first) = events.made.first() else { return Ok(Vec::new()) };
        let seconds = |event: &CudaEvent| {
            let elapsed = first.elapsed_ms(event).map_err(failed("the time between events"));
            elapsed.map(|milliseconds| f64::from(milliseconds) / 1e3)
        };
        events.made.iter().take(marked).map(seconds).collect()
    }
}
