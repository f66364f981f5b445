//! The output: one line for each line of input.

use std::io::{self, Write};

use client::Score;
use proto::v1::Status;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::lines::{ItemFailure, Line};

/// Writes lines.
pub(crate) struct Answers<W> {
    output: W,
    /// What errors call the input.
    input: String,
    first_failure: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Box<RawValue>>,
    scores: Vec<Option<f32>>,
    tokens: Vec<u32>,
    status: Vec<Word>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Option<String>>,
}

/// A status as it is written.
struct Word(Status);

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0.word())
    }
}

// === impl Answers ===

impl<W: Write> Answers<W> {
    pub(crate) fn new(output: W, input: String) -> Self {
        Self { output, input, first_failure: None }
    }

    /// Writes what became of a line's conversations; `flush` brings it to the reader.
    pub(crate) fn write(&mut self, line: Line, outcomes: &[Result<Score, ItemFailure>]) -> io::Result<()> {
        let mut answer = Answer { id: line.id, scores: vec![], tokens: vec![], status: vec![], errors: vec![] };
        for (item, outcome) in outcomes.iter().enumerate() {
            let (score, tokens, status) = match outcome {
                Ok(Score { score, tokens, truncated_from: None, .. }) => (Some(*score), *tokens, Status::Ok),
                Ok(Score { score, tokens, .. }) => (Some(*score), *tokens, Status::Truncated),
                Err(failure) => {
                    let problem = format!("{}:{}: {}", self.input, line.number, failure.problem);
                    if self.first_failure.is_none() {
                        self.first_failure = Some(problem.clone());
                    }
                    answer.errors.resize(outcomes.len(), None);
                    answer.errors[item] = Some(problem);
                    (None, failure.tokens, failure.status)
                }
            };
            answer.scores.push(score);
            answer.tokens.push(tokens);
            answer.status.push(Word(status));
        }
        serde_json::to_writer(&mut self.output, &answer)?;
        self.output.write_all(b"\n")
    }

    /// Brings what was written to its reader.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// Why the first conversation without a score has none.
    pub(crate) fn first_failure(&self) -> Option<&str> {
        self.first_failure.as_deref()
    }
}

#[cfg(test)]
mod tests;
