//! What a gateway is told, as values. Whoever reads flags and files makes them.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use prompt::Encoder;
pub use proto::TENANT_KEY;
use schemars::JsonSchema;
use score::Versions;
use serde::{Deserialize, Serialize};
use service::config::{BytesText, DurationText, Unusable, ensure};

use crate::core::Routing;

/// Who a call is charged to that does not say.
pub(crate) const DEFAULT_TENANT: &str = "default";
/// The tokens of a step, as long as no replica has said what its are.
pub(crate) const STEP_TOKENS: u64 = 8192;

/// Everything that a gateway is told.
pub struct ServiceOptions {
    /// What it is called in the logs of replicas.
    pub name: String,
    /// What it serves; at least one, each with a name of its own.
    pub models: Vec<ServedModel>,
    /// How much it holds at a time, and for how long.
    pub limits: ServiceLimits,
    /// How it chooses and gives up replicas.
    pub routing: Routing,
    /// What tenants' shares are.
    pub tenants: Tenants,
    /// The names by which browsers may ask for the page and its kin, besides addresses and `localhost`. Without any: all,
    /// or none where only this machine reaches the gateway.
    pub hosts: Vec<String>,
    /// The versions of the inner protocol that it speaks.
    pub protocol: Versions,
}

/// How much a gateway holds at a time, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceLimits {
    /// Tokens that wait or are computed, for each model.
    pub queue_tokens: u64,
    /// Conversations that wait or are computed, for each model.
    pub queue_conversations: u64,
    /// Bytes of clients' messages, from before they are read until they are answered; four times `message` or more.
    #[serde(with = "BytesText")]
    pub queue_bytes: usize,
    /// The largest message that is read from a client.
    #[serde(with = "BytesText")]
    pub message: usize,
    /// Items of one stream without an answer.
    pub stream_items: NonZeroUsize,
    /// Memory for the tokens of prompts that were seen; 0B for none.
    #[serde(with = "BytesText")]
    pub prompt_cache: usize,
    /// Threads that render and tokenize; by default one for each core.
    pub tokenizer_threads: NonZeroUsize,
    /// How long a call may take that does not say.
    #[serde(with = "DurationText")]
    pub timeout: Duration,
    /// How long new calls are still taken after the gateway was told to end, so that whoever balances load can look away.
    #[serde(with = "DurationText")]
    pub lame_duck: Duration,
    /// How long accepted work may go on after the gateway was told to end.
    #[serde(with = "DurationText")]
    pub drain: Duration,
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

/// The tenants' shares of the tokens, relative to each other, by name; whoever is not listed has 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Tenants(pub BTreeMap<String, NonZeroU32>);

// === impl ServiceOptions ===

impl ServiceOptions {
    /// These models, and what suits most.
    pub fn new(models: Vec<ServedModel>) -> Self {
        Self {
            name: "gateway".to_owned(),
            models,
            limits: ServiceLimits::default(),
            routing: Routing::default(),
            tenants: Tenants::default(),
            hosts: Vec::new(),
            protocol: Versions::CURRENT,
        }
    }
}

// === impl ServiceLimits ===

impl Default for ServiceLimits {
    fn default() -> Self {
        Self {
            queue_tokens: 64_000_000,
            queue_conversations: 1_000_000,
            queue_bytes: 256 << 20,
            message: 8 << 20,
            stream_items: NonZeroUsize::MIN.saturating_add(1023),
            prompt_cache: 64 << 20,
            tokenizer_threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            timeout: Duration::from_secs(600),
            lame_duck: Duration::ZERO,
            drain: Duration::from_secs(30),
        }
    }
}

impl ServiceLimits {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`Unusable`], with the setting.
    pub fn check(&self) -> Result<(), Unusable> {
        ensure(self.queue_tokens > 0, "limits.queue_tokens", "at least 1")?;
        ensure(self.queue_conversations > 0, "limits.queue_conversations", "at least 1")?;
        ensure(self.message > 0, "limits.message", "more than 0B")?;
        let least = self.message.saturating_mul(4);
        ensure(self.queue_bytes >= least, "limits.queue_bytes", "at least four times limits.message")?;
        ensure(self.tokenizer_threads.get() <= MOST_THREADS, "limits.tokenizer_threads", "at most 1024")?;
        ensure(!self.timeout.is_zero(), "limits.timeout", "more than 0s")
    }
}

/// More threads than any machine has cores only cost time to start.
const MOST_THREADS: usize = 1024;

// === impl Routing ===

impl Default for Routing {
    fn default() -> Self {
        Self {
            attempts: 4,
            stalled_after: Duration::from_secs(120),
            failures: 3,
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            prompts: 100_000,
        }
    }
}

impl Routing {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`Unusable`], with the setting.
    pub fn check(&self) -> Result<(), Unusable> {
        ensure(self.attempts > 0, "routing.attempts", "at least 1")?;
        ensure(!self.stalled_after.is_zero(), "routing.stalled_after", "more than 0s")?;
        ensure(self.failures > 0, "routing.failures", "at least 1")
    }
}

// === impl Tenants ===

impl Tenants {
    /// A tenant's share.
    pub fn weight(&self, tenant: &str) -> NonZeroU32 {
        self.0.get(tenant).copied().unwrap_or(NonZeroU32::MIN)
    }

    /// What a tenant is called in metrics, so that clients cannot make up any number of names.
    pub(crate) fn label(&self, tenant: &str) -> String {
        let listed = tenant == DEFAULT_TENANT || self.0.contains_key(tenant);
        if listed { tenant.to_owned() } else { "other".to_owned() }
    }
}

#[cfg(test)]
mod tests;
