//! Numbers as Python reads, rounds and writes them.

use std::cmp::Ordering;

use minijinja::Value;

use super::strings::is_space;
use super::value::{Kind, Result, as_float, as_int, fail, int, kind};

/// The shortest text that reads back as the number, in the form of Python's `repr`.
pub(super) fn float_text(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // Rust chooses the same digits and the same range for exponents, but not their form
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

/// The order of two numbers; `None` if one of them is none.
pub(super) fn compare_floats(a: Kind<'_>, b: Kind<'_>) -> Option<Option<Ordering>> {
    let whole = |number: &Kind<'_>| match number {
        Kind::Bool(value) => Some(i128::from(*value)),
        Kind::Int(number) => Some(*number),
        _ => None,
    };
    match (&a, &b) {
        (Kind::Float(a), Kind::Float(b)) => Some(a.partial_cmp(b)),
        (Kind::Float(a), b) => Some(compare_int(whole(b)?, *a).map(Ordering::reverse)),
        (a, Kind::Float(b)) => Some(compare_int(whole(a)?, *b)),
        (a, b) => Some(Some(whole(a)?.cmp(&whole(b)?))),
    }
}

/// An integer beside a float, without rounding the integer.
fn compare_int(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    if b.abs() >= 1e38 {
        return Some(if b > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    let whole = b.trunc() as i128;
    Some(a.cmp(&whole).then(0.0f64.partial_cmp(&b.fract())?))
}

/// `int(value)` of a float.
pub(super) fn truncate(number: f64) -> Result<i128> {
    if number.is_finite() && number.abs() < 1e38 {
        Ok(number.trunc() as i128)
    } else {
        Err(fail(format!("cannot convert float {} to an integer", float_text(number))))
    }
}

/// `int(text, base)`: blanks around, a sign, underscores between digits, a prefix where the base allows one.
pub(super) fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(is_space);
    let (negative, text) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let lower = text.get(..2).map(str::to_ascii_lowercase);
    let prefixed = match (base, lower.as_deref()) {
        (0 | 16, Some("0x")) => Some(16),
        (0 | 8, Some("0o")) => Some(8),
        (0 | 2, Some("0b")) => Some(2),
        _ => None,
    };
    let zeros = base == 0 && text.len() > 1 && text.starts_with('0') && text.contains(|c| c != '0' && c != '_');
    let (base, digits) = match prefixed {
        Some(base) => (base, text[2..].strip_prefix('_').unwrap_or(&text[2..])),
        None if zeros => return None,
        None => (if base == 0 { 10 } else { base }, text),
    };
    let groups = digits.split('_').all(|group| !group.is_empty());
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    if !groups || digits.starts_with(['+', '-']) || !(2..=36).contains(&base) {
        return None;
    }
    let number = i128::from_str_radix(&digits, base).ok()?;
    Some(if negative { -number } else { number })
}

/// `float(text)`.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let groups = text.split('_').collect::<Vec<_>>();
    let digit = |c: char| c.is_ascii_digit();
    if !groups.windows(2).all(|pair| pair[0].ends_with(digit) && pair[1].starts_with(digit)) {
        return None;
    }
    groups.concat().parse().ok()
}

/// `round(number, digits)`: half to even, on the exact decimal value.
pub(super) fn round(value: &Value, digits: i128) -> Result<Value> {
    if let Some(number) = as_int(value) {
        if digits >= 0 {
            return Ok(int(number));
        }
        let Some(unit) = u32::try_from(-digits).ok().and_then(|digits| 10i128.checked_pow(digits)) else {
            return Ok(int(0));
        };
        let (floor, rest) = (number.div_euclid(unit), number.rem_euclid(unit));
        let up = rest * 2 > unit || (rest * 2 == unit && floor % 2 != 0);
        return Ok(int((floor + i128::from(up)) * unit));
    }
    let Some(number) = as_float(value) else {
        return Err(fail(format!("type {} cannot be rounded", kind(value).name())));
    };
    if !number.is_finite() || digits > 322 {
        return Ok(Value::from(number));
    }
    if digits >= 0 {
        // the standard library writes a float's exact value, rounded half to even
        let text = format!("{number:.*}", usize::try_from(digits).unwrap_or(0));
        return Ok(Value::from(text.parse().unwrap_or(number)));
    }
    let unit = 10f64.powi(i32::try_from(-digits).unwrap_or(400).min(400));
    if unit.is_infinite() {
        return Ok(Value::from(0f64.copysign(number)));
    }
    Ok(Value::from((number / unit).round_ties_even() * unit))
}
