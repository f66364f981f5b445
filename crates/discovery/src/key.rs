//! Names in the registry: paths of short segments, and the folders that a watch looks at.

use std::fmt;

use crate::Error;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 255;

/// A name in the registry, such as `replicas/a/ranks/0`: segments of ASCII letters, digits and `-_.:@=+`, joined by `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Everything below a key, or everything there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prefix(String);

// === impl Key ===

impl Key {
    /// Reads a key from its text.
    ///
    /// # Errors
    /// [`Error::Key`] if the text is empty or too long, or a segment is empty or holds another character.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:@=+".contains(c);
        let reason = if text.len() > MAX_KEY {
            format!("longer than {MAX_KEY} bytes")
        } else if text.split('/').any(str::is_empty) {
            "has an empty segment".to_owned()
        } else if let Some(other) = text.chars().find(|c| *c != '/' && !allowed(*c)) {
            format!("holds {other:?}")
        } else {
            return Ok(Self(text));
        };
        Err(Error::Key { text, reason })
    }

    /// The key that is `rest` below this one.
    ///
    /// # Errors
    /// [`Error::Key`], as [`Key::new`].
    pub fn join(&self, rest: impl fmt::Display) -> Result<Self, Error> {
        Self::new(format!("{self}/{rest}"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts between the slashes.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Everything below this key; the key itself is not part of it.
    pub fn below(&self) -> Prefix {
        Prefix(format!("{self}/"))
    }

    /// The folder that this key lies in.
    pub fn folder(&self) -> Prefix {
        Prefix(self.0.rfind('/').map_or_else(String::new, |slash| self.0[..=slash].to_owned()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Key {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

// === impl Prefix ===

impl Prefix {
    /// Every key.
    pub fn all() -> Self {
        Self(String::new())
    }

    /// Whether this key lies below.
    pub fn contains(&self, key: &Key) -> bool {
        key.0.starts_with(&self.0)
    }

    /// The text that the keys begin with: empty, or ending in a slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
