//! What a score is made of: the names of steps and pieces, what ranks contribute, and the promise that a sum of
//! contributions must keep to be a score. Pure values, shared by all who send, add up or simulate them.
//!
//! | module | what |
//! |---|---|
//! | `promise` | when contributions of ranks are a score, and which |
//! | `partials` | what ranks contribute |
//! | `names` | steps, pieces, and conversations in them |
//! | [`checksum`] | what ranks must have in common |
//! | `prefix` | what token sequences have in common |
//! | `protocol` | versions of the inner protocol |
//! | [`registry`] | where a replica is written down |

pub mod checksum;
mod names;
mod partials;
mod prefix;
mod promise;
mod protocol;
pub mod registry;

pub use self::checksum::Checksum;
pub use self::names::{Piece, PieceId, Stamp, Tag, Tail};
pub use self::partials::{Misshapen, Partial, Partials};
pub use self::prefix::{SHORTEST_SHARE, common_prefix, shared_prefix};
pub use self::promise::{Disagreement, Expected, Outputs, RankStep, add_up};
pub use self::protocol::{NoCommonVersion, Versions};
