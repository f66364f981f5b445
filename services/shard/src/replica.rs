//! A whole replica in this process, for those who call it directly: a step in, scores out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use collective::{Collective, Solo, threads};
use model::{Compute, Config, PackedBatch};
use score::{Checksum, Disagreement, Partials, add_up_here};

use crate::{Error, Ranks, RanksOptions};

/// What a replica is made of.
#[derive(Debug, Clone)]
pub struct ReplicaOptions {
    /// What the model is.
    pub config: Config,
    /// Its safetensors files.
    pub weights: Vec<PathBuf>,
    /// Threads that compute, over all ranks; at least one a rank.
    pub threads: usize,
    /// Where each rank computes, and in which numbers: as many as there are ranks.
    pub computes: Vec<Compute>,
}

/// Ranks that compute every step together.
pub struct Replica {
    ranks: Ranks,
}

/// A step that was given to the ranks.
pub struct Step {
    sequences: usize,
    inbox: Receiver<Answer>,
    /// What has been taken out of the inbox.
    answers: Vec<Answer>,
}

/// What a rank computed.
type Answer = (usize, Result<Partials, model::Error>);

/// The score of each sequence of a step, or why it has none.
pub type Scores = Vec<Result<f32, Disagreement>>;

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
        let ReplicaOptions { config, weights, threads, computes } = options.clone();
        let world_size = computes.len();
        let ranks = 0..world_size;
        let ranks = Ranks::load(&RanksOptions { config, weights, ranks, world_size, threads, computes })?;
        ranks.take_seats(over_threads(world_size));
        Ok(Self { ranks })
    }

    /// What is odd about the checkpoint, without being an error.
    pub fn warnings(&self) -> &[String] {
        self.ranks.warnings()
    }

    /// Gives a step to all ranks, behind those that they have. Two at a time keep a device busy; more only wait.
    ///
    /// # Errors
    /// If a rank has stopped. The replica is of no use after that.
    pub fn submit(&mut self, batch: PackedBatch) -> Result<Step, Error> {
        let sequences = batch.ends.len();
        let (sender, inbox) = channel();
        let done = Arc::new(move |rank, answer| {
            // who asked may have given up
            let _ = sender.send((rank, answer));
        });
        self.ranks.compute(&Arc::new(batch), Checksum::Path, &(done as crate::ranks::Done))?;
        Ok(Step { sequences, inbox, answers: Vec::new() })
    }

    /// Computes a step: [`submit`](Self::submit) and [`collect`](Self::collect).
    ///
    /// # Errors
    /// Those of the two.
    pub fn run(&mut self, batch: PackedBatch) -> Result<Scores, Error> {
        let step = self.submit(batch)?;
        self.collect(step)
    }

    /// Waits for a step and adds up what the ranks contribute.
    ///
    /// # Errors
    /// If a rank could not compute the step, or has stopped. The replica is of no use after that.
    pub fn collect(&mut self, step: Step) -> Result<Scores, Error> {
        let Step { sequences, inbox, answers: before } = step;
        let mut answers = vec![None; self.ranks.numbers().len()];
        let mut failure = None;
        for (rank, answer) in before.into_iter().chain(inbox) {
            match answer {
                Ok(partials) => answers[rank] = Some(partials),
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
        Ok((0..sequences).map(|sequence| add_up_here(&all, sequence).map(|outputs| outputs.score)).collect())
    }
}

// === impl Step ===

impl Step {
    /// Whether [`Replica::collect`] would not wait for it.
    pub fn is_done(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(answer) => self.answers.push(answer),
                Err(TryRecvError::Disconnected) => return true,
                // the others may wait for a rank that failed
                Err(TryRecvError::Empty) => return self.answers.iter().any(|(_, answer)| answer.is_err()),
            }
        }
    }
}
