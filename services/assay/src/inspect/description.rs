//! What a model is, as far as it can be said without its weights.

use std::fmt;

use anyhow::Result;
use model::{Compute, Device};
use serde::Serialize;

use crate::opened::{Opened, numerics};

/// What a model is.
#[derive(Debug, Serialize)]
pub(super) struct Description {
    /// Where it comes from.
    model: String,
    architecture: &'static str,
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    attention_scale: f64,
    soft_cap: Option<f64>,
    /// The window of each layer, in tokens.
    windows: Vec<Option<usize>>,
    rope_theta: f64,
    rope_scaling: Option<&'static str>,
    parameters: usize,
    /// Of the weights, on each rank.
    bytes_of_rank: usize,
    dtype: String,
    /// The ranks that bytes and fingerprint are for.
    ranks: usize,
    vocabulary: usize,
    /// The most tokens of a conversation.
    limit: usize,
    /// Numbers of ranks that the model can be split over.
    tensor_parallel: Vec<usize>,
    bos: String,
    /// Where the template comes from.
    chat_template: Option<String>,
    numerics: Option<String>,
    fingerprint: Option<String>,
    /// Why the last two are not known here.
    unknown: Option<String>,
}

// === impl Description ===

impl Description {
    /// Of a model whose ranks compute like this. A GPU that is not here hides numerics and fingerprint, and nothing else.
    pub(super) fn of(opened: &Opened, computes: &[Compute]) -> Result<Self> {
        let (config, ranks) = (&opened.config, computes.len());
        let (numerics, fingerprint, unknown) = match numerics(config, computes, ranks) {
            Ok(numerics) => {
                let fingerprint = opened.fingerprint(&numerics)?.to_string();
                (Some(numerics), Some(fingerprint), None)
            }
            Err(error) if computes.iter().any(|compute| compute.device != Device::Cpu) => {
                (None, None, Some(error.to_string()))
            }
            Err(error) => return Err(error),
        };
        let dtype = computes.first().map(|compute| compute.dtype);
        Ok(Self {
            model: opened.checkpoint.source.to_string(),
            architecture: config.blueprint.name,
            layers: config.layers(),
            hidden: config.hidden,
            intermediate: config.intermediate,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            attention_scale: config.attention_scale,
            soft_cap: config.soft_cap,
            windows: config.windows.clone(),
            rope_theta: config.rope.theta,
            rope_scaling: config.rope.llama3.as_ref().map(|_| "llama3"),
            parameters: config.parameters(),
            bytes_of_rank: config.parameters_of_rank(ranks) * dtype.map_or(0, |dtype| dtype.size()),
            dtype: dtype.map(|dtype| dtype.to_string()).unwrap_or_default(),
            ranks,
            vocabulary: config.vocab,
            limit: config.max_positions,
            tensor_parallel: (1..=config.kv_heads).filter(|&ranks| config.check_world_size(ranks).is_ok()).collect(),
            bos: opened.encoder.bos_rule().to_string(),
            chat_template: opened.encoder.template_source().map(ToString::to_string),
            numerics,
            fingerprint,
            unknown,
        })
    }

    fn architecture(&self) -> String {
        let Self { architecture, layers, hidden, intermediate, .. } = self;
        format!("{architecture}, {layers} layers, hidden {hidden}, intermediate {intermediate}")
    }

    fn attention(&self) -> String {
        let Self { heads, kv_heads, head_dim, attention_scale, .. } = self;
        format!("{heads} heads, {kv_heads} key/value heads, head_dim {head_dim}, scale {attention_scale:.6}")
    }

    fn window(&self) -> String {
        let (layers, mut windows) = (self.layers, self.windows.iter().flatten());
        match (windows.next(), windows.count()) {
            (Some(window), others) => format!("{window} tokens, on {} of {layers} layers", others + 1),
            (None, _) => "none".to_owned(),
        }
    }

    fn rope(&self) -> String {
        let scaling = self.rope_scaling.map(|name| format!(", {name} scaling")).unwrap_or_default();
        format!("theta {}{scaling}", self.rope_theta)
    }

    /// How much the weights take where they are held.
    fn memory(&self) -> String {
        let held = format!("{} bytes of weights in {}", readable(self.bytes_of_rank as f64), self.dtype);
        if self.ranks == 1 { held } else { format!("{held} on each of {} ranks", self.ranks) }
    }

    fn known(&self, value: Option<&String>) -> String {
        let unknown = || format!("not known here: {}", self.unknown.as_deref().unwrap_or_default());
        value.cloned().unwrap_or_else(unknown)
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = || "none".to_owned();
        let rows = [
            ("model", self.model.clone()),
            ("architecture", self.architecture()),
            ("attention", self.attention()),
            ("soft-cap", self.soft_cap.map_or_else(none, |cap| cap.to_string())),
            ("window", self.window()),
            ("rope", self.rope()),
            ("parameters", readable(self.parameters as f64)),
            ("memory", self.memory()),
            ("vocabulary", self.vocabulary.to_string()),
            ("limit", format!("{} tokens", self.limit)),
            ("tensor-parallel", self.tensor_parallel.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            ("bos", self.bos.clone()),
            ("chat template", self.chat_template.clone().unwrap_or_else(none)),
            ("numerics", self.known(self.numerics.as_ref())),
            ("fingerprint", self.known(self.fingerprint.as_ref())),
        ];
        rows.iter().try_for_each(|(name, value)| writeln!(f, "{name:<16} {value}"))
    }
}

/// A number with as many of thousand, million, billion as it needs.
fn readable(number: f64) -> String {
    match number {
        billions if billions >= 1e9 => format!("{:.2} billion", billions / 1e9),
        millions if millions >= 1e6 => format!("{:.2} million", millions / 1e6),
        few => format!("{:.1} thousand", few / 1e3),
    }
}
