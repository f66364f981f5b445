//! What the model would read of conversations, without having it computed.

use prompt::{Encoded, ItemError};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use tracing::Instrument;

use super::{Caller, Entrance, Given, Model, Reading};
use crate::problem::Problem;
use crate::tokenizers::Wanted;

/// What becomes of one conversation.
pub(crate) struct Shown {
    /// As it is rendered; empty for token ids, and if it cannot be.
    pub(crate) text: String,
    pub(crate) encoded: Result<Encoded, Problem>,
}

// === impl Entrance ===

impl Entrance {
    /// What becomes of the conversations of all that is given, in order.
    pub(crate) async fn tokenize(
        &self,
        caller: &Caller,
        reading: &Reading,
        given: Vec<Given>,
    ) -> Result<Vec<Vec<Shown>>, Problem> {
        let bytes = given.iter().fold(0, |sum: usize, given| sum.saturating_add(given.bytes));
        // the text is shown beside what is made of it
        let bytes = bytes.saturating_mul(2);
        let Reading { model, options } = reading.clone();
        let job = move |wanted: &dyn Wanted| {
            let show = |given: Given| if wanted.is_wanted() { show(&model, &options, &given) } else { Vec::new() };
            given.into_par_iter().map(show).collect()
        };
        let shown = self.tokenizers.run(bytes, caller.deadline, job).instrument(caller.span.clone()).await;
        shown.map_err(|undone| Problem::untokenized(undone, bytes))
    }
}

fn show(model: &Model, options: &prompt::Options, given: &Given) -> Vec<Shown> {
    let (encoded, texts) = match &given.input {
        Ok(input) => (model.encoder.encode(input, options).items, model.encoder.render(input)),
        Err(error) => (vec![Err(error.clone())], Vec::new()),
    };
    let conversation = |number| {
        let text = texts.get(number).and_then(|text: &Result<String, ItemError>| text.clone().ok());
        let encoded = match encoded.get(number).or(encoded.last()) {
            Some(encoded) => encoded.clone().map_err(|error| Problem::from(&error)),
            None => Err(Problem::internal()),
        };
        Shown { text: text.unwrap_or_default(), encoded }
    };
    (0..given.conversations).map(conversation).collect()
}
