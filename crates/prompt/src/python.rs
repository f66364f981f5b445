//! Where Jinja in Python and minijinja differ and templates can see it: string methods that minijinja's Python layer
//! lacks or that split and strip by another set of whitespace, and `tojson`, which transformers replaces by Python's
//! `json.dumps`.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Values nested deeper than this are refused, as the JSON reader refuses them.
const MAX_DEPTH: usize = 128;
/// Bytes that one `tojson` may write: a value that holds itself twice, many levels deep, is small and prints endlessly.
const MAX_JSON: usize = 1 << 24;

/// What Python's `str.isspace` and `str.strip` take for whitespace: four control characters more than Unicode's property.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Methods on values, called where the template engine knows none.
pub(crate) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args);
    };
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Ok(strip(text, chars, name != "rstrip", name != "lstrip").into())
        }
        "split" | "rsplit" => {
            let (separator, limit, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = separator.or(kwargs.get("sep")?);
            let limit = limit.or(kwargs.get("maxsplit")?);
            kwargs.assert_all_used()?;
            split(text, separator, limit, name == "rsplit")
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            Ok(split_lines(text, keep.unwrap_or(false)).into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let last = name == "rpartition";
            let parts = if last { text.rsplit_once(separator) } else { text.split_once(separator) };
            let parts = match parts {
                Some((head, tail)) => [head, separator, tail],
                None if last => ["", "", text],
                None => [text, "", ""],
            };
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "title" => {
            let () = from_args(args)?;
            Ok(title(text).into())
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// The filter `trim`.
pub(crate) fn trim(value: &Value, chars: Option<&str>) -> String {
    match value.as_str() {
        Some(text) => strip(text, chars, true, true).to_owned(),
        None => strip(&value.to_string(), chars, true, true).to_owned(),
    }
}

/// The test `sequence`: what has a length and items, which in Python strings and dicts do too.
pub(crate) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
}

fn strip<'a>(text: &'a str, chars: Option<&str>, start: bool, end: bool) -> &'a str {
    let wanted = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(wanted) } else { text };
    if end { text.trim_end_matches(wanted) } else { text }
}

/// `str.split` and, from the end, `str.rsplit`; a negative limit is none.
fn split(text: &str, separator: Option<&str>, limit: Option<i64>, from_end: bool) -> Result<Value, Error> {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let parts = limit.saturating_add(1);
    let mut found: Vec<&str> = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) if from_end => text.rsplitn(parts, separator).collect(),
        Some(separator) => text.splitn(parts, separator).collect(),
        None => split_words(text, limit, from_end),
    };
    if from_end {
        found.reverse();
    }
    Ok(found.into_iter().map(Value::from).collect())
}

/// Words in the order in which they are met; the last one holds what is left once the limit is reached.
fn split_words(text: &str, limit: usize, from_end: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = strip(text, None, !from_end, from_end);
    while !rest.is_empty() {
        let cut = if from_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(cut) = cut.filter(|_| words.len() < limit) else {
            words.push(rest);
            break;
        };
        let width = rest[cut..].chars().next().map_or(1, char::len_utf8);
        let (head, tail) = (&rest[..cut], &rest[cut + width..]);
        words.push(if from_end { tail } else { head });
        rest = strip(if from_end { head } else { tail }, None, !from_end, from_end);
    }
    words
}

/// `str.title`: a letter is upper case where none stands before it, else lower case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

fn split_lines(text: &str, keep: bool) -> Vec<&str> {
    const BREAKS: [char; 10] = ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(BREAKS) {
        let width = rest[at..].chars().next().map_or(1, char::len_utf8);
        let end = if rest[at..].starts_with("\r\n") { at + 2 } else { at + width };
        lines.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

// === tojson ===

/// How `json.dumps` was asked to write.
struct Json {
    ascii: bool,
    sort: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

/// The filter `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(crate) fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        None => None,
        Some(indent) => match (indent.as_str(), indent.as_i64()) {
            (Some(text), _) => Some(text.to_owned()),
            (None, Some(width)) => Some(" ".repeat(usize::try_from(width).unwrap_or(0).min(64))),
            (None, None) if indent.is_none() => None,
            (None, None) => return Err(Error::new(ErrorKind::InvalidOperation, "indent must be a number or a string")),
        },
    };
    let (item, key) = match kwargs.get::<Option<Vec<String>>>("separators")?.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be two strings")),
    };
    let ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let json = Json { ascii, sort, indent, item, key };
    let mut out = String::new();
    json.write(&mut out, value, 0)?;
    Ok(Value::from(out))
}

impl Json {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH || out.len() > MAX_JSON {
            return Err(Error::new(ErrorKind::InvalidOperation, "value is too large or nested too deeply for tojson"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => out.push_str(&float(f64::try_from(value.clone())?)),
            ValueKind::String => self.write_string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<_> = value.try_iter()?.map(|item| (None, item)).collect();
                self.write_items(out, "[]", &items, depth)?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    items.push((Some(key.as_str().map_or_else(|| key.to_string(), str::to_owned)), item));
                }
                if self.sort {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.write_items(out, "{}", &items, depth)?;
            }
            kind => {
                let message = format!("a value of type {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    /// A list, or an object, whose items have keys.
    fn write_items(
        &self,
        out: &mut String,
        brackets: &str,
        items: &[(Option<String>, Value)],
        depth: usize,
    ) -> Result<(), Error> {
        if items.is_empty() {
            out.push_str(brackets);
            return Ok(());
        }
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        out.push_str(&brackets[..1]);
        for (i, (key, item)) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.item);
            }
            line(out, depth + 1);
            if let Some(key) = key {
                self.write_string(out, key);
                out.push_str(&self.key);
            }
            self.write(out, item, depth + 1)?;
        }
        line(out, depth);
        out.push_str(&brackets[1..]);
        Ok(())
    }

    fn write_string(&self, out: &mut String, text: &str) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
}

/// A float as Python writes it: Rust chooses the same digits and the same range for exponents, but not their form.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let text = format!("{value:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

#[cfg(test)]
mod tests;
