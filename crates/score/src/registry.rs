//! Where a replica is written down in the registry: `replicas/<replica>/ranks/<rank>` holds a rank's record,
//! `replicas/<replica>/epoch` the epoch that is open.

/// The folder of all replicas.
pub const REPLICAS: &str = "replicas";

/// What a key below [`REPLICAS`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A rank of a replica.
    Rank {
        /// The replica's name.
        replica: &'a str,
        /// The rank's number.
        rank: u32,
    },
    /// The epoch of a replica.
    Epoch {
        /// The replica's name.
        replica: &'a str,
    },
}

/// The folder of a replica.
pub fn replica(replica: &str) -> String {
    format!("{REPLICAS}/{replica}")
}

/// The key of a rank.
pub fn rank(replica: &str, rank: u32) -> String {
    format!("{REPLICAS}/{replica}/ranks/{rank}")
}

/// The key of a replica's epoch.
pub fn epoch(replica: &str) -> String {
    format!("{REPLICAS}/{replica}/epoch")
}

/// What a key is about; None for keys of something else.
pub fn read(key: &str) -> Option<Entry<'_>> {
    let (replica, entry) = key.strip_prefix(REPLICAS)?.strip_prefix('/')?.split_once('/')?;
    match entry {
        "epoch" => Some(Entry::Epoch { replica }),
        _ => Some(Entry::Rank { replica, rank: entry.strip_prefix("ranks/")?.parse().ok()? }),
    }
}

#[cfg(test)]
mod tests;
