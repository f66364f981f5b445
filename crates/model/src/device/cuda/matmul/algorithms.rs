//! For trials: what cuBLASLt suggests, whether it could be taken, and how fast it is.

use super::{Choice, Matmuls, SMALL_STEPS, Trial};
use crate::device::cuda::CudaDevice;
use crate::device::cuda::cublaslt::{Algorithm, Attribute, Suggestion};
use crate::error::{Error, Result};
use crate::trial::AlgorithmTrial;

/// What is told of an algorithm: cublasLtMatmulAlgoConfigAttributes_t.
const TOLD: [(&str, Attribute); 7] = [
    ("id", (0, 4)),
    ("tile", (1, 4)),
    ("split", (2, 4)),
    ("reduction", (3, 4)),
    ("custom", (5, 4)),
    ("stages", (6, 4)),
    ("cluster", (8, 2)),
];

// === impl Matmuls ===

impl Matmuls {
    /// Every algorithm that is suggested for one of these numbers of rows, each once, tried; if none can be taken, too.
    pub(in super::super) fn trials(
        &self,
        device: &CudaDevice,
        shape: (usize, usize),
        rows: &[usize],
        tell: &mut dyn FnMut(AlgorithmTrial) -> Result<()>,
    ) -> Result<()> {
        let choice = match self.choice(device, shape) {
            Ok(choice) => Some(choice),
            Err(Error::Device(_)) => None,
            Err(error) => return Err(error),
        };
        let trial = Trial::new(self, device, shape)?;
        let (mut seen, (output, input)) = (Vec::new(), shape);
        for &rows in rows {
            for (place, suggestion) in self.suggestions(shape, rows)?.into_iter().enumerate() {
                let Suggestion { algorithm, workspace, waves, .. } = suggestion;
                if seen.contains(&algorithm) {
                    continue;
                }
                seen.push(algorithm);
                let refused = trial.objection(&algorithm)?;
                let computes = trial.computes_all(&algorithm)?;
                let made_of = TOLD.map(|(name, attribute)| (name, self.library.attribute(&algorithm, attribute)));
                let milliseconds = computes.then(|| trial.milliseconds(&algorithm, self.rows)).transpose()?;
                tell(AlgorithmTrial {
                    output,
                    input,
                    rows,
                    place,
                    made_of: made_of.into(),
                    workspace,
                    waves,
                    refused,
                    bits: computes.then(|| trial.bits().map(|bits| format!("{bits:08x}"))).transpose()?,
                    milliseconds,
                    taken_for: choice.map_or_else(Vec::new, |choice| choice.taken_for(&algorithm, self.rows)),
                })?;
            }
        }
        Ok(())
    }
}

// === impl Choice ===

impl Choice {
    /// The most rows of the steps that an algorithm is taken for; `full` if that is any number.
    fn taken_for(&self, algorithm: &Algorithm, full: usize) -> Vec<usize> {
        let steps = self.small.iter().zip(SMALL_STEPS).chain([(&self.reference, full)]);
        steps.filter(|(taken, _)| *taken == algorithm).map(|(_, most)| most).collect()
    }
}
