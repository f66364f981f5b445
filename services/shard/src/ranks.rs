//! Consecutive ranks of a replica in this process: a thread each, with its share of the cores and of the weights.
//!
//! The weights stay when the collective ends: each rank computes on its [`Seat`], which is taken again in the next one.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use collective::{Collective, Seat};
use model::{Config, Model, PackedBatch, PartialLogit};
use rayon::{ThreadPool, ThreadPoolBuilder};

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
}

/// Threads that have loaded their ranks' shares of the weights.
pub struct Ranks {
    first: usize,
    ranks: Vec<Rank>,
    warnings: Vec<String>,
}

/// Called by each rank with its partial logits of a step.
pub(crate) type Done = Arc<dyn Fn(usize, Result<Vec<PartialLogit>, model::Error>) + Send + Sync>;

struct Job {
    batch: Arc<PackedBatch>,
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

type Loaded = Sender<Result<Vec<String>, model::Error>>;

// === impl Ranks ===

impl Ranks {
    /// Starts the ranks and loads their shares of the model, all at once.
    ///
    /// # Errors
    /// If the model cannot be split like this or cannot be loaded.
    pub fn load(options: &RanksOptions) -> Result<Self, Error> {
        options.config.check_world_size(options.world_size)?;
        let (loaded, loads) = channel();
        let start = |rank| Rank::start(options, rank, loaded.clone());
        let mut ranks = options.ranks.clone().map(start).collect::<Result<Vec<_>, _>>()?;
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
        Ok(Self { first: options.ranks.start, ranks, warnings })
    }

    /// What is odd about the checkpoint, without being an error.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The numbers of the ranks.
    pub fn numbers(&self) -> Range<usize> {
        self.first..self.first + self.ranks.len()
    }

    /// Seats the ranks in a collective, in rank order.
    pub(crate) fn take_seats(&self, collectives: impl IntoIterator<Item = Arc<dyn Collective>>) {
        for (rank, collective) in self.ranks.iter().zip(collectives) {
            rank.seat.take(collective);
        }
    }

    /// Leaves the collective: ranks that wait for others in it fail.
    pub(crate) fn leave_seats(&self) {
        self.ranks.iter().for_each(|rank| rank.seat.leave());
    }

    /// Gives a step to all ranks, behind those that they have. `done` is called once for each, on its thread.
    ///
    /// # Errors
    /// [`Error::RankStopped`] if a rank will never answer.
    pub(crate) fn compute(&self, batch: &Arc<PackedBatch>, done: &Done) -> Result<(), Error> {
        for (number, rank) in self.numbers().zip(&self.ranks) {
            let jobs = rank.jobs.as_ref().ok_or(Error::RankStopped(number))?;
            let job = Job { batch: Arc::clone(batch), done: Arc::clone(done) };
            jobs.send(job).map_err(|_| Error::RankStopped(number))?;
        }
        Ok(())
    }
}

// === impl Rank ===

impl Rank {
    fn start(options: &RanksOptions, rank: usize, loaded: Loaded) -> Result<Self, Error> {
        let failed = |problem: String| Error::Threads { rank, problem };
        let pool = ThreadPoolBuilder::new()
            .num_threads((options.threads / options.ranks.len()).max(1))
            .thread_name(move |thread| format!("rank-{rank}-{thread}"))
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let (jobs, inbox) = channel::<Job>();
        let (config, weights) = (options.config.clone(), options.weights.clone());
        let seat = Arc::new(Seat::new(rank, options.world_size));
        let collective = Arc::clone(&seat) as Arc<dyn Collective>;
        let leaver = Leaver(Arc::clone(&seat));
        let work = move || {
            let _leaver = leaver;
            let Some(model) = load(&pool, &config, &weights, collective, &loaded) else { return };
            drop(loaded);
            for Job { batch, done } in inbox {
                done(rank, pool.install(|| model.forward(&batch)));
            }
        };
        let thread = std::thread::Builder::new().name(format!("rank-{rank}")).spawn(work);
        let thread = thread.map_err(|error| failed(error.to_string()))?;
        Ok(Self { seat, jobs: Some(jobs), thread: Some(thread) })
    }
}

fn load(
    pool: &ThreadPool,
    config: &Config,
    weights: &[PathBuf],
    collective: Arc<dyn Collective>,
    loaded: &Loaded,
) -> Option<Model> {
    // who waits for the others' shares may have given up
    match pool.install(|| Model::load(config, weights, collective)) {
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
