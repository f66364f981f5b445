//! What a gateway is started with, as values. Whoever reads flags and files makes them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use prompt::Encoder;
pub use proto::TENANT_KEY;
use score::Versions;

use crate::core::Settings;

/// Who a call is charged to that does not say.
pub(crate) const DEFAULT_TENANT: &str = "default";

/// Everything that a gateway is told.
pub struct ServiceOptions {
    /// What it is called in the logs of replicas.
    pub name: String,
    /// What it serves; at least one, each with a name of its own.
    pub models: Vec<ServedModel>,
    /// How it admits and routes, for each model; the longest conversation is what the model says.
    pub settings: Settings,
    /// What tenants' shares are.
    pub tenants: Tenants,
    /// Threads that render and tokenize.
    pub tokenizer_threads: usize,
    /// Memory for the tokens of prompts that were seen; 0 for none.
    pub prompt_cache_bytes: usize,
    /// How long a call may take that does not say.
    pub default_timeout: Duration,
    /// How long accepted work may go on after the gateway was told to end.
    pub drain_timeout: Duration,
    /// The largest message that is read from a client.
    pub max_message_bytes: usize,
    /// The most items of one stream that have no answer.
    pub stream_items: usize,
    /// The versions of the inner protocol that it speaks.
    pub protocol: Versions,
}

/// A model that is served.
pub struct ServedModel {
    /// What clients call it.
    pub name: String,
    /// Makes its token ids.
    pub encoder: Encoder,
    /// The most tokens of a conversation.
    pub max_length: usize,
    /// Token ids are below this.
    pub vocab: u32,
    /// A digest of what the encoder is made of; replicas with another are refused.
    pub text_digest: String,
}

/// The tenants' shares of the tokens, relative to each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenants {
    /// Shares by name; whoever is not listed has 1.
    pub weights: BTreeMap<String, NonZeroU32>,
}

// === impl ServiceOptions ===

impl ServiceOptions {
    /// These models, and what suits most.
    pub fn new(models: Vec<ServedModel>, settings: Settings) -> Self {
        Self {
            name: "gateway".to_owned(),
            models,
            settings,
            tenants: Tenants::default(),
            tokenizer_threads: 4,
            prompt_cache_bytes: 64 << 20,
            default_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            max_message_bytes: 64 << 20,
            stream_items: 1024,
            protocol: Versions::CURRENT,
        }
    }
}

// === impl Tenants ===

impl Tenants {
    /// A tenant's share.
    pub fn weight(&self, tenant: &str) -> NonZeroU32 {
        self.weights.get(tenant).copied().unwrap_or(NonZeroU32::MIN)
    }

    /// What a tenant is called in metrics, so that clients cannot make up any number of names.
    pub(crate) fn label(&self, tenant: &str) -> String {
        let listed = tenant == DEFAULT_TENANT || self.weights.contains_key(tenant);
        if listed { tenant.to_owned() } else { "other".to_owned() }
    }
}

#[cfg(test)]
mod tests;
