//! The ids of prompts that were tokenized before, in bounded memory.
//!
//! A prompt is kept with its whole text, so that no two are ever taken for each other. What is used again stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache as Store;

use crate::ItemError;

/// Prompts and their ids; any number of threads may share it.
pub(crate) struct Cache {
    prompts: Store<Box<str>, Arc<[u32]>, Bytes>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What a prompt takes.
#[derive(Clone)]
struct Bytes;

/// Bytes of a typical prompt with its ids, and of what the cache itself needs for one.
const TYPICAL: usize = 4096;
const OVERHEAD: usize = 128;

// === impl Cache ===

impl Cache {
    /// An empty cache of so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let prompts = Store::with_weighter(bytes / TYPICAL + 1, bytes as u64, Bytes);
        Self { prompts, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The ids of a prompt, and how many bytes had to be encoded for them. What fails is not kept.
    pub(crate) fn get_or(
        &self,
        prompt: &str,
        encode: impl FnOnce() -> Result<Vec<u32>, ItemError>,
    ) -> (Result<Arc<[u32]>, ItemError>, usize) {
        if let Some(ids) = self.prompts.get(prompt) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return (Ok(ids), 0);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let ids = encode().map(Arc::from);
        if let Ok(ids) = &ids {
            self.prompts.insert(prompt.into(), Arc::clone(ids));
        }
        (ids, prompt.len())
    }

    /// How often a prompt was there, and how often it was not.
    pub(crate) fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}

// === impl Bytes ===

impl Weighter<Box<str>, Arc<[u32]>> for Bytes {
    fn weight(&self, prompt: &Box<str>, ids: &Arc<[u32]>) -> u64 {
        (prompt.len() + size_of_val::<[u32]>(ids) + OVERHEAD) as u64
    }
}

#[cfg(test)]
mod tests;
