//! One replica in this process: a thread for each rank, each with its share of the cores, joined by a collective.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use collective::{Collective, Solo, threads};
use model::{Config, Model, PackedBatch, PartialLogit};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// What a replica is made of.
#[derive(Debug, Clone)]
pub struct ReplicaOptions {
    /// What the model is.
    pub config: Config,
    /// Its safetensors files.
    pub weights: Vec<PathBuf>,
    /// The number of ranks.
    pub tensor_parallel: usize,
    /// Threads that compute, over all ranks; at least one a rank.
    pub threads: usize,
}

/// Ranks that compute every step together.
pub struct Replica {
    ranks: Vec<Rank>,
    warnings: Vec<String>,
}

/// What the ranks found out about a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepScores {
    /// The score of each sequence, or why it has none.
    pub scores: Vec<Result<f32, Disagreement>>,
}

/// Why the partial logits of a sequence do not make a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// The model computed infinity or NaN.
    #[error("the score is not a finite number")]
    NotFinite,
    /// The ranks computed different rows.
    #[error("ranks 0 and {0} computed different rows")]
    Checksum(usize),
    /// A rank did not answer for every sequence.
    #[error("rank {0} left out a sequence")]
    Missing(usize),
}

/// Why a replica cannot be had, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model could not be loaded or the step not computed, on some rank.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// The threads could not be started.
    #[error("cannot start the threads of rank {rank}: {problem}")]
    Threads {
        /// The rank.
        rank: usize,
        /// What the system says.
        problem: String,
    },
    /// A rank's thread has ended, so the replica is of no use any more.
    #[error("rank {0} has stopped")]
    RankStopped(usize),
}

/// The end of a rank's thread that the replica holds.
struct Rank {
    steps: Option<Sender<Arc<PackedBatch>>>,
    answers: Receiver<Result<Vec<PartialLogit>, model::Error>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Replica ===

impl Replica {
    /// Starts the ranks and loads their shares of the model, all at once.
    ///
    /// # Errors
    /// If the model cannot be split like this or cannot be loaded.
    pub fn load(options: &ReplicaOptions) -> Result<Self, Error> {
        options.config.check_world_size(options.tensor_parallel)?;
        let collectives: Vec<Arc<dyn Collective>> = match options.tensor_parallel {
            1 => vec![Arc::new(Solo)],
            world_size => threads(world_size).into_iter().map(|end| Arc::new(end) as Arc<dyn Collective>).collect(),
        };
        let (loaded, loads) = channel();
        let start = |collective| Rank::start(options, collective, loaded.clone());
        let mut ranks = collectives.into_iter().map(start).collect::<Result<Vec<_>, _>>()?;
        drop(loaded);
        let mut warnings = Vec::new();
        let mut failure = None;
        for load in loads {
            match load {
                Ok(mut of_rank) => warnings.append(&mut of_rank),
                // a rank that waits for one that failed only says that it left
                Err(error) if failure.is_none() || !matches!(error, model::Error::Collective(_)) => {
                    failure = Some(error)
                }
                Err(_) => {}
            }
        }
        if let Some(error) = failure {
            return Err(error.into());
        }
        // a thread that panicked has said nothing
        if let Some(rank) = ranks.iter_mut().position(|rank| rank.thread.as_ref().is_none_or(JoinHandle::is_finished)) {
            return Err(Error::RankStopped(rank));
        }
        warnings.sort_unstable();
        warnings.dedup();
        Ok(Self { ranks, warnings })
    }

    /// What is odd about the checkpoint, without being an error.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Computes a step on all ranks and adds their partial logits up in rank order.
    ///
    /// # Errors
    /// If a rank could not compute the step, or has stopped. The replica is of no use after that.
    pub fn run(&mut self, batch: PackedBatch) -> Result<StepScores, Error> {
        let sequences = batch.ends.len();
        let batch = Arc::new(batch);
        for (number, rank) in self.ranks.iter().enumerate() {
            let steps = rank.steps.as_ref().ok_or(Error::RankStopped(number))?;
            steps.send(Arc::clone(&batch)).map_err(|_| Error::RankStopped(number))?;
        }
        let answer = |(number, rank): (usize, &Rank)| rank.answers.recv().map_err(|_| Error::RankStopped(number));
        let answers = self.ranks.iter().enumerate().map(answer).collect::<Result<Vec<_>, _>>()?;
        let partial_logits = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(StepScores { scores: (0..sequences).map(|sequence| add_up(&partial_logits, sequence)).collect() })
    }
}

/// The score of one sequence: finite, agreed on by all ranks, summed in rank order.
fn add_up(ranks: &[Vec<PartialLogit>], sequence: usize) -> Result<f32, Disagreement> {
    let mut score = 0.0;
    let mut checksum = None;
    for (rank, partial_logits) in ranks.iter().enumerate() {
        let partial = partial_logits.get(sequence).ok_or(Disagreement::Missing(rank))?;
        if *checksum.get_or_insert(partial.checksum) != partial.checksum {
            return Err(Disagreement::Checksum(rank));
        }
        score += partial.logit;
    }
    if score.is_finite() { Ok(score) } else { Err(Disagreement::NotFinite) }
}

// === impl Rank ===

type Loaded = Sender<Result<Vec<String>, model::Error>>;

impl Rank {
    fn start(options: &ReplicaOptions, collective: Arc<dyn Collective>, loaded: Loaded) -> Result<Self, Error> {
        let rank = collective.rank();
        let failed = |problem: String| Error::Threads { rank, problem };
        let pool = ThreadPoolBuilder::new()
            .num_threads((options.threads / options.tensor_parallel).max(1))
            .thread_name(move |thread| format!("rank-{rank}-{thread}"))
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let (steps, inbox) = channel();
        let (outbox, answers) = channel();
        let (config, weights) = (options.config.clone(), options.weights.clone());
        let work = move || {
            let model = match pool.install(|| Model::load(&config, &weights, collective)) {
                Ok((model, warnings)) => {
                    let _ = loaded.send(Ok(warnings));
                    model
                }
                Err(error) => {
                    let _ = loaded.send(Err(error));
                    return;
                }
            };
            drop(loaded);
            serve(&pool, &model, &inbox, &outbox);
        };
        let thread = std::thread::Builder::new().name(format!("rank-{rank}")).spawn(work);
        let thread = thread.map_err(|error| failed(error.to_string()))?;
        Ok(Self { steps: Some(steps), answers, thread: Some(thread) })
    }
}

/// Computes steps until the replica is dropped or a step fails; then the rank leaves its collective.
fn serve(
    pool: &ThreadPool,
    model: &Model,
    inbox: &Receiver<Arc<PackedBatch>>,
    outbox: &Sender<Result<Vec<PartialLogit>, model::Error>>,
) {
    for batch in inbox {
        let answer = pool.install(|| model.forward(&batch));
        let failed = answer.is_err();
        if outbox.send(answer).is_err() || failed {
            return;
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        self.steps = None;
        if let Some(thread) = self.thread.take() {
            // a panic has been reported where it happened
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
