//! Reads settings from a TOML file into a type, and says where and what is wrong with them.
//!
//! The types are those of who uses them; they carry `#[serde(deny_unknown_fields)]`, so that a misspelt key is an error.
//! A length of time is written `"250ms"` and a size `"4MiB"`, always with the unit: fields of these kinds say
//! `#[serde(with = "DurationText")]` and `#[serde(with = "BytesText")]`.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use jiff::fmt::friendly::{SpanParser, SpanPrinter};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{self, DeserializeOwned};
use serde::{Deserialize, Deserializer, Serializer, ser};

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The file holds something else than the settings it should.
    #[error("{}:{line}: {}{reason}", path.display(), prefix(key))]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from one.
        line: usize,
        /// The key with those of the tables around it, such as `tls.key`; empty where the file as a whole is wrong.
        key: String,
        /// What is wrong, and what is expected.
        reason: String,
    },
}

/// A setting that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: expected {expected}")]
pub struct Unusable {
    /// The key with those of the tables around it.
    pub setting: &'static str,
    /// What would work.
    pub expected: &'static str,
}

/// Refuses a setting, unless it holds what is expected.
///
/// # Errors
/// [`Unusable`].
pub fn ensure(holds: bool, setting: &'static str, expected: &'static str) -> Result<(), Unusable> {
    if holds { Ok(()) } else { Err(Unusable { setting, expected }) }
}

/// Reads the settings in a file.
///
/// # Errors
/// If the file cannot be read, is no TOML, or its keys and values are not those of `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = fs::read_to_string(path).map_err(|cause| Error::Read { path: path.to_owned(), cause })?;
    let wrong = |key: String, error: &toml::de::Error| Error::Content {
        path: path.to_owned(),
        line: line_of(&text, error),
        key: if key == "." { String::new() } else { key },
        reason: error.message().to_owned(),
    };
    let document = toml::Deserializer::parse(&text).map_err(|error| wrong(String::new(), &error))?;
    serde_path_to_error::deserialize(document).map_err(|error| wrong(error.path().to_string(), error.inner()))
}

fn line_of(text: &str, error: &toml::de::Error) -> usize {
    let before = error.span().map_or(0, |span| span.start);
    1 + text.bytes().take(before).filter(|byte| *byte == b'\n').count()
}

fn prefix(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

/// A [`Duration`] or an `Option` of one as text such as `"2s"` or `"250ms"`, for `#[serde(with)]`.
pub struct DurationText;

/// A `u64`, `u32` or `usize` of bytes as text such as `"4MiB"` or `"512KiB"`, for `#[serde(with)]`.
pub struct BytesText;

// === impl DurationText ===

impl DurationText {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, if the text is no length of time with a unit.
    pub fn parse(text: &str) -> Result<Duration, String> {
        let duration = SpanParser::new().parse_unsigned_duration(text);
        duration.map_err(|_| format!("{text:?} is no duration, expected one such as \"2s\" or \"250ms\""))
    }

    /// Reads it.
    ///
    /// # Errors
    /// If it is no text, or the text is no length of time with a unit.
    pub fn deserialize<'de, T: From<Duration>, D: Deserializer<'de>>(source: D) -> Result<T, D::Error> {
        Self::parse(&String::deserialize(source)?).map(T::from).map_err(de::Error::custom)
    }

    /// Writes it.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<T: Copy + Into<Option<Duration>>, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        match (*value).into() {
            Some(duration) => to.serialize_str(&SpanPrinter::new().unsigned_duration_to_string(&duration)),
            None => to.serialize_none(),
        }
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

// === impl BytesText ===

const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];

impl BytesText {
    /// Reads it.
    ///
    /// # Errors
    /// If it is no text, the text is no size with a unit, or the size is too large for the number.
    pub fn deserialize<'de, N: TryFrom<u64>, D: Deserializer<'de>>(source: D) -> Result<N, D::Error> {
        let text = String::deserialize(source)?;
        let wrong = || de::Error::custom(format!("{text:?} is no size, expected one such as \"4MiB\" or \"512KiB\""));
        if !text.ends_with('B') {
            return Err(wrong());
        }
        let size = text.parse::<ByteSize>().map_err(|_| wrong())?;
        N::try_from(size.as_u64()).map_err(|_| de::Error::custom(format!("{text} is too large")))
    }

    /// Writes it, exactly.
    ///
    /// # Errors
    /// If the number is negative, and those of the format.
    pub fn serialize<N: Copy + TryInto<u64>, S: Serializer>(value: &N, to: S) -> Result<S::Ok, S::Error> {
        let size: u64 = (*value).try_into().map_err(|_| ser::Error::custom("a size is not negative"))?;
        let divides = |(unit, _): &&(u64, &str)| size > 0 && size.is_multiple_of(*unit);
        let (unit, name) = UNITS.iter().find(divides).unwrap_or(&(1, "B"));
        to.collect_str(&format_args!("{}{name}", size / unit))
    }
}

impl JsonSchema for BytesText {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests;
