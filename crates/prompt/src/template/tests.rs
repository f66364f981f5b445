//! Templates that are wrong or hostile, the pinned date, the tags that transformers adds, and ten thousand random templates
//! beside Python's Jinja. What right templates render is compared with transformers in the encoder's tests too.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::Sources;

fn compile(source: &str, date: Date) -> Result<Template, Error> {
    let config = json!({"chat_template": source, "bos_token": {"content": "<s>"}, "eos_token": "</s>"});
    let sources = Sources { tokenizer_config: Some(config.to_string().into_bytes()), ..Sources::default() };
    let config = Config::new(&sources)?;
    Template::new(&config, date).map(Option::unwrap)
}

fn render(source: &str) -> Result<String, Fault> {
    let turns = [json!({"role": "user", "content": "hi"}), json!({"role": "assistant", "content": "<b>"})];
    let template = compile(source, Date::default()).unwrap();
    template.render_anyway(&turns)
}

fn check(source: &str, text: &str) {
    assert_eq!(render(source).as_deref(), Ok(text), "{source}");
}

#[test]
fn variables_are_those_of_transformers() {
    check("{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ tools is none }}", "<s></s>FalseTrue");
    check("{{ documents is none }}{{ pad_token is defined }}{{ date_string is defined }}", "TrueFalseFalse");
    check("{% set bos_token = 'x' %}{{ bos_token }}", "x");
    check("a\n", "a");
    check("a\n\n", "a\n");
}

#[test]
fn nothing_is_escaped_for_html() {
    check("{{ messages[1].content }}{{ messages[1] | tojson }}", "<b>{\"role\": \"assistant\", \"content\": \"<b>\"}");
}

#[test]
fn undefined_values_are_as_lenient_as_in_jinja() {
    check(
        "{{ missing }}|{{ messages[0].name }}|{% for x in missing %}x{% endfor %}{{ missing is defined }}",
        "||False",
    );
    assert!(matches!(render("{{ missing.name }}"), Err(Fault::TemplateFailed(_))));
    assert!(matches!(render("{{ 'a' + missing }}"), Err(Fault::TemplateFailed(_))));
}

#[test]
fn a_template_that_always_fails_says_so_and_refuses() {
    let failure = |source: &str| compile(source, Date::default()).unwrap().failure().map(str::to_owned);
    assert!(failure("{{ missing.name }}").unwrap().starts_with("it fails for every conversation: undefined value"));
    assert_eq!(failure("{{ raise_exception('no') }}").unwrap(), "it fails for every conversation: no");
    assert_eq!(failure("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"), None);
    let turns = [json!({"role": "user", "content": "hi"})];
    let refused = compile("{{ missing.name }}", Date::default()).unwrap().render(&turns);
    assert!(matches!(refused, Err(Fault::TemplateFailed(message)) if message.contains("every conversation")));
}

#[test]
fn parts_are_given_to_the_roles_whose_content_is_read_in_parts() {
    let roles = |source: &str| compile(source, Date::default()).unwrap().parts;
    let parts = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text | trim }}{% endfor %}{% endif %}{% endfor %}";
    assert_eq!(roles(parts), Role::ALL);
    assert_eq!(roles("{% for m in messages %}{{ m.content }}{% endfor %}"), []);
    assert_eq!(roles("{% for m in messages %}{{ m.content | trim }}{% endfor %}"), []);
    assert_eq!(roles("{% for m in messages %}{{ m.content | tojson }}{% endfor %}"), []);
    let user = "{% for m in messages %}{% if m.role == 'user' and m.content is not string %}{{ m.content | map(attribute='text') | join }}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    assert_eq!(roles(user), [Role::User]);
}

#[test]
fn the_date_is_the_one_that_was_set() {
    let date: Date = "2025-01-09".parse().unwrap();
    let template = compile("{{ strftime_now('%d %b %Y %-d %A %H:%M') }}", date).unwrap();
    assert_eq!(template.render(&[]).as_deref(), Ok("09 Jan 2025 9 Thursday 00:00"));
    check("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024");
    assert_eq!(Date::default().to_string(), "2024-07-26");
    for wrong in ["", "26 Jul 2024", "2024-02-30", "2024-07-26x"] {
        assert!(wrong.parse::<Date>().is_err(), "{wrong}");
    }
    assert!(matches!(render("{{ strftime_now('%Q%') }}"), Err(Fault::TemplateFailed(_))));
}

#[test]
fn what_a_template_raises_is_told_as_it_was_said() {
    let raised = |source| assert_eq!(render(source), Err(Fault::Refused("no: <x>".to_owned())), "{source}");
    raised("{{ raise_exception('no: <x>') }}");
    raised("{% macro f() %}{{ raise_exception('no: <x>') }}{% endmacro %}{{ f() }}");
    raised("{% for m in messages %}{% generation %}{{ raise_exception('no: <x>') }}{% endgeneration %}{% endfor %}");
}

#[test]
fn generation_tags_have_a_scope_and_no_text() {
    check("{% set x = 1 %}{%- generation -%} {% set x = 2 %}{{ x }} {%- endgeneration %}{{ x }}", "21");
    check("{% generation %}\na\n{% endgeneration %}\nb", "a\nb");
    check(
        "{{ '{% generation %}' }}{# {% generation %} #}{% raw %}{% generation %}{% endraw %}",
        "{% generation %}{% generation %}",
    );
    check("{{ \"a'\\\"%}\" }}{% generation %}b{% endgeneration %}", "a'\"%}b");
}

#[test]
fn a_template_that_does_not_compile_names_its_file() {
    for source in
        ["{% if %}", "{{ ", "{% for x in y %}", "{{ x | nosuchfilter }}", "{% generation %}", "{% nosuchtag %}"]
    {
        match compile(source, Date::default()) {
            Err(Error::Template { file, .. }) => assert_eq!(file, "tokenizer_config.json"),
            Ok(template) => assert!(matches!(template.render(&[]), Err(Fault::TemplateFailed(_))), "{source}"),
            Err(other) => panic!("{source}: {other}"),
        }
    }
}

#[test]
fn line_ends_of_the_source_are_line_feeds() {
    check("a\r\n{% if true %}\r\nb\r{{ 'c\r\nd' }}{{ 'e\\r' }}{% endif %}\r\n", "a\nb\nc\nde\r");
}

#[test]
fn what_cannot_mean_the_same_is_refused_with_its_line() {
    for (source, message) in [
        ("\n{% include 'x' %}", "unknown statement include (in chat:2)"),
        ("{% for m in messages %}{% break %}{% else %}x{% endfor %}", "line 1: a loop with else that has break"),
        ("{% for m in messages %}\n{% with a = 1 %}{% break %}{% endwith %}{% endfor %}", "line 2: break inside with"),
        ("{% macro f() %}{{ kwargs }}{% endmacro %}", "line 1: kwargs"),
        ("{{ messages | random }}", "line 1: random"),
        ("{{ messages.__class__ }}", "line 1: __class__"),
        ("\n\n{{ '\\N{BULLET}' }}", "line 3: the escape \\N"),
        ("{% do messages %}", "do"),
        ("{% for m in messages %}{{ tools }}{% endfor %}{% set tools = 1 %}", "line 1: tools, set behind a loop"),
        ("{% for m in messages %}{{ loop.cycle() }}{% endfor %}", "line 1: loop.cycle without items"),
    ] {
        let refused = compile(source, Date::default()).err();
        let said = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(message), "{source}: {said}");
    }
}

#[test]
fn a_long_conversation_is_not_out_of_fuel() {
    let template = "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '\\n' ~ m.content ~ '' }}{% endfor %}";
    let turns =
        [json!({"role": "user", "content": "x".repeat(16_000_000)}), json!({"role": "assistant", "content": "y"})];
    let text = compile(template, Date::default()).unwrap().render(&turns);
    assert!(text.is_ok_and(|text| text.len() > 32_000_000));
}

#[test]
fn errors_name_the_line_of_the_template() {
    let failed = render(
        "a\n{% if true %}\n\n{% for m in messages %}\n{{ m.content }}{{ m.content.name.x }}{% endfor %}{% endif %}",
    );
    assert!(matches!(&failed, Err(Fault::TemplateFailed(message)) if message.contains("chat:5")), "{failed:?}");
}

/// A Python that has jinja2: the one at hand, or one made for this.
fn python() -> Option<PathBuf> {
    let has = |python: &PathBuf| {
        let tried = Command::new(python).args(["-c", "import jinja2"]).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let at_hand = PathBuf::from("python3");
    if has(&at_hand) {
        return Some(at_hand);
    }
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/jinja2"));
    let made = folder.join("bin/python");
    if !has(&made) {
        Command::new(&at_hand).args(["-m", "venv"]).arg(&folder).status().ok()?;
        Command::new(&made).args(["-m", "pip", "install", "--quiet", "jinja2==3.1.6"]).status().ok()?;
    }
    Some(made).filter(has)
}

/// What a template gives for the variables of a case of jinja_cases.py.
fn outcome(case: &Json) -> Result<Result<String, Fault>, String> {
    let mut env = engine(Date::default());
    let names: Vec<String> = case["variables"].as_object().unwrap().keys().cloned().collect();
    let text = source::normalized(case["template"].as_str().unwrap())?;
    super::compile(&mut env, &text, &names)?;
    let rendered = env.get_template(NAME).unwrap().render(Value::from(Serde(&case["variables"])));
    Ok(rendered.map_err(|error| match raised(&error) {
        Some(message) => Fault::Refused(message),
        None => Fault::TemplateFailed(error.to_string()),
    }))
}

/// 10,000 random templates with values, rendered by jinja2 as transformers sets it up: the same text, the same words of
/// `raise_exception`, or both fail. Fewer than one in a hundred may be refused where Python renders.
#[test]
fn random_templates_are_rendered_as_jinja_renders_them() {
    let Some(python) = python() else {
        eprintln!("SKIPPED: there is no python3 with jinja2 to compare templates with");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests-data/jinja_cases.py");
    let made = Command::new(python).args([script, "1", "10000"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (mut cases, mut refused) = (0, 0);
    for line in made.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let case: Json = serde_json::from_slice(line).unwrap();
        let result = outcome(&case);
        cases += 1;
        match (&result, case["text"].as_str(), case["raised"].as_str()) {
            (Ok(Ok(text)), Some(expected), _) if text == expected => {}
            (Ok(Err(Fault::Refused(message))), _, Some(expected)) if message == expected => {}
            (Ok(Err(_)) | Err(_), None, None) => {}
            (Err(_), _, _) => refused += 1,
            _ => panic!("{case}\ngives {result:?}"),
        }
    }
    println!("{cases} templates, {refused} refused");
    assert!(cases > 9_000 && refused * 100 < cases, "{cases} cases, {refused} refused");
}

#[test]
fn endless_work_and_endless_memory_are_refused() {
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    let doubled =
        "{% set ns = namespace(x='0123456789') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    let twice = "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    let json = format!("{twice}{{{{ ns.x | tojson }}}}");
    let macros = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    let repeated = "{{ 'x' * 10000000000 }}";
    for source in [loops, doubled, macros, repeated, &json] {
        let result = render(source);
        assert!(matches!(result, Err(Fault::TemplateFailed(_))), "{source}: {:?}", result.map(|text| text.len()));
    }
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let deep = "{% set ns = namespace(x=[1]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    assert_eq!(render(deep).as_deref(), Ok(""));
    assert!(matches!(render(&format!("{deep}{{{{ ns.x | tojson }}}}")), Err(Fault::TemplateFailed(_))));
    for nested in ["(", "[", "{'a':", "not ", "-", "a if b else "] {
        let source = format!("{{{{ {} 1 }}}}", nested.repeat(100_000 / nested.len()));
        let _ = compile(&source, Date::default());
    }
    assert!(compile(&" ".repeat(MAX_TEMPLATE + 1), Date::default()).is_err());
    assert!(compile(&"{% if a %}".repeat(10_000), Date::default()).is_err());
}

proptest! {
    #[test]
    fn no_template_panics(pieces in prop::collection::vec(prop::sample::select(vec![
        "{{", "}}", "{%", "%}", "{#", "#}", "-", " generation ", " endgeneration ", " raw ", " endraw ", "'", "\"", "\\",
        " messages", "[0]", ".content", " | ", "tojson", "trim", "(indent=", "-1", ")", " for m in ", " endfor ", " if ", "é",
        ".split(", "None", "'x'", ".rsplit(' ', 1)", "[::-1]", "[1:]", "strftime_now(", "'%'", "{", "}", "\n",
    ]), 0..24)) {
        let source = pieces.concat();
        if let Ok(template) = compile(&source, Date::default()) {
            let _ = template.render(&[json!("x")]);
        }
    }
}
