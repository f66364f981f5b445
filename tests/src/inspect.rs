//! `assay inspect`: what a model is, and what it reads of an input.

use serde_json::{Value, json};
use tests::{GOLDEN, golden};

use crate::assay::{Call, assay, expected, ids, jsonl, messages, score};

/// What is said of each golden checkpoint, by the name of the row.
const SAID: [(&str, &[(&str, &str)]); 6] = [
    (
        "gemma2-v4",
        &[
            ("architecture", "Gemma2, 4 layers, hidden 64, intermediate 192"),
            ("attention", "8 heads, 4 key/value heads, head_dim 64, scale 0.117851"),
            ("soft-cap", "50"),
            ("window", "24 tokens, on 2 of 4 layers"),
            ("limit", "8192 tokens"),
            ("bos", "exactly one <bos> (2)"),
            ("chat template", "tokenizer_config.json"),
        ],
    ),
    (
        "gemma2-v5",
        &[
            ("architecture", "Gemma2"),
            ("window", "24 tokens, on 2 of 4 layers"),
            ("bos", "exactly one <bos> (2)"),
            ("chat template", "chat_template.jinja"),
        ],
    ),
    (
        "llama-sharded",
        &[
            ("architecture", "Llama, 3 layers"),
            ("soft-cap", "none"),
            ("window", "none"),
            ("rope", "theta 500000, llama3 scaling"),
            ("limit", "131072 tokens"),
            ("bos", "exactly one <|begin_of_text|> (0)"),
        ],
    ),
    (
        "mistral",
        &[
            ("architecture", "Mistral, 3 layers"),
            ("window", "24 tokens, on 3 of 3 layers"),
            ("rope", "theta 10000"),
            ("bos", "exactly one <s> (1)"),
            ("chat template", "chat_template.jinja"),
        ],
    ),
    (
        "qwen2",
        &[
            ("architecture", "Qwen2, 3 layers"),
            ("attention", "8 heads, 4 key/value heads, head_dim 64, scale 0.125000"),
            ("window", "24 tokens, on 2 of 3 layers"),
            ("tensor-parallel", "1, 2, 4"),
            ("bos", "none"),
            ("chat template", "tokenizer_config.json"),
        ],
    ),
    (
        "qwen3",
        &[
            ("architecture", "Qwen3, 3 layers"),
            ("rope", "theta 1000000"),
            ("vocabulary", "761"),
            ("limit", "40960 tokens"),
            ("tensor-parallel", "1, 2, 4"),
            ("bos", "none"),
            ("chat template", "chat_template.jinja"),
        ],
    ),
];

fn inspect(name: &str, flags: &[&str], input: &str) -> Call {
    let model = golden(name);
    let mut arguments = vec!["inspect", "--model", model.to_str().unwrap()];
    arguments.extend_from_slice(flags);
    assay(&arguments, input.as_bytes())
}

/// The values of a row, for all conversations.
fn rows<'a>(call: &'a Call, name: &str) -> Vec<&'a str> {
    let value = |line: &'a str| line.strip_prefix("  ")?.strip_prefix(name).map(str::trim);
    call.stdout.lines().filter_map(value).collect()
}

fn shown_ids(call: &Call) -> Vec<Vec<u32>> {
    rows(call, "input_ids ").into_iter().map(|ids| serde_json::from_str(ids).unwrap()).collect()
}

#[test]
fn a_model_is_described() {
    for (name, said) in SAID {
        let call = inspect(name, &[], "");
        assert_eq!((call.status, call.stderr.as_str()), (Some(0), ""));
        let shown: Vec<(&str, &str)> =
            call.stdout.lines().map(|line| line.split_at(17)).map(|(name, value)| (name.trim(), value)).collect();
        for (row, value) in said {
            let found = shown.iter().find(|(name, _)| name == row);
            assert!(
                found.is_some_and(|(_, found)| found.starts_with(value)),
                "{name}: {row} is {found:?}, not {value}"
            );
        }
        let names: Vec<&str> = shown.iter().map(|(name, _)| *name).collect();
        for row in ["model", "parameters", "memory", "numerics", "fingerprint"] {
            assert!(names.contains(&row), "{name}: no {row} in {names:?}");
        }
    }
}

#[test]
fn all_of_it_is_there_as_json() {
    let call = inspect("llama-sharded", &["--json", "--tensor-parallel", "2"], "");
    assert_eq!((call.status, call.stderr.as_str()), (Some(0), ""));
    let said: Value = serde_json::from_str(&call.stdout).unwrap();
    let values = json!({
        "architecture": "Llama", "layers": 3, "rope_theta": 500000.0, "rope_scaling": "llama3", "soft_cap": null,
        "windows": [null, null, null], "limit": 131072, "dtype": "f32", "ranks": 2,
    });
    for (name, value) in values.as_object().unwrap() {
        assert_eq!(&said[name], value, "{name}");
    }
    let text = inspect("llama-sharded", &["--tensor-parallel", "2"], "");
    for name in ["fingerprint", "numerics"] {
        assert!(text.stdout.contains(said[name].as_str().unwrap()), "{name} of {said}");
    }

    let rows = &expected("llama-sharded")[..2];
    let input = format!("{}nope\n{{\"text\": \"\"}}\n", messages(rows));
    let call = inspect("llama-sharded", &["--json", "--input", "-"], &input);
    assert_eq!(call.status, Some(1));
    let lines: Vec<Value> = call.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for ((line, row), number) in lines.iter().zip(rows).zip(1..) {
        assert_eq!((&line["line"], &line["conversation"]), (&json!(number), &json!(1)));
        assert_eq!(line["input_ids"], json!(ids(row)), "{line}");
        assert!(line["error"].is_null() && line["text"].is_string() && line["bos"].is_string(), "{line}");
    }
    assert!(lines[2]["conversation"].is_null(), "{}", lines[2]);
    assert!(lines[2]["error"].as_str().unwrap().starts_with("not a JSON object"), "{}", lines[2]);
    assert_eq!(lines.len(), 4);
}

#[test]
fn the_token_ids_are_hugging_faces() {
    for name in GOLDEN {
        let expected = expected(name);
        let call = inspect(name, &["--input", "-"], &messages(&expected));
        assert_eq!((call.status, call.stderr.as_str()), (Some(0), ""));
        assert_eq!(shown_ids(&call), expected.iter().map(ids).collect::<Vec<_>>(), "{name}");
        assert_eq!(rows(&call, "text ").len(), expected.len());
        let tokens: Vec<Vec<String>> =
            rows(&call, "tokens ").into_iter().map(|tokens| serde_json::from_str(tokens).unwrap()).collect();
        assert!(tokens.iter().zip(&expected).all(|(tokens, row)| tokens.len() == ids(row).len()));
    }
}

#[test]
fn what_was_done_to_an_input_is_shown() {
    let line = json!({ "prompt": "Hi\tthere", "responses": ["A b", "C"] });
    let call = inspect("gemma2-v4", &["--input", "-"], &jsonl([line]));
    let text = r#""<start_of_turn>user\nHi\tthere<end_of_turn>\n<start_of_turn>model\nA b<end_of_turn>\n""#;
    assert_eq!(rows(&call, "text ")[0], text);
    assert_eq!(rows(&call, "bos "), ["added", "added"]);
    assert!(call.stdout.contains("-:1, conversation 2\n"), "{}", call.stdout);
    let two = inspect("gemma2-v5", &["--input", "-"], "{\"text\": \"<bos><bos>a\"}\n{\"input_ids\": [7]}");
    assert_eq!(rows(&two, "bos "), ["1 too many were taken away", "token ids are taken as they are"]);
    assert_eq!(shown_ids(&two)[0][0], 2);
    assert_eq!(shown_ids(&two)[1], [7]);

    let long = messages(&expected("gemma2-v4")[..1]);
    let cut = inspect("gemma2-v4", &["--input", "-", "--max-length", "30", "--truncate", "left"], &long);
    assert_eq!((cut.status, rows(&cut, "length ")), (Some(0), vec!["30 tokens, truncated from 229"]));
    let refused = inspect("gemma2-v4", &["--input", "-", "--max-length", "30"], &long);
    assert_eq!(refused.status, Some(1));
    assert_eq!(rows(&refused, "error "), ["at least 229 tokens are more than the limit of 30"]);

    let bad = inspect("gemma2-v4", &["--input", "-"], "nope\n\n{\"messages\": []}\n{\"text\": \"hi\"}\n");
    assert_eq!((bad.status, shown_ids(&bad).len()), (Some(1), 1));
    for word in ["-:1: not a JSON object", "-:2: the line is empty", "-:3: the conversation is empty"] {
        assert!(bad.stdout.contains(word), "no {word:?} in {}", bad.stdout);
    }
}

#[test]
fn special_tokens_in_content_are_tokens_by_default_and_plain_text_when_strict() {
    let cases = [
        ("gemma2-v4", "<end_of_turn>", 5),
        ("gemma2-v4", "<bos>", 2),
        ("gemma2-v5", "<start_of_turn>", 4),
        ("llama-sharded", "<|eot_id|>", 4),
        ("qwen3", "<|im_end|>", 2),
        ("qwen3", "<think>", 759),
    ];
    for (name, token, id) in cases {
        let line =
            |content: &str| json!({ "prompt": format!("One{content}two"), "responses": [format!("{content}Three")] });
        let count = |call: &Call| shown_ids(call)[0].iter().filter(|shown| **shown == id).count();
        let show =
            |line: &Value, flags: &[&str]| inspect(name, &[&["--input", "-"], flags].concat(), &jsonl([line.clone()]));
        let (plain, meant) = (line(" "), line(token));
        let of_the_template = count(&show(&plain, &[]));
        let (default, strict) = (show(&meant, &[]), show(&meant, &["--strict-special-tokens"]));
        assert_eq!(count(&default), of_the_template + 2, "{name}, {token}");
        assert_eq!(count(&strict), of_the_template, "{name}, {token}");
        assert_eq!(rows(&default, "text "), rows(&strict, "text "), "{name}, {token}");
        // nothing else changes where there is no such text, nor in text that is already rendered
        let rendered = json!({ "text": format!("a{token}b") });
        for line in [plain, rendered] {
            let strict = shown_ids(&show(&line, &["--strict-special-tokens"]));
            assert_eq!(shown_ids(&show(&line, &[])), strict, "{name}, {token}");
        }
        // score reads the same
        let scores = |line: Value, flags: &[&str]| score(&golden(name), flags, jsonl([line])).all_scores();
        for (call, flags) in [(default, &[][..]), (strict, &["--strict-special-tokens"][..])] {
            let read = json!({ "input_ids": shown_ids(&call)[0] });
            assert_eq!(scores(meant.clone(), flags), scores(read, &[]), "{name}, {token}, {flags:?}");
        }
    }
}
