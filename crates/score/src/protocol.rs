//! Versions of the inner protocol (`proto/assay/shard/v1`), and how two sides agree on one.

/// The versions that a side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The lowest.
    pub lowest: u32,
    /// The highest.
    pub highest: u32,
}

/// Two sides that do not understand each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no common version of the inner protocol: {} to {} here, {} to {} there",
    ours.lowest, ours.highest, theirs.lowest, theirs.highest
)]
pub struct NoCommonVersion {
    /// What this side speaks.
    pub ours: Versions,
    /// What the other side speaks.
    pub theirs: Versions,
}

// === impl Versions ===

impl Versions {
    /// What this build speaks.
    pub const CURRENT: Self = Self { lowest: 1, highest: 2 };

    /// The same without version 1, in which a rank's claim is not proved and checksums cover the pooled row only.
    #[must_use]
    pub fn without_1(self) -> Self {
        Self { lowest: self.lowest.max(2), ..self }
    }

    /// Whether this version may be spoken.
    pub fn contains(self, version: u32) -> bool {
        (self.lowest..=self.highest).contains(&version)
    }

    /// The highest version that both sides speak.
    ///
    /// # Errors
    /// If there is none. There is no version 0.
    pub fn common(self, theirs: Self) -> Result<u32, NoCommonVersion> {
        let version = self.highest.min(theirs.highest);
        match version >= self.lowest.max(theirs.lowest).max(1) {
            true => Ok(version),
            false => Err(NoCommonVersion { ours: self, theirs }),
        }
    }
}

#[cfg(test)]
mod tests;
