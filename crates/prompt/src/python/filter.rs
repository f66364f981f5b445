//! Filters (jinja2/filters.py). Those that are generators there are read once here too.

use std::cmp::Ordering;

use minijinja::Value;
use minijinja::value::Tuple;

use super::args::{self, Args};
use super::number::{self, truncate};
use super::object::{Generator, View, ViewKind};
use super::strings::{self, Pad};
use super::value::{
    self, Kind, Result, as_float, as_int, check_key, compare, defined, fail, int, items, kind, length, pairs, text,
};
use super::{format, json, method, operator, test};

/// The filters there are.
pub(crate) const FILTERS: [&str; 47] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
];

/// Applies a filter.
pub(super) fn apply(name: &str, value: Value, arguments: Args) -> Result<Value> {
    match name {
        "abs" | "float" | "int" | "round" | "sum" => numeric(name, &value, arguments),
        "capitalize" | "center" | "lower" | "title" | "trim" | "upper" | "string" | "e" | "escape" | "forceescape"
        | "safe" | "indent" | "replace" | "truncate" | "urlencode" | "format" | "wordcount" => {
            textual(name, &value, arguments)
        }
        "batch" | "slice" => parts(name, &value, arguments),
        "map" | "select" | "reject" | "selectattr" | "rejectattr" => each(name, &value, arguments),
        "dictsort" | "groupby" | "max" | "min" | "sort" | "unique" => ordered(name, &value, arguments),
        "join" => join(&value, arguments),
        "tojson" => json::tojson(&value, arguments),
        "default" | "d" => {
            let [default, boolean] = arguments.bind(name, ["default_value", "boolean"], 0)?;
            let replaced = value.is_undefined() || (args::flag(boolean, false) && !value.is_true());
            Ok(if replaced { default.unwrap_or_else(|| Value::from("")) } else { value })
        }
        "attr" => {
            let [name] = arguments.bind(name, ["name"], 1)?;
            let name = name.unwrap_or_default();
            let found = operator::attribute(&value, &text(&name)?)?;
            // an item is no attribute
            Ok(if matches!(kind(&value), Kind::Dict) && method::named(&value, &text(&name)?).is_none() {
                Value::UNDEFINED
            } else {
                found
            })
        }
        _ => {
            arguments.none(name)?;
            sequence(name, value)
        }
    }
}

/// Filters of sequences that take no arguments.
fn sequence(name: &str, value: Value) -> Result<Value> {
    match name {
        "length" | "count" => {
            let length = length(&value).map(Value::from);
            length.ok_or_else(|| fail(format!("object of type '{}' has no len()", kind(&value).name())))
        }
        "first" => match kind(&value) {
            Kind::Generator(generator) => Ok(generator.next().unwrap_or_default()),
            _ => Ok(items(&value)?.into_iter().next().unwrap_or_default()),
        },
        "last" if matches!(kind(&value), Kind::Generator(_)) => Err(fail("'generator' object is not reversible")),
        "last" => Ok(items(&value)?.pop().unwrap_or_default()),
        "items" => match kind(&value) {
            Kind::Undefined => Ok(Generator::over(Vec::new())),
            Kind::Dict => Ok(Generator::over(items(&Value::from_object(View { kind: ViewKind::Items, of: value }))?)),
            _ => Err(fail("can only get item pairs from a mapping")),
        },
        "list" => items(&value).map(Value::from),
        _ => {
            if let Some(text) = value.as_str() {
                return Ok(Value::from(text.chars().rev().collect::<String>()));
            }
            let is_list = matches!(kind(&value), Kind::Generator(_));
            let items: Vec<Value> = items(&value)?.into_iter().rev().collect();
            Ok(if is_list { Value::from(items) } else { Generator::over(items) })
        }
    }
}

fn numeric(name: &str, value: &Value, arguments: Args) -> Result<Value> {
    match name {
        "abs" => {
            arguments.none(name)?;
            match kind(value) {
                Kind::Float(number) => Ok(Value::from(number.abs())),
                _ => args::integer(value).map(|number| int(number.saturating_abs())),
            }
        }
        "float" => {
            let [default] = arguments.bind(name, ["default"], 0)?;
            defined(value)?;
            let number = as_float(value).or_else(|| number::parse_float(value.as_str()?));
            Ok(number.map(Value::from).or(default).unwrap_or_else(|| Value::from(0.0)))
        }
        "int" => {
            let [default, base] = arguments.bind(name, ["default", "base"], 0)?;
            defined(value)?;
            let base = u32::try_from(args::int(base, 10)?).unwrap_or(1);
            let number = match kind(value) {
                Kind::Float(number) if number.is_nan() => None,
                Kind::Float(number) => Some(truncate(number)?),
                Kind::Str(text) => match (number::parse_int(text, base), number::parse_float(text)) {
                    (None, Some(number)) if number.is_finite() => Some(truncate(number)?),
                    (number, _) => number,
                },
                _ => as_int(value),
            };
            Ok(number.map(int).or(default).unwrap_or_else(|| int(0)))
        }
        "round" => round(value, arguments),
        _ => {
            let [attribute, start] = arguments.bind(name, ["attribute", "start"], 0)?;
            let path = Path::new(attribute)?;
            let start = start.unwrap_or_else(|| int(0));
            if start.as_str().is_some() {
                return Err(fail("sum() can't sum strings"));
            }
            items(value)?.iter().try_fold(start, |sum, item| operator::add(&sum, &path.of(item)?))
        }
    }
}

fn round(value: &Value, arguments: Args) -> Result<Value> {
    let [precision, method] = arguments.bind("round", ["precision", "method"], 0)?;
    let precision = args::int(precision, 0)?;
    let method = method.unwrap_or_else(|| Value::from("common"));
    defined(value)?;
    let rounded = match args::text(&method)? {
        "common" => return number::round(value, precision),
        "ceil" => f64::ceil,
        "floor" => f64::floor,
        _ => return Err(fail("method must be common, ceil or floor")),
    };
    let number = as_float(value).ok_or_else(|| args::wrong("a number", value))?;
    let unit = 10f64.powi(i32::try_from(precision).unwrap_or(0));
    Ok(Value::from(truncate(rounded(number * unit))? as f64 / unit))
}

/// Text escaped for HTML.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

fn textual(name: &str, value: &Value, arguments: Args) -> Result<Value> {
    match name {
        "trim" => {
            let [chars] = arguments.bind(name, ["chars"], 0)?;
            Ok(Value::from(strings::strip(&text(value)?, args::optional_text(chars)?.as_deref(), true, true)))
        }
        "center" => {
            let [width] = arguments.bind(name, ["width"], 0)?;
            method::padded(&text(value)?, args::int(width, 80)?, ' ', Pad::Both)
        }
        "replace" => {
            let [old, new, count] = arguments.bind(name, ["old", "new", "count"], 2)?;
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            let count = args::int(count.filter(|count| !count.is_none()), -1)?;
            method::replace(&text(value)?, [&text(&old)?, &text(&new)?], count)
        }
        "indent" => indent(value, arguments),
        "truncate" => truncated(value, arguments),
        "format" => {
            let (list, named) = arguments.split();
            let values = match (list.is_empty(), named.is_empty()) {
                (false, false) => return Err(fail("can't handle positional and keyword arguments at the same time")),
                (true, false) => Value::from_pairs(named),
                _ => Value::from(Tuple::from(list)),
            };
            format::percent(&text(value)?, &values).map(Value::from)
        }
        _ => {
            arguments.none(name)?;
            plain(name, value)
        }
    }
}

/// Filters of texts that take no arguments.
fn plain(name: &str, value: &Value) -> Result<Value> {
    let shown = text(value)?;
    Ok(match name {
        "string" | "e" | "escape" if value.is_safe() => value.clone(),
        "string" => Value::from(shown),
        "safe" => Value::from_safe_string(shown.into_owned()),
        "e" | "escape" | "forceescape" => Value::from_safe_string(escape(&shown)),
        "lower" => Value::from(shown.to_lowercase()),
        "upper" => Value::from(shown.to_uppercase()),
        "capitalize" => Value::from(strings::capitalize(&shown)),
        "title" => Value::from(title(&shown)),
        "wordcount" => {
            let words = shown.split(|c: char| !c.is_alphanumeric() && c != '_');
            Value::from(words.filter(|word| !word.is_empty()).count())
        }
        _ => Value::from(urlencode(value)?),
    })
}

/// A text for a path, or pairs for a query.
fn urlencode(value: &Value) -> Result<String> {
    let quoted = |text: &str, safe: &[u8]| -> String {
        let is_safe = |byte: &u8| byte.is_ascii_alphanumeric() || safe.contains(byte);
        text.bytes()
            .map(|byte| if is_safe(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    };
    let pairs = match kind(value) {
        Kind::Dict => pairs(value)?,
        Kind::Str(_) => return Ok(quoted(&text(value)?, b"_.-~/")),
        _ if value.try_iter().is_err() || value.is_none() => return Ok(quoted(&text(value)?, b"_.-~/")),
        _ => {
            let pair = |pair: Value| match <[Value; 2]>::try_from(items(&pair)?) {
                Ok([key, value]) => Ok((key, value)),
                Err(_) => Err(fail("urlencode wants pairs of keys and values")),
            };
            items(value)?.into_iter().map(pair).collect::<Result<_>>()?
        }
    };
    let mut out = Vec::new();
    for (key, value) in &pairs {
        out.push([text(key)?, text(value)?].map(|text| quoted(&text, b"_.-~").replace("%20", "+")).join("="));
    }
    Ok(out.join("&"))
}

/// The filter `title`: words begin behind blanks, hyphens and opening brackets.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if begins {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        begins = strings::is_space(c) || "-({[<".contains(c);
    }
    out
}

fn indent(value: &Value, arguments: Args) -> Result<Value> {
    let [width, first, blank] = arguments.bind("indent", ["width", "first", "blank"], 0)?;
    let (first, blank) = (args::flag(first, false), args::flag(blank, false));
    let by = match width.as_ref().and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => {
            let width = usize::try_from(args::int(width, 4)?.max(0)).unwrap_or(usize::MAX);
            method::bounded(width)?;
            " ".repeat(width)
        }
    };
    let text = format!("{}\n", args::text(value)?);
    let lines = strings::split_lines(&text, false);
    method::bounded(text.len() + by.len().saturating_mul(lines.len()))?;
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        let indented = if at == 0 { first } else { blank || !line.is_empty() };
        if indented {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

fn truncated(value: &Value, arguments: Args) -> Result<Value> {
    let parameters = ["length", "killwords", "end", "leeway"];
    let [most, kill, end, leeway] = arguments.bind("truncate", parameters, 0)?;
    let end = end.unwrap_or_else(|| Value::from("..."));
    let end = args::text(&end)?;
    let leeway = args::int(leeway.filter(|leeway| !leeway.is_none()), 5)?;
    let (most, ending) = (args::int(most, 255)?, end.chars().count() as i128);
    if most < ending || leeway < 0 {
        return Err(fail(format!("expected length >= {ending} and leeway >= 0, got {most} and {leeway}")));
    }
    if length(value).is_some_and(|size| size as i128 <= most + leeway) {
        return Ok(value.clone());
    }
    let text = args::text(value)?;
    let cut = &text[..strings::byte_at(text, usize::try_from(most - ending).unwrap_or(0))];
    let cut = if args::flag(kill, false) { cut } else { cut.rsplit_once(' ').map_or(cut, |(head, _)| head) };
    Ok(Value::from(format!("{cut}{end}")))
}

fn join(value: &Value, arguments: Args) -> Result<Value> {
    let [separator, attribute] = arguments.bind("join", ["d", "attribute"], 0)?;
    let separator = separator.unwrap_or_else(|| Value::from(""));
    let separator = text(&separator)?;
    let path = Path::new(attribute)?;
    let mut out = String::new();
    for (at, item) in items(value)?.iter().enumerate() {
        if at > 0 {
            out.push_str(&separator);
        }
        out.push_str(&text(&path.of(item)?)?);
        method::bounded(out.len())?;
    }
    Ok(Value::from(out))
}

/// Lists of so many items, or so many lists.
fn parts(name: &str, value: &Value, arguments: Args) -> Result<Value> {
    let [count, fill] = arguments.bind(name, ["count", "fill_with"], 1)?;
    let count = args::int(count, 0)?;
    let fill = fill.filter(|fill| !fill.is_none());
    let items = items(value)?;
    let count = usize::try_from(count).ok().filter(|count| (1..=1 << 16).contains(count));
    let count = count.ok_or_else(|| fail(format!("{name} by this number is not possible")))?;
    let mut parts: Vec<Vec<Value>> = Vec::new();
    if name == "batch" {
        parts.extend(items.chunks(count).map(<[Value]>::to_vec));
        if let (Some(last), Some(fill)) = (parts.last_mut(), fill) {
            last.resize(count, fill);
        }
    } else {
        let (each, longer) = (items.len() / count, items.len() % count);
        let mut items = items.into_iter();
        for at in 0..count {
            let mut part: Vec<Value> = items.by_ref().take(each + usize::from(at < longer)).collect();
            if at >= longer {
                part.extend(fill.clone());
            }
            parts.push(part);
        }
    }
    Ok(Generator::over(parts.into_iter().map(Value::from).collect()))
}

/// An attribute of items, as in `function.name` or `parts.0`.
struct Path {
    parts: Vec<Value>,
    default: Option<Value>,
}

// === impl Path ===

impl Path {
    fn new(attribute: Option<Value>) -> Result<Self> {
        let part = |part: &str| match part.parse::<u32>() {
            Ok(index) if part.bytes().all(|byte| byte.is_ascii_digit()) => Value::from(index),
            _ => Value::from(part),
        };
        let parts = match attribute.filter(|attribute| !attribute.is_none()) {
            None => Vec::new(),
            Some(attribute) => match attribute.as_str() {
                Some(text) => text.split('.').map(part).collect(),
                None => vec![int(args::integer(&attribute)?)],
            },
        };
        Ok(Self { parts, default: None })
    }

    fn with_default(attribute: Option<Value>, default: Option<Value>) -> Result<Self> {
        Ok(Self { default: default.filter(|default| !default.is_none()), ..Self::new(attribute)? })
    }

    fn of(&self, item: &Value) -> Result<Value> {
        let mut found = item.clone();
        for part in &self.parts {
            found = operator::item(&found, part)?;
            if let (true, Some(default)) = (found.is_undefined(), &self.default) {
                found = default.clone();
            }
        }
        Ok(found)
    }

    /// What items are ordered by: texts without regard to case, unless asked.
    fn key(&self, item: &Value, case_sensitive: bool) -> Result<Value> {
        let found = self.of(item)?;
        Ok(match found.as_str() {
            Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
            _ => found,
        })
    }
}

/// `map`, `select` and their siblings.
fn each(name: &str, value: &Value, mut arguments: Args) -> Result<Value> {
    if !value.is_true() {
        return Ok(Generator::over(Vec::new()));
    }
    let mut path = Path::new(None)?;
    let first = arguments.shift();
    let function = match (name, first) {
        ("map", None) => {
            let [attribute, default] = arguments.bind(name, ["attribute", "default"], 1)?;
            let path = Path::with_default(attribute, default)?;
            return Ok(Generator::over(items(value)?.iter().map(|item| path.of(item)).collect::<Result<_>>()?));
        }
        ("selectattr" | "rejectattr", None) => return Err(fail("missing parameter for attribute name")),
        ("selectattr" | "rejectattr", attribute) => {
            path = Path::new(attribute)?;
            arguments.shift()
        }
        (_, first) => first,
    };
    let function = function.as_ref().map(args::text).transpose()?;
    let mut out = Vec::new();
    for item in items(value)? {
        match (name, function) {
            ("map", Some(filter)) if FILTERS.contains(&filter) => out.push(apply(filter, item, arguments.clone())?),
            ("map", filter) => return Err(fail(format!("no filter named {filter:?}"))),
            (_, Some(test)) if !test::TESTS.contains(&test) => return Err(fail(format!("no test named {test:?}"))),
            (_, test) => {
                let tested = path.of(&item)?;
                let passes = match test {
                    Some(test) => test::check(test, &tested, arguments.clone())?,
                    None => tested.is_true(),
                };
                if passes == name.starts_with("select") {
                    out.push(item);
                }
            }
        }
    }
    Ok(Generator::over(out))
}

/// Sorts stably by keys; an error where two of them have no order.
fn sort_by_key(items: &mut [(Value, Value)], reverse: bool) -> Result<()> {
    let mut failed = None;
    let mut order = |a: &Value, b: &Value| match compare(a, b) {
        Ok(order) => order.unwrap_or(Ordering::Equal),
        Err(error) => {
            failed.get_or_insert(error);
            Ordering::Equal
        }
    };
    items.sort_by(|(a, _), (b, _)| if reverse { order(b, a) } else { order(a, b) });
    failed.map_or(Ok(()), Err)
}

fn ordered(name: &str, value: &Value, arguments: Args) -> Result<Value> {
    match name {
        "sort" => sorted(value, arguments),
        "dictsort" => dictsort(value, arguments),
        "groupby" => groupby(value, arguments),
        "unique" => {
            let [case, attribute] = arguments.bind(name, ["case_sensitive", "attribute"], 0)?;
            let (case, path) = (args::flag(case, false), Path::new(attribute)?);
            let (mut seen, mut out) = (std::collections::HashSet::new(), Vec::new());
            for item in items(value)? {
                let key = path.key(&item, case)?;
                check_key(&key)?;
                if seen.insert(key) {
                    out.push(item);
                }
            }
            Ok(Generator::over(out))
        }
        _ => {
            let [case, attribute] = arguments.bind(name, ["case_sensitive", "attribute"], 0)?;
            let (case, path) = (args::flag(case, false), Path::new(attribute)?);
            let wanted = if name == "max" { Ordering::Greater } else { Ordering::Less };
            let mut best: Option<(Value, Value)> = None;
            for item in items(value)? {
                let key = path.key(&item, case)?;
                let better = match &best {
                    None => true,
                    Some((known, _)) => compare(&key, known)? == Some(wanted),
                };
                if better {
                    best = Some((key, item));
                }
            }
            Ok(best.map(|(_, item)| item).unwrap_or_default())
        }
    }
}

fn sorted(value: &Value, arguments: Args) -> Result<Value> {
    let [reverse, case, attribute] = arguments.bind("sort", ["reverse", "case_sensitive", "attribute"], 0)?;
    let case = args::flag(case, false);
    let paths = match attribute.as_ref().and_then(Value::as_str) {
        Some(text) => text.split(',').map(|part| Path::new(Some(Value::from(part)))).collect::<Result<Vec<_>>>()?,
        None => vec![Path::new(attribute)?],
    };
    let mut sorted = Vec::new();
    for item in items(value)? {
        let key = paths.iter().map(|path| path.key(&item, case)).collect::<Result<Vec<_>>>()?;
        sorted.push((Value::from(key), item));
    }
    sort_by_key(&mut sorted, args::flag(reverse, false))?;
    Ok(sorted.into_iter().map(|(_, item)| item).collect())
}

fn dictsort(value: &Value, arguments: Args) -> Result<Value> {
    let [case, by, reverse] = arguments.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
    if !matches!(kind(value), Kind::Dict) {
        return Err(args::wrong("a mapping", value));
    }
    let by = by.unwrap_or_else(|| Value::from("key"));
    let by_value = match args::text(&by)? {
        "key" => false,
        "value" => true,
        _ => return Err(fail("you can only sort by either \"key\" or \"value\"")),
    };
    let (path, case) = (Path::new(None)?, args::flag(case, false));
    let mut sorted = Vec::new();
    for (key, value) in value::pairs(value)? {
        let by = path.key(if by_value { &value } else { &key }, case)?;
        sorted.push((by, Value::from(Tuple::from([key, value]))));
    }
    sort_by_key(&mut sorted, args::flag(reverse, false))?;
    Ok(sorted.into_iter().map(|(_, pair)| pair).collect())
}

fn groupby(value: &Value, arguments: Args) -> Result<Value> {
    let [attribute, default, case] = arguments.bind("groupby", ["attribute", "default", "case_sensitive"], 1)?;
    let case = args::flag(case, false);
    let path = Path::with_default(attribute, default)?;
    let mut sorted = Vec::new();
    for item in items(value)? {
        sorted.push((path.key(&item, case)?, item));
    }
    sort_by_key(&mut sorted, false)?;
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for (key, item) in sorted {
        match groups.last_mut() {
            Some((known, _, group)) if *known == key => group.push(item),
            _ => groups.push((key, path.of(&item)?, vec![item])),
        }
    }
    Ok(groups.into_iter().map(|(_, name, group)| Value::from(Tuple::from([name, Value::from(group)]))).collect())
}
