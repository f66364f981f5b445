//! What workers write into the registry under their ranks.

use discovery::Key;
use proto::Message;
use proto::shard::v1::{RankRecord, RankState};
use proto::v1::RankProgress;
use score::registry::{self, Entry};

/// What is written about a rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) replica: String,
    pub(crate) rank: u32,
    pub(crate) model: String,
    pub(crate) state: RankProgress,
    pub(crate) address: String,
    pub(crate) ranks: u32,
    pub(crate) epoch: u64,
}

/// The replica and the rank that a key is about; None for other keys.
pub(super) fn place(key: &Key) -> Option<(&str, u32)> {
    match registry::read(key.as_str())? {
        Entry::Rank { replica, rank } => Some((replica, rank)),
        Entry::Epoch { .. } => None,
    }
}

/// The key of a rank; None if the replica's name cannot be part of one.
pub(super) fn key(replica: &str, rank: u32) -> Option<Key> {
    Key::new(registry::rank(replica, rank)).ok()
}

/// The record under a key; None if the key is about something else.
pub(super) fn read(key: &Key, value: &[u8]) -> Result<Option<Record>, String> {
    let Some((replica, rank)) = place(key) else { return Ok(None) };
    let record = RankRecord::decode(value).map_err(|error| error.to_string())?;
    let state = match RankState::try_from(record.state) {
        Ok(RankState::Loading) => RankProgress::Loading,
        Ok(RankState::Ready) => RankProgress::Ready,
        Ok(RankState::Serving) => RankProgress::Serving,
        Ok(RankState::Draining) => RankProgress::Draining,
        Ok(RankState::Unspecified) | Err(_) => return Err(format!("its state is {}", record.state)),
    };
    if rank >= record.world_size {
        return Err(format!("rank {rank} of {}", record.world_size));
    }
    if state == RankProgress::Serving && (record.address.is_empty() || record.epoch == 0) {
        return Err("it serves, and has no address or no epoch".to_owned());
    }
    let RankRecord { model, address, world_size: ranks, epoch, .. } = record;
    Ok(Some(Record { replica: replica.to_owned(), rank, model, state, address, ranks, epoch }))
}

#[cfg(test)]
mod tests;
