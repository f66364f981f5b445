//! Methods of texts, lists and maps.

use minijinja::value::{Kwargs, Rest, Tuple, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::args::{self, Args};
use super::object::{View, ViewKind, bounds};
use super::strings::{self, Pad};
use super::value::{self, Kind, MAX_TEXT, Result, check_key, fail, int, items, kind};
use super::{format, operator};

/// Methods of texts.
const TEXT: [&str; 44] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const LIST: [&str; 3] = ["copy", "count", "index"];
const DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];

/// The method of this name that a value has.
pub(super) fn named(of: &Value, name: &str) -> Option<&'static str> {
    let methods: &[&'static str] = match kind(of) {
        Kind::Str(_) => &TEXT,
        Kind::List => &LIST,
        Kind::Tuple | Kind::Range(_) => &LIST[1..],
        Kind::Dict => &DICT,
        Kind::Float(_) => &["is_integer"],
        _ => &[],
    };
    methods.iter().copied().find(|known| *known == name)
}

/// Whether a value of some type has a method of this name.
pub(crate) fn is_known(name: &str) -> bool {
    [&TEXT[..], &LIST, &DICT, &["is_integer"]].iter().any(|methods| methods.contains(&name))
}

/// Calls a method; the sandbox hides those that change a value.
pub(crate) fn call(_: &mut State<'_, '_>, of: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let Some(name) = named(of, name) else { return Err(Error::from(ErrorKind::UnknownMethod)) };
    let (list, named): (Rest<Value>, Kwargs) = from_args(arguments)?;
    let arguments = Args::new(list, &named)?;
    match kind(of) {
        Kind::Str(text) => text_method(text, name, arguments),
        Kind::Dict => dict_method(of, name, arguments),
        Kind::Float(number) => arguments.none("is_integer").map(|()| Value::from(number.fract() == 0.0)),
        _ => list_method(of, name, arguments),
    }
}

fn dict_method(dict: &Value, name: &str, arguments: Args) -> Result<Value> {
    let view = |kind| Value::from_object(View { kind, of: dict.clone() });
    match name {
        "get" => {
            let [key, default] = arguments.bind("get", ["key", "default"], 1)?;
            let key = key.unwrap_or_default();
            check_key(&key)?;
            let found = dict.get_item(&key)?;
            let is_there = !found.is_undefined() || items(dict)?.contains(&key);
            Ok(if is_there { found } else { default.unwrap_or_else(|| Value::from(())) })
        }
        "fromkeys" => {
            let [keys, value] = arguments.bind("fromkeys", ["iterable", "value"], 1)?;
            let (keys, value) = (items(&keys.unwrap_or_default())?, value.unwrap_or_else(|| Value::from(())));
            keys.iter().try_for_each(check_key)?;
            Ok(Value::from_pairs(keys.into_iter().map(|key| (key, value.clone()))))
        }
        "copy" => arguments.none("copy").map(|()| dict.clone()),
        "items" => arguments.none("items").map(|()| view(ViewKind::Items)),
        "keys" => arguments.none("keys").map(|()| view(ViewKind::Keys)),
        _ => arguments.none("values").map(|()| view(ViewKind::Values)),
    }
}

fn list_method(list: &Value, name: &str, arguments: Args) -> Result<Value> {
    if name == "copy" {
        return arguments.none("copy").map(|()| list.clone());
    }
    let [item, start, stop] = arguments.bind(name, ["value", "start", "stop"], 1)?;
    let item = item.unwrap_or_default();
    let items = items(list)?;
    if name == "count" {
        return Ok(Value::from(items.iter().filter(|found| **found == item).count()));
    }
    let (start, stop) = bounds(items.len(), start, stop)?;
    let found = items.iter().take(stop).skip(start).position(|found| *found == item);
    found.map(|at| Value::from(start + at)).ok_or_else(|| fail("the value is not in the list"))
}

fn text_method(text: &str, name: &str, arguments: Args) -> Result<Value> {
    if let Some(value) = plain_method(text, name) {
        return arguments.none(name).map(|()| value);
    }
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = arguments.bind(name, ["chars"], 0)?;
            let chars = args::optional_text(chars)?;
            Ok(strings::strip(text, chars.as_deref(), name != "rstrip", name != "lstrip").into())
        }
        "split" | "rsplit" => {
            let [separator, limit] = arguments.bind(name, ["sep", "maxsplit"], 0)?;
            let separator = args::optional_text(separator)?;
            if separator.as_deref() == Some("") {
                return Err(fail("empty separator"));
            }
            let parts = strings::split(text, separator.as_deref(), args::int(limit, -1)?, name == "rsplit");
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "splitlines" => {
            let [keep] = arguments.bind(name, ["keepends"], 0)?;
            Ok(strings::split_lines(text, args::flag(keep, false)).into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => partition(text, name == "rpartition", arguments),
        "removeprefix" | "removesuffix" => {
            let [part] = arguments.bind(name, ["part"], 1)?;
            let part = part.unwrap_or_default();
            let part = args::text(&part)?;
            let rest = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(rest.unwrap_or(text).into())
        }
        "startswith" | "endswith" => starts_or_ends(text, name == "startswith", arguments),
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, name, arguments),
        "replace" => {
            let [old, new, count] = arguments.bind(name, ["old", "new", "count"], 2)?;
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            replace(text, [args::text(&old)?, args::text(&new)?], args::int(count, -1)?)
        }
        "join" => {
            let [list] = arguments.bind(name, ["iterable"], 1)?;
            let items = items(&list.unwrap_or_default())?;
            let texts = items.iter().map(args::text).collect::<Result<Vec<_>>>()?;
            bounded(texts.iter().map(|item| item.len() + text.len()).sum())?;
            Ok(Value::from(texts.join(text)))
        }
        "center" | "ljust" | "rjust" | "zfill" => padding(text, name, arguments),
        "expandtabs" => {
            let [size] = arguments.bind(name, ["tabsize"], 0)?;
            let size = usize::try_from(args::int(size, 8)?.max(0)).unwrap_or(usize::MAX);
            bounded(text.matches('\t').count().saturating_mul(size))?;
            Ok(Value::from(strings::expand_tabs(text, size)))
        }
        "format" => format::braces(text, arguments).map(Value::from),
        _ => {
            let [map] = arguments.bind(name, ["mapping"], 1)?;
            let named = value::pairs(&map.unwrap_or_default())?;
            format::braces(text, Args::named(named)).map(Value::from)
        }
    }
}

/// Methods without arguments.
fn plain_method(text: &str, name: &str) -> Option<Value> {
    let all = |test: fn(char) -> bool| Value::from(!text.is_empty() && text.chars().all(test));
    Some(match name {
        "upper" => text.to_uppercase().into(),
        "lower" => text.to_lowercase().into(),
        "casefold" => strings::fold_case(text).into(),
        "title" => strings::title(text).into(),
        "capitalize" => strings::capitalize(text).into(),
        "swapcase" => strings::swap_case(text).into(),
        "islower" => strings::is_case(text, char::is_lowercase).into(),
        "isupper" => strings::is_case(text, char::is_uppercase).into(),
        "istitle" => strings::is_title(text).into(),
        "isspace" => all(strings::is_space),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isascii" => text.is_ascii().into(),
        "isdecimal" => all(|c| c.is_numeric() && !strings::is_other_number(c)),
        "isdigit" => all(|c| c.is_numeric() && (!strings::is_other_number(c) || strings::is_script_digit(c))),
        "isnumeric" => all(char::is_numeric),
        "isprintable" => text.chars().all(strings::is_printable).into(),
        "isidentifier" => {
            let starts = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
            (starts && text.chars().all(|c| c.is_alphanumeric() || c == '_')).into()
        }
        _ => return None,
    })
}

fn partition(text: &str, last: bool, arguments: Args) -> Result<Value> {
    let [separator] = arguments.bind("partition", ["sep"], 1)?;
    let separator = separator.unwrap_or_default();
    let separator = args::text(&separator)?;
    if separator.is_empty() {
        return Err(fail("empty separator"));
    }
    let parts = if last { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match parts {
        Some((head, tail)) => [head, separator, tail],
        None if last => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
}

/// The part of a text between two bounds in characters, and where it begins; `None` where the start lies beyond the end.
fn window(text: &str, start: Option<Value>, stop: Option<Value>) -> Result<Option<(usize, &str)>> {
    let (start, stop) = bounds(text.chars().count(), start, stop)?;
    if start > stop {
        return Ok(None);
    }
    let begin = strings::byte_at(text, start);
    let end = begin + strings::byte_at(&text[begin..], stop - start);
    Ok(Some((start, &text[begin..end])))
}

fn starts_or_ends(text: &str, starts: bool, arguments: Args) -> Result<Value> {
    let name = if starts { "startswith" } else { "endswith" };
    let [parts, start, stop] = arguments.bind(name, ["prefix", "start", "end"], 1)?;
    let parts = parts.unwrap_or_default();
    let parts = if matches!(kind(&parts), Kind::Tuple) { items(&parts)? } else { vec![parts] };
    let parts = parts.iter().map(args::text).collect::<Result<Vec<_>>>()?;
    let Some((_, text)) = window(text, start, stop)? else { return Ok(Value::from(false)) };
    let holds = |part: &&str| if starts { text.starts_with(part) } else { text.ends_with(part) };
    Ok(Value::from(parts.iter().any(holds)))
}

fn search(text: &str, name: &str, arguments: Args) -> Result<Value> {
    let [part, start, stop] = arguments.bind(name, ["sub", "start", "end"], 1)?;
    let part = part.unwrap_or_default();
    let part = args::text(&part)?;
    let window = window(text, start, stop)?;
    if name == "count" {
        let count = |text: &str| if part.is_empty() { text.chars().count() + 1 } else { text.matches(part).count() };
        return Ok(Value::from(window.map_or(0, |(_, text)| count(text))));
    }
    let found = window.and_then(|(start, text)| {
        let at = if name.starts_with('r') { text.rfind(part) } else { text.find(part) };
        at.map(|at| start + text[..at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if name.ends_with("find") => Ok(int(-1)),
        None => Err(fail("substring not found")),
    }
}

/// `str.replace`.
pub(super) fn replace(text: &str, [old, new]: [&str; 2], count: i128) -> Result<Value> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    bounded(text.len() + places.min(count).saturating_mul(new.len()))?;
    Ok(Value::from(if count == usize::MAX { text.replace(old, new) } else { text.replacen(old, new, count) }))
}

fn padding(text: &str, name: &str, arguments: Args) -> Result<Value> {
    if name == "zfill" {
        let [width] = arguments.bind(name, ["width"], 1)?;
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
        let padded = padded(digits, args::int(width, 0)? - sign.len() as i128, '0', Pad::Left)?;
        return operator::concat(&[sign.into(), padded]);
    }
    let [width, fill] = arguments.bind(name, ["width", "fillchar"], 1)?;
    let fill = args::optional_text(fill)?.unwrap_or_else(|| " ".to_owned());
    let mut fills = fill.chars();
    let (Some(fill), None) = (fills.next(), fills.next()) else {
        return Err(fail("the fill character must be exactly one character long"));
    };
    let side = match name {
        "center" => Pad::Both,
        "ljust" => Pad::Right,
        _ => Pad::Left,
    };
    padded(text, args::int(width, 0)?, fill, side)
}

/// A text in a field of so many characters.
pub(super) fn padded(text: &str, width: i128, fill: char, side: Pad) -> Result<Value> {
    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
    bounded(width)?;
    Ok(Value::from(strings::pad(text, width, fill, side)))
}

/// An error for a text that would be too large.
pub(super) fn bounded(bytes: usize) -> Result<()> {
    if bytes > MAX_TEXT { Err(fail("a text would become too large")) } else { Ok(()) }
}
