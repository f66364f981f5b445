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
        // the text is shown beside what is made of it
        let texts = given.iter().fold(0, |sum: usize, given| sum.saturating_add(given.bytes));
        let mut load = self.load(caller, self.turn(false).lane, &reading.model, &given);
        load.memory = load.memory.saturating_add(texts);
        let memory = load.memory;
        let Reading { model, options } = reading.clone();
        let job = move |wanted: &dyn Wanted| {
            let is_wanted = || wanted.is_wanted();
            let show = |given: Given| if is_wanted() { show(&model, &options, &given, &is_wanted) } else { Vec::new() };
            given.into_par_iter().map(show).collect()
        };
        let shown = self.tokenizers.run(load, caller.deadline, job).instrument(caller.span.clone()).await;
        shown.map_err(|undone| Problem::untokenized(undone, memory))
    }
}

fn show(model: &Model, options: &prompt::Options, given: &Given, wanted: &(dyn Fn() -> bool + Sync)) -> Vec<Shown> {
    let (encoded, texts) = match &given.input {
        Ok(input) => (model.encoder.encode_while(input, options, wanted).items, model.encoder.render(input)),
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
