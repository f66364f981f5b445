//! Objects that Python has and the template engine has not, or that behave otherwise there.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Object, ObjectRepr, Tuple};
use minijinja::{Error, State, Value};

use super::args::Args;
use super::method;
use super::value::{self, Result, as_int, fail, int};

/// Items of a range; Jinja's sandbox draws the same line.
const MAX_RANGE: usize = 100_000;

/// `range(start, stop, step)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
}

/// `dict.keys()` and its siblings.
#[derive(Debug)]
pub(super) struct View {
    pub(super) kind: ViewKind,
    pub(super) of: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ViewKind {
    Keys,
    Values,
    Items,
}

/// A generator: read once.
#[derive(Debug)]
pub(super) struct Generator(Mutex<Vec<Value>>);

/// A method that is not called yet.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) of: Value,
    pub(super) name: &'static str,
}

/// `cycler(..)`.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

/// `joiner(separator)`.
#[derive(Debug)]
struct Joiner {
    separator: String,
    used: AtomicBool,
}

// === impl Range ===

impl Range {
    pub(super) fn new(args: Args) -> Result<Self> {
        let bounds = args.bind("range", ["start", "stop", "step"], 1)?;
        let mut numbers = [None; 3];
        for (number, bound) in numbers.iter_mut().zip(&bounds) {
            *number = bound.as_ref().map(super::args::integer).transpose()?;
        }
        let [first, second, step] = numbers;
        let (start, stop) = match second {
            None => (0, first.unwrap_or(0)),
            Some(stop) => (first.unwrap_or(0), stop),
        };
        let range = Self { start, stop, step: step.unwrap_or(1) };
        let limits = i128::from(i64::MIN)..=i128::from(i64::MAX);
        let in_limits = [start, stop, range.step].iter().all(|number| limits.contains(number));
        if range.step == 0 || !in_limits || range.len() > MAX_RANGE {
            return Err(fail(format!("range() takes a step that is not zero, and gives at most {MAX_RANGE} numbers")));
        }
        Ok(range)
    }

    pub(super) fn len(&self) -> usize {
        let span = if self.step > 0 { self.stop - self.start } else { self.start - self.stop };
        let step = self.step.abs();
        usize::try_from((span + step - 1).max(0) / step).unwrap_or(usize::MAX)
    }

    pub(super) fn get(&self, index: usize) -> Option<i128> {
        (index < self.len()).then(|| self.start + self.step * index as i128)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "range({}, {}", self.start, self.stop)?;
        if self.step == 1 { f.write_str(")") } else { write!(f, ", {})", self.step) }
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get(key.as_usize()?).map(int)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.len())
    }
}

// === impl View ===

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let pairs = value::pairs(&self.of).unwrap_or_default().into_iter();
        Enumerator::Values(match self.kind {
            ViewKind::Keys => pairs.map(|(key, _)| key).collect(),
            ViewKind::Values => pairs.map(|(_, value)| value).collect(),
            ViewKind::Items => pairs.map(|(key, value)| Value::from(Tuple::from([key, value]))).collect(),
        })
    }
}

// === impl Generator ===

impl Generator {
    pub(super) fn over(items: Vec<Value>) -> Value {
        Value::from_object(Self(Mutex::new(items)))
    }

    /// What is left in it, which then is not.
    fn take(&self) -> Vec<Value> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn next(&self) -> Option<Value> {
        let mut items = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if items.is_empty() { None } else { Some(items.remove(0)) }
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.take())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }
}

// === impl Bound, Cycler, Joiner ===

impl Object for Bound {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        method::call(state, &self.of, self.name, args)
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = self.at.load(Ordering::Relaxed);
        if key.as_str() == Some("current") { self.items.get(at).cloned() } else { None }
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, name: &str, args: &[Value]) -> Result<Value, Error> {
        let at = self.at.load(Ordering::Relaxed);
        match (name, args) {
            ("next", []) => {
                self.at.store((at + 1) % self.items.len(), Ordering::Relaxed);
                Ok(self.items.get(at).cloned().unwrap_or_default())
            }
            ("reset", []) => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(fail(format!("a cycler has no method {name} with {} arguments", args.len()))),
        }
    }
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Value]) -> Result<Value, Error> {
        let used = self.used.swap(true, Ordering::Relaxed);
        Ok(Value::from(if used { self.separator.as_str() } else { "" }))
    }
}

// === functions ===

/// The function `cycler`.
pub(super) fn cycler(args: Args) -> Result<Value> {
    let items = args.positional("cycler")?;
    if items.is_empty() {
        return Err(fail("at least one item has to be provided"));
    }
    Ok(Value::from_object(Cycler { items, at: AtomicUsize::new(0) }))
}

/// The function `joiner`.
pub(super) fn joiner(args: Args) -> Result<Value> {
    let [separator] = args.bind("joiner", ["sep"], 0)?;
    let separator = separator.map_or_else(|| Ok(", ".to_owned()), |text| value::text(&text).map(Into::into))?;
    Ok(Value::from_object(Joiner { separator, used: AtomicBool::new(false) }))
}

/// The function `dict`, and what `namespace` begins with.
pub(super) fn dict(args: Args) -> Result<Value> {
    let (list, named) = args.split();
    let mut entries: Vec<(Value, Value)> = Vec::new();
    match list.as_slice() {
        [] => {}
        [of] if matches!(value::kind(of), value::Kind::Dict) => entries = value::pairs(of)?,
        [of] => {
            value::defined(of)?;
            for pair in value::items(of)? {
                let pair = <[Value; 2]>::try_from(value::items(&pair)?);
                let [key, value] = pair.map_err(|_| fail("an element that dict() takes has not length 2"))?;
                value::check_key(&key)?;
                entries.push((key, value));
            }
        }
        _ => return Err(fail("dict() takes at most one argument")),
    }
    entries.extend(named.into_iter().map(|(name, value)| (Value::from(name), value)));
    Ok(Value::from_pairs(entries))
}

/// Start and stop as Python clamps them to a length.
pub(super) fn bounds(length: usize, start: Option<Value>, stop: Option<Value>) -> Result<(usize, usize)> {
    let clamp = |bound: Option<Value>, default: usize| -> Result<usize> {
        match bound {
            None => Ok(default),
            Some(bound) if bound.is_none() => Ok(default),
            Some(bound) => {
                let index = as_int(&bound).ok_or_else(|| fail("slice indices must be integers or None"))?;
                let index = if index < 0 { (index + length as i128).max(0) } else { index };
                Ok(usize::try_from(index).unwrap_or(usize::MAX))
            }
        }
    };
    Ok((clamp(start, 0)?, clamp(stop, length)?.min(length)))
}
