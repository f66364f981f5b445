//! Tests: what `is` asks (jinja2/tests.py).

use minijinja::Value;

use super::args::Args;
use super::object::Bound;
use super::operator;
use super::strings::is_case;
use super::value::{Kind, Result, as_float, check_key, int, kind, text};

/// The tests there are.
pub(crate) const TESTS: [&str; 39] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// Whether a value passes a test.
pub(super) fn check(name: &str, value: &Value, arguments: Args) -> Result<bool> {
    if let Some(op) = comparison(name) {
        let [other] = arguments.bind(name, ["other"], 1)?;
        return operator::holds(op, value, &other.unwrap_or_default());
    }
    match name {
        "divisibleby" => {
            let [number] = arguments.bind(name, ["num"], 1)?;
            return Ok(operator::modulo(value, &number.unwrap_or_default())? == int(0));
        }
        "sameas" => {
            let [other] = arguments.bind(name, ["other"], 1)?;
            return Ok(is_same(value, &other.unwrap_or_default()));
        }
        _ => arguments.none(name)?,
    }
    match name {
        "odd" => Ok(operator::modulo(value, &int(2))? == int(1)),
        "even" => Ok(operator::modulo(value, &int(2))? == int(0)),
        "lower" => Ok(is_case(&text(value)?, char::is_lowercase)),
        "upper" => Ok(is_case(&text(value)?, char::is_uppercase)),
        "filter" | "test" => {
            check_key(value)?;
            let names: &[&str] = if name == "filter" { &super::filter::FILTERS } else { &TESTS };
            Ok(value.as_str().is_some_and(|text| names.contains(&text)))
        }
        _ => Ok(is_of_kind(name, value)),
    }
}

/// `a is b`; equal numbers and texts count as one object, as small ones and those of the template are in Python.
fn is_same(a: &Value, b: &Value) -> bool {
    if a.as_object().is_some() { minijinja::tests::is_sameas(a, b) } else { kind(a).name() == kind(b).name() && a == b }
}

fn comparison(name: &str) -> Option<&'static str> {
    Some(match name {
        "eq" | "equalto" | "==" => "==",
        "ne" | "!=" => "!=",
        "lt" | "lessthan" | "<" => "<",
        "le" | "<=" => "<=",
        "gt" | "greaterthan" | ">" => ">",
        "ge" | ">=" => ">=",
        "in" => "in",
        _ => return None,
    })
}

/// Tests of a value's kind alone.
fn is_of_kind(name: &str, value: &Value) -> bool {
    let kind = kind(value);
    match name {
        "defined" => !matches!(kind, Kind::Undefined),
        "undefined" => matches!(kind, Kind::Undefined),
        "none" => matches!(kind, Kind::None),
        "boolean" => matches!(kind, Kind::Bool(_)),
        "true" => matches!(kind, Kind::Bool(true)),
        "false" => matches!(kind, Kind::Bool(false)),
        "integer" => matches!(kind, Kind::Int(_)),
        "float" => matches!(kind, Kind::Float(_)),
        "number" => as_float(value).is_some(),
        "string" => matches!(kind, Kind::Str(_)),
        "escaped" => value.is_safe(),
        "mapping" => matches!(kind, Kind::Dict),
        "callable" => {
            let bound = value.downcast_object_ref::<Bound>().is_some();
            bound || matches!(kind, Kind::Undefined) || (matches!(kind, Kind::Other) && !value.is_number())
        }
        // with a length and items by place
        "sequence" => {
            matches!(kind, Kind::Str(_) | Kind::List | Kind::Tuple | Kind::Dict | Kind::Range(_) | Kind::Undefined)
        }
        _ => {
            !matches!(kind, Kind::None | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) | Kind::Namespace)
                && value.try_iter().is_ok()
        }
    }
}
