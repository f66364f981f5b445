//! The filter `tojson`, which transformers replaces by Python's `json.dumps`.

use std::fmt::Write as _;

use minijinja::Value;

use super::args::{self, Args};
use super::number::float_text;
use super::value::{Kind, MAX_DEPTH, MAX_PRINTED, Result, fail, items, kind, pairs};

/// How `json.dumps` was asked to write.
struct Json {
    ascii: bool,
    sort: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

/// `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn tojson(value: &Value, arguments: Args) -> Result<Value> {
    let parameters = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort] = arguments.bind("tojson", parameters, 0)?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(args::integer(&indent)?).unwrap_or(0).min(64)),
        }),
    };
    let (item, key) =
        match separators.filter(|separators| !separators.is_none()).map(|list| items(&list)).transpose()? {
            None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
            Some(list) => match list.as_slice() {
                [item, key] => (args::text(item)?.to_owned(), args::text(key)?.to_owned()),
                _ => return Err(fail("separators must be two strings")),
            },
        };
    let json = Json { ascii: args::flag(ascii, false), sort: args::flag(sort, false), indent, item, key };
    let mut out = String::new();
    json.write(&mut out, value, 0)?;
    Ok(Value::from(out))
}

impl Json {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH || out.len() > MAX_PRINTED {
            return Err(fail("a value is too large or nested too deeply for tojson"));
        }
        match kind(value) {
            Kind::List | Kind::Tuple => {
                let items: Vec<_> = items(value)?.into_iter().map(|item| (None, item)).collect();
                self.write_items(out, "[]", &items, depth)
            }
            Kind::Dict => {
                let pairs = pairs(value)?.into_iter().map(|(name, value)| Ok((Some(key(&name)?), value)));
                let mut pairs = pairs.collect::<Result<Vec<_>>>()?;
                if self.sort {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.write_items(out, "{}", &pairs, depth)
            }
            Kind::Str(text) => {
                self.write_string(out, text);
                Ok(())
            }
            _ => {
                out.push_str(&scalar(value)?);
                Ok(())
            }
        }
    }

    /// A list, or an object, whose items have keys.
    fn write_items(
        &self,
        out: &mut String,
        brackets: &str,
        items: &[(Option<String>, Value)],
        depth: usize,
    ) -> Result<()> {
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
        for (at, (key, item)) in items.iter().enumerate() {
            if at > 0 {
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

/// A value that is neither text nor made of others.
fn scalar(value: &Value) -> Result<String> {
    Ok(match kind(value) {
        Kind::None => "null".to_owned(),
        Kind::Bool(value) => value.to_string(),
        Kind::Float(number) if number.is_nan() => "NaN".to_owned(),
        Kind::Float(number) if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Kind::Float(number) => float_text(number),
        _ if value.is_integer() => value.to_string(),
        other => return Err(fail(format!("a value of type {} cannot be written as JSON", other.name()))),
    })
}

/// A key of an object: `json.dumps` takes texts and what it writes without quotes.
fn key(name: &Value) -> Result<String> {
    name.as_str().map_or_else(|| scalar(name), |text| Ok(text.to_owned()))
}
