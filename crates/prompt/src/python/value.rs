//! Values of the template engine as Python sees them: kinds, items, order, and the text that `str` and `repr` give.

use std::borrow::Cow;
use std::cmp::Ordering;

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::number::{compare_floats, float_text};
use super::object::{Bound, Generator, Range, View, ViewKind};
use super::strings::quote;

pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

/// Bytes that a text may have which an operator, filter or method makes.
pub(super) const MAX_TEXT: usize = 1 << 26;
/// Bytes that a value may print: one that holds itself twice, many levels deep, is small and prints endlessly.
pub(super) const MAX_PRINTED: usize = 1 << 24;
/// How deep a value may nest that is printed or compared.
pub(super) const MAX_DEPTH: usize = 256;

/// What a value is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind<'v> {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(&'v str),
    List,
    Tuple,
    Dict,
    Range(&'v Range),
    View(&'v View),
    Generator(&'v Generator),
    Namespace,
    /// A loop, a macro, a function, and what they give.
    Other,
}

/// The error of an operation that Python would not do either.
pub(super) fn fail(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

pub(super) fn kind(value: &Value) -> Kind<'_> {
    match value.kind() {
        ValueKind::Undefined => Kind::Undefined,
        ValueKind::None => Kind::None,
        ValueKind::Bool => Kind::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => match i128::try_from(value.clone()) {
            Ok(number) => Kind::Int(number),
            Err(_) => Kind::Other,
        },
        ValueKind::Number => f64::try_from(value.clone()).map_or(Kind::Other, Kind::Float),
        ValueKind::String => value.as_str().map_or(Kind::Other, Kind::Str),
        _ => object_kind(value),
    }
}

fn object_kind(value: &Value) -> Kind<'_> {
    if let Some(range) = value.downcast_object_ref::<Range>() {
        return Kind::Range(range);
    }
    if let Some(view) = value.downcast_object_ref::<View>() {
        return Kind::View(view);
    }
    if let Some(generator) = value.downcast_object_ref::<Generator>() {
        return Kind::Generator(generator);
    }
    let type_name = value.as_object().map_or("", |object| object.type_name());
    match value.kind() {
        ValueKind::Seq if value.downcast_object_ref::<Tuple>().is_some() => Kind::Tuple,
        ValueKind::Seq => Kind::List,
        ValueKind::Map if type_name.ends_with("Namespace") => Kind::Namespace,
        ValueKind::Map if !type_name.ends_with("Loop") && !type_name.ends_with("Macro") => Kind::Dict,
        _ => Kind::Other,
    }
}

impl Kind<'_> {
    /// The name of its type in Python.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Undefined => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List => "list",
            Self::Tuple => "tuple",
            Self::Dict => "dict",
            Self::Range(_) => "range",
            Self::View(view) => view.kind.name(),
            Self::Generator(_) => "generator",
            Self::Namespace => "Namespace",
            Self::Other => "object",
        }
    }
}

/// Its number, if it is an integer or a truth value.
pub(super) fn as_int(value: &Value) -> Option<i128> {
    match kind(value) {
        Kind::Bool(value) => Some(i128::from(value)),
        Kind::Int(number) => Some(number),
        _ => None,
    }
}

/// Its number, if it is one.
pub(super) fn as_float(value: &Value) -> Option<f64> {
    match kind(value) {
        Kind::Float(number) => Some(number),
        _ => as_int(value).map(|number| number as f64),
    }
}

/// An integer as a value, as narrow as it can be.
pub(super) fn int(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

/// The error of using something that is not there, if this is it.
pub(super) fn defined(value: &Value) -> Result<()> {
    if value.is_undefined() { Err(Error::from(ErrorKind::UndefinedError)) } else { Ok(()) }
}

/// What `len` gives, in characters for a text; `None` where it fails.
pub(super) fn length(value: &Value) -> Option<usize> {
    match kind(value) {
        Kind::Undefined => Some(0),
        Kind::Str(text) => Some(text.chars().count()),
        Kind::None | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) | Kind::Generator(_) | Kind::Namespace => None,
        Kind::View(view) => view.of.len(),
        _ => value.len(),
    }
}

/// Its items, as a loop sees them; a generator is used up.
pub(super) fn items(value: &Value) -> Result<Vec<Value>> {
    match kind(value) {
        Kind::None | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) | Kind::Namespace => {
            Err(fail(format!("'{}' object is not iterable", kind(value).name())))
        }
        _ => Ok(value.try_iter()?.collect()),
    }
}

/// Keys and values of a mapping.
pub(super) fn pairs(dict: &Value) -> Result<Vec<(Value, Value)>> {
    dict.try_iter()?.map(|key| Ok((key.clone(), dict.get_item(&key)?))).collect()
}

/// Whether Python can hash it: it may be a key.
pub(super) fn check_key(value: &Value) -> Result<()> {
    match kind(value) {
        Kind::View(View { kind: ViewKind::Values, .. }) => Ok(()),
        Kind::List | Kind::Dict | Kind::View(_) => Err(fail(format!("unhashable type: '{}'", kind(value).name()))),
        Kind::Tuple => items(value)?.iter().try_for_each(check_key),
        _ => Ok(()),
    }
}

/// The order that `<` and its siblings see; an error where Python has none. `None` beside NaN.
pub(super) fn compare(a: &Value, b: &Value) -> Result<Option<Ordering>> {
    compare_to_depth(a, b, 0)
}

fn compare_to_depth(a: &Value, b: &Value, depth: usize) -> Result<Option<Ordering>> {
    if depth > MAX_DEPTH {
        return Err(fail("values are nested too deeply to be compared"));
    }
    match (kind(a), kind(b)) {
        (Kind::Str(a), Kind::Str(b)) => return Ok(Some(a.cmp(b))),
        (Kind::List, Kind::List) | (Kind::Tuple, Kind::Tuple) => {
            let (a, b) = (items(a)?, items(b)?);
            for (a, b) in a.iter().zip(&b) {
                if a != b {
                    return compare_to_depth(a, b, depth + 1);
                }
            }
            return Ok(Some(a.len().cmp(&b.len())));
        }
        (a, b) => {
            if let Some(order) = compare_floats(a, b) {
                return Ok(order);
            }
        }
    }
    defined(a)?;
    defined(b)?;
    Err(fail(format!("'<' not supported between instances of '{}' and '{}'", kind(a).name(), kind(b).name())))
}

/// `str(value)`.
pub(crate) fn text(value: &Value) -> Result<Cow<'_, str>> {
    match kind(value) {
        Kind::Undefined => Ok(Cow::Borrowed("")),
        Kind::Str(text) => Ok(Cow::Borrowed(text)),
        _ => repr(value).map(Cow::Owned),
    }
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> Result<String> {
    let mut out = String::new();
    write(&mut out, value, 0)?;
    Ok(out)
}

fn write(out: &mut String, value: &Value, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH || out.len() > MAX_PRINTED {
        return Err(fail("a value is too large or nested too deeply to be printed"));
    }
    match kind(value) {
        Kind::Undefined => out.push_str("Undefined"),
        Kind::None => out.push_str("None"),
        Kind::Bool(value) => out.push_str(if value { "True" } else { "False" }),
        Kind::Int(number) => out.push_str(&number.to_string()),
        Kind::Float(number) => out.push_str(&float_text(number)),
        Kind::Str(text) if value.is_safe() => {
            out.push_str("Markup(");
            quote(text, out);
            out.push(')');
        }
        Kind::Str(text) => quote(text, out),
        Kind::List => write_items(out, ["[", "]"], &items(value)?, depth)?,
        Kind::Tuple => {
            let items = items(value)?;
            write_items(out, ["(", if items.len() == 1 { ",)" } else { ")" }], &items, depth)?;
        }
        Kind::Dict => write_pairs(out, value, depth)?,
        Kind::Range(range) => out.push_str(&range.to_string()),
        Kind::View(view) => {
            out.push_str(view.kind.name());
            write_items(out, ["([", "])"], &items(value)?, depth)?;
        }
        // the engine keeps the names in their order, Python in the order in which they were set
        Kind::Namespace if value.len() > Some(1) => return Err(fail("a namespace of several names has no text here")),
        Kind::Namespace => {
            out.push_str("<Namespace ");
            write_pairs(out, value, depth)?;
            out.push('>');
        }
        Kind::Other if value.is_integer() => out.push_str(&value.to_string()),
        // Python prints where such an object lies in memory
        Kind::Generator(_) | Kind::Other => return Err(fail(format!("a {} has no text", name_of(value)))),
    }
    Ok(())
}

fn name_of(value: &Value) -> &'static str {
    match kind(value) {
        Kind::Other if value.downcast_object_ref::<Bound>().is_some() => "method",
        other => other.name(),
    }
}

fn write_items(out: &mut String, [open, close]: [&str; 2], items: &[Value], depth: usize) -> Result<()> {
    out.push_str(open);
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        write(out, item, depth + 1)?;
    }
    out.push_str(close);
    Ok(())
}

fn write_pairs(out: &mut String, dict: &Value, depth: usize) -> Result<()> {
    out.push('{');
    for (at, (key, value)) in pairs(dict)?.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        write(out, key, depth + 1)?;
        out.push_str(": ");
        write(out, value, depth + 1)?;
    }
    out.push('}');
    Ok(())
}

impl ViewKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Keys => "dict_keys",
            Self::Values => "dict_values",
            Self::Items => "dict_items",
        }
    }
}
