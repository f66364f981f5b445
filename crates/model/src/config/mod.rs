//! config.json, in the layouts of transformers 4 and 5, as the few numbers that a forward pass needs.
//!
//! What may stand in it is the architecture's to say: its [`Blueprint`]. Every field is used, or checked for the one
//! value that is implemented, or on a named list of fields without effect ([`fields`]). A field that is none of these is
//! an error, for it may change the scores, unless it is null, false or empty: what a later transformers adds is off like
//! that where it is not used, or models made before could not be read by it.

mod fields;

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use self::fields::Fields;
use crate::architectures;
use crate::blueprint::{AttentionScale, Blueprint, Head, SoftCap, Windows};
use crate::error::{Error, Result};
use crate::share::Share;
use crate::weights::Slice;

/// How the angle of a position is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// Llama-3.1's correction for long contexts.
    pub llama3: Option<Llama3Scaling>,
}

/// The parameters of Llama-3.1's RoPE scaling (transformers, modeling_rope_utils.py, `_compute_llama3_parameters`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Llama3Scaling {
    /// Low frequencies are divided by this.
    pub factor: f64,
    /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are scaled.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are not.
    pub high_freq_factor: f64,
    /// The context length before the extension.
    pub original_max_position_embeddings: f64,
}

/// What a forward pass needs to know of a model. Sizes are of the whole model, not of a rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What its architecture is.
    pub blueprint: &'static Blueprint,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of token ids.
    pub vocab: usize,
    /// The longest conversation, in tokens.
    pub max_positions: usize,
    /// What is added to the mean square in each norm.
    pub norm_eps: f32,
    /// Position encoding.
    pub rope: Rope,
    /// What a query-key product is multiplied with.
    pub attention_scale: f64,
    /// Attention scores are squashed to this, if any: cap x tanh(score / cap).
    pub soft_cap: Option<f64>,
    /// For each layer: a query sees this many keys, itself included, or all.
    pub windows: Vec<Option<usize>>,
}

/// Sizes beyond these are not those of a language model; the bounds keep the number of parameters from overflowing.
const LARGEST_SIZE: usize = 1 << 24;
const MOST_LAYERS: usize = 1_000;

impl Config {
    /// The outputs of the head: models with another number are refused.
    pub fn outputs(&self) -> usize {
        1
    }

    /// Reads the text of a config.json; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field that is missing, malformed, not implemented or not known.
    pub fn parse(file: &Path, text: &str) -> Result<Self> {
        let mut fields = Fields::parse(file, text)?;
        let blueprint = blueprint(&mut fields)?;
        one_label(&mut fields)?;
        let config = Self::read(blueprint, &mut fields)?;
        fields.without_effect(fields::WITHOUT_EFFECT);
        fields.without_effect(blueprint.without_effect);
        config.check(&fields)?;
        fields.check_unknown(blueprint.name)?;
        Ok(config)
    }

    fn read(blueprint: &'static Blueprint, fields: &mut Fields) -> Result<Self> {
        fields.must_be(blueprint.activation_field, &[json!(blueprint.activation.name()), Value::Null])?;
        let Head::Linear { weight, .. } = blueprint.head;
        // OpenRLHF's
        fields.must_be("value_head_prefix", &[json!(weight.trim_end_matches(".weight")), Value::Null])?;
        let layers: usize = fields.required("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            return Err(fields.error(format!("num_hidden_layers is {layers}, expected 1 to {MOST_LAYERS}")));
        }
        let (hidden, heads): (usize, usize) =
            (fields.required("hidden_size")?, fields.required("num_attention_heads")?);
        let usual_head_dim = blueprint.usual_head_dim.unwrap_or(hidden / heads.max(1));
        let head_dim = fields.optional("head_dim")?.unwrap_or(usual_head_dim);
        let divisor = match blueprint.attention_scale {
            AttentionScale::HeadDim => head_dim as f64,
            AttentionScale::Field { name, usual } => fields.optional(name)?.unwrap_or(usual),
        };
        Ok(Self {
            blueprint,
            hidden,
            intermediate: fields.required("intermediate_size")?,
            heads,
            // null: as many as query heads
            kv_heads: fields.or_default("num_key_value_heads", blueprint.usual_kv_heads)?.unwrap_or(heads),
            head_dim,
            vocab: fields.required("vocab_size")?,
            max_positions: fields.required("max_position_embeddings")?,
            norm_eps: fields.optional("rms_norm_eps")?.unwrap_or(1e-6),
            rope: rope(fields)?,
            attention_scale: divisor.powf(-0.5),
            soft_cap: match blueprint.soft_cap {
                SoftCap::None => None,
                SoftCap::Field { name, usual } => fields.or_default(name, Some(usual))?,
            },
            windows: windows(blueprint.windows, fields, layers)?,
        })
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.windows.len()
    }

    /// The number of parameters of the whole model, score head included.
    pub fn parameters(&self) -> usize {
        self.parameters_of_rank(1)
    }

    /// The number of parameters that each of so many ranks holds: embedding and norms are whole on every rank.
    pub fn parameters_of_rank(&self, world_size: usize) -> usize {
        Share::new(self, 0, world_size).parameters()
    }

    /// Multiplications and additions of the matmuls for one token that passes through every layer, attention aside.
    pub fn matmul_flops_per_token(&self) -> f64 {
        let layer: usize = Share::new(self, 0, 1).layer(0).matrices().map(Slice::len).iter().sum();
        2.0 * (self.layers() * layer) as f64
    }

    /// Refuses a number of ranks that does not divide the heads and the MLP.
    ///
    /// # Errors
    /// [`Error::WorldSize`], which says what would fit.
    pub fn check_world_size(&self, world_size: usize) -> Result<()> {
        let sizes = [("heads", self.heads), ("kv_heads", self.kv_heads), ("intermediate", self.intermediate)];
        let fits = |world: usize| sizes.iter().all(|(_, size)| size % world == 0);
        if world_size > 0 && fits(world_size) {
            return Ok(());
        }
        let (what, size) =
            sizes.into_iter().find(|(_, size)| world_size == 0 || size % world_size != 0).unwrap_or(sizes[0]);
        let fitting: Vec<_> = (1..=self.kv_heads).filter(|&world| fits(world)).map(|world| world.to_string()).collect();
        Err(Error::WorldSize { what, size, world_size, fitting: fitting.join(", ") })
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden),
            ("intermediate_size", self.intermediate),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab),
            ("max_position_embeddings", self.max_positions),
            ("num_hidden_layers", self.layers()),
        ];
        for (name, size) in sizes {
            if size == 0 || size > LARGEST_SIZE {
                return Err(fields.error(format!("{name} is {size}, expected 1 to {LARGEST_SIZE}")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv_heads) = (self.heads, self.kv_heads);
            return Err(
                fields.error(format!("num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"))
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(fields.error(format!("head_dim {} is odd, RoPE rotates pairs", self.head_dim)));
        }
        if self.heads * self.head_dim > LARGEST_SIZE {
            let (heads, head_dim) = (self.heads, self.head_dim);
            return Err(fields.error(format!(
                "num_attention_heads {heads} x head_dim {head_dim} is too wide, expected at most {LARGEST_SIZE}"
            )));
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let rope = self.rope.llama3.as_ref().is_none_or(|s| {
            [s.factor, s.low_freq_factor, s.high_freq_factor, s.original_max_position_embeddings]
                .into_iter()
                .all(positive)
                && s.high_freq_factor > s.low_freq_factor
        });
        if !rope || !positive(self.rope.theta) {
            return Err(fields.error(
                "rope_theta, factor, low_freq_factor, high_freq_factor and original_max_position_embeddings \
                 must be positive numbers, low_freq_factor below high_freq_factor",
            ));
        }
        if ![f64::from(self.norm_eps), self.attention_scale, self.soft_cap.unwrap_or(1.0)].into_iter().all(positive) {
            return Err(
                fields.error("rms_norm_eps, query_pre_attn_scalar and attn_logit_softcapping must be positive numbers")
            );
        }
        Ok(())
    }
}

/// `architectures` and `model_type` must name the same implemented model, with a classification head.
fn blueprint(fields: &mut Fields) -> Result<&'static Blueprint> {
    let names: Vec<String> = fields.required("architectures")?;
    let named = |blueprint: &&&Blueprint| names.first() == Some(&blueprint.class());
    let Some(blueprint) = architectures::ALL.iter().find(named) else {
        let implemented = architectures::ALL.map(Blueprint::class).join(", ");
        return Err(fields.error(format!("architectures is {names:?}; implemented: {implemented}")));
    };
    fields.must_be("model_type", &[json!(blueprint.model_type)])?;
    Ok(blueprint)
}

/// A reward model has one output. transformers writes `id2label` and leaves `num_labels` out; without either it means 2.
fn one_label(fields: &mut Fields) -> Result<()> {
    let labels: Option<serde_json::Map<String, Value>> = fields.optional("id2label")?;
    let counts = [fields.optional("num_labels")?, labels.map(|labels| labels.len())];
    let given: Vec<usize> = counts.into_iter().flatten().collect();
    if given.is_empty() {
        let problem = "num_labels is 2, for it is missing (id2label counts), a reward model has 1: add \"num_labels\": 1 if \
                       score.weight has one row";
        return Err(fields.error(problem));
    }
    match given.iter().find(|&&count| count != 1) {
        Some(count) => Err(fields.error(format!("num_labels is {count} (id2label counts), a reward model has 1"))),
        None => Ok(()),
    }
}

/// `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (transformers 4).
fn rope(fields: &mut Fields) -> Result<Rope> {
    let theta: Option<f64> = fields.optional("rope_theta")?;
    let scaling: Option<Map<String, Value>> = fields.optional("rope_scaling")?;
    let parameters: Option<Map<String, Value>> = fields.optional("rope_parameters")?;
    // one that is not empty wins, as in transformers 5
    let Some(parameters) = scaling.filter(|scaling| !scaling.is_empty()).or(parameters) else {
        return Ok(Rope { theta: theta.unwrap_or(1e4), llama3: None });
    };
    let own_theta: Option<f64> = member(fields, &parameters, "rope_theta")?;
    let theta = own_theta.or(theta).unwrap_or(1e4);
    let kind: Option<String> = member(fields, &parameters, "rope_type")?.or(member(fields, &parameters, "type")?);
    let kind = kind.as_deref().unwrap_or("default");
    let known = |names: &[&str]| parameters.keys().find(|key| !names.contains(&key.as_str())).cloned();
    let (llama3, unknown) = match kind {
        "default" => (None, known(&["rope_type", "type", "rope_theta"])),
        "llama3" => {
            let scaling: Llama3Scaling = serde_json::from_value(Value::Object(parameters.clone()))
                .map_err(|error| fields.error(format!("the llama3 RoPE parameters: {error}")))?;
            let names = [
                "rope_type",
                "type",
                "rope_theta",
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            ];
            (Some(scaling), known(&names))
        }
        other => return Err(fields.error(format!("rope_type is {other:?}; implemented: default, llama3"))),
    };
    match unknown {
        Some(name) => Err(fields.error(format!("RoPE parameter {name} is not implemented for rope_type {kind:?}"))),
        None => Ok(Rope { theta, llama3 }),
    }
}

/// A value among the RoPE parameters; absent and null are the same.
fn member<T: DeserializeOwned>(fields: &Fields, parameters: &Map<String, Value>, name: &str) -> Result<Option<T>> {
    let value = parameters.get(name).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|error| fields.error(format!("{name}: {error}")))
}

/// For each layer, how many keys a query sees, if not all.
fn windows(rule: Windows, fields: &mut Fields, layers: usize) -> Result<Vec<Option<usize>>> {
    // the window, from which layer on and how often it is there, and whether layer_types may say otherwise
    let (window, first, every, free) = match rule {
        Windows::Never => (None, 0, 1, false),
        Windows::Always { usual } => (window(fields, usual)?, 0, 1, false),
        Windows::Alternating { usual } => (window(fields, usual)?.or(Some(usual)), 0, 2, true),
        Windows::WhereUsed { usual, usual_first } => {
            let used = fields.optional("use_sliding_window")?.unwrap_or(false);
            let first = fields.optional("max_window_layers")?.unwrap_or(usual_first);
            (window(fields, usual)?.filter(|_| used), first, 1, true)
        }
    };
    let usual = |layer: usize| window.filter(|_| layer >= first && (layer - first).is_multiple_of(every));
    let Some(types): Option<Vec<String>> = fields.optional("layer_types")? else {
        return Ok((0..layers).map(usual).collect());
    };
    if types.len() != layers {
        return Err(fields.error(format!("layer_types names {} layers, num_hidden_layers is {layers}", types.len())));
    }
    let of_layer = |(layer, kind): (usize, &String)| {
        let said = match kind.as_str() {
            "full_attention" => Some(None),
            "sliding_attention" => window.map(Some),
            _ => None,
        };
        said.filter(|said| free || *said == usual(layer)).ok_or_else(|| {
            fields
                .error(format!("layer_types holds {kind:?} for layer {layer}, which is not implemented for this model"))
        })
    };
    types.iter().enumerate().map(of_layer).collect()
}

/// `sliding_window`; null means none.
fn window(fields: &mut Fields, usual: usize) -> Result<Option<usize>> {
    match fields.or_default("sliding_window", Some(usual))? {
        Some(window) if window == 0 || window > LARGEST_SIZE => {
            Err(fields.error(format!("sliding_window is {window}, expected 1 to {LARGEST_SIZE}")))
        }
        window => Ok(window),
    }
}

#[cfg(test)]
mod tests;
