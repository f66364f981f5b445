//! Values of enums as people and scripts read them: in lower case, without what all names of the enum begin with. What a
//! newer peer says and nobody here knows is `unspecified`.

use serde::Serializer;

use crate::v1::{RankProgress, ReplicaState, Status};

fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

impl Status {
    /// As in `too_long`.
    pub fn word(self) -> String {
        word(self.as_str_name(), "STATUS_")
    }
}

impl ReplicaState {
    /// As in `ready`.
    pub fn word(self) -> String {
        word(self.as_str_name(), "REPLICA_STATE_")
    }
}

impl RankProgress {
    /// As in `serving`.
    pub fn word(self) -> String {
        word(self.as_str_name(), "RANK_PROGRESS_")
    }
}

pub(crate) fn state<S: Serializer>(state: &i32, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&ReplicaState::try_from(*state).unwrap_or_default().word())
}

pub(crate) fn progress<S: Serializer>(progress: &i32, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&RankProgress::try_from(*progress).unwrap_or_default().word())
}
