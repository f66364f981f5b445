//! What workers write into the registry under their ranks.

use discovery::Key;
use proto::Message;
use proto::shard::v1::{RankRecord, RankState};
use score::registry::{self, Entry};

use crate::core::{Rank, Record};

/// The replica and the rank that a key is about; None for other keys.
pub(super) fn place(key: &Key) -> Option<(&str, u32)> {
    match registry::read(key.as_str())? {
        Entry::Rank { replica, rank } => Some((replica, rank)),
        Entry::Epoch { .. } => None,
    }
}

/// The record under a key; None if the key is about something else.
pub(super) fn read(key: &Key, value: &[u8]) -> Result<Option<Record>, String> {
    let Some((replica, rank)) = place(key) else { return Ok(None) };
    let record = RankRecord::decode(value).map_err(|error| error.to_string())?;
    let state = match RankState::try_from(record.state) {
        Ok(RankState::Loading) => Rank::Loading,
        Ok(RankState::Ready) => Rank::Ready,
        Ok(RankState::Serving) => Rank::Serving,
        Ok(RankState::Draining) => Rank::Draining,
        Ok(RankState::Unspecified) | Err(_) => return Err(format!("its state is {}", record.state)),
    };
    if rank >= record.world_size {
        return Err(format!("rank {rank} of {}", record.world_size));
    }
    if state == Rank::Serving && (record.address.is_empty() || record.epoch == 0) {
        return Err("it serves, and has no address or no epoch".to_owned());
    }
    let RankRecord { model, address, world_size: ranks, epoch, .. } = record;
    Ok(Some(Record { replica: replica.to_owned(), rank, model, state, address, ranks, epoch }))
}

#[cfg(test)]
mod tests;
