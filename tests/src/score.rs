//! `assay score` as people run it: golden scores, the shape of the output, what fails alone and what ends the call.

use std::path::Path;

use serde_json::{Value, json};
use tests::{GOLDEN, golden};

use crate::assay::{Scored, assay, command, expected, ids, jsonl, messages, score};
use crate::golden::TOLERANCE;
use crate::replica;

/// A checkpoint with a BOS rule, and a limit of 8,192 tokens.
const MODEL: &str = "gemma2-v4";

/// Lines of one conversation each that are refused, and what the error says.
pub(crate) const INVALID: &[(&str, &str)] = &[
    ("", "the line is empty"),
    (" \t ", "the line is empty"),
    ("nope", "not a JSON object"),
    (r#"{"text": "a""#, "not a JSON object"),
    (r#"{"text": "a"} {"text": "b"}"#, "not a JSON object"),
    (r#"{"text": "\ud800"}"#, "not a JSON object"),
    ("[1]", "not a JSON object"),
    ("null", "not a JSON object"),
    ("{}", "exactly one of messages, prompt with responses, text, input_ids, found none of them"),
    (r#"{"conversation": []}"#, "found none of them"),
    (r#"{"conversations": []}"#, "ShareGPT"),
    (r#"{"chosen": NaN, "rejected": "b"}"#, "responses"),
    (r#"[{"text": "a"}]"#, "jq -c"),
    (r#"{"input_ids": [1, 2], "attention_mask": [0, 1]}"#, "without padding"),
    (r#"{"responses": ["a"]}"#, "found none of them"),
    (r#"{"text": "a", "input_ids": [2]}"#, "found text and input_ids"),
    (r#"{"messages": [], "text": "a"}"#, "found messages and text"),
    (r#"{"messages": []}"#, "the conversation is empty"),
    (r#"{"messages": {}}"#, "messages: expected a list of messages, found an object"),
    (r#"{"messages": ["a"]}"#, "messages[0]: expected an object with role and content, found a string"),
    (r#"{"messages": [{"content": "a"}]}"#, "messages[0].role: expected a string, found nothing"),
    (r#"{"messages": [{"role": "robot", "content": "a"}]}"#, r#"messages[0].role: unknown role "robot", known are"#),
    (r#"{"messages": [{"role": "user", "content": "a"}]}"#, "the last turn must be the assistant's, it is from user"),
    (r#"{"messages": [{"role": "assistant", "content": "a"}]}"#, "refuses the conversation: Conversation roles must"),
    (r#"{"prompt": [{"role": "system", "content": "a"}], "responses": ["b"]}"#, "System role not supported"),
    (
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": null}]}"#,
        "messages[1].content",
    ),
    (r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}]}"#, r#"messages[0].content[0]: content must"#),
    (r#"{"messages": [{"role": "assistant"}]}"#, "messages[0].content: content must be text, found nothing"),
    (r#"{"prompt": "a"}"#, "responses: expected a list of strings, found nothing"),
    (r#"{"prompt": "a", "responses": "b"}"#, "responses: expected a list of strings, found a string"),
    (r#"{"prompt": "a", "responses": []}"#, "the group has no responses"),
    (r#"{"prompt": [], "responses": ["a"]}"#, "the conversation is empty"),
    (r#"{"prompt": "a", "responses": [{"role": "assistant"}]}"#, "responses[0]: content must be text, found an object"),
    (r#"{"text": 3}"#, "text: expected a string, found the number 3"),
    (r#"{"text": ""}"#, "text is empty"),
    (r#"{"input_ids": []}"#, "input_ids is empty"),
    (r#"{"input_ids": "a"}"#, "input_ids: expected a list of token ids, found a string"),
    (r#"{"input_ids": [2, -1]}"#, "input_ids[1]: expected a token id, found the number -1"),
    (r#"{"input_ids": [2, 1.5]}"#, "input_ids[1]: expected a token id, found the number 1.5"),
    (r#"{"input_ids": [2, 4294967296]}"#, "input_ids[1]: expected a token id"),
    (r#"{"input_ids": [2, 767, 768]}"#, "input_ids[2]: token id 768 is outside the vocabulary of 768"),
];

/// Calls that come to nothing, and what the error says. `MODEL` stands for a model that is there.
const WRONG_CALLS: &[(&[&str], &[&str])] = &[
    (&[], &["Usage"]),
    (&["scores"], &["unrecognized subcommand"]),
    (&["score"], &["--model"]),
    (&["score", "--model", "MODEL", "--frobnicate"], &["--frobnicate"]),
    (&["score", "--model", "MODEL", "--truncate", "middle"], &["middle", "none, left, right"]),
    (&["score", "--model", "MODEL", "--tensor-parallel", "0"], &["--tensor-parallel"]),
    (&["score", "--model", "MODEL", "--threads", "0"], &["--threads"]),
    (&["score", "--model", "MODEL", "--max-batch-tokens", "many"], &["--max-batch-tokens"]),
    (&["score", "--model", "MODEL", "--tensor-parallel", "3"], &["split over 3 ranks", "fit this model: 1, 2, 4"]),
    (&["score", "--model", "MODEL", "--tensor-parallel", "8"], &["kv_heads 4", "fit this model: 1, 2, 4"]),
    (&["inspect", "--model", "MODEL", "--tensor-parallel", "3"], &["split over 3 ranks", "fit this model: 1, 2, 4"]),
    (&["score", "--model", "MODEL", "--max-length", "9000"], &["9000", "limit of 8192"]),
    (&["score", "--model", "MODEL", "--max-length", "701", "--max-batch-tokens", "700"], &["701", "700"]),
    (&["score", "--model", "nowhere"], &["nowhere", "owner/name"]),
    (&["score", "--model", "/"], &["config.json"]),
    (&["score", "--model", "MODEL/config.json"], &["config.json", "is a file"]),
    (&["score", "--model", "MODEL", "--input", "/nowhere/input"], &["cannot open /nowhere/input"]),
    (&["score", "--model", "MODEL", "--input", "/"], &["/ is a folder"]),
    (&["score", "--model", "MODEL", "--output", "/nowhere/output"], &["cannot write /nowhere/output"]),
    (&["score", "--model", "MODEL", "--stats", "/nowhere/stats"], &["cannot write /nowhere/stats"]),
];

/// A line that is sound in any company.
const SOUND: &str = r#"{"prompt": "How many?", "responses": ["Four."]}"#;

/// The text that the template makes of a line, as `inspect` shows it.
fn rendered(name: &str, line: &str) -> String {
    let call = assay(&["inspect", "--model", golden(name).to_str().unwrap(), "--input", "-"], line.as_bytes());
    let shown = call.stdout.lines().find_map(|line| line.strip_prefix("  text "));
    // for plain text, quoted as in JSON
    serde_json::from_str(shown.unwrap().trim()).unwrap()
}

fn same_bits(scores: &[f32]) -> bool {
    scores.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits())
}

fn statuses(line: &Value) -> Vec<&str> {
    line["status"].as_array().unwrap().iter().map(|status| status.as_str().unwrap()).collect()
}

// === golden scores ===

#[test]
fn the_command_gives_every_golden_score_on_1_2_and_4_ranks() {
    for name in GOLDEN {
        let rows = expected(name);
        for ranks in ["1", "2", "4"] {
            let scored = score(&golden(name), &["--tensor-parallel", ranks, "--threads", "2"], messages(&rows));
            let scores = scored.all_scores();
            assert_eq!((scores.len(), scored.call.stderr.as_str()), (rows.len(), ""));
            for ((row, line), score) in rows.iter().zip(&scored.lines).zip(scores) {
                let reference = row["score"].as_f64().unwrap();
                let error = (f64::from(score) - reference).abs() / reference.abs().max(1.0);
                assert!(error < TOLERANCE, "{name}, {ranks} ranks, line {}: {error:.1e}", line["id"]);
                assert_eq!(line["tokens"], json!([ids(row).len()]), "{name}, line {}", line["id"]);
            }
        }
    }
}

#[test]
fn a_printed_score_is_the_score_to_the_last_bit() {
    for name in GOLDEN {
        let rows = expected(name);
        let scored = score(&golden(name), &[], messages(&rows));
        let replica = replica::load(name, 1, 2);
        for (row, line) in rows.iter().zip(scored.call.stdout.lines()) {
            let (_, printed) = line.split_once("\"scores\":[").unwrap();
            let printed: f32 = printed.split(']').next().unwrap().parse().unwrap();
            let computed = replica::scores(&replica, &[ids(row).into()])[0];
            assert_eq!(printed.to_bits(), computed.to_bits(), "{name}: {printed} {computed}");
        }
    }
}

// === one line for each line ===

#[test]
fn a_line_that_cannot_be_scored_says_why_and_the_others_go_on() {
    let lines: Vec<&str> = INVALID.iter().flat_map(|(line, _)| [*line, SOUND]).collect();
    let Scored { call, lines, stats, input } = score(&golden(MODEL), &[], lines.join("\n"));
    assert_eq!((call.status, lines.len()), (Some(1), 2 * INVALID.len()));
    for (number, (pair, (line, message))) in lines.chunks(2).zip(INVALID).enumerate() {
        let (failed, sound) = (&pair[0], &pair[1]);
        assert_eq!((&failed["scores"], &failed["tokens"]), (&json!([null]), &json!([0])), "{line}");
        assert_eq!(failed["status"], json!(["invalid"]), "{line}");
        let error = failed["errors"][0].as_str().unwrap();
        assert!(error.starts_with(&format!("{input}:{}: ", 2 * number + 1)), "{line}: {error}");
        assert!(error.contains(message), "{line}: {error}");
        assert_eq!(sound, &lines[1], "after {line}");
    }
    assert_eq!(lines[1]["status"], json!(["ok"]));
    assert_eq!(lines[1].get("errors"), None);
    assert_eq!((&stats["conversations"], &stats["failed"]), (&json!(INVALID.len()), &json!(INVALID.len())));
}

#[test]
fn bytes_that_are_no_text_and_other_line_ends_are_lines_too() {
    let mut input = Vec::new();
    input.extend_from_slice(b"{\"text\": \"\xff\xfe\"}\n");
    input.extend_from_slice(b"{\"text\": \"hello\"}\r\n");
    input.extend_from_slice(b"\r\n\0\n\n");
    input.extend_from_slice(b"{\"text\": \"hello\"}");
    let scored = score(&golden(MODEL), &[], input);
    let ok: Vec<bool> = scored.scores().iter().map(Option::is_some).collect();
    assert_eq!(ok, [false, true, false, false, false, true]);
    assert_eq!(scored.lines[1], scored.lines[5]);
    assert!(scored.lines[0]["errors"][0].as_str().unwrap().contains("not a JSON object"));
    assert!(score(&golden(MODEL), &[], "").all_scores().is_empty());
}

#[test]
fn a_long_line_is_a_line() {
    let note = "x".repeat(6 << 20);
    let long = "word ".repeat(100_000);
    let lines = [json!({ "note": note, "text": "hello" }), json!({ "text": long }), json!({ "text": "hello" })];
    let scored = score(&golden(MODEL), &[], jsonl(lines));
    assert_eq!(scored.lines[0], scored.lines[2]);
    assert_eq!(scored.lines[1]["status"], json!(["too_long"]));
    // it is not read to its end: so many at least
    let tokens = scored.lines[1]["tokens"][0].as_u64().unwrap();
    assert!((2049..100_000).contains(&tokens), "{tokens}");
}

#[test]
fn a_chat_template_in_place_of_the_models_own_is_another_model() {
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("any.txt");
    std::fs::write(&template, "{% for m in messages %}\r\n{{ m.content }}{% endfor %}").unwrap();
    let lines = || {
        let turns = [json!({ "role": "user", "content": "hello" }), json!({ "role": "assistant", "content": "hello" })];
        jsonl([json!({ "messages": turns }), json!({ "text": "hellohello" })])
    };
    let own = score(&golden(MODEL), &[], lines());
    let other = score(&golden(MODEL), &["--chat-template", template.to_str().unwrap()], lines());
    assert_ne!(own.lines[0], own.lines[1]);
    assert_eq!(other.lines[0], other.lines[1]);
    assert_eq!(own.lines[1], other.lines[1]);
    assert_ne!(own.stats["fingerprint"], other.stats["fingerprint"]);
}

#[test]
fn ids_come_back_as_they_were_written() {
    let written = [
        "7",
        "123456789012345678901234567890",
        "-0.0",
        "1.50",
        "1e5",
        r#""caf\u00e9 café""#,
        r#""""#,
        "null",
        "true",
        r#"{"b": [1,  2.0, null], "a": {"id": "inner"}}"#,
        "[]",
    ];
    let text = |id: &&str| format!("{{\"id\": {id}, \"text\": \"hi\"}}\n{{\"messages\": [], \"id\" :{id} }}\n");
    let input: String = written.iter().map(text).collect();
    let scored = score(&golden(MODEL), &[], input + "{\"text\": \"hi\"}\n");
    let mut lines = scored.call.stdout.lines();
    for id in written {
        for status in ["ok", "invalid"] {
            let line = lines.next().unwrap();
            assert!(line.starts_with(&format!("{{\"id\":{id},\"scores\":[")), "{line}");
            assert!(line.contains(&format!("\"status\":[\"{status}\"]")), "{line}");
        }
    }
    assert!(lines.next().unwrap().starts_with("{\"scores\":["));
    assert_eq!(lines.next(), None);
}

#[test]
fn a_response_that_fails_fails_alone() {
    let parts = json!([{ "type": "text", "text": "Fo" }, { "type": "text", "text": "ur." }]);
    let responses = json!(["Four.", null, "", parts, [], 3, [{ "type": "image" }], "Four."]);
    let input = jsonl([
        json!({ "id": 1, "prompt": "How many?", "responses": responses }),
        json!({ "id": 2, "prompt": [{ "role": "robot", "content": "a" }], "responses": ["a", null, "b"] }),
        json!({ "id": 3, "text": "hi", "responses": ["the caller's", null] }),
    ]);
    let scored = score(&golden(MODEL), &[], input);
    let group = &scored.lines[0];
    let ok = [true, false, true, true, false, false, false, true];
    assert_eq!(statuses(group), ok.map(|ok| if ok { "ok" } else { "invalid" }));
    for (i, ok) in ok.into_iter().enumerate() {
        assert_eq!((group["scores"][i].is_f64(), group["tokens"][i] != 0, group["errors"][i].is_null()), (ok, ok, ok));
        let named = |error: &str| error.contains(&format!(":1: responses[{i}]"));
        assert!(group["errors"][i].as_str().is_none_or(named), "{}", group["errors"][i]);
    }
    assert_eq!(group["scores"][0], group["scores"][3]);
    assert_eq!(group["scores"][0], group["scores"][7]);
    assert_ne!(group["scores"][0], group["scores"][2]);
    assert_eq!(statuses(&scored.lines[1]), ["invalid"; 3]);
    assert!(scored.lines[1]["errors"][0].as_str().unwrap().contains("prompt[0].role"));
    assert_eq!(statuses(&scored.lines[2]), ["ok"]);
}

// === what the model reads ===

#[test]
fn messages_groups_text_and_ids_are_the_same_conversation() {
    for (name, bos) in GOLDEN.into_iter().zip(["<bos>", "<bos>", "<|begin_of_text|>", "<s>", "", ""]) {
        let text = rendered(name, SOUND);
        let text = text.strip_prefix(bos).unwrap_or(&text);
        let user = json!({ "role": "user", "content": "How many?" });
        let input = jsonl([
            json!({ "messages": [user, { "role": "assistant", "content": "Four." }] }),
            json!({ "prompt": [user], "responses": ["Four."] }),
            json!({ "prompt": "How many?", "responses": ["Four."] }),
            json!({ "text": text }),
            json!({ "text": format!("{bos}{text}") }),
            json!({ "text": format!("{bos}{bos}{text}") }),
        ]);
        let scored = score(&golden(name), &[], &input);
        assert!(same_bits(&scored.all_scores()), "{name}: {}", scored.call.stdout);
        assert!(scored.lines.iter().all(|line| line["tokens"] == scored.lines[0]["tokens"]));
    }
}

#[test]
fn a_conversation_beyond_the_limit_is_refused_with_both_lengths() {
    let rows = expected(MODEL);
    let long = ids(&rows[0]).len();
    let scored = score(&golden(MODEL), &["--max-length", "45"], messages(&rows[..3]));
    assert_eq!(scored.call.status, Some(1));
    assert_eq!(scored.lines[0]["status"], json!(["too_long"]));
    assert_eq!((&scored.lines[0]["scores"], &scored.lines[0]["tokens"]), (&json!([null]), &json!([long])));
    let error = scored.lines[0]["errors"][0].as_str().unwrap();
    assert!(error.contains(&format!("{long} tokens are more than the limit of 45")), "{error}");
    // exactly as long as the limit
    assert_eq!((&scored.lines[2]["status"], &scored.lines[2]["tokens"]), (&json!(["ok"]), &json!([45])));
    // by default the limit is the budget, where that is less than the model's
    let scored = score(&golden(MODEL), &["--max-batch-tokens", "200"], messages(&rows[..3]));
    let error = scored.lines[0]["errors"][0].as_str().unwrap();
    assert!(error.contains(&format!("{long} tokens are more than the limit of 200")), "{error}");
}

#[test]
fn truncation_keeps_the_side_and_the_bos_that_it_promises() {
    const LIMIT: usize = 40;
    for name in GOLDEN {
        let rows = expected(name);
        let all = ids(&rows[0]);
        let bos = usize::from(!name.starts_with("qwen"));
        let left = [&all[..bos], &all[all.len() - (LIMIT - bos)..]].concat();
        for (side, kept) in [("left", left.as_slice()), ("right", &all[..LIMIT])] {
            let flags = ["--max-length", &LIMIT.to_string(), "--truncate", side];
            let cut = score(&golden(name), &flags, messages(&rows[..1]));
            let whole = score(&golden(name), &[], jsonl([json!({ "input_ids": kept })]));
            assert_eq!(cut.lines[0]["status"], json!(["truncated"]));
            assert_eq!((&cut.lines[0]["tokens"], cut.lines[0].get("errors")), (&json!([LIMIT]), None));
            assert!(same_bits(&[cut.all_scores(), whole.all_scores()].concat()), "{name}, {side}");
        }
    }
}

// === the call ===

#[test]
fn a_wrong_call_ends_with_status_2_and_says_what_is_wrong() {
    let model = golden(MODEL);
    for (arguments, words) in WRONG_CALLS {
        let arguments: Vec<_> =
            arguments.iter().map(|argument| argument.replace("MODEL", model.to_str().unwrap())).collect();
        let call = assay(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), b"");
        assert_eq!((call.status, call.stdout.as_str()), (Some(2), ""), "{arguments:?}: {}", call.stderr);
        for word in *words {
            assert!(call.stderr.contains(word), "{arguments:?}: no {word:?} in: {}", call.stderr);
        }
        assert!(!call.stderr.contains('\x1b'), "colours go to terminals only: {:?}", call.stderr);
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [&["--help"][..], &["--version"], &["score", "--help"], &["inspect", "--help"]] {
        let call = assay(arguments, b"");
        assert_eq!((call.status, call.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(call.stdout.contains("assay"), "{arguments:?}: {}", call.stdout);
    }
}

#[test]
fn files_and_pipes_give_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("scores.jsonl");
    let input = messages(&expected(MODEL));
    let model = golden(MODEL);
    let piped = assay(&["score", "--model", model.to_str().unwrap()], input.as_bytes());
    let filed = score(&model, &["--output", output.to_str().unwrap()], &input);
    assert_eq!((filed.call.status, filed.call.stdout.as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_to_string(&output).unwrap(), piped.stdout);
    assert!(Path::new(&filed.input).parent() != output.parent());
}

/// Runs score with files of a folder, and returns the exit status and standard error.
fn score_files(flags: &[&str]) -> (Option<i32>, String) {
    let model = golden("gemma2-v4");
    let run = command(&[&["score", "--model", model.to_str().unwrap()], flags].concat()).output().unwrap();
    (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned())
}

#[test]
fn no_file_is_overwritten_by_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let line = "{\"text\": \"hello\"}\n";
    std::fs::write(path("in"), line).unwrap();
    std::fs::write(path("old"), "precious").unwrap();
    std::os::unix::fs::symlink(path("in"), path("link")).unwrap();
    let (input, old, link, new) = (path("in"), path("old"), path("link"), path("new"));
    let calls: [(&[&str], &str); 6] = [
        (&["--input", &input, "--output", &input], "--output is the input file"),
        (&["--input", &input, "--output", &link], "--output is the input file"),
        (&["--input", &input, "--stats", &input], "--stats is the input file"),
        (&["--input", &input, "--output", &old, "--stats", &old], "--output and --stats are the same file"),
        (&["--input", &input, "--output", &old, "--tensor-parallel", "3"], "world sizes that fit"),
        (&["--input", &input, "--output", &new, "--stats", "/nowhere/stats"], "/nowhere/stats"),
    ];
    for (flags, problem) in calls {
        let (code, errors) = score_files(flags);
        assert_eq!(code, Some(2), "{flags:?}: {errors}");
        assert!(errors.contains(problem), "{flags:?}: {errors}");
        assert_eq!(std::fs::read_to_string(path("in")).unwrap(), line, "{flags:?}");
        assert_eq!(std::fs::read_to_string(path("old")).unwrap(), "precious", "{flags:?}");
    }
    let (code, errors) = score_files(&["--input", &input, "--output", &old]);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(std::fs::read_to_string(path("old")).unwrap().starts_with("{\"scores\":["), "replaced as a whole");
}

#[test]
fn what_failed_is_summed_up_and_tools_are_not_silently_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let turns = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#;
    let lines = format!("{{\"messages\": {turns}}}\n{{\"messages\": {turns}, \"tools\": [{{\"name\": \"f\"}}]}}\n");
    std::fs::write(path("in"), lines).unwrap();
    let (code, errors) = score_files(&["--input", &path("in"), "--output", &path("out")]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("1 of 2 conversations have no score; the first: "), "{errors}");
    assert!(errors.contains("in:2: tools are not supported"), "{errors}");
}
