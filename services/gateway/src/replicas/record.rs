//! What workers write into the registry: `replicas/<replica>/ranks/<rank>` holds a rank's record.

use discovery::Key;
use proto::Message;
use proto::shard::v1::{RankRecord, RankState};
use proto::v1::RankProgress;

/// Where replicas are written down.
pub(super) const FOLDER: &str = "replicas";
const RANKS: &str = "ranks";

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
    let mut segments = key.segments();
    match (segments.next()?, segments.next()?, segments.next()?, segments.next()?, segments.next()) {
        (FOLDER, replica, RANKS, rank, None) => Some((replica, rank.parse().ok()?)),
        _ => None,
    }
}

/// The key of a rank; None if the replica's name cannot be part of one.
pub(super) fn key(replica: &str, rank: u32) -> Option<Key> {
    Key::new(format!("{FOLDER}/{replica}/{RANKS}/{rank}")).ok()
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
