//! What is between the core and the world: the registry, which says who is there, and the links to leaders.

mod convert;
mod link;
mod record;

use std::collections::HashSet;

use discovery::{Key, Member, Registry};
use tokio_util::sync::CancellationToken;

pub(crate) use self::link::Dialer;
use crate::core::{Event, News, Record};
use crate::runner::Handle;

/// Keys whose values made no sense, so that it is said once; beyond so many, complaints are repeated.
#[derive(Default)]
struct Complaints(HashSet<Key>);

const COMPLAINTS: usize = 1024;

/// Tells all models what the registry says, until the gateway ends.
pub(crate) async fn follow(registry: Registry, models: Vec<Handle>, stop: CancellationToken) {
    let folder = match Key::new(score::registry::REPLICAS) {
        Ok(folder) => folder.below(),
        Err(error) => return tracing::error!(%error, "the replicas' folder is no key"),
    };
    let mut watch = registry.watch(&folder);
    let mut complaints = Complaints::default();
    while let Some(event) = stop.run_until_cancelled(watch.next()).await {
        let news = match event {
            discovery::Event::Reset(members) => {
                Some(News::Reset(members.iter().filter_map(|member| complaints.read(member)).collect()))
            }
            discovery::Event::Add(member) => complaints.read(&member).map(News::Written),
            discovery::Event::Remove(key) => {
                record::place(&key).map(|(replica, rank)| News::Removed { replica: replica.to_owned(), rank })
            }
        };
        let Some(news) = news else { continue };
        for model in &models {
            model.happened(Event::Registry(news.clone()));
        }
    }
}

// === impl Complaints ===

impl Complaints {
    /// The record of a rank, if this is one.
    fn read(&mut self, member: &Member) -> Option<Record> {
        match record::read(&member.key, &member.value) {
            Ok(record) => record,
            Err(problem) => {
                if self.0.len() >= COMPLAINTS {
                    self.0.clear();
                }
                if self.0.insert(member.key.clone()) {
                    tracing::warn!(key = %member.key, problem, "a record of a replica is ignored");
                }
                None
            }
        }
    }
}
