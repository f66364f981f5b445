#!/usr/bin/env python3
"""Make random templates with values, and what Python's Jinja, set up as transformers does it, renders.

    python3 jinja_cases.py SEED COUNT

Writes one JSON object a line: {"template", "variables", and "text", "raised" (raise_exception) or "failed"}.
Needs jinja2 only: the environment is that of transformers 5.23, utils/chat_template_utils.py.
"""
import datetime
import json
import random
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Raised(Exception):
    pass


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise Raised(str(message))

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class TemplateDict:
        def __call__(self, *args, **kwargs):
            return dict(*args, **kwargs)

    class TemplateNamespace(jinja2.utils.Namespace):
        pass

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.datetime(2024, 7, 26).strftime(format)
    env.globals["dict"] = TemplateDict()
    env.globals["namespace"] = TemplateNamespace
    return env


TEXTS = ["", " ", "hi", "Hello World", "  padded\t\n", "a,b,,c", "<b>\"x\" & 'y'</b>", "naïve café", "价格 元", "🙂 é\u0301",
         "\u200b\u00a0x\u2028", "\x1b[0m\x00", "line one\nline two\n\nline four", "CR\r\nLF", "It's", "don't say \"no\"", "ß ﬁ ŉ", "0042",
         "-7", "3.5", " 12 ", "1e3", "abc_def-ghi", "TITLE case mIx", "%d %s", "{} {0}", "a\\b", "ǆ ǅ", "İI", "x" * 40]
FLOATS = [0.0, -0.0, 1.0, 2.5, -3.75, 0.1, 1e16, 1e15, 123456789.125, 1e-5, 0.0001, 1.5e-7, 1e100, 1e22, 3.0, 2.675, 0.5, 1.5]
INTS = [0, 1, 2, 3, -1, -2, 7, 10, 42, 100, 255, 1000000, 2**40]


class Generator:
    def __init__(self, rng):
        self.rng = rng

    def pick(self, *choices):
        return self.rng.choice(choices)

    # values of the caller

    def value(self, depth=2):
        kinds = ["text", "text", "int", "float", "bool", "none"] + ["list", "dict"] * (depth > 0)
        kind = self.rng.choice(kinds)
        if kind == "text":
            return self.rng.choice(TEXTS)
        if kind == "int":
            return self.rng.choice(INTS)
        if kind == "float":
            return self.rng.choice(FLOATS)
        if kind == "bool":
            return self.rng.random() < 0.5
        if kind == "none":
            return None
        if kind == "list":
            return [self.value(depth - 1) for _ in range(self.rng.randint(0, 3))]
        keys = self.rng.sample(["name", "type", "items", "a", "b c", "é", "keys", "content", "x_1"], self.rng.randint(0, 3))
        return {key: self.value(depth - 1) for key in keys}

    def conversation(self):
        messages = []
        for i in range(self.rng.randint(1, 4)):
            message = {"role": ["user", "assistant"][i % 2], "content": self.rng.choice(TEXTS)}
            if self.rng.random() < 0.15:
                message["content"] = [{"type": "text", "text": self.rng.choice(TEXTS)} for _ in range(self.rng.randint(1, 2))]
            if self.rng.random() < 0.2:
                message["tool_calls"] = [{"type": "function", "function": {"name": "f", "arguments": self.value(2)}}]
            if self.rng.random() < 0.1:
                message["reasoning_content"] = self.rng.choice(TEXTS)
            messages.append(message)
        if self.rng.random() < 0.3:
            messages.insert(0, {"role": "system", "content": self.rng.choice(TEXTS)})
        return messages

    def variables(self):
        return {"messages": self.conversation(), "tools": None, "documents": None, "add_generation_prompt": False,
                "bos_token": "<s>", "eos_token": "</s>", "x": self.value(), "y": self.value(), "s": self.rng.choice(TEXTS),
                "n": self.rng.choice(INTS), "f": self.rng.choice(FLOATS), "d": {"b": 1, "a": self.value(1), "items": [1, 2]},
                "l": [self.value(1) for _ in range(self.rng.randint(0, 4))]}

    # expressions

    def literal(self):
        text = self.rng.choice(["a", "b", ", ", "x y", "\\n", "\\t", "\\x41", "\\u00e9", "\\d", "\\\\", "it\\'s", "\\101", "-", "", "€",
                                "\\a", "%", "{}"])
        return self.pick(repr(self.rng.choice(INTS)), repr(self.rng.choice(FLOATS[:6])), f"'{text}'", f"'{text}'",
                         '"' + text.replace("\\'", "'") + '"', "true", "none", "1e16", "1_000", "0x1f", "'a' 'b'")

    def name(self):
        return self.rng.choice(["x", "y", "s", "n", "f", "d", "l", "messages", "missing", "messages[0]", "messages[-1]", "tools",
                                "messages[0].content", "messages[0]['role']", "d.a", "d['b']", "bos_token", "messages[0].tool_calls"])

    def expr(self, depth=2):
        if depth <= 0:
            return self.pick(self.literal(), self.name(), self.name())
        make = self.rng.choice([
            self.name, self.literal, lambda: self.filtered(depth), lambda: self.filtered(depth), lambda: self.operator(depth),
            lambda: self.operator(depth), lambda: self.method(depth), lambda: self.method(depth), lambda: self.test(depth),
            lambda: self.index(depth), lambda: self.literal_collection(depth), lambda: self.condition(depth),
            lambda: self.formatted(depth), lambda: self.function(depth)])
        return make()

    def literal_collection(self, depth):
        items = [self.expr(depth - 1) for _ in range(self.rng.randint(0, 3))]
        kind = self.pick("list", "tuple", "dict")
        if kind == "list":
            return "[" + ", ".join(items) + "]"
        if kind == "tuple":
            return "(" + ", ".join(items) + ("," if len(items) == 1 else "") + ")"
        return "{" + ", ".join(f"{self.pick(repr('k'), repr('items'), '1', 'n', 'true')}: {item}" for item in items) + "}"

    def condition(self, depth):
        last = f" else {self.expr(depth - 1)}" if self.rng.random() < 0.8 else ""
        return f"({self.expr(depth - 1)} if {self.expr(depth - 1)}{last})"

    # expressions of a known type, which seldom fail

    def text(self):
        return self.pick("s", "messages[0].content|string", "messages[-1].role", "(s ~ n)", "'a b'", "bos_token", "(x|string)", "s[1:4]",
                         "'-' * 3", "(f|string)", "(y|tojson)", "s|upper", "('it\\'s ' + s)", "messages[0]['role']")

    def number(self):
        return self.pick("n", "2", "3.5", "l|length", "f", "-1", "(n + 1)", "7", "s|length", "true")

    def collection(self):
        return self.pick("messages", "l", "[1, 2, 3]", "messages[1:]", "s.split()", "range(4)|list", "(1, 'b')", "['b', 'a']", "d.items()|list")

    def typed(self):
        return self.pick(
            f"({self.text()} ~ {self.text()})", f"({self.text()} + {self.text()})", f"({self.number()} + {self.number()})",
            f"({self.number()} * 2)", f"({self.number()} - {self.number()})", f"({self.number()} / 3)", f"({self.number()} // 2)",
            f"({self.number()} % 3)", f"({self.number()} < {self.number()})", f"({self.text()} < {self.text()})",
            f"({self.text()} in {self.text()})", f"({self.text()} in {self.collection()})", f"({self.text()} == {self.text()})",
            f"({self.collection()} + [n])" if self.rng.random() < 0.1 else f"{self.collection()}|length", f"{self.collection()}[0]",
            f"{self.collection()}[-1]", f"{self.collection()}|first", f"{self.collection()}|last", f"{self.collection()}|join('|')",
            f"{self.collection()}|list", f"{self.collection()}|reverse|list", f"{self.collection()}|map('string')|join(',')",
            f"{self.collection()}|tojson", f"{self.collection()}[::2]", f"{self.collection()}[:-1]", f"({self.number()} is odd)",
            f"({self.collection()} is sequence)", f"({self.text()} is string)", f"({self.number()})|round(1)", f"({self.number()})|string",
            f"({self.text()})[0]", f"({self.text()})[1:]", f"({self.text()})|trim", f"({self.text()})|replace('a', '<b>')",
            f"({self.text()} if {self.number()} else {self.text()})", f"({self.text()} or {self.text()})", f"('%s|%5s' % ({self.text()}, 1))",
            f"'{{:>6}}|{{}}'.format({self.text()}, {self.number()})", f"({self.text()})|e", f"d|dictsort", f"d|tojson(indent=2)", "d|items|list",
            f"({self.number()} <= {self.number()} < {self.number()})", f"(not {self.text()})", "(loop is defined)", "(d.items is callable)")

    def operator(self, depth):
        if self.rng.random() < 0.7:
            return self.typed()
        a, b = self.expr(depth - 1), self.expr(depth - 1)
        op = self.rng.choice(["+", "-", "*", "/", "//", "%", "~", "~", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and",
                              "or"])
        if op == "*":
            b = self.pick("2", "3", "n", b)
            if b == "n" or "2**40" in b:
                b = "2"
        shape = self.rng.random()
        if shape < 0.1:
            return f"-{a}"
        if shape < 0.2:
            return f"(not {a})"
        if shape < 0.3:
            return f"({a} < {self.name()} < {self.expr(depth - 1)})"
        if shape < 0.4:
            return f"({a} ~ {b} ~ {self.expr(depth - 1)})"
        return f"({a} {op} {b})"

    def index(self, depth):
        of = self.pick(self.name(), self.name(), f"({self.expr(depth - 1)}|string)")
        return self.pick(f"{of}[0]", f"{of}[-1]", f"{of}['a']", f"{of}.name", f"({of}.items is callable)", f"{of}[1:]", f"{of}[:2]", f"{of}[::-1]",
                         f"{of}[-2:]", f"{of}[n]", f"{of}.0", f"{of}[1:3]", f"{of}[{self.expr(depth - 1)}]")

    def test(self, depth):
        tests = ["defined", "undefined", "none", "string", "number", "integer", "float", "mapping", "sequence", "iterable", "boolean",
                 "true", "false", "odd", "even", "divisibleby(3)", "divisibleby 2", "eq(1)", "equalto 'a'", "in [1, 'a', none]", "lower",
                 "upper", "callable", "escaped", "gt 1", "ne none", "sameas none", "filter", "in 'abc'"]
        return f"({self.expr(depth - 1)} is {self.pick('', 'not ')}{self.rng.choice(tests)})"

    def filtered(self, depth):
        filters = ["abs", "capitalize", "center(9)", "center", "count", "default('d')", "default('d', true)", "d('z')", "dictsort",
                   "dictsort(by='value')", "dictsort(reverse=true)", "e", "escape", "first", "float", "float(1.5)", "forceescape", "indent",
                   "indent(2)", "indent(2, true)", "indent('>', blank=true)", "int", "int(5)", "int(default=3, base=16)", "items|list",
                   "join", "join(', ')", "join('-', attribute='role')", "last", "length", "list", "lower", "map('upper')|list",
                   "map(attribute='role')|join(',')", "map(attribute='zz', default='q')|list", "map('string')|join('|')",
                   "map('length')|list", "max", "min", "reject('none')|list", "rejectattr('role', 'eq', 'user')|list|length",
                   "replace('a', 'X')", "replace('l', '', 1)", "reverse", "reverse|list", "round", "round(1)", "round(2, 'floor')",
                   "round(0, 'ceil')", "round|int", "safe", "select|list", "select('string')|list", "select('defined')|list|length",
                   "selectattr('role', 'equalto', 'user')|list", "selectattr('content')|list|length", "slice(2)|list", "sort",
                   "sort(reverse=true)", "sort(attribute='role')", "string", "sum", "sum(start=3)", "title", "tojson",
                   "tojson(indent=2)", "tojson(ensure_ascii=true)", "tojson(sort_keys=true)", "tojson(separators=(',', ':'))", "trim",
                   "trim('ab ')", "truncate(9)", "truncate(9, true)", "truncate(7, false, '..', 0)", "unique|list", "upper", "urlencode",
                   "wordcount", "batch(2)|list", "batch(2, 'z')|list", "groupby('role')", "format(1, 'a')", "attr('role')",
                   "tojson|length", "list|length", "string|length", "select('gt', 1)|list", "map('trim')|join", "list|last|string"]
        if self.rng.random() < 0.5:
            return self.typed()
        return f"{self.pick(self.name(), '(' + self.expr(depth - 1) + ')')}|{self.rng.choice(filters)}"

    def method(self, depth):
        text = ["upper()", "lower()", "strip()", "lstrip()", "rstrip('\\n')", "strip('ab ')", "split()", "split(',')", "split(none, 1)",
                "rsplit(' ', 1)", "split('l', maxsplit=1)", "splitlines()", "splitlines(true)", "replace('l', 'L')", "replace('a', 'b', 1)",
                "startswith('h')", "startswith(('a', 'h'))", "endswith('o')", "find('l')", "rfind('l')", "index('l')", "count('l')",
                "count('')", "title()", "capitalize()", "swapcase()", "center(11)", "center(12, '*')", "ljust(8, '.')", "rjust(8)",
                "zfill(6)", "zfill(3)", "isdigit()", "isalpha()", "isalnum()", "isspace()", "isupper()", "islower()", "istitle()",
                "isdecimal()", "isnumeric()", "isidentifier()", "isprintable()", "isascii()", "join(['a', 'b'])", "join('xyz')",
                "partition(' ')", "rpartition('l')", "removeprefix('h')", "removesuffix('o')", "expandtabs(4)", "format(1, 'b')",
                "format(n)", "casefold()", "find('o', 2)", "format_map({'a': 1})"]
        of = self.pick("s", "s", "messages[0].content", "(s ~ x)", "'hello %s'", "'a{}b'", f"({self.text()})", f"({self.text()})",
                       f"({self.expr(depth - 1)})" if self.rng.random() < 0.3 else "s")
        other = ["d.items()|list", "d.keys()|list", "d.values()|list", "d.get('a')", "d.get('zz', 'q')", "d.items()", "d.keys()", "d.copy()",
                 "l.count(1)", "l.index(1)", "d.pop('a')", "l.append(1)", "x.items()", "x.get('name')", "x.keys()|list", "d.items()|first",
                 "l.copy()", "f.is_integer()"]
        return self.rng.choice(other) if self.rng.random() < 0.3 else f"{of}.{self.rng.choice(text)}"

    def formatted(self, depth):
        value = self.pick("n", "f", "x", "s", self.expr(depth - 1))
        spec = self.rng.choice(["%s", "%r", "%d", "%5d", "%-5d|", "%05d", "%+d", "%x", "%X", "%#x", "%o", "%i", "%f", "%.2f", "%8.3f", "%e",
                                "%.1e", "%g", "%.3g", "%10s|", "%-10s|", "%.2s", "%%", "%c", "%a", "%5.1f%%", "% d", "%s %s"])
        braces = self.rng.choice(["{}", "{:>8}", "{:<8}|", "{:^9}", "{:*^9}", "{:d}", "{:05d}", "{:,}", "{:_}", "{:.2f}", "{:10.3f}", "{:e}",
                                  "{:g}", "{:.3}", "{:x}", "{:#x}", "{:b}", "{:o}", "{:%}", "{:.1%}", "{:+}", "{: }", "{!r}", "{!s:>6}",
                                  "{0}{0}", "{a}", "{{}}", "{:,.2f}", "{:08.2f}", "{:n}", "{:{}}"])
        return self.pick(f"('{spec}' % {value})", f"('{spec}' % ({value},))", f"('{spec}' % ({value}, 1))", f"('%(k)s' % {{'k': {value}}})",
                         f"'{spec}'|format({value})", f"'{braces}'.format({value})", f"'{braces}'.format({value}, 5)",
                         f"'{{a}} {{b:>4}}'.format(a={value}, b=1)")

    def function(self, depth):
        return self.pick("range(3)", "range(1, 4)|list", "range(5, 0, -2)|list", "range(n)|length", "namespace(a=1)", "namespace(a=1).a",
                         "(namespace() is mapping)", "(namespace() is iterable)", "(range(3) is sequence)", "dict(a=1, b=x)", "dict(d)",
                         "strftime_now('%d %b %Y')", "cycler('a', 'b').next()", "joiner('|')()", "range(3)[1]", "range(3)", "range(2, 9, 3)",
                         "namespace(d, z=2).z", "dict([('a', 1)])", "cycler(1, 2).current", f"dict(a={self.expr(depth - 1)}).a")

    # statements

    def body(self, depth):
        return "".join(self.statement(depth) for _ in range(self.rng.randint(1, 3)))

    def data(self):
        return self.pick("a", " ", "\n", "  \n", "<|im_start|>", "text\n  ", "\r\n", "\r", "{", "}", "%", "#", "é\n", "\t", "\n\n")

    def tag(self, inside):
        begin = self.pick("{%", "{%", "{%", "{%-", "{%+")
        return f"{begin} {inside} {self.pick('%}', '%}', '-%}', '+%}')}"

    def print(self, expr):
        return f"{self.pick('{{', '{{', '{{-')} {expr} {self.pick('}}', '}}', '-}}')}"

    def statement(self, depth):
        if depth <= 0:
            return self.pick(self.data(), self.print(self.expr(1)))
        make = self.rng.choice([
            self.data, lambda: self.print(self.expr(self.rng.randint(1, 3))), lambda: self.print(self.expr(self.rng.randint(1, 3))),
            lambda: self.if_(depth), lambda: self.for_(depth), lambda: self.set_(depth), lambda: self.macro(depth),
            lambda: self.rare(depth), lambda: f"{{#{self.pick('', '-')} {self.data()} {self.pick('', '-')}#}}"])
        return make()

    def if_(self, depth):
        out = self.tag(f"if {self.expr(2)}") + self.body(depth - 1)
        if self.rng.random() < 0.3:
            out += self.tag(f"elif {self.expr(1)}") + self.body(depth - 1)
        if self.rng.random() < 0.5:
            out += self.tag("else") + self.body(depth - 1)
        return out + self.tag("endif")

    def for_(self, depth):
        head = self.pick("for m in messages", "for m in messages", "for i in range(3)", "for k, v in d.items()", "for k, v in d|dictsort",
                         "for i in l", "for c in s[:5]", "for m in messages if m.role == 'user'", "for i in x", "for i in [1, 2, 3] if i > 1",
                         "for m in messages[1:]", "for i, j in [(1, 2), (3, 4)]", "for k in d", "for m in messages|reverse",
                         f"for i in {self.expr(1)}")
        inner = self.body(depth - 1) + self.print(self.pick(
            "loop.index", "loop.index0", "loop.first", "loop.last", "loop.length", "loop.revindex", "m.role", "m.content", "i", "k",
            "loop.previtem.role", "loop.nextitem is defined", "loop.cycle('a', 'b')", "loop.depth", "loop.changed(i)", "m['content']|trim",
            "loop.nextitem", "v", "loop.revindex0", "ns.x"))
        if self.rng.random() < 0.15:
            inner += self.tag(f"if {self.expr(1)}") + self.tag(self.pick("break", "continue")) + self.tag("endif")
        if self.rng.random() < 0.2:
            inner += self.tag("set ns.x = ns.x + 1")
        other = self.tag("else") + self.body(depth - 1) if self.rng.random() < 0.2 else ""
        return self.tag(head) + inner + other + self.tag("endfor")

    def set_(self, depth):
        return self.pick(self.tag(f"set v = {self.expr(2)}") + self.print("v"), self.tag("set ns.x = 5") + self.print("ns.x"),
                         self.tag(f"set ns.x = {self.expr(1)}"), self.tag("set a, b = 1, 'z'") + self.print("b ~ a"),
                         self.tag("set v") + self.body(depth - 1) + self.tag("endset") + self.print("v|length"),
                         self.tag("set v | upper") + self.body(depth - 1) + self.tag("endset") + self.print("v"),
                         self.tag(f"set x = {self.expr(1)}"), self.tag("set s = s ~ 'x'"), self.tag("set q2 = s") + self.print("q2"))

    def macro(self, depth):
        name = self.pick("fn", "gn")
        head = self.pick(f"macro {name}(a)", f"macro {name}(a, b='z')", f"macro {name}(a=n, b=a)", f"macro {name}()")
        call = self.pick(f"{name}(1)", f"{name}(s, b=2)", f"{name}()", f"{name}(b=3)", f"{name}(1, 2)", f"{name}(s)|upper", f"{name}(*l)",
                         f"{name}(**d)", f"{name}(1, 2, 3)", f"{name}(zz=1)")
        inner = self.body(depth - 1) + self.print(self.pick("a", "b", "a ~ b", "a is defined", "s", "caller is defined", "v"))
        return self.tag(head) + inner + self.tag("endmacro") + self.print(call)

    def rare(self, depth):
        return self.pick(
            self.tag("with q = 1, r = s") + self.body(depth - 1) + self.print("q ~ r") + self.tag("endwith"),
            self.tag("generation") + self.body(depth - 1) + self.tag("endgeneration"),
            self.tag("filter upper") + self.body(depth - 1) + self.tag("endfilter"),
            self.tag("filter replace('a', 'b')|trim") + self.body(depth - 1) + self.tag("endfilter"),
            "{% raw %}" + self.pick("{{ x }}", " {% if %} ", "\n{# #}\n") + self.pick("{% endraw %}", "{%- endraw -%}"),
            "{% macro w(a) %}[{{ caller(1) }}{{ a }}]{% endmacro %}{% call(z) w(s) %}" + self.body(depth - 1) + "{{ z }}{% endcall %}",
            "{% for n in [[1, [2]], [3]] recursive %}{{ n if n is number else loop(n) }}{% endfor %}",
            self.tag(f"if {self.expr(1)}") + "{{ raise_exception('no: ' ~ s) }}" + self.tag("endif"),
            "{%- for m in messages %}{% if loop.first and m.role == 'system' %}{% set sys = m.content %}{% endif %}{{ sys }}{% endfor %}",
            "{% set z = [] %}{% for i in range(3) %}{% set z = z + [i] %}{% endfor %}{{ z }}",
            "{% for i in range(2) %}{% for j in range(2) %}{{ loop.index }}{{ i }}{{ j }}{% endfor %}{% endfor %}")

    def template(self):
        return self.tag("set ns = namespace(x=1)") + self.body(2) + self.pick("", "\n", "\r\n", "\n\n")


def main():
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    env = environment()
    for case in range(count):
        generator = Generator(random.Random(f"{seed}-{case}"))
        template, variables = generator.template(), generator.variables()
        line = {"template": template, "variables": variables}
        try:
            line["text"] = env.from_string(template).render(**variables)
        except Raised as raised:
            line["raised"] = str(raised)
        except Exception as error:
            line["failed"] = f"{type(error).__name__}: {error}"
        if " at 0x" in line.get("text", "") or "<built-in" in line.get("text", ""):
            continue
        try:
            text = json.dumps(line)
            text.encode("utf-8")
        except (ValueError, UnicodeEncodeError):
            continue
        print(text)


if __name__ == "__main__":
    main()
