//! A rank of a model on a device: its weights, the room that a step needs, and the forward pass.

use std::sync::Arc;

use score::{Checksum, Partials};

use super::flight::Flights;
use super::kernels::{self, Attention, Embed, Gated, Gather, Head, Kernels, Norm, Rope, RopeTable};
use super::layers::{DeviceLayer, DeviceWeights, Heads};
use super::loader::{DeviceLoader, Source};
use super::plan::{DevicePlan, PlanAddresses};
use super::reduce::{Join, Reduction};
use super::room::{Room, check_memory};
use super::{Address, Device, Memory, Slot};
use crate::batch::PackedBatch;
use crate::blueprint::Activation;
use crate::config::Config;
use crate::error::Result;
use crate::forward::{Forward, Pending};
use crate::share::Share;

/// One rank of a reward model on a device.
pub(crate) struct DeviceModel {
    share: Share,
    weights: DeviceWeights,
    room: Room,
    flights: Flights,
    _memories: Vec<Memory>,
    /// Last: what is above lies in its memory.
    device: Box<dyn Device>,
}

/// A matrix, and the numbers from one row to the next.
type Strided = (Address, usize);

// === impl DeviceModel ===

impl DeviceModel {
    /// Loads this rank's share of a checkpoint and makes room for steps of `step_tokens` tokens.
    ///
    /// # Errors
    /// If the kernels do not fit the model, a tensor is missing or unfit, or the device's memory does not suffice.
    pub(crate) fn load<'a>(
        config: &Config,
        source: impl Into<Source<'a>>,
        device: Box<dyn Device>,
        step_tokens: usize,
    ) -> Result<Self> {
        let (rank, world_size) = device.place();
        let share = Share::new(config, rank, world_size);
        kernels::check(&share)?;
        device.prepare(&share.matrix_shapes())?;
        check_memory(&share, &*device, step_tokens)?;
        let (weights, mut memories) = DeviceLoader::new(&share, source.into(), &*device).load()?;
        let (room, memory) = Room::new(&share, &*device, step_tokens)?;
        memories.push(memory);
        let flights = Flights::new(&*device, step_tokens, config.outputs())?;
        Ok(Self { share, weights, room, flights, _memories: memories, device })
    }

    #[cfg(feature = "trial")]
    pub(crate) fn share(&self) -> &Share {
        &self.share
    }

    #[cfg(feature = "trial")]
    pub(crate) fn layers(&self) -> &[DeviceLayer] {
        &self.weights.layers
    }

    fn kernels(&self) -> Kernels<'_> {
        Kernels { device: &*self.device }
    }

    fn reduction(&self) -> Reduction<'_> {
        let (hidden, eps) = (self.share.config.hidden, f64::from(self.share.config.norm_eps));
        Reduction { kernels: self.kernels(), hidden, eps, received: self.room.received }
    }

    fn enqueue(&self, plan: &DevicePlan, slot: &mut dyn Slot) -> Result<()> {
        slot.send(&plan.bytes())?;
        let at = plan.at(slot.plan());
        self.begin(plan, &at, slot.results())?;
        let Some((last, inner)) = self.weights.layers.split_last() else { return Ok(()) };
        for (layer, next) in inner.iter().zip(self.weights.layers.iter().skip(1)) {
            self.attend(layer, plan, &at)?;
            let joined = self.join_attention(layer, plan.rows, self.room.h, self.room.x);
            self.reduction().join(&joined)?;
            self.feed_forward(layer, plan.rows, self.room.x)?;
            let joined = self.join_mlp(layer, plan.rows, self.room.h, self.room.x);
            self.reduction().join(&Join { weight: next.norms.before_attention, ..joined })?;
        }
        self.finish(last, plan, (&at, slot.results()))?;
        slot.receive(plan.result_bytes(self.share.config.outputs()))
    }

    /// The embedding, its norm, and the tables of the positions' angles. Checksums of embedded rows go to `results`.
    fn begin(&self, plan: &DevicePlan, at: &PlanAddresses, results: Address) -> Result<()> {
        let (config, room, kernels) = (&self.share.config, &self.room, self.kernels());
        let hidden = config.hidden;
        let embed = Embed {
            tokens: at.tokens,
            weight: self.weights.embedding,
            out: room.partial,
            hidden,
            scale: config.blueprint.embedding_scale.factor(hidden, self.device.dtype()),
            checksums: if plan.checksum == Checksum::Path { results } else { Address::NONE },
        };
        kernels.embed(&embed, plan.rows)?;
        let Some(first) = self.weights.layers.first() else { return Ok(()) };
        let plain = Norm::of(room.partial, hidden, f64::from(config.norm_eps));
        kernels.norm(&Norm { weight: first.norms.before_attention, out: room.x, ..plain }, plan.rows)?;
        let own = self.reduction().own(plan.rows);
        let bytes = |rows: usize| rows * hidden * self.device.dtype().size();
        self.device.copy(room.partial + bytes(own.start), room.h, bytes(own.len()))?;
        for (positions, table, rows) in
            [(at.positions, room.table, plan.rows), (at.pooled_positions, room.pooled_table, plan.pooled)]
        {
            let inverse_frequencies = self.weights.inverse_frequencies;
            let pairs = config.head_dim / 2;
            kernels.rope_table(&RopeTable { positions, inverse_frequencies, table, pairs }, rows)?;
        }
        Ok(())
    }

    /// The attention branch of all rows, up to this rank's part of its output.
    fn attend(&self, layer: &DeviceLayer, plan: &DevicePlan, at: &PlanAddresses) -> Result<()> {
        let (share, room) = (&self.share, &self.room);
        let width = share.query_width + 2 * share.key_width;
        let queries = (room.projected, width);
        let keys = (room.projected + share.query_width * self.device.dtype().size(), width);
        self.device.matmul(&layer.queries_keys_values, room.x, plan.rows, room.projected)?;
        self.turn(&layer.queries, queries, (room.table, plan.rows))?;
        self.turn(&layer.keys, keys, (room.table, plan.rows))?;
        self.attention(layer, at, (queries, keys), (at.tiles, plan.tiles))?;
        self.device.matmul(&layer.output, room.context, plan.rows, room.partial)
    }

    /// Attention of queries to keys, and the values beside them.
    fn attention(
        &self,
        layer: &DeviceLayer,
        at: &PlanAddresses,
        ((queries, query_stride), (keys, key_stride)): (Strided, Strided),
        (tiles, count): (Address, usize),
    ) -> Result<()> {
        let (share, config) = (&self.share, &self.share.config);
        let attention = Attention {
            queries,
            query_stride,
            keys,
            values: keys + share.key_width * self.device.dtype().size(),
            value_bias: layer.value_bias,
            key_stride,
            out: self.room.context,
            out_stride: share.query_width,
            tiles,
            segments: at.segments,
            head_dim: config.head_dim,
            group: share.heads / share.kv_heads,
            scale: config.attention_scale,
            soft_cap: config.soft_cap.unwrap_or(0.0),
            window: layer.window,
        };
        self.kernels().attention(&attention, count, share.heads)
    }

    /// Adds the bias to heads and norms them, if there is one, and turns them to their rows' positions.
    fn turn(&self, heads: &Heads, (x, stride): Strided, (table, rows): (Address, usize)) -> Result<()> {
        let (head_dim, eps) = (self.share.config.head_dim, f64::from(self.share.config.norm_eps));
        let Heads { count, bias, norm } = *heads;
        self.kernels().rope(&Rope { x, stride, table, heads: count, head_dim, bias, weight: norm, eps }, rows)
    }

    /// The MLP of `x`, up to this rank's part of its output.
    fn feed_forward(&self, layer: &DeviceLayer, rows: usize, x: Address) -> Result<()> {
        let (room, width) = (&self.room, self.share.intermediate);
        self.device.matmul(&layer.gate_up, x, rows, room.wide)?;
        let gelu = match self.share.blueprint().activation {
            Activation::GeluTanh => true,
            Activation::Silu => false,
        };
        self.kernels().gated(&Gated { gate_up: room.wide, out: room.activated, width, gelu }, rows)?;
        self.device.matmul(&layer.down, room.activated, rows, room.partial)
    }

    fn join_attention(&self, layer: &DeviceLayer, rows: usize, h: Address, x: Address) -> Join {
        Join {
            rows,
            partial: self.room.partial,
            residual: h,
            residual_out: h,
            branch_weight: layer.norms.after_attention.unwrap_or(Address::NONE),
            weight: layer.norms.before_mlp,
            out: x,
        }
    }

    /// Without the weight of the norm that follows.
    fn join_mlp(&self, layer: &DeviceLayer, rows: usize, h: Address, x: Address) -> Join {
        let weight = Address::NONE;
        let branch_weight = layer.norms.after_mlp.unwrap_or(Address::NONE);
        Join { branch_weight, weight, ..self.join_attention(layer, rows, h, x) }
    }

    /// The last layer and the head: keys and values of all rows, everything else for the pooled rows only.
    fn finish(&self, layer: &DeviceLayer, plan: &DevicePlan, at: (&PlanAddresses, Address)) -> Result<()> {
        let (room, reduction, (at, results)) = (&self.room, self.reduction(), at);
        self.attend_pooled(layer, plan, at)?;
        // x has been read: the pooled rows of the residual go there, and from here on the two change places
        let (h, x) = (room.x, room.h);
        self.pool_residual(plan, at, (room.h, h))?;
        let pooled = plan.pooled;
        self.device.matmul(&layer.output, room.context, pooled, room.partial)?;
        reduction.join(&self.join_attention(layer, pooled, h, x))?;
        self.feed_forward(layer, pooled, x)?;
        let joined = Join { weight: self.weights.final_norm, ..self.join_mlp(layer, pooled, h, x) };
        let norm = Norm { residual_out: Address::NONE, ..reduction.join_whole(&joined, x)? };
        let own = self.share.own(self.share.config.hidden);
        let checksums = results + plan.embedded_bytes();
        let logits = checksums + plan.pooled_bytes();
        let (first, columns, outputs) = (own.start, own.len(), self.share.config.outputs());
        let head = Head { weight: self.weights.head, first, columns, outputs, logits, checksums };
        self.kernels().head(&norm, &head, pooled)
    }

    fn attend_pooled(&self, layer: &DeviceLayer, plan: &DevicePlan, at: &PlanAddresses) -> Result<()> {
        let (share, room, hidden) = (&self.share, &self.room, self.share.config.hidden);
        let (queries, keys_values) = layer.split_queries(share.query_width, self.device.dtype().size());
        let keys = (room.projected, 2 * share.key_width);
        self.device.matmul(&keys_values, room.x, plan.rows, room.projected)?;
        self.turn(&layer.keys, keys, (room.table, plan.rows))?;
        let (x, rows, out, end) = (room.x, at.pooled_rows, room.partial, plan.rows);
        self.kernels().gather(&Gather { x, rows, out, width: hidden, stride: hidden, first: 0, end }, plan.pooled)?;
        self.device.matmul(&queries, room.partial, plan.pooled, room.wide)?;
        let queries = (room.wide, share.query_width);
        self.turn(&layer.queries, queries, (room.pooled_table, plan.pooled))?;
        self.attention(layer, at, (queries, keys), (at.pooled_tiles, plan.pooled))
    }

    /// The pooled rows of the residual. Where it is split by rows each rank brings those that it holds, and zeros, so
    /// that the sum is exact.
    fn pool_residual(&self, plan: &DevicePlan, at: &PlanAddresses, (from, to): (Address, Address)) -> Result<()> {
        let (reduction, hidden) = (self.reduction(), self.share.config.hidden);
        let own = reduction.own(plan.rows);
        let out = if reduction.splits_rows() { self.room.partial } else { to };
        let (first, end) = (own.start, own.end);
        let gather = Gather { x: from, rows: at.pooled_rows, out, width: hidden, stride: hidden, first, end };
        self.kernels().gather(&gather, plan.pooled)?;
        if !reduction.splits_rows() {
            return Ok(());
        }
        let none = Address::NONE;
        reduction.join(&Join {
            rows: plan.pooled,
            partial: out,
            residual: none,
            residual_out: to,
            branch_weight: none,
            weight: none,
            out: none,
        })
    }
}

impl Drop for DeviceModel {
    fn drop(&mut self) {
        self.flights.finish_all();
    }
}

impl Forward for Arc<DeviceModel> {
    fn submit(&self, batch: &PackedBatch, checksum: Checksum) -> Result<Pending> {
        if batch.ends.is_empty() {
            return Ok(Pending::ready(Partials::empty(self.share.config.outputs())));
        }
        let model = Self::clone(self);
        let flight = self.flights.start(DevicePlan::new(batch, checksum), |plan, slot| self.enqueue(plan, slot))?;
        Ok(Pending::later(move || model.flights.finish(&flight)))
    }
}
