//! What is sent, drawn from a seed: the same calls in the same order, whatever the load.

use fastrand::Rng;
use proto::v1;
use proto::v1::group::Prompt;
use proto::v1::item::Input;

use crate::remote::args::{Bench, Tokens};

/// Draws calls.
pub(super) struct Workload {
    random: Rng,
    tokens: Tokens,
    kind: Kind,
    batch: usize,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Ids below this.
    TokenIds { vocab: u32 },
    /// Words of the user, and how many answers there are.
    Text { prompt: usize, responses: Option<usize> },
}

/// Short and frequent: nearly all tokenizers have one token for each of them.
const WORDS: [&str; 40] = [
    "the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "as", "with", "they", "be", "at",
    "one", "have", "this", "from", "by", "hot", "but", "some", "what", "there", "we", "can", "out", "other", "were",
    "all", "your", "when", "up", "use", "word", "how", "said",
];

// === impl Workload ===

impl Workload {
    pub(super) fn new(args: &Bench) -> Self {
        let responses = args.group.map(usize::from);
        let kind = match args.text || responses.is_some() {
            true => Kind::Text { prompt: args.prompt_tokens.get(), responses },
            false => Kind::TokenIds { vocab: args.vocab },
        };
        let batch = if args.stream { 1 } else { args.batch.get() };
        Self { random: Rng::with_seed(args.seed), tokens: args.tokens, kind, batch }
    }

    /// Conversations of each call.
    pub(super) fn conversations(&self) -> usize {
        match self.kind {
            Kind::Text { responses: Some(responses), .. } => responses * self.batch,
            _ => self.batch,
        }
    }

    /// The items of the next call.
    pub(super) fn next_call(&mut self) -> Vec<v1::Item> {
        (0..self.batch).map(|_| v1::Item { input: Some(self.input()) }).collect()
    }

    /// How long after one arrival the next one is due, if there are so many a second.
    pub(super) fn gap(random: &mut Rng, rate: f64) -> f64 {
        -(1.0 - random.f64()).ln() / rate
    }

    fn input(&mut self) -> Input {
        match self.kind {
            Kind::TokenIds { vocab } => {
                let length = self.length();
                Input::TokenIds(v1::TokenIds { ids: (0..length).map(|_| self.random.u32(..vocab)).collect() })
            }
            Kind::Text { prompt, responses: None } => {
                let messages = vec![self.message("user", prompt), self.answer()];
                Input::Messages(v1::Messages { messages })
            }
            Kind::Text { prompt, responses: Some(responses) } => {
                let messages = vec![self.message("user", prompt)];
                Input::Group(v1::Group {
                    prompt: Some(Prompt::Messages(v1::Messages { messages })),
                    responses: (0..responses).map(|_| self.answer().content).collect(),
                })
            }
        }
    }

    fn answer(&mut self) -> v1::Message {
        let length = self.length();
        self.message("assistant", length)
    }

    fn message(&mut self, role: &str, words: usize) -> v1::Message {
        let words = (0..words).map(|_| WORDS[self.random.usize(..WORDS.len())]);
        let (role, content) = (role.to_owned(), words.collect::<Vec<_>>().join(" "));
        v1::Message { role, content, ..v1::Message::default() }
    }

    fn length(&mut self) -> usize {
        self.random.usize(self.tokens.least..=self.tokens.most)
    }
}

#[cfg(test)]
mod tests;
