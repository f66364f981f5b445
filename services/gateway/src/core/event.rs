//! What happens to a gateway, and what it does about it.

use std::sync::Arc;
use std::time::Duration;

use score::{Disagreement, Outputs, Partials, RankStep, Stamp, Tag};

use crate::core::{Dispatch, LinkId, News, NoLink, Refusal, ReplicaId, Request, RequestId, Serving, Welcome};

/// Something that happens.
#[derive(Debug, Clone)]
pub enum Event {
    /// Somebody asks for scores.
    Admit(Request),
    /// Nobody waits for the answers any more.
    Cancel(RequestId),
    /// The registry says something.
    Registry(News),
    /// The leader at the end of a link introduces itself.
    Welcomed {
        /// The link of the leader.
        link: LinkId,
        /// What the leader says it serves.
        welcome: Welcome,
    },
    /// A replica takes no more work and finishes what it has.
    Draining(LinkId),
    /// A link has ended, or was never opened, and with it goes all that the replica had.
    Ended {
        /// The link that has ended.
        link: LinkId,
        /// How it ended.
        why: NoLink,
    },
    /// A replica changes what may be sent to it.
    Granted {
        /// The link of the replica.
        link: LinkId,
        /// How many tokens more; less than none are taken back.
        tokens: i64,
    },
    /// A replica answers.
    Answered {
        /// The link of the replica.
        link: LinkId,
        /// What it says, in any order.
        answers: Vec<Answer>,
    },
    /// Time passes.
    Tick,
}

/// What a replica says of one conversation.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The piece it came in, that time.
    pub tag: Tag,
    /// Its number in the item.
    pub conversation: usize,
    /// What became of it.
    pub reply: Reply,
}

/// What became of a conversation on a replica.
#[derive(Debug, Clone)]
pub enum Reply {
    /// The ranks computed it.
    Computed {
        /// The step that each of them says it was, in rank order.
        ranks: Arc<[RankStep]>,
        /// What each of them contributes, in the same order.
        partials: Partials,
        /// Tokens that were computed for this conversation alone.
        tokens: u32,
    },
    /// It could not be computed.
    Failed(String),
    /// It was not tried: the replica is about to leave. It gets nothing more in this life.
    Declined,
}

/// Something to be done.
#[derive(Debug, Clone)]
pub enum Action {
    /// Tell the client why its request does not come in. Nothing else is heard of it.
    Refuse {
        /// Which request.
        request: RequestId,
        /// What it was refused for.
        refusal: Refusal,
    },
    /// Open a link to the leader of a replica. It ends once, or is hung up.
    Dial {
        /// What it is called.
        link: LinkId,
        /// The name of the replica.
        replica: String,
        /// Where its leader serves.
        address: String,
        /// The life that is meant.
        epoch: u64,
    },
    /// Close a link. Nothing more is heard of it.
    HangUp {
        /// The link to close.
        link: LinkId,
    },
    /// Tell whoever wants to know what is served from now on.
    Serving(Serving),
    /// Send a piece to a replica.
    Send {
        /// The link of the replica.
        link: LinkId,
        /// The piece, for whom, and until when.
        dispatch: Dispatch,
    },
    /// Tell a replica that nobody waits for a piece any more.
    Withdraw {
        /// The link of the replica.
        link: LinkId,
        /// The piece, and the attempt at it.
        tag: Tag,
    },
    /// Answer a conversation. Each conversation of a request that came in and was not cancelled has one answer.
    Answer(Outcome),
}

/// The answer to a conversation.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its request.
    pub request: RequestId,
    /// The number of the item in it.
    pub item: usize,
    /// The number of the conversation in that.
    pub conversation: usize,
    /// Its length.
    pub tokens: u64,
    /// Its score, or why there is none.
    pub result: Result<Score, Failure>,
    /// How long it waited, until it was sent for the last time.
    pub queued: Duration,
    /// How long it took from there.
    pub computed: Duration,
}

/// A score, and what it depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The raw logit, and the head's other outputs if it has any; always finite.
    pub outputs: Outputs,
    /// The generation, epoch and step that computed it.
    pub stamp: Stamp,
    /// What the bits of the score depend on.
    pub fingerprint: Arc<str>,
    /// Tokens that were computed for this conversation alone.
    pub tokens: u32,
    /// Who computed it.
    pub replica: ReplicaId,
}

/// Why a conversation of a request that came in has no score.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The deadline has passed.
    #[error("the deadline has passed before it was computed")]
    DeadlineExceeded,
    /// It was sent as often as is allowed, and each time its replica went away.
    #[error("the replicas that should have computed it went away")]
    Unavailable,
    /// The ranks did not agree on a score, as often as it was tried.
    #[error(transparent)]
    Disagreement(#[from] Disagreement),
    /// The replicas say that it cannot be computed, as often as it was tried.
    #[error("the replica failed: {0}")]
    Replica(String),
}
