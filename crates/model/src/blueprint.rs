//! What an architecture is, as data: a constant for each in `architectures/`, to be read beside transformers'
//! configuration and modeling files of the same name. config.json is read by it, and both forward passes read it.
//!
//! Nothing here has a default, and nobody matches it with a wildcard: an architecture that leaves something unsaid does
//! not compile, and one that says something new does not until config.json, the CPU and the devices know of it.

use crate::compute::Dtype;

/// An architecture.
#[derive(Debug, PartialEq)]
pub struct Blueprint {
    /// What transformers' class names begin with, such as "Llama".
    pub name: &'static str,
    /// What config.json calls it.
    pub(crate) model_type: &'static str,
    pub(crate) head: Head,
    pub(crate) embedding: &'static str,
    pub(crate) embedding_scale: EmbeddingScale,
    /// Of the folder of a layer's tensors, before its number.
    pub(crate) layers: &'static str,
    pub(crate) projections: Projections,
    pub(crate) biases: Biases,
    pub(crate) norms: LayerNorms<&'static str>,
    pub(crate) final_norm: &'static str,
    pub(crate) norm_weight: NormWeight,
    pub(crate) activation: Activation,
    /// The field of config.json that names the activation.
    pub(crate) activation_field: &'static str,
    pub(crate) rope: RopePairs,
    pub(crate) attention_scale: AttentionScale,
    pub(crate) soft_cap: SoftCap,
    pub(crate) windows: Windows,
    /// Where config.json has no `num_key_value_heads`; or as many as query heads.
    pub(crate) usual_kv_heads: Option<usize>,
    /// Where config.json has no `head_dim`; or hidden / heads.
    pub(crate) usual_head_dim: Option<usize>,
    /// Numbers that it cannot be computed in, and why.
    pub(crate) refused: &'static [(Dtype, &'static str)],
    /// Fields of config.json that its scores do not depend on, besides those that no architecture's do, with blanks in
    /// between.
    pub(crate) without_effect: &'static str,
}

/// How a pooled row becomes a score. Of a head that is not linear, rank 0 contributes the value and the others zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// A product with `weight` [outputs, hidden], without bias.
    Linear {
        /// What transformers' class names end with.
        class: &'static str,
        weight: &'static str,
    },
}

/// What an embedded token is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EmbeddingScale {
    One,
    /// The square root of the hidden size, as a number of the dtype that is computed in.
    RootOfHidden,
}

/// The matrices of a layer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Projections {
    pub(crate) queries: &'static str,
    pub(crate) keys: &'static str,
    pub(crate) values: &'static str,
    pub(crate) output: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
}

/// Which projections add a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Biases {
    None,
    QueriesKeysValues,
}

/// The norms of a layer: their names here, their tensors, or what a device holds of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LayerNorms<T> {
    pub(crate) before_attention: T,
    /// Of what attention adds to the residual stream.
    pub(crate) after_attention: Option<T>,
    pub(crate) before_mlp: T,
    /// Of what the MLP adds to the residual stream.
    pub(crate) after_mlp: Option<T>,
    /// Of each head of the queries, before it is turned.
    pub(crate) queries: Option<T>,
    /// Of each head of the keys, before it is turned.
    pub(crate) keys: Option<T>,
}

/// What a norm multiplies with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormWeight {
    Stored,
    OnePlusStored,
}

/// The function between the two matmuls of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    GeluTanh,
    /// x / (1 + exp(-x)).
    Silu,
}

/// Which numbers of a head are turned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RopePairs {
    /// Number i of the first half with number i of the second.
    Halves,
}

/// A query-key product is multiplied with this number to the power of -1/2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum AttentionScale {
    HeadDim,
    Field { name: &'static str, usual: f64 },
}

/// What attention scores are squashed to: cap x tanh(score / cap).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum SoftCap {
    None,
    /// null in the field means none.
    Field {
        name: &'static str,
        usual: f64,
    },
}

/// Which layers see `sliding_window` keys and not all; what `layer_types` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Windows {
    /// None: there is no such field.
    Never,
    /// All, unless the field is null.
    Always { usual: usize },
    /// Those that `layer_types` says, or every other from layer 0 on.
    Alternating { usual: usize },
    /// Those that `layer_types` says, or all from `max_window_layers` on; none unless `use_sliding_window`.
    WhereUsed { usual: usize, usual_first: usize },
}

// === impl Blueprint ===

impl Blueprint {
    /// Its class in transformers, as config.json names it.
    pub fn class(&self) -> String {
        let Head::Linear { class, .. } = self.head;
        format!("{}{class}", self.name)
    }
}

// === impl EmbeddingScale ===

impl EmbeddingScale {
    /// The factor, for numbers of `dtype`.
    pub(crate) fn factor(self, hidden: usize, dtype: Dtype) -> f64 {
        match self {
            Self::One => 1.0,
            Self::RootOfHidden => dtype.round((hidden as f32).sqrt()).into(),
        }
    }
}

// === impl LayerNorms ===

impl<T> LayerNorms<T> {
    /// Those that there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let some = [&self.after_attention, &self.after_mlp, &self.queries, &self.keys];
        [&self.before_attention, &self.before_mlp].into_iter().chain(some.into_iter().flatten())
    }

    /// The same norms as something else.
    pub(crate) fn try_map<U, E>(&self, mut make: impl FnMut(&T) -> Result<U, E>) -> Result<LayerNorms<U>, E> {
        let (before_attention, before_mlp) = (make(&self.before_attention)?, make(&self.before_mlp)?);
        let mut some = |norm: &Option<T>| norm.as_ref().map(&mut make).transpose();
        Ok(LayerNorms {
            before_attention,
            after_attention: some(&self.after_attention)?,
            before_mlp,
            after_mlp: some(&self.after_mlp)?,
            queries: some(&self.queries)?,
            keys: some(&self.keys)?,
        })
    }
}

// === impl NormWeight ===

impl NormWeight {
    /// What is added to the stored numbers.
    pub(crate) fn offset(self) -> f32 {
        match self {
            Self::Stored => 0.0,
            Self::OnePlusStored => 1.0,
        }
    }
}

// === impl Activation ===

impl Activation {
    /// What transformers calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GeluTanh => "gelu_pytorch_tanh",
            Self::Silu => "silu",
        }
    }
}
