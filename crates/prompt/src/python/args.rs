//! The arguments of a call, matched to a function's parameters as Python matches them.

use minijinja::Value;
use minijinja::value::{Kwargs, Rest};

use super::value::{Result, as_int, defined, fail, kind};

/// Arguments by place and by name.
#[derive(Clone, Default)]
pub(super) struct Args {
    list: Vec<Value>,
    named: Vec<(String, Value)>,
}

// === impl Args ===

impl Args {
    pub(super) fn new(list: Rest<Value>, kwargs: &Kwargs) -> Result<Self> {
        let named = kwargs.args().map(|name| Ok((name.to_owned(), kwargs.get::<Value>(name)?)));
        Ok(Self { named: named.collect::<Result<_>>()?, list: list.0 })
    }

    /// Arguments by the names that are texts.
    pub(super) fn named(pairs: Vec<(Value, Value)>) -> Self {
        let named = pairs.into_iter().filter_map(|(name, value)| Some((name.as_str()?.to_owned(), value)));
        Self { list: Vec::new(), named: named.collect() }
    }

    pub(super) fn split(self) -> (Vec<Value>, Vec<(String, Value)>) {
        (self.list, self.named)
    }

    /// The arguments of a function that takes any number of them, and none by name.
    pub(super) fn positional(self, function: &str) -> Result<Vec<Value>> {
        match self.named.first() {
            Some((name, _)) => Err(fail(format!("{function}() got an unexpected keyword argument '{name}'"))),
            None => Ok(self.list),
        }
    }

    /// Takes the first argument by place.
    pub(super) fn shift(&mut self) -> Option<Value> {
        if self.list.is_empty() { None } else { Some(self.list.remove(0)) }
    }

    /// The arguments of a function with these parameters, the first `required` of which have no default.
    pub(super) fn bind<const N: usize>(
        self,
        function: &str,
        parameters: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        if self.list.len() > N {
            return Err(fail(format!("{function}() takes at most {N} arguments, {} are given", self.list.len())));
        }
        let mut bound = [const { None }; N];
        for (place, value) in bound.iter_mut().zip(self.list) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let Some(at) = parameters.iter().position(|parameter| **parameter == name) else {
                return Err(fail(format!("{function}() got an unexpected keyword argument '{name}'")));
            };
            if bound[at].replace(value).is_some() {
                return Err(fail(format!("{function}() got multiple values for argument '{name}'")));
            }
        }
        match bound.iter().take(required).position(Option::is_none) {
            Some(at) => Err(fail(format!("{function}() missing required argument '{}'", parameters[at]))),
            None => Ok(bound),
        }
    }

    /// Nothing may be given.
    pub(super) fn none(self, function: &str) -> Result<()> {
        self.bind::<0>(function, [], 0).map(|_| ())
    }
}

/// A value that must be an integer.
pub(super) fn integer(value: &Value) -> Result<i128> {
    as_int(value).ok_or_else(|| wrong("an integer", value))
}

/// An argument that is an integer, or a default.
pub(super) fn int(value: Option<Value>, default: i128) -> Result<i128> {
    value.map_or(Ok(default), |value| integer(&value))
}

/// A value that must be text.
pub(super) fn text(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| wrong("a string", value))
}

/// An argument that is text, or none.
pub(super) fn optional_text(value: Option<Value>) -> Result<Option<String>> {
    value.filter(|value| !value.is_none()).map(|value| text(&value).map(str::to_owned)).transpose()
}

/// Whether an argument counts as true.
pub(super) fn flag(value: Option<Value>, default: bool) -> bool {
    value.map_or(default, |value| value.is_true())
}

pub(super) fn wrong(expected: &str, found: &Value) -> minijinja::Error {
    match defined(found) {
        Err(error) => error,
        Ok(()) => fail(format!("expected {expected}, got '{}'", kind(found).name())),
    }
}
