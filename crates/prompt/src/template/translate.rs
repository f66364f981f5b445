//! A template of Jinja as one of minijinja. minijinja parses it; where its operators, loops or scopes mean something else
//! than Jinja's, the template is written again with the filters of [`crate::python`] in their place. What cannot be written
//! so that it means the same is refused by its name.

use std::collections::HashSet;

use minijinja::Value;
use minijinja::machinery::Span;
use minijinja::machinery::ast::{
    BinOp, BinOpKind, Call, CallArg, Compare, CompareOpKind, Const, Expr, ForLoop, GetAttr, GetItem, IfCond, Macro,
    Set, SetBlock, Slice, Spanned, Stmt, UnaryOpKind, WithBlock,
};

use crate::python;

/// Filters and tests of Jinja that are not implemented.
const MISSING: [&str; 7] = ["filesizeformat", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr"];

type Result<T = ()> = std::result::Result<T, String>;

/// How tightly an expression binds; a looser one needs parentheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    If,
    Or,
    And,
    Not,
    Compare,
    Filter,
    Primary,
}

/// Writes a template.
#[derive(Default)]
struct Writer {
    out: String,
    /// The line that is being written, so that errors name the line of the original.
    line: u16,
    /// The loops around, up to the macro around.
    loops: Vec<Loop>,
    macros: usize,
    scopes: usize,
    branches: usize,
    /// Names of the caller's variables.
    given: Vec<String>,
    /// Names that were read or set outside of all scopes, and names that were read inside of some.
    outside: HashSet<String>,
    inside: HashSet<String>,
    /// Names that the macro around reads.
    macro_reads: HashSet<String>,
}

/// What is known of a loop while its body is written.
#[derive(Default)]
struct Loop {
    /// What is open between here and the loop.
    open: Option<&'static str>,
    sets: HashSet<String>,
    /// Names that macros in it read.
    macro_reads: HashSet<String>,
}

/// The text of a parsed template whose caller gives variables of these names.
///
/// # Errors
/// Names what is not taken, and its line.
pub(super) fn translated(template: &Stmt<'_>, given: &[String]) -> Result<String> {
    let mut writer = Writer { line: 1, given: given.to_vec(), ..Writer::default() };
    match template {
        Stmt::Template(template) => writer.statements(&template.children)?,
        other => writer.statement(other)?,
    }
    Ok(writer.out)
}

fn refused<T>(span: Span, what: &str) -> Result<T> {
    Err(format!("line {}: {what} is not implemented as Jinja has it", span.start_line))
}

fn level(expr: &Expr<'_>) -> Level {
    match expr {
        Expr::IfExpr(_) => Level::If,
        Expr::BinOp(op) => match op.op {
            BinOpKind::ScOr => Level::Or,
            BinOpKind::ScAnd => Level::And,
            BinOpKind::Eq | BinOpKind::Ne => Level::Compare,
            BinOpKind::Add | BinOpKind::Concat => Level::Primary,
            _ => Level::Filter,
        },
        Expr::UnaryOp(op) if matches!(op.op, UnaryOpKind::Not) => Level::Not,
        Expr::Const(value) if value.value.is_number() => Level::Filter,
        Expr::UnaryOp(_) | Expr::Compare(_) | Expr::Filter(_) | Expr::Test(_) | Expr::Slice(_) => Level::Filter,
        Expr::GetAttr(attr) if python::is_method(attr.name) => Level::Filter,
        Expr::GetItem(item) if !is_plain_key(item) => Level::Filter,
        _ => Level::Primary,
    }
}

/// Whether minijinja finds under a key what Jinja finds.
fn is_plain_key(item: &GetItem<'_>) -> bool {
    match &item.subscript_expr {
        Expr::Const(key) => match key.value.as_str() {
            Some(name) => !python::is_method(name),
            None => key.value.is_integer(),
        },
        _ => false,
    }
}

// === impl Writer ===

impl Writer {
    fn push(&mut self, text: &str) {
        self.line = self.line.saturating_add(u16::try_from(text.matches('\n').count()).unwrap_or(u16::MAX));
        self.out.push_str(text);
    }

    /// Begins a tag in the line that it had.
    fn open(&mut self, tag: &str, span: Span) {
        self.push(tag);
        while self.line < span.start_line {
            self.push("\n");
        }
    }

    fn statements(&mut self, statements: &[Stmt<'_>]) -> Result {
        statements.iter().try_for_each(|statement| self.statement(statement))
    }

    /// Statements in a scope of their own, as Jinja gives it to them; a loop cannot be left from inside.
    fn scope(&mut self, name: &'static str, statements: &[Stmt<'_>]) -> Result {
        self.push("{% with %}");
        let before = self.loops.last_mut().map(|around| around.open.replace(name));
        self.scopes += 1;
        self.statements(statements)?;
        self.scopes -= 1;
        if let (Some(around), Some(before)) = (self.loops.last_mut(), before) {
            around.open = before;
        }
        self.push("{% endwith %}");
        Ok(())
    }

    fn statement(&mut self, statement: &Stmt<'_>) -> Result {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(raw) => {
                if raw.raw.contains('{') {
                    self.open("{{ ", raw.span());
                    self.text(raw.raw);
                    self.push(" }}");
                } else {
                    self.push(raw.raw);
                }
                Ok(())
            }
            Stmt::EmitExpr(emit) => {
                self.open("{{ ", emit.span());
                self.expr(&emit.expr, Level::If)?;
                self.push(" }}");
                Ok(())
            }
            Stmt::ForLoop(each) => self.for_loop(each),
            Stmt::IfCond(cond) => {
                self.open("{% if ", cond.span());
                self.condition(cond)
            }
            Stmt::WithBlock(with) => self.with_block(with),
            Stmt::Set(set) => self.set(set),
            Stmt::SetBlock(set) => self.set_block(set),
            Stmt::FilterBlock(filter) => {
                self.open("{% filter ", filter.span());
                self.filters(&filter.filter)?;
                self.push(" %}");
                self.scope("filter", &filter.body)?;
                self.push("{% endfilter %}");
                Ok(())
            }
            Stmt::Macro(made) => {
                self.open("{% macro ", made.span());
                self.push(made.name);
                self.macro_body(made)?;
                self.push("{% endmacro %}");
                Ok(())
            }
            Stmt::CallBlock(block) => {
                self.open("{% call", block.macro_decl.span());
                self.signature(&block.macro_decl)?;
                self.push(" ");
                self.call(&block.call)?;
                self.macro_statements(&block.macro_decl)?;
                self.push("{% endcall %}");
                Ok(())
            }
            Stmt::Continue(at) => self.leave(at.span(), "continue"),
            Stmt::Break(at) => self.leave(at.span(), "break"),
            Stmt::AutoEscape(at) => refused(at.span(), "autoescape"),
            Stmt::Do(at) => Err(format!("line {}: transformers has no tag do", at.span().start_line)),
        }
    }

    fn with_block(&mut self, with: &Spanned<WithBlock<'_>>) -> Result {
        self.open("{% with ", with.span());
        for (at, (target, value)) in with.assignments.iter().enumerate() {
            self.push(if at > 0 { ", " } else { "" });
            self.target(target)?;
            self.push(" = ");
            self.expr(value, Level::If)?;
        }
        self.push(" %}");
        self.scope("with or generation", &with.body)?;
        self.push("{% endwith %}");
        Ok(())
    }

    fn set(&mut self, set: &Spanned<Set<'_>>) -> Result {
        // a macro sees of what is around it only what it reads
        if let (Expr::GetAttr(attr), true) = (&set.target, self.macros > 0) {
            self.push("{% if ");
            self.target(&attr.expr)?;
            self.push(" %}{% endif %}");
        }
        self.open("{% set ", set.span());
        self.target(&set.target)?;
        self.push(" = ");
        self.expr(&set.expr, Level::If)?;
        self.push(" %}");
        self.is_set(&set.target)
    }

    fn set_block(&mut self, set: &Spanned<SetBlock<'_>>) -> Result {
        self.open("{% set ", set.span());
        self.target(&set.target)?;
        if let Some(filter) = &set.filter {
            self.push(" | ");
            self.filters(filter)?;
        }
        self.push(" %}");
        self.scope("set", &set.body)?;
        self.push("{% endset %}");
        self.is_set(&set.target)
    }

    /// Notes a name that is set. One that a loop read before is nothing there in Jinja, though the caller gave it.
    fn is_set(&mut self, target: &Expr<'_>) -> Result {
        match target {
            Expr::List(list) => list.items.iter().try_for_each(|item| self.is_set(item)),
            Expr::Var(var) => {
                if let Some(around) = self.loops.last_mut() {
                    around.sets.insert(var.id.to_owned());
                }
                let here = self.macros + self.scopes + self.branches == 0;
                let late = self.inside.contains(var.id) && !self.outside.contains(var.id);
                if here && late && self.given.iter().any(|name| name == var.id) {
                    return refused(var.span(), &format!("{}, set behind a loop or macro that reads it,", var.id));
                }
                if self.macros + self.scopes == 0 {
                    self.outside.insert(var.id.to_owned());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn for_loop(&mut self, each: &Spanned<ForLoop<'_>>) -> Result {
        if !each.else_body.is_empty() && leaves(&each.body) {
            return refused(each.span(), "a loop with else that has break or continue");
        }
        self.open("{% for ", each.span());
        self.target(&each.target)?;
        self.push(" in ");
        self.iterable(&each.iter)?;
        if let Some(filter) = &each.filter_expr {
            self.push(" if ");
            self.expr(filter, Level::Or)?;
        }
        self.push(if each.recursive { " recursive %}" } else { " %}" });
        self.loops.push(Loop::default());
        self.scopes += 1;
        self.statements(&each.body)?;
        self.scopes -= 1;
        let known = self.loops.pop().unwrap_or_default();
        if let Some(name) = known.sets.intersection(&known.macro_reads).next() {
            return refused(each.span(), &format!("a macro in a loop that reads {name}, which the loop sets,"));
        }
        if !each.else_body.is_empty() {
            self.push("{% else %}");
            self.scope("else", &each.else_body)?;
        }
        self.push("{% endfor %}");
        Ok(())
    }

    fn iterable(&mut self, iter: &Expr<'_>) -> Result {
        self.expr(iter, Level::Filter)?;
        self.push("|_iterable");
        Ok(())
    }

    /// Behind the tag's name.
    fn condition(&mut self, cond: &IfCond<'_>) -> Result {
        self.expr(&cond.expr, Level::Or)?;
        self.push(" %}");
        self.branches += 1;
        self.statements(&cond.true_body)?;
        self.branches -= 1;
        match cond.false_body.as_slice() {
            [] => {}
            [Stmt::IfCond(other)] => {
                self.open("{% elif ", other.span());
                return self.condition(other);
            }
            body => {
                self.push("{% else %}");
                self.branches += 1;
                self.statements(body)?;
                self.branches -= 1;
            }
        }
        self.push("{% endif %}");
        Ok(())
    }

    fn leave(&mut self, span: Span, tag: &str) -> Result {
        match self.loops.last() {
            Some(Loop { open: None, .. }) => {
                self.push(&format!("{{% {tag} %}}"));
                Ok(())
            }
            Some(Loop { open: Some(inside), .. }) => refused(span, &format!("{tag} inside {inside}")),
            None => Err(format!("line {}: {tag} outside of a loop", span.start_line)),
        }
    }

    fn macro_body(&mut self, made: &Macro<'_>) -> Result {
        self.signature(made)?;
        self.macro_statements(made)
    }

    /// The arguments; defaults are set inside, where they see the arguments before them.
    fn signature(&mut self, made: &Macro<'_>) -> Result {
        self.push("(");
        for (at, argument) in made.args.iter().enumerate() {
            self.push(if at > 0 { ", " } else { "" });
            self.target(argument)?;
        }
        self.push(")");
        Ok(())
    }

    fn macro_statements(&mut self, made: &Macro<'_>) -> Result {
        self.push(" %}");
        let loops = std::mem::take(&mut self.loops);
        let reads = std::mem::take(&mut self.macro_reads);
        self.macros += 1;
        let first = made.args.len() - made.defaults.len();
        for (argument, default) in made.args[first..].iter().zip(&made.defaults) {
            self.push("{% if ");
            self.target(argument)?;
            self.push(" is undefined() %}{% set ");
            self.target(argument)?;
            self.push(" = ");
            self.expr(default, Level::If)?;
            self.push(" %}{% endif %}");
        }
        self.statements(&made.body)?;
        self.macros -= 1;
        self.loops = loops;
        if let Some(around) = self.loops.last_mut() {
            around.macro_reads.extend(self.macro_reads.iter().cloned());
        }
        self.macro_reads.extend(reads);
        Ok(())
    }

    fn target(&mut self, target: &Expr<'_>) -> Result {
        match target {
            Expr::Var(var) => self.push(var.id),
            Expr::GetAttr(attr) => {
                self.target(&attr.expr)?;
                self.push(".");
                self.push(attr.name);
            }
            Expr::List(list) => {
                for (at, item) in list.items.iter().enumerate() {
                    self.push(if at > 0 { ", " } else { "" });
                    let nested = matches!(item, Expr::List(_));
                    self.push(if nested { "(" } else { "" });
                    self.target(item)?;
                    self.push(if nested { ")" } else { "" });
                }
                self.push(if list.items.len() == 1 { "," } else { "" });
            }
            other => return refused(other.span(), "such a target"),
        }
        Ok(())
    }

    // expressions

    fn expr(&mut self, expr: &Expr<'_>, least: Level) -> Result {
        if level(expr) < least {
            self.push("(");
            self.bare(expr)?;
            self.push(")");
            return Ok(());
        }
        self.bare(expr)
    }

    fn bare(&mut self, expr: &Expr<'_>) -> Result {
        match expr {
            Expr::Var(var) if self.macros > 0 && matches!(var.id, "varargs" | "kwargs") => refused(var.span(), var.id),
            Expr::Var(var) => {
                self.push(var.id);
                let scoped = self.macros + self.scopes > 0;
                let reads = if scoped { &mut self.inside } else { &mut self.outside };
                reads.insert(var.id.to_owned());
                if self.macros > 0 {
                    self.macro_reads.insert(var.id.to_owned());
                }
                Ok(())
            }
            Expr::Const(value) => self.constant(value),
            Expr::List(list) => self.sequence("[", &list.items, "]"),
            Expr::Tuple(tuple) => self.sequence("(", &tuple.items, if tuple.items.len() == 1 { ",)" } else { ")" }),
            Expr::Map(map) => {
                self.push("{");
                for (at, (key, value)) in map.keys.iter().zip(&map.values).enumerate() {
                    self.push(if at > 0 { ", " } else { "" });
                    self.expr(key, Level::If)?;
                    self.push(": ");
                    self.expr(value, Level::If)?;
                }
                self.push("}");
                Ok(())
            }
            Expr::IfExpr(cond) => {
                self.expr(&cond.true_expr, Level::Or)?;
                self.push(" if ");
                self.expr(&cond.test_expr, Level::Or)?;
                if let Some(other) = &cond.false_expr {
                    self.push(" else ");
                    self.expr(other, Level::If)?;
                }
                Ok(())
            }
            Expr::UnaryOp(op) => match op.op {
                UnaryOpKind::Not => {
                    self.push("not ");
                    self.expr(&op.expr, Level::Not)
                }
                UnaryOpKind::Neg => {
                    self.expr(&op.expr, Level::Filter)?;
                    self.push("|_negate");
                    Ok(())
                }
            },
            Expr::BinOp(op) => self.operator(op),
            Expr::Compare(compare) => self.comparison(compare),
            Expr::GetAttr(attr) => self.attribute(attr),
            Expr::GetItem(item) if is_plain_key(item) => {
                self.expr(&item.expr, Level::Primary)?;
                self.sequence("[", std::slice::from_ref(&item.subscript_expr), "]")
            }
            Expr::GetItem(item) => self.with_filter("_item", &item.expr, &item.subscript_expr),
            Expr::Slice(slice) => self.slice(slice),
            Expr::Call(call) => self.call(call),
            Expr::Filter(_) => self.filters(expr),
            Expr::Test(test) => {
                self.known(test.name, test.span(), &python::TESTS)?;
                self.expr(&test.expr, Level::Filter)?;
                self.push(" is ");
                self.push(test.name);
                self.arguments(&test.args)
            }
        }
    }

    fn attribute(&mut self, attr: &Spanned<GetAttr<'_>>) -> Result {
        if attr.name.starts_with("__") {
            return refused(attr.span(), attr.name);
        }
        if python::is_method(attr.name) {
            self.expr(&attr.expr, Level::Filter)?;
            self.push("|_attribute('");
            self.push(attr.name);
            self.push("')");
            return Ok(());
        }
        self.expr(&attr.expr, Level::Primary)?;
        self.push(".");
        self.push(attr.name);
        Ok(())
    }

    /// A filter or test that Jinja has and that is not here is refused; what Jinja has not fails where it is reached.
    fn known(&self, name: &str, span: Span, there: &[&str]) -> Result {
        if MISSING.contains(&name) && !there.contains(&name) { refused(span, name) } else { Ok(()) }
    }

    fn constant(&mut self, value: &Const) -> Result {
        let value: &Value = &value.value;
        if let Some(text) = value.as_str() {
            self.text(text);
        } else if value.is_number() && !value.is_integer() {
            // an infinite one has no literal
            let number = f64::try_from(value.clone()).unwrap_or(f64::INFINITY);
            self.push(&if number.is_finite() { format!("{number:?}") } else { "1e999".to_owned() });
        } else if value.is_none() {
            self.push("none");
        } else {
            self.push(&value.to_string());
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        self.push("\"");
        self.push(&text.replace('\\', "\\\\").replace('"', "\\\""));
        self.push("\"");
    }

    fn sequence(&mut self, open: &str, items: &[Expr<'_>], close: &str) -> Result {
        self.push(open);
        for (at, item) in items.iter().enumerate() {
            self.push(if at > 0 { ", " } else { "" });
            self.expr(item, Level::If)?;
        }
        self.push(close);
        Ok(())
    }

    /// `a|name(b)`.
    fn with_filter(&mut self, name: &str, a: &Expr<'_>, b: &Expr<'_>) -> Result {
        self.expr(a, Level::Filter)?;
        self.push("|");
        self.push(name);
        self.sequence("(", std::slice::from_ref(b), ")")
    }

    fn operator(&mut self, op: &BinOp<'_>) -> Result {
        let native = |sign, left, right| (sign, left, right);
        let (sign, left, right) = match op.op {
            BinOpKind::ScOr => native(" or ", Level::Or, Level::And),
            BinOpKind::ScAnd => native(" and ", Level::And, Level::Not),
            BinOpKind::Eq => native(" == ", Level::Filter, Level::Filter),
            BinOpKind::Ne => native(" != ", Level::Filter, Level::Filter),
            BinOpKind::Sub => return self.native("-", op),
            BinOpKind::Div => return self.native("/", op),
            BinOpKind::FloorDiv => return self.native("//", op),
            BinOpKind::Pow => return self.native("**", op),
            BinOpKind::Add => return self.chain("_add", op),
            BinOpKind::Mul => return self.with_filter("_multiply", &op.left, &op.right),
            BinOpKind::Rem => return self.with_filter("_modulo", &op.left, &op.right),
            BinOpKind::Concat => return self.chain("_concat", op),
            BinOpKind::Lt => return self.compared(&op.left, [("<", &op.right)]),
            BinOpKind::Lte => return self.compared(&op.left, [("<=", &op.right)]),
            BinOpKind::Gt => return self.compared(&op.left, [(">", &op.right)]),
            BinOpKind::Gte => return self.compared(&op.left, [(">=", &op.right)]),
            BinOpKind::In => return self.compared(&op.left, [("in", &op.right)]),
        };
        self.expr(&op.left, left)?;
        self.push(sign);
        self.expr(&op.right, right)
    }

    /// `a ~ b ~ c` and `a + b + c` at once, so that long texts are not copied for each; by functions, for what a filter
    /// reads is charged by its bytes.
    fn chain(&mut self, name: &str, op: &BinOp<'_>) -> Result {
        let kind = std::mem::discriminant(&op.op);
        let (mut first, mut others) = (&op.left, vec![&op.right]);
        while let Expr::BinOp(op) = first
            && std::mem::discriminant(&op.op) == kind
        {
            others.push(&op.right);
            first = &op.left;
        }
        self.push(name);
        self.push("(");
        self.expr(first, Level::If)?;
        for other in others.into_iter().rev() {
            self.push(", ");
            self.expr(other, Level::If)?;
        }
        self.push(")");
        Ok(())
    }

    /// An operator on numbers that is minijinja's own.
    fn native(&mut self, sign: &str, op: &BinOp<'_>) -> Result {
        self.push("(");
        self.expr(&op.left, Level::Filter)?;
        self.push(sign);
        self.expr(&op.right, Level::Filter)?;
        self.push(")");
        Ok(())
    }

    fn comparison(&mut self, compare: &Compare<'_>) -> Result {
        let sign = |op: CompareOpKind| match op {
            CompareOpKind::Eq => "==",
            CompareOpKind::Ne => "!=",
            CompareOpKind::Lt => "<",
            CompareOpKind::Lte => "<=",
            CompareOpKind::Gt => ">",
            CompareOpKind::Gte => ">=",
            CompareOpKind::In => "in",
            CompareOpKind::NotIn => "not in",
        };
        self.compared(&compare.expr, compare.ops.iter().map(|op| (sign(op.op), &op.expr)))
    }

    fn compared<'e, 's: 'e>(
        &mut self,
        first: &'e Expr<'s>,
        others: impl IntoIterator<Item = (&'static str, &'e Expr<'s>)>,
    ) -> Result {
        let others: Vec<_> = others.into_iter().collect();
        if let [(sign, second), rest @ ..] = others.as_slice()
            && !rest.is_empty()
            && is_simple(second)
        {
            // as Python, which does not look at the third where the first two do not hold
            self.push("(");
            self.compared(first, [(*sign, *second)])?;
            self.push(" and ");
            self.compared(second, rest.iter().copied())?;
            self.push(")");
            return Ok(());
        }
        self.expr(first, Level::Filter)?;
        self.push("|_compare(");
        for (at, (sign, other)) in others.into_iter().enumerate() {
            self.push(if at > 0 { ", '" } else { "'" });
            self.push(sign);
            self.push("', ");
            self.expr(other, Level::If)?;
        }
        self.push(")");
        Ok(())
    }

    fn slice(&mut self, slice: &Slice<'_>) -> Result {
        // whether this is an error depends on where Jinja computes what is constant
        if matches!(&slice.expr, Expr::Const(of) if of.value.as_str().is_none()) || matches!(slice.expr, Expr::Map(_)) {
            return refused(slice.expr.span(), "a slice of a constant that is no sequence");
        }
        self.expr(&slice.expr, Level::Filter)?;
        self.push("|_slice(");
        for (at, bound) in [&slice.start, &slice.stop, &slice.step].into_iter().enumerate() {
            self.push(if at > 0 { ", " } else { "" });
            match bound {
                Some(bound) => self.expr(bound, Level::If)?,
                None => self.push("none"),
            }
        }
        self.push(")");
        Ok(())
    }

    fn call(&mut self, call: &Call<'_>) -> Result {
        match (&call.expr, call.args.as_slice()) {
            (Expr::Var(var), [CallArg::Pos(items)]) if var.id == "loop" => {
                self.push("loop(");
                self.iterable(items)?;
                self.push(")");
                return Ok(());
            }
            // it would divide by their number
            (Expr::GetAttr(attr), [] | [CallArg::PosSplat(_) | CallArg::KwargSplat(_), ..]) if attr.name == "cycle" => {
                return refused(attr.span(), "loop.cycle without items");
            }
            (Expr::GetAttr(attr), _) => {
                self.expr(&attr.expr, Level::Primary)?;
                self.push(".");
                self.push(attr.name);
            }
            (callee, _) => self.expr(callee, Level::Primary)?,
        }
        self.arguments(&call.args)
    }

    fn arguments(&mut self, args: &[CallArg<'_>]) -> Result {
        self.push("(");
        for (at, arg) in args.iter().enumerate() {
            self.push(if at > 0 { ", " } else { "" });
            let value = match arg {
                CallArg::Pos(value) => value,
                CallArg::Kwarg(name, value) => {
                    self.push(name);
                    self.push("=");
                    value
                }
                CallArg::PosSplat(value) => {
                    self.push("*");
                    value
                }
                CallArg::KwargSplat(value) => {
                    self.push("**");
                    value
                }
            };
            self.expr(value, Level::If)?;
        }
        self.push(")");
        Ok(())
    }

    /// A filter with what it is applied to; in a tag that takes filters the first has nothing.
    fn filters(&mut self, expr: &Expr<'_>) -> Result {
        let Expr::Filter(filter) = expr else { return self.expr(expr, Level::Filter) };
        self.known(filter.name, filter.span(), &python::FILTERS)?;
        if let Some(of) = &filter.expr {
            self.filters(of)?;
            self.push("|");
        }
        self.push(filter.name);
        self.arguments(&filter.args)
    }
}

/// Whether an expression may be written twice.
fn is_simple(expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Var(_) | Expr::Const(_) => true,
        Expr::GetAttr(attr) => is_simple(&attr.expr),
        Expr::GetItem(item) => is_simple(&item.expr) && is_simple(&item.subscript_expr),
        _ => false,
    }
}

/// Whether a loop's body leaves it or its round early.
fn leaves(body: &[Stmt<'_>]) -> bool {
    body.iter().any(|statement| match statement {
        Stmt::Break(_) | Stmt::Continue(_) => true,
        Stmt::IfCond(cond) => leaves(&cond.true_body) || leaves(&cond.false_body),
        _ => false,
    })
}
