//! What a gateway decides, as functions over values: admit, queue, route, and add up what ranks contribute.
//!
//! [`Gateway`] is the whole of it for one model: [`Event`]s go in with the time at which they happen, [`Action`]s come
//! out. It reads no clock, opens no connection and starts no thread, so a test can put it through any order of events.
//!
//! | module | question |
//! |---|---|
//! | `request` | what is asked for, and in which pieces it travels |
//! | `admission` | may it come in, and if not, why, and when to come back |
//! | `queue` | whose turn is it |
//! | `membership` | which replicas are there, and when is one dialed |
//! | `routing` | which replica has room |
//! | `ledger` | what is where until it is answered |
//! | `election` | which version is served |
//! | `gateway` | all of them together |

mod admission;
mod election;
mod event;
mod gateway;
mod ledger;
mod membership;
mod queue;
mod replica;
mod request;
mod routing;
mod time;

pub use self::admission::{Limits, Refusal, Scope};
pub use self::event::{Action, Answer, Event, Failure, Outcome, Reply, Score};
pub use self::gateway::{Gateway, Settings, Stats, Waiting};
pub use self::ledger::Dispatch;
pub(crate) use self::queue::FairQueue;
pub use self::queue::Share;
pub use self::replica::{
    LinkId, News, NoLink, Rank, Record, ReplicaId, ReplicaView, Role, Serving, Terms, Version, Welcome, why_none,
};
pub use self::request::{Item, LaneId, Request, RequestId, TenantId};
pub use self::routing::Routing;
pub use self::time::Time;
