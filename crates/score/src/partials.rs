//! What ranks contribute: a short vector and a checksum for each of several things, in two arrays.

use crate::checksum::fold;

/// What one rank contributes to the outputs of one conversation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Partial<'a> {
    /// Its share of each output; the outputs are the sums over the ranks.
    pub values: &'a [f32],
    /// A checksum of what all ranks must have in common: ranks that differ in it have not computed the same thing.
    pub checksum: u64,
}

/// Contributions, in order: of one rank to each conversation of a step, or of each rank to one conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Partials {
    outputs: usize,
    /// `[contributions, outputs]`.
    values: Vec<f32>,
    /// `[contributions]`.
    checksums: Vec<u64>,
}

/// Values and checksums that do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{values} partial logits and {checksums} checksums, for {outputs} outputs each")]
pub struct Misshapen {
    /// How many values there are.
    pub values: usize,
    /// How many checksums there are.
    pub checksums: usize,
    /// How many values there should be for each checksum.
    pub outputs: usize,
}

// === impl Partials ===

impl Partials {
    /// None yet, of heads with so many outputs; at least one.
    pub fn empty(outputs: usize) -> Self {
        Self { outputs: outputs.max(1), values: Vec::new(), checksums: Vec::new() }
    }

    /// Contributions whose values are `[contributions, outputs]`.
    ///
    /// # Errors
    /// If there are not `outputs` values for each checksum, or no outputs.
    pub fn new(outputs: usize, values: Vec<f32>, checksums: Vec<u64>) -> Result<Self, Misshapen> {
        match outputs > 0 && Some(values.len()) == checksums.len().checked_mul(outputs) {
            true => Ok(Self { outputs, values, checksums }),
            false => Err(Misshapen { values: values.len(), checksums: checksums.len(), outputs }),
        }
    }

    /// The number of values of each.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The number of contributions.
    pub fn len(&self) -> usize {
        self.checksums.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.checksums.is_empty()
    }

    /// The contribution at a place.
    pub fn get(&self, place: usize) -> Option<Partial<'_>> {
        let checksum = *self.checksums.get(place)?;
        Some(Partial { values: self.values.chunks_exact(self.outputs).nth(place)?, checksum })
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Partial<'_>> {
        let values = self.values.chunks_exact(self.outputs);
        values.zip(&self.checksums).map(|(values, &checksum)| Partial { values, checksum })
    }

    /// Adds one at the end; values beyond the outputs are left out, and zeros are in the place of missing ones.
    pub fn push(&mut self, partial: Partial<'_>) {
        let values = partial.values.iter().copied().chain(std::iter::repeat(0.0));
        self.values.extend(values.take(self.outputs));
        self.checksums.push(partial.checksum);
    }

    /// Has each checksum cover the path of its conversation too: `paths` holds what is folded along it.
    #[must_use]
    pub fn along(mut self, paths: &[u64]) -> Self {
        self.checksums.iter_mut().zip(paths).for_each(|(checksum, path)| *checksum = fold(*path, *checksum));
        self
    }

    /// Those at these places, in this order; places where there are none are passed over.
    #[must_use]
    pub fn select(&self, places: &[usize]) -> Self {
        let mut selected = Self::empty(self.outputs);
        places.iter().filter_map(|&place| self.get(place)).for_each(|partial| selected.push(partial));
        selected
    }

    /// The values and the checksums.
    pub fn into_parts(self) -> (Vec<f32>, Vec<u64>) {
        (self.values, self.checksums)
    }
}

#[cfg(test)]
mod tests;
