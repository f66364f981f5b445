//! The template engine as Jinja in Python: what templates can see of its values, operators, filters, tests and methods, as
//! Python has it. Operators are filters and functions here, whose names begin with an underscore; `template::translate`
//! puts them in.

mod args;
mod filter;
mod format;
mod json;
mod method;
mod number;
mod object;
mod operator;
mod strings;
mod test;
mod value;

use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, Error, Output, State, Value};

use self::args::Args;
pub(crate) use self::filter::FILTERS;
pub(crate) use self::method::is_known as is_method;
pub(crate) use self::strings::is_space;
pub(crate) use self::test::TESTS;

/// What a template may call that Jinja gives, with Python's meaning.
pub(crate) fn install(env: &mut Environment<'_>) {
    env.set_formatter(|out: &mut Output, _: &mut State, value: &Value| {
        out.write_str(&value::text(value)?).map_err(Error::from)
    });
    env.set_unknown_method_callback(method::call);
    for name in FILTERS {
        env.add_filter(name, move |value: Value, args: Rest<Value>, named: Kwargs| {
            filter::apply(name, value, Args::new(args, &named)?)
        });
    }
    for name in TESTS {
        env.add_test(name, move |value: Value, args: Rest<Value>, named: Kwargs| {
            test::check(name, &value, Args::new(args, &named)?)
        });
    }
    env.add_function("range", |args: Rest<Value>, named: Kwargs| {
        object::Range::new(Args::new(args, &named)?).map(Value::from_object)
    });
    env.add_function("cycler", |args: Rest<Value>, named: Kwargs| object::cycler(Args::new(args, &named)?));
    env.add_function("joiner", |args: Rest<Value>, named: Kwargs| object::joiner(Args::new(args, &named)?));
    env.add_function("dict", |args: Rest<Value>, named: Kwargs| object::dict(Args::new(args, &named)?));
    let namespace = Value::from_function(minijinja::functions::namespace);
    env.add_function("namespace", move |state: &mut State, args: Rest<Value>, named: Kwargs| {
        namespace.call(state, &[object::dict(Args::new(args, &named)?)?])
    });
    env.add_function("_add", |args: Rest<Value>| operator::sum(&args));
    env.add_filter("_multiply", |a: &Value, b: &Value| operator::multiply(a, b));
    env.add_filter("_modulo", |a: &Value, b: &Value| operator::modulo(a, b));
    env.add_function("_concat", |args: Rest<Value>| operator::concat(&args));
    env.add_filter("_compare", |first: &Value, others: Rest<Value>| operator::chain(first, &others));
    env.add_filter("_attribute", |of: &Value, name: &str| operator::attribute(of, name));
    env.add_filter("_item", |of: &Value, key: &Value| operator::item(of, key));
    env.add_filter("_slice", |of: &Value, bounds: Rest<Value>| operator::slice(of, &bounds));
    env.add_filter("_negate", |of: &Value| operator::negate(of));
    env.add_filter("_iterable", |of: &Value| operator::iterable(of));
}

#[cfg(test)]
mod tests;
