//! Operators where the engine's differ from Python's.

use minijinja::Value;
use minijinja::value::Tuple;

use super::args;
use super::filter::escape;
use super::format;
use super::method;
use super::object::{Bound, Range};
use super::value::{Kind, MAX_TEXT, Result, as_float, as_int, compare, defined, fail, int, items, kind, length, text};

/// Items that one operator may make.
const MAX_ITEMS: usize = 1 << 20;

/// `a + b`.
pub(super) fn add(a: &Value, b: &Value) -> Result<Value> {
    match (kind(a), kind(b)) {
        (Kind::Str(x), Kind::Str(y)) if a.is_safe() || b.is_safe() => {
            let [x, y] = [(a, x), (b, y)].map(|(of, text)| if of.is_safe() { text.to_owned() } else { escape(text) });
            Ok(Value::from_safe_string(x + &y))
        }
        (Kind::Str(x), Kind::Str(y)) => Ok(Value::from([x, y].concat())),
        (Kind::List, Kind::List) => Ok(Value::from([items(a)?, items(b)?].concat())),
        (Kind::Tuple, Kind::Tuple) => Ok(Value::from(Tuple::from([items(a)?, items(b)?].concat()))),
        _ => numbers("+", [a, b], i128::checked_add, |a, b| a + b),
    }
}

/// `a * b`.
pub(super) fn multiply(a: &Value, b: &Value) -> Result<Value> {
    let (of, times) = match (kind(a), kind(b)) {
        (Kind::Str(_) | Kind::List | Kind::Tuple, _) => (a, b),
        (_, Kind::Str(_) | Kind::List | Kind::Tuple) => (b, a),
        _ => return numbers("*", [a, b], i128::checked_mul, |a, b| a * b),
    };
    let times = usize::try_from(args::integer(times)?.max(0)).unwrap_or(usize::MAX);
    let (size, most) = match of.as_str() {
        Some(text) => (text.len(), MAX_TEXT),
        None => (length(of).unwrap_or(0), MAX_ITEMS),
    };
    if size.saturating_mul(times) > most {
        return Err(fail("an operator makes something too large"));
    }
    let times = if size == 0 { 0 } else { times };
    if let Some(text) = of.as_str() {
        return Ok(Value::from(text.repeat(times)));
    }
    let repeated: Vec<Value> = items(of)?.iter().cycle().take(size * times).cloned().collect();
    Ok(if matches!(kind(of), Kind::Tuple) { Tuple::from(repeated).into() } else { repeated.into() })
}

/// `a % b`.
pub(super) fn modulo(a: &Value, b: &Value) -> Result<Value> {
    if let Kind::Str(format) = kind(a) {
        return format::percent(format, b).map(Value::from);
    }
    if as_float(b) == Some(0.0) && as_float(a).is_some() {
        return Err(fail("modulo by zero"));
    }
    let whole = |a: i128, b: i128| {
        let rest = a.checked_rem(b)?;
        Some(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
    };
    numbers("%", [a, b], whole, |a, b| {
        let rest = a % b;
        if rest == 0.0 {
            return 0f64.copysign(b);
        }
        if (rest < 0.0) == (b < 0.0) { rest } else { rest + b }
    })
}

/// An operator on two numbers.
fn numbers(
    op: &str,
    [a, b]: [&Value; 2],
    whole: fn(i128, i128) -> Option<i128>,
    float: fn(f64, f64) -> f64,
) -> Result<Value> {
    if let (Some(x), Some(y)) = (as_int(a), as_int(b)) {
        return whole(x, y).map(int).ok_or_else(|| fail("an integer beyond 128 bits"));
    }
    if let (Some(x), Some(y)) = (as_float(a), as_float(b)) {
        return Ok(Value::from(float(x, y)));
    }
    defined(a)?;
    defined(b)?;
    Err(fail(format!("unsupported operand types for {op}: '{}' and '{}'", kind(a).name(), kind(b).name())))
}

/// `a < b` and its siblings.
pub(super) fn holds(op: &str, a: &Value, b: &Value) -> Result<bool> {
    Ok(match op {
        "==" => a == b,
        "!=" => a != b,
        "<" => compare(a, b)?.is_some_and(std::cmp::Ordering::is_lt),
        "<=" => compare(a, b)?.is_some_and(std::cmp::Ordering::is_le),
        ">" => compare(a, b)?.is_some_and(std::cmp::Ordering::is_gt),
        ">=" => compare(a, b)?.is_some_and(std::cmp::Ordering::is_ge),
        "in" => contains(b, a)?,
        _ => !contains(b, a)?,
    })
}

/// `item in container`.
pub(super) fn contains(container: &Value, item: &Value) -> Result<bool> {
    match kind(container) {
        Kind::Str(text) => match item.as_str() {
            Some(part) => Ok(text.contains(part)),
            None => Err(fail(format!("'in <string>' requires string as left operand, not {}", kind(item).name()))),
        },
        Kind::Dict => {
            super::value::check_key(item)?;
            Ok(items(container)?.contains(item))
        }
        _ => Ok(items(container)?.contains(item)),
    }
}

/// `value.name`, where `name` is a method of some type: an attribute comes before an item.
pub(super) fn attribute(of: &Value, name: &str) -> Result<Value> {
    defined(of)?;
    if let Some(name) = method::named(of, name) {
        return Ok(Value::from_object(Bound { of: of.clone(), name }));
    }
    of.get_attr(name)
}

/// `value[key]`: an item comes before an attribute.
pub(super) fn item(of: &Value, key: &Value) -> Result<Value> {
    defined(of)?;
    let found = match (kind(of), kind(key)) {
        (Kind::List | Kind::Tuple | Kind::Range(_) | Kind::Str(_), _) => match as_int(key) {
            Some(index) => of.get_item(&int(index))?,
            None => Value::UNDEFINED,
        },
        (Kind::Dict, Kind::List | Kind::Dict) => Value::UNDEFINED,
        (Kind::Dict | Kind::Namespace | Kind::Other, _) => of.get_item(key)?,
        _ => Value::UNDEFINED,
    };
    match key.as_str().and_then(|name| method::named(of, name)) {
        Some(name) if found.is_undefined() => Ok(Value::from_object(Bound { of: of.clone(), name })),
        _ => Ok(found),
    }
}

/// What a loop runs over.
pub(super) fn iterable(value: &Value) -> Result<Value> {
    match kind(value) {
        Kind::None | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) | Kind::Namespace => {
            Err(fail(format!("'{}' object is not iterable", kind(value).name())))
        }
        // a loop over a list knows its length
        Kind::Str(_) => items(value).map(Value::from),
        _ => Ok(value.clone()),
    }
}

/// `-value`.
pub(super) fn negate(value: &Value) -> Result<Value> {
    match kind(value) {
        Kind::Float(number) => Ok(Value::from(-number)),
        _ => args::integer(value).map(|number| int(-number)),
    }
}

/// `value[start:stop:step]`.
pub(super) fn slice(of: &Value, bounds: &[Value]) -> Result<Value> {
    defined(of)?;
    let mut numbers = [None; 3];
    for (number, bound) in numbers.iter_mut().zip(bounds).filter(|(_, bound)| !bound.is_none()) {
        *number = Some(as_int(bound).ok_or_else(|| fail("slice indices must be integers or None"))?);
    }
    let [start, stop, step] = numbers;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(fail("slice step cannot be zero"));
    }
    let all = match kind(of) {
        Kind::Str(text) => text.chars().map(|c| Value::from(c.to_string())).collect(),
        Kind::List | Kind::Tuple | Kind::Range(_) => items(of)?,
        other => return Err(fail(format!("'{}' object is not subscriptable", other.name()))),
    };
    // as Python's slice.indices
    let length = all.len() as i128;
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |bound: i128| (if bound < 0 { bound + length } else { bound }).clamp(lowest, highest);
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let range = Range { start: start.map_or(first, clamp), stop: stop.map_or(last, clamp), step };
    let indices = (0..range.len()).filter_map(|at| usize::try_from(range.get(at)?).ok());
    let parts = indices.filter_map(|at| all.get(at));
    Ok(match kind(of) {
        Kind::Str(_) => parts.filter_map(Value::as_str).collect::<String>().into(),
        Kind::Tuple => Tuple::from(parts.cloned().collect::<Vec<_>>()).into(),
        Kind::Range(of) => {
            let value = |at: i128| of.start + of.step * at;
            let sliced = Range { start: value(range.start), stop: value(range.stop), step: of.step * step };
            Value::from_object(sliced)
        }
        _ => parts.cloned().collect(),
    })
}

/// `a ~ b ~ c`.
pub(super) fn concat(items: &[Value]) -> Result<Value> {
    let mut out = String::new();
    for item in items {
        out.push_str(&text(item)?);
        method::bounded(out.len())?;
    }
    Ok(Value::from(out))
}

/// `a + b + c`.
pub(super) fn sum(items: &[Value]) -> Result<Value> {
    if items.iter().all(|item| matches!(kind(item), Kind::Str(_)) && !item.is_safe()) {
        return concat(items);
    }
    let (first, others) = items.split_first().ok_or_else(|| fail("nothing to add"))?;
    others.iter().try_fold(first.clone(), |sum, item| add(&sum, item))
}

/// A chain of comparisons: values with operators between them.
pub(super) fn chain(first: &Value, others: &[Value]) -> Result<bool> {
    let mut left = first;
    for pair in others.chunks_exact(2) {
        if !holds(pair[0].as_str().unwrap_or_default(), left, &pair[1])? {
            return Ok(false);
        }
        left = &pair[1];
    }
    Ok(true)
}
