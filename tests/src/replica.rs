//! Replicas of golden checkpoints in this process, for tests that look at bits: a step in, scores out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use collective::{Collective, Solo, threads};
use model::{Compute, Config, PackedBatch, Packer};
use score::{Checksum, Disagreement, Partials};
use shard::{Error, Ranks, RanksOptions};
use tests::{add_up, golden};

/// All ranks of a replica.
pub(crate) struct Replica {
    ranks: Ranks,
}

/// A step that was given to the ranks.
pub(crate) struct Step {
    sequences: usize,
    answers: Receiver<(usize, Result<Partials, model::Error>)>,
}

/// The score of each sequence of a step, or why it has none.
pub(crate) type Scores = Vec<Result<f32, Disagreement>>;

/// Loads a golden checkpoint, over so many ranks.
pub(crate) fn load(name: &str, ranks: usize, threads: usize) -> Replica {
    load_with(name, threads, vec![Compute::default(); ranks])
}

/// What a golden checkpoint is.
pub(crate) fn config(name: &str) -> Config {
    let file = golden(name).join("config.json");
    Config::parse(&file, &std::fs::read_to_string(&file).unwrap()).unwrap()
}

/// Loads a golden checkpoint, for ranks that compute there.
pub(crate) fn load_with(name: &str, threads: usize, computes: Vec<Compute>) -> Replica {
    let config = config(name);
    let mut weights: Vec<PathBuf> =
        std::fs::read_dir(golden(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    weights.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    weights.sort();
    let world_size = computes.len();
    let options = RanksOptions { config, weights, ranks: 0..world_size, world_size, threads, computes };
    let ranks = Ranks::load(&options).unwrap();
    assert_eq!(ranks.warnings(), Vec::<String>::new(), "{name}");
    ranks.take_seats(ends(world_size));
    Replica { ranks }
}

/// The ends of a collective over threads.
fn ends(world_size: usize) -> Vec<Arc<dyn Collective>> {
    match world_size {
        1 => vec![Arc::new(Solo)],
        _ => threads(world_size).into_iter().map(|end| Arc::new(end) as Arc<dyn Collective>).collect(),
    }
}

/// The scores of these sequences, in one step: every rank must have computed the same rows.
pub(crate) fn scores(replica: &Replica, sequences: &[Arc<[u32]>]) -> Vec<f32> {
    replica.run(step(sequences)).unwrap().into_iter().map(Result::unwrap).collect()
}

/// A step of these sequences.
pub(crate) fn step(sequences: &[Arc<[u32]>]) -> PackedBatch {
    let mut packer = Packer::default();
    sequences.iter().for_each(|sequence| packer.push(Arc::clone(sequence)));
    packer.pack()
}

// === impl Replica ===

impl Replica {
    /// Gives a step to all ranks, behind those that they have.
    pub(crate) fn submit(&self, batch: PackedBatch) -> Step {
        let sequences = batch.ends.len();
        let (sender, answers) = channel();
        let done = move |rank, answer| sender.send((rank, answer)).unwrap();
        self.ranks.compute(&Arc::new(batch), Checksum::Path, &(Arc::new(done) as shard::Done)).unwrap();
        Step { sequences, answers }
    }

    /// Computes a step.
    pub(crate) fn run(&self, batch: PackedBatch) -> Result<Scores, Error> {
        self.collect(self.submit(batch))
    }

    /// Waits for a step and adds up what the ranks contribute.
    pub(crate) fn collect(&self, Step { sequences, answers }: Step) -> Result<Scores, Error> {
        let mut all = vec![None; self.ranks.numbers().len()];
        for (rank, answer) in answers {
            // others may wait for a rank that failed
            all[rank] = Some(answer.inspect_err(|_| self.ranks.leave_seats())?);
        }
        let all: Vec<_> = all.into_iter().map(Option::unwrap).collect();
        Ok((0..sequences).map(|sequence| add_up(&all, sequence).map(|outputs| outputs.score)).collect())
    }
}
