//! A whole replica in this process, for those who call it directly: a step in, scores out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;

use collective::{Collective, Solo, threads};
use model::{Config, PackedBatch, PartialLogit};

use crate::{Error, Ranks, RanksOptions};

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
    ranks: Ranks,
}

/// The score of each sequence of a step, or why it has none.
pub type Scores = Vec<Result<f32, Disagreement>>;

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

/// The ends of a collective over the threads of this process.
pub(crate) fn over_threads(world_size: usize) -> Vec<Arc<dyn Collective>> {
    match world_size {
        1 => vec![Arc::new(Solo)],
        _ => threads(world_size).into_iter().map(|end| Arc::new(end) as Arc<dyn Collective>).collect(),
    }
}

// === impl Replica ===

impl Replica {
    /// Starts the ranks and loads their shares of the model, all at once.
    ///
    /// # Errors
    /// If the model cannot be split like this or cannot be loaded.
    pub fn load(options: &ReplicaOptions) -> Result<Self, Error> {
        let ReplicaOptions { config, weights, tensor_parallel, threads } = options.clone();
        let ranks = Ranks::load(&RanksOptions {
            config,
            weights,
            ranks: 0..tensor_parallel,
            world_size: tensor_parallel,
            threads,
        })?;
        ranks.take_seats(over_threads(tensor_parallel));
        Ok(Self { ranks })
    }

    /// What is odd about the checkpoint, without being an error.
    pub fn warnings(&self) -> &[String] {
        self.ranks.warnings()
    }

    /// Computes a step on all ranks and adds their partial logits up in rank order.
    ///
    /// # Errors
    /// If a rank could not compute the step, or has stopped. The replica is of no use after that.
    pub fn run(&mut self, batch: PackedBatch) -> Result<Scores, Error> {
        let sequences = batch.ends.len();
        let (sender, inbox) = channel();
        let done = Arc::new(move |rank, answer| {
            // who asked waits for all
            let _ = sender.send((rank, answer));
        });
        self.ranks.compute(&Arc::new(batch), &(done as crate::ranks::Done))?;
        let mut answers = vec![None; self.ranks.numbers().len()];
        let mut failure = None;
        for (rank, answer) in inbox {
            match answer {
                Ok(partial_logits) => answers[rank] = Some(partial_logits),
                Err(error) => {
                    // others wait for this rank, and would say only that it left
                    self.ranks.leave_seats();
                    if failure.is_none() || !matches!(error, model::Error::Collective(_)) {
                        failure = Some(error);
                    }
                }
            }
        }
        if let Some(error) = failure {
            return Err(error.into());
        }
        let all = answers.into_iter().enumerate().map(|(rank, answer)| answer.ok_or(Error::RankStopped(rank)));
        let all = all.collect::<Result<Vec<_>, _>>()?;
        Ok((0..sequences).map(|sequence| add_up(&all, sequence)).collect())
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

#[cfg(test)]
mod tests;
