//! What a model reads of the conversations of a file.

use std::fmt;
use std::io::{BufRead, BufReader, stdin};
use std::path::Path;

use anyhow::{Context as _, Result};
use prompt::{Bos, Encoded, Input, ItemError, Options, Row};
use serde::Serialize;

use crate::opened::Opened;

/// What is read of one conversation, or why a line or a conversation cannot be read.
#[derive(Debug, Default, Serialize)]
pub(super) struct Reading {
    #[serde(skip)]
    file: String,
    /// Which line of the file, from 1.
    line: usize,
    /// Which conversation of the line, from 1; none if the line cannot be read.
    conversation: Option<usize>,
    /// As it is rendered; none for token ids.
    text: Option<String>,
    /// What was done about the BOS.
    bos: Option<String>,
    /// The number of tokens before truncation, if some were cut.
    truncated_from: Option<usize>,
    input_ids: Vec<u32>,
    /// The tokens by name.
    tokens: Vec<String>,
    error: Option<String>,
}

/// What is read of each conversation of a file; `-` is standard input.
pub(super) fn of<'a>(
    opened: &'a Opened,
    options: &'a Options,
    path: &Path,
) -> Result<impl Iterator<Item = Result<Reading>> + 'a> {
    let file: Box<dyn BufRead> = match path == Path::new("-") {
        true => Box::new(stdin().lock()),
        false => Box::new(BufReader::new(std::fs::File::open(path).with_context(|| path.display().to_string())?)),
    };
    let file_name = path.display().to_string();
    Ok(file.split(b'\n').enumerate().flat_map(move |(number, line)| {
        let readings = line.map(|line| of_line(opened, options, &line));
        let readings = readings.map_or_else(|error| vec![Err(error.into())], |read| read.into_iter().map(Ok).collect());
        let placed = |reading| Reading { file: file_name.clone(), line: number + 1, ..reading };
        readings.into_iter().map(|reading: Result<Reading>| reading.map(placed)).collect::<Vec<_>>()
    }))
}

fn of_line(opened: &Opened, options: &Options, line: &[u8]) -> Vec<Reading> {
    let input = Row::parse(line).and_then(|row| Input::from_json(&row.fields).map_err(|error| error.to_string()));
    let input = match input {
        Ok(input) => input,
        Err(error) => return vec![Reading { error: Some(error), ..Reading::default() }],
    };
    let mut texts = opened.encoder.render(&input).into_iter();
    let items = opened.encoder.encode(&input, options).items;
    let conversation = |(number, item): (usize, Result<Encoded, ItemError>)| {
        let text = texts.next().and_then(Result::ok);
        let place = Reading { conversation: Some(number + 1), text, ..Reading::default() };
        match item {
            Ok(encoded) => Reading {
                bos: Some(bos(encoded.bos)),
                truncated_from: encoded.truncated_from,
                tokens: encoded.ids.iter().map(|&id| opened.encoder.token(id).unwrap_or_default()).collect(),
                input_ids: encoded.ids,
                ..place
            },
            Err(error) => Reading { error: Some(error.to_string()), ..place },
        }
    };
    items.into_iter().enumerate().map(conversation).collect()
}

fn bos(bos: Bos) -> String {
    match bos {
        Bos::Kept => "one was there".to_owned(),
        Bos::Added => "added".to_owned(),
        Bos::Deduplicated { removed } => format!("{removed} too many were taken away"),
        Bos::NotUsed => "the model takes none".to_owned(),
        Bos::AsGiven => "token ids are taken as they are".to_owned(),
    }
}

// === impl Reading ===

impl Reading {
    /// Whether the conversation can be scored.
    pub(super) fn is_sound(&self) -> bool {
        self.error.is_none()
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, error, .. } = self;
        let Some(conversation) = self.conversation else {
            return writeln!(f, "{file}:{line}: {}", error.as_deref().unwrap_or_default());
        };
        writeln!(f, "{file}:{line}, conversation {conversation}")?;
        if let Some(text) = &self.text {
            writeln!(f, "  text      {text:?}")?;
        }
        if let Some(error) = error {
            return writeln!(f, "  error     {error}");
        }
        let cut = self.truncated_from.map(|tokens| format!(", truncated from {tokens}")).unwrap_or_default();
        let json = |list: serde_json::Result<String>| list.map_err(|_| fmt::Error);
        writeln!(f, "  bos       {}", self.bos.as_deref().unwrap_or_default())?;
        writeln!(f, "  length    {} tokens{cut}", self.input_ids.len())?;
        writeln!(f, "  input_ids {}", json(serde_json::to_string(&self.input_ids))?)?;
        writeln!(f, "  tokens    {}", json(serde_json::to_string(&self.tokens))?)
    }
}
