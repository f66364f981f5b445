//! Consecutive ranks of a replica in this process: two threads each, with its share of the cores and of the weights.
//!
//! One thread of a rank submits steps to its model, the other waits for them in order and passes on what was computed:
//! so a device has the next step before it is done with one. A CPU computes a step while it is submitted.
//!
//! The weights stay when the collective ends: each rank computes on its [`Seat`], which is taken again in the next one.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use collective::{Collective, Seat};
use model::{Compute, Config, Model, PackedBatch, Pending};
use rayon::ThreadPoolBuilder;
use score::{Checksum, Partials};

use crate::Error;

/// Which ranks, and what they compute.
#[derive(Debug, Clone)]
pub struct RanksOptions {
    /// What the model is.
    pub config: Config,
    /// Its safetensors files.
    pub weights: Vec<PathBuf>,
    /// The ranks; at least one.
    pub ranks: Range<usize>,
    /// The number of ranks of the whole replica.
    pub world_size: usize,
    /// Threads that compute, over these ranks; at least one a rank.
    pub threads: usize,
    /// Where each of these ranks computes, and in which numbers.
    pub computes: Vec<Compute>,
}

/// Threads that have loaded their ranks' shares of the weights.
pub struct Ranks {
    first: usize,
    ranks: Vec<Rank>,
    warnings: Vec<String>,
    lost: Arc<Lost>,
}

/// The first rank whose device was lost, and what the device said.
type Lost = OnceLock<(usize, String)>;

/// Called by each rank with what it contributes to a step.
pub type Done = Arc<dyn Fn(usize, Result<Partials, model::Error>) + Send + Sync>;

struct Job {
    batch: Arc<PackedBatch>,
    checksum: Checksum,
    done: Done,
}

/// The end of a rank's thread that the others hold.
struct Rank {
    seat: Arc<Seat>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// Tells the other ranks not to wait, also when its thread panics.
struct Leaver(Arc<Seat>);

/// The thread that waits for a rank's steps.
struct Waiter {
    seat: Arc<Seat>,
    steps: Option<Sender<Step>>,
    thread: Option<JoinHandle<()>>,
}

/// A step that was submitted, or was not, and who is told what it computes.
type Step = (Result<Pending, model::Error>, Done);

type Loaded = Sender<Result<Vec<String>, model::Error>>;

// === impl Ranks ===

impl Ranks {
    /// Starts the ranks and loads their shares of the model, all at once.
    ///
    /// # Errors
    /// If the model cannot be split like this or cannot be loaded.
    pub fn load(options: &RanksOptions) -> Result<Self, Error> {
        options.config.check_world_size(options.world_size)?;
        let (count, computes) = (options.ranks.len(), options.computes.len());
        if count != computes {
            return Err(Error::Option(format!("{count} ranks cannot compute in {computes} places")));
        }
        let (loaded, loads) = channel();
        let lost = Arc::new(Lost::new());
        let start = |(rank, compute)| Rank::start(options, rank, compute, (loaded.clone(), &lost));
        let mut ranks = options.ranks.clone().zip(&options.computes).map(start).collect::<Result<Vec<_>, _>>()?;
        drop(loaded);
        let mut warnings = Vec::new();
        for load in loads {
            warnings.append(&mut load?);
        }
        // a thread that panicked has said nothing
        if let Some(rank) = ranks.iter_mut().position(|rank| rank.thread.as_ref().is_none_or(JoinHandle::is_finished)) {
            return Err(Error::RankStopped(options.ranks.start + rank));
        }
        warnings.sort_unstable();
        warnings.dedup();
        Ok(Self { first: options.ranks.start, ranks, warnings, lost })
    }

    /// What is odd about the checkpoint, without being an error.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether all ranks can go on.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] once a step has failed because a rank's device is of no use any more.
    pub fn check(&self) -> Result<(), Error> {
        let lost = self.lost.get().cloned();
        lost.map_or(Ok(()), |(rank, problem)| Err(Error::DeviceLost { rank, problem }))
    }

    /// The numbers of the ranks.
    pub fn numbers(&self) -> Range<usize> {
        self.first..self.first + self.ranks.len()
    }

    /// Seats the ranks in a collective, in rank order.
    pub fn take_seats(&self, collectives: impl IntoIterator<Item = Arc<dyn Collective>>) {
        for (rank, collective) in self.ranks.iter().zip(collectives) {
            rank.seat.take(collective);
        }
    }

    /// Leaves the collective: ranks that wait for others in it fail.
    pub fn leave_seats(&self) {
        self.ranks.iter().for_each(|rank| rank.seat.leave());
    }

    /// Gives a step to all ranks, behind those that they have, with checksums that cover what is said. `done` is called
    /// once for each, on a thread of its own.
    ///
    /// # Errors
    /// [`Error::RankStopped`] if a rank will never answer.
    pub fn compute(&self, batch: &Arc<PackedBatch>, checksum: Checksum, done: &Done) -> Result<(), Error> {
        for (number, rank) in self.numbers().zip(&self.ranks) {
            let jobs = rank.jobs.as_ref().ok_or(Error::RankStopped(number))?;
            let job = Job { batch: Arc::clone(batch), checksum, done: Arc::clone(done) };
            jobs.send(job).map_err(|_| Error::RankStopped(number))?;
        }
        Ok(())
    }
}

// === impl Rank ===

impl Rank {
    fn start(
        options: &RanksOptions,
        rank: usize,
        compute: &Compute,
        (loaded, lost): (Loaded, &Arc<Lost>),
    ) -> Result<Self, Error> {
        let failed = |problem: String| Error::Threads { rank, problem };
        let pool = ThreadPoolBuilder::new()
            .num_threads((options.threads / options.ranks.len()).max(1))
            .thread_name(move |thread| format!("rank-{rank}-{thread}"))
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let (jobs, inbox) = channel::<Job>();
        let seat = Arc::new(Seat::new(rank, options.world_size));
        let waiter = Waiter::start(&seat, lost).map_err(|error| failed(error.to_string()))?;
        let (options, compute, leaver) = (options.clone(), *compute, Leaver(Arc::clone(&seat)));
        let work = move || {
            let collective = Arc::clone(&leaver.0) as Arc<dyn Collective>;
            let started = Instant::now();
            let load = || Model::load(&options.config, &options.weights, collective, &compute);
            let Some(model) = report(pool.install(load), loaded) else { return };
            tell_rate(&options, rank, &compute, started);
            waiter.serve(inbox, |batch, checksum| pool.install(|| model.submit(batch, checksum)));
        };
        let thread = Builder::new().name(format!("rank-{rank}")).spawn(work);
        let thread = thread.map_err(|error| failed(error.to_string()))?;
        Ok(Self { seat, jobs: Some(jobs), thread: Some(thread) })
    }
}

/// How fast the weights came: what to look at when starting takes long.
fn tell_rate(options: &RanksOptions, rank: usize, compute: &Compute, started: Instant) {
    let bytes = options.config.parameters_of_rank(options.world_size) * compute.dtype.size();
    let (gigabytes, seconds) = (bytes as f64 / 1e9, started.elapsed().as_secs_f64());
    let (device, rate) = (compute.device, gigabytes / seconds.max(1e-9));
    tracing::info!(rank, %device, "loaded {gigabytes:.2} GB of weights in {seconds:.1} s, {rate:.2} GB/s");
}

/// Tells how loading went; who waits for the others' shares may have given up.
fn report(load: Result<(Model, Vec<String>), model::Error>, loaded: Loaded) -> Option<Model> {
    match load {
        Ok((model, warnings)) => {
            let _ = loaded.send(Ok(warnings));
            Some(model)
        }
        Err(error) => {
            let _ = loaded.send(Err(error));
            None
        }
    }
}

// === impl Waiter ===

impl Waiter {
    fn start(seat: &Arc<Seat>, lost: &Arc<Lost>) -> std::io::Result<Self> {
        let (steps, inbox) = channel::<Step>();
        let lost = Arc::clone(lost);
        let (rank, leaver) = (seat.rank(), Leaver(Arc::clone(seat)));
        let wait = move || {
            let _leaver = leaver;
            for (step, done) in inbox {
                let waited = step.and_then(Pending::wait);
                if let Err(model::Error::DeviceLost(problem)) = &waited {
                    // before anybody hears of the step
                    let _ = lost.set((rank, problem.clone()));
                }
                done(rank, waited);
            }
        };
        let thread = Builder::new().name(format!("rank-{rank}-wait")).spawn(wait)?;
        Ok(Self { seat: Arc::clone(seat), steps: Some(steps), thread: Some(thread) })
    }

    /// Submits what comes and waits for it on the other thread, until no more comes or that thread has stopped.
    fn serve(self, inbox: Receiver<Job>, submit: impl Fn(&PackedBatch, Checksum) -> Result<Pending, model::Error>) {
        let Some(steps) = &self.steps else { return };
        for Job { batch, checksum, done } in inbox {
            if steps.send((submit(&batch, checksum), done)).is_err() {
                return;
            }
        }
    }
}

impl Drop for Waiter {
    /// The rank is over. Its steps end before the model that they were submitted to, also when its thread panics.
    fn drop(&mut self) {
        self.steps = None;
        self.seat.leave();
        if let Some(thread) = self.thread.take() {
            // a panic has been reported where it happened
            let _ = thread.join();
        }
    }
}

impl Drop for Leaver {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        self.jobs = None;
        self.seat.leave();
        if let Some(thread) = self.thread.take() {
            // a panic has been reported where it happened
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
