//! What the model would read of items, without having it computed.

use prompt::{Bos, ItemError};
use proto::v1;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::{Call, Frontend, Model, Read, Reading};
use crate::problem::Problem;
use crate::tokenizers::Wanted;

// === impl Frontend ===

impl Frontend {
    /// Shows what becomes of items, in order.
    pub(super) async fn tokenize(
        &self,
        call: &Call,
        reading: &Reading,
        reads: Vec<Read>,
    ) -> Result<Vec<v1::TokenizedItem>, Problem> {
        let bytes = reads.iter().fold(0, |sum: usize, read| sum.saturating_add(read.bytes));
        // the text is shown beside what is made of it
        let bytes = bytes.saturating_mul(2);
        let Reading { model, options } = reading.clone();
        let job = move |wanted: &dyn Wanted| {
            let show = |read: Read| if wanted.is_wanted() { show(&model, &options, &read) } else { Default::default() };
            reads.into_par_iter().map(show).collect()
        };
        let shown = self.tokenizers.run(bytes, call.deadline, job).await;
        shown.map_err(|undone| Problem::untokenized(undone, bytes))
    }
}

fn show(model: &Model, options: &prompt::Options, read: &Read) -> v1::TokenizedItem {
    let (encoded, texts) = match &read.input {
        Ok(input) => (model.encoder.encode(input, options).items, model.encoder.render(input)),
        Err(error) => (vec![Err(error.clone())], Vec::new()),
    };
    let conversation = |number| {
        let text = texts.get(number).and_then(|text: &Result<String, ItemError>| text.clone().ok());
        let text = text.unwrap_or_default();
        match encoded.get(number).or(encoded.last()) {
            Some(Ok(encoded)) => tokenized(text, encoded),
            Some(Err(error)) => {
                let problem = Problem::from(error);
                let status = problem.conversation().into();
                let (error, problem) = read.say(problem);
                v1::Tokenized { status, text, error, problem, ..v1::Tokenized::default() }
            }
            None => v1::Tokenized::default(),
        }
    };
    v1::TokenizedItem { conversations: (0..read.conversations).map(conversation).collect() }
}

fn tokenized(text: String, encoded: &prompt::Encoded) -> v1::Tokenized {
    let bos = match encoded.bos {
        Bos::Kept => v1::Bos::Kept,
        Bos::Added => v1::Bos::Added,
        Bos::Deduplicated { .. } => v1::Bos::Deduplicated,
        Bos::NotUsed => v1::Bos::NotUsed,
        Bos::AsGiven => v1::Bos::AsGiven,
    };
    let status = if encoded.truncated_from.is_some() { v1::Status::Truncated } else { v1::Status::Ok };
    let truncated_from = u32::try_from(encoded.truncated_from.unwrap_or_default()).unwrap_or(u32::MAX);
    let (status, ids, bos) = (status.into(), encoded.ids.clone(), bos.into());
    v1::Tokenized { status, text, ids, bos, truncated_from, ..v1::Tokenized::default() }
}
