//! config.json, in the layouts of transformers 4 and 5, as the few numbers that a forward pass needs.
//!
//! Every field is used, or checked for the one value that is implemented, or on a named list of fields without effect
//! ([`fields`]); a field that is none of these is reported as a warning, for it may change the scores.

mod fields;

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use self::fields::Fields;
use crate::error::{Error, Result};

/// The architectures that are implemented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Gemma-2: soft-capped attention, alternating windows, norms before and after each branch.
    Gemma2,
    /// Llama-3 and its relatives.
    Llama,
    /// Qwen3: norms on queries and keys.
    Qwen3,
}

/// The function between the two matmuls of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    GeluTanh,
    /// x / (1 + exp(-x)).
    Silu,
}

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
    /// Which model it is.
    pub architecture: Architecture,
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
    /// The MLP's activation.
    pub activation: Activation,
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

    /// Reads the text of a config.json; `file` names it in errors. Returns the warnings too.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field that is missing, malformed or not implemented.
    pub fn parse(file: &Path, text: &str) -> Result<(Self, Vec<String>)> {
        let mut fields = Fields::parse(file, text)?;
        let architecture = architecture(&mut fields)?;
        one_label(&mut fields)?;
        let config = match architecture {
            Architecture::Gemma2 => gemma2(&mut fields)?,
            Architecture::Llama => llama(&mut fields)?,
            Architecture::Qwen3 => qwen3(&mut fields)?,
        };
        config.check(&fields)?;
        Ok((config, fields.warnings()))
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
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let norms = match self.architecture {
            Architecture::Gemma2 => 4 * self.hidden,
            Architecture::Llama => 2 * self.hidden,
            Architecture::Qwen3 => 2 * self.hidden + 2 * self.head_dim,
        };
        let split = self.hidden * (2 * queries + 2 * keys + 3 * self.intermediate) / world_size;
        self.vocab * self.hidden + self.layers() * (split + norms) + self.hidden + self.hidden / world_size
    }

    /// Multiplications and additions of the matmuls for one token that passes through every layer, attention aside.
    pub fn matmul_flops_per_token(&self) -> f64 {
        let per_layer =
            self.hidden * (2 * self.heads + 2 * self.kv_heads) * self.head_dim + 3 * self.hidden * self.intermediate;
        2.0 * (self.layers() * per_layer) as f64
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
fn architecture(fields: &mut Fields) -> Result<Architecture> {
    let names: Vec<String> = fields.required("architectures")?;
    let (architecture, model_type) = match names.first().map(String::as_str) {
        Some("Gemma2ForSequenceClassification") => (Architecture::Gemma2, "gemma2"),
        Some("LlamaForSequenceClassification") => (Architecture::Llama, "llama"),
        Some("Qwen3ForSequenceClassification") => (Architecture::Qwen3, "qwen3"),
        _ => {
            return Err(fields.error(format!(
                "architectures is {names:?}; implemented: Gemma2ForSequenceClassification, LlamaForSequenceClassification, Qwen3ForSequenceClassification"
            )));
        }
    };
    fields.must_be("model_type", &[json!(model_type)])?;
    Ok(architecture)
}

/// A reward model has one output. transformers writes `id2label` and leaves `num_labels` out; without either it means 2.
fn one_label(fields: &mut Fields) -> Result<()> {
    let labels: Option<serde_json::Map<String, Value>> = fields.optional("id2label")?;
    let counts = [fields.optional("num_labels")?, labels.map(|labels| labels.len())];
    let given: Vec<usize> = counts.into_iter().flatten().collect();
    match given.iter().find(|&&count| count != 1).or_else(|| given.is_empty().then_some(&2)) {
        Some(count) => Err(fields.error(format!("num_labels is {count} (id2label counts), a reward model has 1"))),
        None => Ok(()),
    }
}

fn gemma2(fields: &mut Fields) -> Result<Config> {
    fields.must_be("hidden_activation", &[json!("gelu_pytorch_tanh"), Value::Null])?;
    fields.must_be("use_bidirectional_attention", &[json!(false), Value::Null])?;
    // final_logit_softcapping: the classification model has no language-model head to cap
    fields.without_effect(&["hidden_act", "final_logit_softcapping", "sliding_window_size", "cache_implementation"]);
    let mut config = common(fields, Architecture::Gemma2)?;
    config.head_dim = fields.optional("head_dim")?.unwrap_or(256);
    config.activation = Activation::GeluTanh;
    config.attention_scale = fields.optional::<f64>("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5);
    config.soft_cap = fields.or_default("attn_logit_softcapping", Some(50.0))?;
    let window: usize = fields.optional("sliding_window")?.unwrap_or(4096);
    let layers = config.layers();
    let alternating = || {
        (0..layers).map(|layer| if layer % 2 == 0 { "sliding_attention" } else { "full_attention" }.into()).collect()
    };
    let types: Vec<String> = fields.optional("layer_types")?.unwrap_or_else(alternating);
    config.windows = windows(fields, &types, layers, Some(window))?;
    Ok(config)
}

fn llama(fields: &mut Fields) -> Result<Config> {
    fields.must_be("mlp_bias", &[json!(false), Value::Null])?;
    fields.without_effect(&["pretraining_tp"]);
    let mut config = common(fields, Architecture::Llama)?;
    let default = config.hidden / config.heads.max(1);
    full_attention_with_silu(fields, &mut config, default)?;
    Ok(config)
}

fn qwen3(fields: &mut Fields) -> Result<Config> {
    fields.must_be("use_sliding_window", &[json!(false), Value::Null])?;
    // both only count when use_sliding_window is true
    fields.without_effect(&["sliding_window", "max_window_layers"]);
    let mut config = common(fields, Architecture::Qwen3)?;
    full_attention_with_silu(fields, &mut config, 128)?;
    Ok(config)
}

fn full_attention_with_silu(fields: &mut Fields, config: &mut Config, default_head_dim: usize) -> Result<()> {
    fields.must_be("hidden_act", &[json!("silu"), Value::Null])?;
    config.head_dim = fields.optional("head_dim")?.unwrap_or(default_head_dim);
    config.attention_scale = (config.head_dim as f64).powf(-0.5);
    let layers = config.layers();
    let types = fields.optional("layer_types")?.unwrap_or_else(|| vec!["full_attention".to_owned(); layers]);
    config.windows = windows(fields, &types, layers, None)?;
    Ok(())
}

/// What all three read in the same way. The caller fills in what depends on the architecture.
fn common(fields: &mut Fields, architecture: Architecture) -> Result<Config> {
    fields.must_be("attention_bias", &[json!(false), Value::Null])?;
    fields.must_be("quantization_config", &[Value::Null])?;
    fields.must_be("is_encoder_decoder", &[json!(false)])?;
    fields.must_be("add_cross_attention", &[json!(false)])?;
    fields.without_effect(fields::WITHOUT_EFFECT);
    let heads = fields.required("num_attention_heads")?;
    let layers: usize = fields.required("num_hidden_layers")?;
    if layers > MOST_LAYERS {
        return Err(fields.error(format!("num_hidden_layers is {layers}, expected 1 to {MOST_LAYERS}")));
    }
    Ok(Config {
        architecture,
        hidden: fields.required("hidden_size")?,
        intermediate: fields.required("intermediate_size")?,
        heads,
        kv_heads: fields.optional("num_key_value_heads")?.unwrap_or(heads),
        head_dim: 0,
        vocab: fields.required("vocab_size")?,
        max_positions: fields.required("max_position_embeddings")?,
        norm_eps: fields.optional("rms_norm_eps")?.unwrap_or(1e-6),
        activation: Activation::Silu,
        rope: rope(fields)?,
        attention_scale: 1.0,
        soft_cap: None,
        windows: vec![None; layers],
    })
}

/// `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (transformers 4).
fn rope(fields: &mut Fields) -> Result<Rope> {
    let theta: Option<f64> = fields.optional("rope_theta")?;
    let scaling: Option<Map<String, Value>> = fields.optional("rope_scaling")?;
    let parameters: Option<Map<String, Value>> = fields.optional("rope_parameters")?;
    let Some(parameters) = parameters.or(scaling) else {
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

/// Turns `layer_types` into a window for each layer.
fn windows(fields: &Fields, types: &[String], layers: usize, window: Option<usize>) -> Result<Vec<Option<usize>>> {
    if types.len() != layers {
        return Err(fields.error(format!("layer_types names {} layers, num_hidden_layers is {layers}", types.len())));
    }
    let of_layer = |kind: &String| match (kind.as_str(), window) {
        ("full_attention", _) => Ok(None),
        ("sliding_attention", Some(0)) => Err(fields.error("sliding_window is 0")),
        ("sliding_attention", Some(window)) => Ok(Some(window)),
        _ => Err(fields.error(format!("layer_types holds {kind:?}, which is not implemented for this architecture"))),
    };
    types.iter().map(of_layer).collect()
}

#[cfg(test)]
mod tests;
