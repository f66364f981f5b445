//! What is written under a key, how it is laid out in the registry, and what a watch says about it.
//!
//! An entry is one line of text, `1 <incarnation>`, and then the bytes that the holder gave: the registry's own tools
//! show who holds what.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

use crate::{Error, Key};

/// The largest value, in bytes.
pub const MAX_VALUE: usize = 16 * 1024;

/// Who holds a claim: one life of one process. A process that starts again is another incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u128);

/// A key of the registry with what is written under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub key: Key,
    /// What its holder wrote.
    pub value: Vec<u8>,
    /// Who wrote it.
    pub holder: Incarnation,
    /// The registry's revision at which it was last written: for an epoch, its number.
    pub revision: u64,
}

/// What a watch says. Applied in order, the events give the members below the watch's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// These are all members, in the order of their keys; forget what was known before.
    Reset(Vec<Member>),
    /// A member that is new, or has a new value.
    Add(Member),
    /// A member is gone: released, closed, or its lease has ended.
    Remove(Key),
}

// === impl Incarnation ===

impl Incarnation {
    /// The incarnation of this number, for tests that are to repeat.
    pub const fn new(number: u128) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u128 {
        self.0
    }

    /// An incarnation that nobody else has: of the system's randomness, for `fastrand` begins with the time alone.
    pub fn random() -> Self {
        let half = || u128::from(RandomState::new().build_hasher().finish());
        Self(half() << 64 | half())
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === the layout ===

/// The length of the line before the value.
const HEADER: usize = 2 + 32 + 1;

/// The bytes to write for a value.
pub(crate) fn encode(key: &Key, holder: Incarnation, value: &[u8]) -> Result<Vec<u8>, Error> {
    if value.len() > MAX_VALUE {
        return Err(Error::TooLarge { key: key.clone(), bytes: value.len() });
    }
    let mut bytes = format!("1 {holder}\n").into_bytes();
    bytes.extend_from_slice(value);
    Ok(bytes)
}

/// The incarnation and the value in what was read.
pub(crate) fn decode(key: &Key, bytes: &[u8]) -> Result<(Incarnation, Vec<u8>), Error> {
    let parse = || {
        let (header, value) = bytes.split_at_checked(HEADER)?;
        let digits = std::str::from_utf8(header).ok()?.strip_prefix("1 ")?.strip_suffix('\n')?;
        Some((Incarnation(u128::from_str_radix(digits, 16).ok()?), value.to_vec()))
    };
    parse().ok_or_else(|| Error::Foreign { key: key.clone() })
}
