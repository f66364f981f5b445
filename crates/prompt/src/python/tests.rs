//! Methods, filters and operators against what Python 3 gives; random ones are compared in the tests of templates.

use minijinja::{Environment, Error, context};

use super::*;

fn eval(expression: &str) -> Result<String, Error> {
    let mut env = Environment::empty();
    install(&mut env);
    env.render_str(&format!("{{{{ {expression} }}}}"), context! { s => " a\x1c b \u{a0}", deep => 1 })
}

fn check(expression: &str, python: &str) {
    assert_eq!(eval(expression).unwrap(), python, "{expression}");
}

#[test]
fn splitting_is_pythons() {
    check("s.split()", "['a', 'b']");
    check("'a  b c '.split(none, 1)", "['a', 'b c ']");
    check("'  a  b c '.rsplit(maxsplit=1)", "['  a  b', 'c']");
    check("'a--b--c'.split('--', 1)", "['a', 'b--c']");
    check("'a--b--c'.rsplit('--', maxsplit=1)", "['a--b', 'c']");
    check("'a,b'.split(sep=',')[-1]", "b");
    check("''.split()", "[]");
    check("''.split(',')", "['']");
    check("' a b'.split(none, 0)", "['a b']");
    check("'a\\r\\nb\\n\\nc\\n'.splitlines()", "['a', 'b', '', 'c']");
    check(
        "_concat('a-b-c'.partition('-')[0], 'a-b-c'.rpartition('-')[0], 'a'.partition('-')[0], 'a'.rpartition('-')[2])",
        "aa-baa",
    );
    assert!(eval("'a'.split('')").is_err());
    assert!(eval("'a'.split(other=1)").is_err());
}

#[test]
fn stripping_is_pythons() {
    check("_concat('[', s.strip(), ']')", "[a\x1c b]");
    check("_concat('[', '\x1f x \x1e'|trim, ']')", "[x]");
    check("_concat('xxaxx'.strip('x'), 'xxa'.lstrip('x'), 'axx'.rstrip('x'), 'xyaxy'|trim('yx'))", "aaaa");
    check("_concat('<a>b'.removeprefix('<a>'), 'b</a>'.removesuffix('</a>'), 'b'.removeprefix('x'))", "bbb");
    check("'don\\'t they\\'re 3d x_y'.title()", "Don'T They'Re 3D X_Y");
}

#[test]
fn json_is_pythons() {
    check("{'b': [1, 2.0, none], 'a': '</é\\n'} | tojson", "{\"b\": [1, 2.0, null], \"a\": \"</é\\n\"}");
    check("{'b': 1, 'a': {}} | tojson(indent=2, sort_keys=true)", "{\n  \"a\": {},\n  \"b\": 1\n}");
    check("[1, [2]] | tojson(indent='-')", "[\n-1,\n-[\n--2\n-]\n]");
    check("[1, 2] | tojson(separators=[',', ':'])", "[1,2]");
    check("'é🙂' | tojson(ensure_ascii=true)", "\"\\u00e9\\ud83d\\ude42\"");
    check(
        "[1e16, 1e15, 0.0001, 0.00001, 1.5e-7, 1e100, 0.1] | tojson",
        "[1e+16, 1000000000000000.0, 0.0001, 1e-05, 1.5e-07, 1e+100, 0.1]",
    );
    for wrong in ["missing | tojson", "1 | tojson(indent=[])", "1 | tojson(separators=['a'])", "1 | tojson(other=1)"] {
        assert!(eval(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn text_of_values_is_pythons() {
    check(
        "[1e16, 1.0, none, true, 'it\\'s', (1,), {'a': 0.00001}]",
        "[1e+16, 1.0, None, True, \"it's\", (1,), {'a': 1e-05}]",
    );
    check("['\u{200b}', '\x00', 'é🙂']", "['\\u200b', '\\x00', 'é🙂']");
    check("range(3)", "range(0, 3)");
    check("{'a': 1}.items()", "dict_items([('a', 1)])");
    check("'%5.2f|%-4s|%r|%(k)s'[:13]|_modulo((1.5, 'a', 'b'))", " 1.50|a   |'b'");
    check("'{0:>4}|{k!r}'.format(1, k='a')", "   1|'a'");
    assert!(eval("[1]|map('string')").is_err(), "Python prints where it lies in memory");
}

#[test]
fn a_value_that_holds_itself_many_times_is_not_printed() {
    let twice =
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}";
    let mut env = Environment::empty();
    install(&mut env);
    assert!(env.render_str(twice, ()).is_err());
}
