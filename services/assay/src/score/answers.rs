//! The output: one line for each line of input, in order, as soon as its last conversation has an answer.

use std::collections::VecDeque;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::value::RawValue;

use super::lines::{ItemFailure, Line};

/// Lines that have been read and not yet written.
pub(crate) struct Answers<W> {
    output: W,
    /// What errors call the input.
    input: String,
    /// How many lines have been written.
    written: u64,
    waiting: VecDeque<Waiting>,
    first_failure: Option<String>,
}

/// Where an answer belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Counted from 0 over the whole input.
    line: u64,
    item: usize,
}

/// What became of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Ok,
    Truncated,
    TooLong,
    Invalid,
    /// Only a gateway says this and what follows.
    DeadlineExceeded,
    Unavailable,
    Internal,
}

/// A conversation's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scored {
    pub(crate) score: f32,
    /// The tokens that it is for.
    pub(crate) tokens: usize,
    /// Whether others were given up.
    pub(crate) truncated: bool,
}

#[derive(Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Box<RawValue>>,
    scores: Vec<Option<f32>>,
    tokens: Vec<usize>,
    status: Vec<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Option<String>>,
}

struct Waiting {
    answer: Answer,
    number: u64,
    /// Conversations without an answer.
    open: usize,
}

// === impl Answers ===

impl<W: Write> Answers<W> {
    pub(crate) fn new(output: W, input: String) -> Self {
        Self { output, input, written: 0, waiting: VecDeque::new(), first_failure: None }
    }

    /// The number of lines that have been read and not yet written.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes note of a line, and returns the conversations that need a score.
    pub(crate) fn expect<C>(&mut self, line: Line<C>) -> Vec<(Slot, C)> {
        let place = self.written + self.waiting.len() as u64;
        let count = line.items.len();
        let answer = Answer {
            id: line.id,
            scores: vec![None; count],
            tokens: vec![0; count],
            status: vec![Status::Ok; count],
            errors: Vec::new(),
        };
        let mut waiting = Waiting { answer, number: line.number, open: 0 };
        let mut wanted = Vec::new();
        for (item, conversation) in line.items.into_iter().enumerate() {
            match conversation {
                Ok(conversation) => {
                    waiting.open += 1;
                    wanted.push((Slot { line: place, item }, conversation));
                }
                Err(failure) => waiting.fail(&self.input, item, &failure),
            }
        }
        self.waiting.push_back(waiting);
        wanted
    }

    /// Takes a conversation's score, or why it has none.
    pub(crate) fn answer(&mut self, slot: Slot, scored: Result<Scored, ItemFailure>) {
        let Some(waiting) = self.waiting.get_mut((slot.line - self.written) as usize) else { return };
        waiting.open -= 1;
        match scored {
            Ok(Scored { score, tokens, truncated }) => {
                waiting.answer.scores[slot.item] = Some(score);
                waiting.answer.tokens[slot.item] = tokens;
                waiting.answer.status[slot.item] = if truncated { Status::Truncated } else { Status::Ok };
            }
            Err(failure) => waiting.fail(&self.input, slot.item, &failure),
        }
    }

    /// Why the first conversation without a score has none.
    pub(crate) fn first_failure(&self) -> Option<&str> {
        self.first_failure.as_deref()
    }

    /// Writes the lines at the front that are complete.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.open == 0) {
            if self.first_failure.is_none() {
                self.first_failure = waiting.answer.errors.iter().flatten().next().cloned();
            }
            serde_json::to_writer(&mut self.output, &waiting.answer)?;
            self.output.write_all(b"\n")?;
            self.written += 1;
        }
        self.output.flush()
    }
}

// === impl Waiting ===

impl Waiting {
    fn fail(&mut self, input: &str, item: usize, failure: &ItemFailure) {
        let count = self.answer.scores.len();
        self.answer.errors.resize(count, None);
        self.answer.errors[item] = Some(format!("{input}:{}: {}", self.number, failure.problem));
        self.answer.status[item] = failure.status;
        self.answer.tokens[item] = failure.tokens;
    }
}

#[cfg(test)]
mod tests;
