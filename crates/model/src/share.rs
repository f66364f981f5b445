//! A rank's share of a model: its sizes, and which part of which stored tensor is its own. Both forward passes load what
//! stands here.
//!
//! Tensor parallelism as in Megatron-LM (Shoeybi et al. 2019): queries, keys, values, gate and up are split by output,
//! so a rank owns whole heads; the output and down projections are split by input, and their partial results are summed
//! over the ranks. Embedding, norms and the residual stream are the same on every rank.

use std::ops::Range;

use crate::blueprint::{Biases, Blueprint, Head, LayerNorms};
use crate::config::Config;
use crate::weights::{Slice, VectorSlice};

/// One rank's share of a model.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    pub(crate) config: Config,
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    /// heads x head_dim.
    pub(crate) query_width: usize,
    /// kv_heads x head_dim.
    pub(crate) key_width: usize,
    pub(crate) intermediate: usize,
}

/// The tensors of a transformer block.
pub(crate) struct LayerTensors {
    pub(crate) queries: Slice,
    pub(crate) keys: Slice,
    pub(crate) values: Slice,
    /// Of queries, keys and values.
    pub(crate) biases: Option<[VectorSlice; 3]>,
    pub(crate) output: Slice,
    pub(crate) gate: Slice,
    pub(crate) up: Slice,
    pub(crate) down: Slice,
    pub(crate) norms: LayerNorms<VectorSlice>,
}

// === impl Share ===

impl Share {
    /// The ranks must divide the model: [`Config::check_world_size`].
    pub(crate) fn new(config: &Config, rank: usize, world_size: usize) -> Self {
        let (heads, kv_heads) = (config.heads / world_size, config.kv_heads / world_size);
        Self {
            config: config.clone(),
            rank,
            world_size,
            heads,
            kv_heads,
            query_width: heads * config.head_dim,
            key_width: kv_heads * config.head_dim,
            intermediate: config.intermediate / world_size,
        }
    }

    pub(crate) fn blueprint(&self) -> &'static Blueprint {
        self.config.blueprint
    }

    /// This rank's part of `size` things that are split evenly over the ranks.
    pub(crate) fn own(&self, size: usize) -> Range<usize> {
        size * self.rank / self.world_size..size * (self.rank + 1) / self.world_size
    }

    pub(crate) fn embedding(&self) -> Slice {
        let shape = [self.config.vocab, self.config.hidden];
        Slice { name: weight(self.blueprint().embedding), shape, rows: 0..shape[0], columns: 0..shape[1] }
    }

    pub(crate) fn final_norm(&self) -> VectorSlice {
        VectorSlice::whole(weight(self.blueprint().final_norm), self.config.hidden)
    }

    pub(crate) fn head(&self) -> Slice {
        let Head::Linear { weight, .. } = self.blueprint().head;
        let (outputs, hidden) = (self.config.outputs(), self.config.hidden);
        Slice { name: weight.to_owned(), shape: [outputs, hidden], rows: 0..outputs, columns: self.own(hidden) }
    }

    /// The tensors of layer `number`.
    pub(crate) fn layer(&self, number: usize) -> LayerTensors {
        let (config, blueprint) = (&self.config, self.blueprint());
        let (of, names) = (&blueprint.projections, &blueprint.norms);
        let name = |part: &str| format!("{}.{number}.{part}", blueprint.layers);
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let by_output = |part: &str, rows: usize| Slice {
            name: weight(&name(part)),
            shape: [rows, config.hidden],
            rows: self.own(rows),
            columns: 0..config.hidden,
        };
        let by_input = |part: &str, columns: usize| Slice {
            name: weight(&name(part)),
            shape: [config.hidden, columns],
            rows: 0..config.hidden,
            columns: self.own(columns),
        };
        let bias = |part: &str, len: usize| VectorSlice { name: name(part) + ".bias", len, own: self.own(len) };
        let norm = |part: &str, len: usize| VectorSlice::whole(weight(&name(part)), len);
        let of_rows = |part: Option<&str>| part.map(|part| norm(part, config.hidden));
        let of_heads = |part: Option<&str>| part.map(|part| norm(part, config.head_dim));
        LayerTensors {
            queries: by_output(of.queries, queries),
            keys: by_output(of.keys, keys),
            values: by_output(of.values, keys),
            biases: match blueprint.biases {
                Biases::None => None,
                Biases::QueriesKeysValues => {
                    Some([bias(of.queries, queries), bias(of.keys, keys), bias(of.values, keys)])
                }
            },
            output: by_input(of.output, queries),
            gate: by_output(of.gate, config.intermediate),
            up: by_output(of.up, config.intermediate),
            down: by_input(of.down, config.intermediate),
            norms: LayerNorms {
                before_attention: norm(names.before_attention, config.hidden),
                after_attention: of_rows(names.after_attention),
                before_mlp: norm(names.before_mlp, config.hidden),
                after_mlp: of_rows(names.after_mlp),
                queries: of_heads(names.queries),
                keys: of_heads(names.keys),
            },
        }
    }

    /// The shapes [output, input] of the matrices that steps on a device multiply with.
    #[cfg(any(feature = "cuda", feature = "host-kernels"))]
    pub(crate) fn matrix_shapes(&self) -> [(usize, usize); 6] {
        let (hidden, queries, keys) = (self.config.hidden, self.query_width, self.key_width);
        [
            (queries + 2 * keys, hidden),
            (queries, hidden),
            (2 * keys, hidden),
            (hidden, queries),
            (2 * self.intermediate, hidden),
            (hidden, self.intermediate),
        ]
    }

    /// The number of parameters that this rank holds.
    pub(crate) fn parameters(&self) -> usize {
        let layer = self.layer(0);
        let vectors = layer.biases.iter().flatten().chain(layer.norms.iter()).map(|part| part.own.len());
        let layer = layer.matrices().map(Slice::len).iter().sum::<usize>() + vectors.sum::<usize>();
        self.embedding().len() + self.config.layers() * layer + self.config.hidden + self.head().len()
    }
}

// === impl LayerTensors ===

impl LayerTensors {
    pub(crate) fn matrices(&self) -> [&Slice; 7] {
        [&self.queries, &self.keys, &self.values, &self.output, &self.gate, &self.up, &self.down]
    }
}

fn weight(name: &str) -> String {
    format!("{name}.weight")
}
