//! Everything that can go wrong between a worker or gateway and the registry.

use crate::member::MAX_VALUE;
use crate::{Incarnation, Key};

/// Why the registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that is no key.
    #[error("{text:?} is no key: it {reason}")]
    Key {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A value that is too large for a registry.
    #[error("a value of {bytes} bytes for {key}: the limit is {MAX_VALUE}")]
    TooLarge {
        /// Where it was to be written.
        key: Key,
        /// Its size.
        bytes: usize,
    },

    /// A setting that cannot work.
    #[error("registry option {option}: {reason}")]
    Option {
        /// The field of the options.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },

    /// Another incarnation holds it.
    #[error("{key} is claimed by {holder}")]
    Claimed {
        /// The first key that is taken.
        key: Key,
        /// Who holds it.
        holder: Incarnation,
    },

    /// The claim is no longer held: its lease has ended, or its keys were taken away. Claim again.
    #[error("the claim of {key} was lost")]
    Lost {
        /// The claim's first key.
        key: Key,
    },

    /// There is something under the key that this crate, in this version, did not write.
    #[error("what is written under {key} is not an entry of this registry")]
    Foreign {
        /// The key.
        key: Key,
    },

    /// The registry answered, and will not do it however often it is asked: no permission, a wrong password.
    #[error("the registry refused: {0}")]
    Refused(String),

    /// The registry did not answer in time. A write may have taken effect; it is safe to ask again.
    #[error("the registry cannot be reached: {0}")]
    Unavailable(String),
}
