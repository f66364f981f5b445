//! Python's two ways to format, `'%d' % value` and `'{:d}'.format(value)`: what is a text is laid out here, numbers are by
//! the engine's own formatting.

use minijinja::Value;
use minijinja::formatting::{FormatStyle, format as format_number};

use super::args::Args;
use super::operator;
use super::strings::{self, Pad, ascii};
use super::value::{Kind, Result, as_int, defined, fail, int, items, kind, pairs, repr, text};

/// The widest field.
const MAX_WIDTH: i128 = 1 << 20;

// === percent ===

/// The values behind `%`.
struct Values<'v> {
    list: Vec<Value>,
    at: usize,
    map: Option<&'v Value>,
}

// === impl Values ===

impl Values<'_> {
    fn next(&mut self) -> Result<Value> {
        let value = self.list.get(self.at).cloned();
        self.at += 1;
        value.ok_or_else(|| fail("not enough arguments for format string"))
    }
}

/// `format % values`.
pub(super) fn percent(format: &str, of: &Value) -> Result<String> {
    let list = if matches!(kind(of), Kind::Tuple) { items(of)? } else { vec![of.clone()] };
    let is_map = matches!(kind(of), Kind::Dict | Kind::List | Kind::Range(_) | Kind::Undefined);
    let mut values = Values { list, at: 0, map: is_map.then_some(of) };
    let mut out = String::new();
    let mut rest = format;
    while let Some((text, tail)) = rest.split_once('%') {
        out.push_str(text);
        rest = directive(tail, &mut values, &mut out)?;
        super::method::bounded(out.len())?;
    }
    out.push_str(rest);
    if values.at < values.list.len() && values.map.is_none() {
        return Err(fail("not all arguments converted during string formatting"));
    }
    Ok(out)
}

/// One directive behind its `%`; what is left of the format.
fn directive<'f>(format: &'f str, values: &mut Values<'_>, out: &mut String) -> Result<&'f str> {
    let mut rest = format;
    let mut named = None;
    if let Some(tail) = rest.strip_prefix('(') {
        let (name, tail) = tail.split_once(')').ok_or_else(|| fail("incomplete format key"))?;
        let map = values.map.filter(|map| matches!(kind(map), Kind::Dict));
        let found = pairs(map.ok_or_else(|| fail("format requires a mapping"))?)?.into_iter();
        let found = found.filter(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value).next();
        named = Some(found.ok_or_else(|| fail(format!("a format has no argument '{name}'")))?);
        rest = tail;
    }
    let flags = rest.len() - rest.trim_start_matches(['-', '+', ' ', '#', '0']).len();
    let (flags, tail) = rest.split_at(flags);
    rest = tail;
    let width = number(&mut rest, values)?;
    let precision = match rest.strip_prefix('.') {
        Some(tail) => {
            rest = tail;
            Some(number(&mut rest, values)?.unwrap_or(0).max(0))
        }
        None => None,
    };
    rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
    let letter = rest.chars().next().ok_or_else(|| fail("incomplete format"))?;
    if letter == '%' {
        out.push('%');
    } else {
        let value = named.map_or_else(|| values.next(), Ok)?;
        out.push_str(&convert(letter, flags, [width, precision], &value)?);
    }
    Ok(&rest[letter.len_utf8()..])
}

/// A width or precision, which may be an argument.
fn number(rest: &mut &str, values: &mut Values<'_>) -> Result<Option<i128>> {
    let number = if let Some(tail) = rest.strip_prefix('*') {
        *rest = tail;
        Some(as_int(&values.next()?).ok_or_else(|| fail("* wants int"))?)
    } else {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, tail) = rest.split_at(end);
        *rest = tail;
        if digits.is_empty() { None } else { Some(digits.parse().unwrap_or(i128::MAX)) }
    };
    match number {
        Some(number) if number.unsigned_abs() > MAX_WIDTH as u128 => Err(fail("width or precision too big")),
        number => Ok(number),
    }
}

/// One value as a directive's letter wants it.
fn convert(letter: char, flags: &str, [width, precision]: [Option<i128>; 2], value: &Value) -> Result<String> {
    let width = width.unwrap_or(0);
    let left = flags.contains('-') || width < 0;
    let shown = match letter {
        's' => text(value)?.into_owned(),
        'r' => repr(value)?,
        'a' => ascii(&repr(value)?),
        'c' => {
            let one = value.as_str().filter(|text| text.chars().count() == 1).map(str::to_owned);
            let code = as_int(value).and_then(|code| char::from_u32(u32::try_from(code).ok()?)).map(String::from);
            one.or(code).ok_or_else(|| fail("%c requires int or char"))?
        }
        _ => return numeric(letter, flags, [Some(width).filter(|width| *width != 0), precision], value),
    };
    let cut = precision.filter(|_| letter != 'c').and_then(|precision| usize::try_from(precision).ok());
    let shown = cut.map_or(&*shown, |precision| &shown[..strings::byte_at(&shown, precision)]);
    let side = if left { Pad::Right } else { Pad::Left };
    Ok(strings::pad(shown, usize::try_from(width.unsigned_abs()).unwrap_or(0), ' ', side))
}

fn numeric(letter: char, flags: &str, [width, precision]: [Option<i128>; 2], value: &Value) -> Result<String> {
    let wrong = || fail(format!("%{letter} format: a number is required, not {}", kind(value).name()));
    let number = match (letter, kind(value)) {
        ('d' | 'i' | 'u', Kind::Float(number)) if number.is_finite() && number.abs() >= 1e38 => {
            return Ok(large(number, flags, width.and_then(|width| usize::try_from(width).ok()).unwrap_or(0)));
        }
        ('d' | 'i' | 'u', Kind::Float(number)) => int(super::number::truncate(number)?),
        ('d' | 'i' | 'u' | 'x' | 'X' | 'o', _) => int(as_int(value).ok_or_else(wrong)?),
        ('e' | 'E' | 'f' | 'F' | 'g' | 'G', _) => super::value::as_float(value).map(Value::from).ok_or_else(wrong)?,
        _ => return Err(fail(format!("unsupported format character '{letter}'"))),
    };
    let letter = if matches!(letter, 'i' | 'u') { 'd' } else { letter };
    let width = width.map(|width| width.to_string()).unwrap_or_default();
    let precision = precision.map(|precision| format!(".{precision}")).unwrap_or_default();
    format_number(FormatStyle::Printf, &format!("%{flags}{width}{precision}{letter}"), &[number])
}

/// A float without its fraction, of more digits than an integer here can have.
fn large(number: f64, flags: &str, width: usize) -> String {
    let sign = match number < 0.0 {
        true => "-",
        false if flags.contains('+') => "+",
        false if flags.contains(' ') => " ",
        false => "",
    };
    let digits = format!("{:.0}", number.abs());
    match (flags.contains('-'), flags.contains('0')) {
        (true, _) => strings::pad(&(sign.to_owned() + &digits), width, ' ', Pad::Right),
        (false, true) => sign.to_owned() + &strings::pad(&digits, width.saturating_sub(sign.len()), '0', Pad::Left),
        (false, false) => strings::pad(&(sign.to_owned() + &digits), width, ' ', Pad::Left),
    }
}

// === braces ===

/// How the fields of a format were numbered so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbering {
    None,
    Automatic(usize),
    Manual,
}

/// The arguments of `str.format`.
struct Fields {
    list: Vec<Value>,
    named: Vec<(String, Value)>,
    numbering: Numbering,
}

/// `format.format(arguments)`.
pub(super) fn braces(format: &str, arguments: Args) -> Result<String> {
    let (list, named) = arguments.split();
    Fields { list, named, numbering: Numbering::None }.fill(format, 2)
}

// === impl Fields ===

impl Fields {
    fn fill(&mut self, format: &str, depth: usize) -> Result<String> {
        let mut out = String::new();
        let mut rest = format;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let tail = &rest[at + 1..];
            if let Some(after) = tail.strip_prefix(&rest[at..=at]) {
                out.push_str(&rest[at..=at]);
                rest = after;
                continue;
            }
            let end = if rest[at..].starts_with('{') { field_end(tail) } else { None };
            let end = end.filter(|_| depth > 0).ok_or_else(|| fail("a brace of a format has no partner"))?;
            out.push_str(&self.field(&tail[..end], depth)?);
            super::method::bounded(out.len())?;
            rest = &tail[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn field(&mut self, field: &str, depth: usize) -> Result<String> {
        let end = field.find([':', '!']).unwrap_or(field.len());
        let (name, tail) = field.split_at(end);
        let (conversion, spec) = match tail.strip_prefix('!') {
            Some(tail) => {
                let letter =
                    tail.chars().next().ok_or_else(|| fail("a format ends before its conversion specifier"))?;
                (Some(letter), &tail[letter.len_utf8()..])
            }
            None => (None, tail),
        };
        if !spec.is_empty() && !spec.starts_with(':') {
            return Err(fail("expected ':' after conversion specifier"));
        }
        let value = self.lookup(name)?;
        let spec = self.fill(spec.strip_prefix(':').unwrap_or_default(), depth - 1)?;
        let value = match conversion {
            None => value,
            Some('s') => Value::from(text(&value)?),
            Some('r') => Value::from(repr(&value)?),
            Some('a') => Value::from(ascii(&repr(&value)?)),
            Some(other) => return Err(fail(format!("unknown conversion specifier {other}"))),
        };
        formatted(&value, &spec)
    }

    /// The value that a field names, as in `0.name[key]`.
    fn lookup(&mut self, name: &str) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        let index = match (first.is_empty(), first.parse::<usize>().ok(), self.numbering) {
            (true, _, Numbering::Manual) | (false, Some(_), Numbering::Automatic(_)) => {
                return Err(fail("fields are numbered by hand or automatically, not both"));
            }
            (true, _, Numbering::Automatic(at)) => {
                self.numbering = Numbering::Automatic(at + 1);
                Some(at)
            }
            (true, _, Numbering::None) => {
                self.numbering = Numbering::Automatic(1);
                Some(0)
            }
            (false, Some(at), _) => {
                self.numbering = Numbering::Manual;
                Some(at)
            }
            (false, None, _) => None,
        };
        let found = match index {
            Some(at) => self.list.get(at),
            None => self.named.iter().find(|(known, _)| known == first).map(|(_, value)| value),
        };
        let mut value = found.cloned().ok_or_else(|| fail(format!("a format has no argument '{first}'")))?;
        while !rest.is_empty() {
            let (found, tail) = match rest.strip_prefix('[') {
                Some(tail) => {
                    let (key, tail) = tail.split_once(']').ok_or_else(|| fail("missing ']' in format string"))?;
                    let key = key.parse::<i64>().map_or_else(|_| Value::from(key), Value::from);
                    (operator::item(&value, &key)?, tail)
                }
                None => {
                    let tail = &rest[1..];
                    let end = tail.find(['.', '[']).unwrap_or(tail.len());
                    (operator::attribute(&value, &tail[..end])?, &tail[end..])
                }
            };
            defined(&found)?;
            (value, rest) = (found, tail);
        }
        Ok(value)
    }
}

/// Where a field's closing brace is.
fn field_end(text: &str) -> Option<usize> {
    let mut open = 1;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

/// `format(value, spec)`.
fn formatted(value: &Value, spec: &str) -> Result<String> {
    if spec.is_empty() {
        return text(value).map(Into::into);
    }
    match kind(value) {
        Kind::Str(text) => placed(text, spec),
        Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) => {
            let number = as_int(value).map_or_else(|| value.clone(), int);
            if let (Some(spec), Some(number)) = (spec.strip_suffix('%'), super::value::as_float(value)) {
                let number = Value::from(number * 100.0);
                return Ok(format_number(FormatStyle::StrFormat, &format!("{{:{spec}f}}"), &[number])? + "%");
            }
            let general = if number.is_integer() { "d" } else { "g" };
            let spec = &spec.strip_suffix('n').map_or_else(|| spec.to_owned(), |spec| spec.to_owned() + general);
            if number.is_integer() && spec.contains('.') && !spec.ends_with(['e', 'E', 'f', 'F', 'g', 'G']) {
                return Err(fail("precision not allowed in integer format specifier"));
            }
            let text = format_number(FormatStyle::StrFormat, &format!("{{:{spec}}}"), std::slice::from_ref(&number))?;
            // without a letter a float stays one
            let bare = spec.contains('.') && spec.ends_with(|c: char| c.is_ascii_digit());
            match bare && !number.is_integer() && !text.contains(['.', 'e', 'n']) {
                true if spec.starts_with('.') => Ok(text + ".0"),
                true => Err(fail("a width with a precision and no letter is not implemented for whole floats")),
                false => Ok(text),
            }
        }
        other => Err(fail(format!("unsupported format string passed to {}.__format__", other.name()))),
    }
}

/// A text in its field: `[[fill]align][0][width][.precision][s]`.
fn placed(text: &str, spec: &str) -> Result<String> {
    let wrong = || fail(format!("invalid format specifier '{spec}' for a string"));
    let mut chars = spec.chars();
    let (first, second) = (chars.next().unwrap_or(' '), chars.next().unwrap_or(' '));
    let (mut fill, align, mut rest) = if "<>^".contains(second) {
        (first, Some(second), chars.as_str())
    } else if "<>^".contains(first) {
        (' ', Some(first), &spec[1..])
    } else {
        (' ', None, spec)
    };
    if align.is_none() && rest.starts_with('0') {
        fill = '0';
    }
    let mut none = Values { list: Vec::new(), at: 0, map: None };
    let width = number(&mut rest, &mut none)?.unwrap_or(0);
    let precision = match rest.strip_prefix('.') {
        Some(tail) => {
            rest = tail;
            Some(number(&mut rest, &mut none)?.ok_or_else(wrong)?)
        }
        None => None,
    };
    if !matches!(rest, "" | "s") {
        return Err(wrong());
    }
    let cut = precision.and_then(|precision| usize::try_from(precision).ok());
    let text = cut.map_or(text, |precision| &text[..strings::byte_at(text, precision)]);
    let width = usize::try_from(width).unwrap_or(0);
    if align == Some('^') {
        let room = width.saturating_sub(text.chars().count());
        let fills = |count: usize| fill.to_string().repeat(count);
        return Ok(fills(room / 2) + text + &fills(room - room / 2));
    }
    Ok(strings::pad(text, width, fill, if align == Some('>') { Pad::Left } else { Pad::Right }))
}
