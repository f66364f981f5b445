//! Why ranks cannot be had, or cannot go on.

/// Why a replica, or some ranks of it, cannot be had or cannot go on.
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
    /// A rank's thread does not come back from a step.
    #[error("a rank has not come back from a step for {0:?}")]
    Stuck(std::time::Duration),
    /// The device of a rank has failed, and this process cannot have it again.
    #[error("the device of rank {rank} is lost: {problem}")]
    DeviceLost {
        /// The rank.
        rank: usize,
        /// What the device says.
        problem: String,
    },
    /// The registry does not let the worker in.
    #[error(transparent)]
    Registry(#[from] discovery::Error),
    /// A name or an address cannot be used.
    #[error("{0}")]
    Option(String),
}
