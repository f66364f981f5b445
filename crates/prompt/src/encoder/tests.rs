//! The whole way, compared with what transformers made (`tests-data/expected.json`), and the rules that are this
//! crate's own: BOS, truncation, groups, strict mode, limits.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::BosReason;

const GEMMA: &[u8] = include_bytes!("../../tests-data/gemma.json");
const LLAMA: &[u8] = include_bytes!("../../tests-data/llama.json");
const QWEN: &[u8] = include_bytes!("../../tests-data/qwen.json");
const PREFIX: &[u8] = include_bytes!("../../tests-data/prefix.json");

fn expected() -> Json {
    serde_json::from_str(include_str!("../../tests-data/expected.json")).unwrap()
}

fn tokenizer_file(name: &str) -> &'static [u8] {
    match name {
        "gemma" => GEMMA,
        "llama" => LLAMA,
        "qwen" => QWEN,
        "prefix" => PREFIX,
        other => panic!("no tokenizer {other}"),
    }
}

/// The encoder of one of the templates in expected.json.
fn encoder(template: &str) -> Encoder {
    encoder_with(template, &json!({}))
}

fn encoder_with(template: &str, extra: &Json) -> Encoder {
    let expected = expected();
    let spec = &expected["templates"][template];
    let mut config = spec["config"].clone();
    config["chat_template"] = spec["template"].clone();
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    let tokenizer = tokenizer_file(spec["tokenizer"].as_str().unwrap()).to_vec();
    let tokenizer_config = Some(config.to_string().into_bytes());
    Encoder::new(&Sources { tokenizer, tokenizer_config, ..Sources::default() }).unwrap()
}

fn one(encoder: &Encoder, input: &Input, options: &Options) -> Result<Encoded, ItemError> {
    let mut items = encoder.encode(input, options).items;
    assert_eq!(items.len(), 1);
    items.remove(0)
}

fn messages(value: &Json) -> Vec<Message> {
    Message::list_from_json("messages", value).unwrap()
}

fn user(text: &str) -> Vec<Message> {
    vec![Message::new(Role::User, text)]
}

fn group(prompt: &str, responses: &[&str]) -> Input {
    Input::Group { prompt: user(prompt), responses: responses.iter().map(|&text| text.to_owned()).collect() }
}

fn conversation(prompt: &str, response: &str) -> Input {
    Input::Messages(vec![Message::new(Role::User, prompt), Message::new(Role::Assistant, response)])
}

fn ids_of(value: &Json) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The ids that transformers gives, brought under the BOS rule.
fn with_bos(encoder: &Encoder, mut ids: Vec<u32>) -> Vec<u32> {
    if let BosRule::One { id, .. } = encoder.bos_rule() {
        while ids.starts_with(&[*id]) {
            ids.remove(0);
        }
        ids.insert(0, *id);
    }
    ids
}

// === as Hugging Face ===

#[test]
fn texts_and_ids_are_those_of_transformers() {
    let expected = expected();
    for name in expected["templates"].as_object().unwrap().keys() {
        let encoder = encoder(name);
        for case in expected["cases"].as_array().unwrap().iter().filter(|case| case["template"] == **name) {
            let turns = &expected["conversations"][case["conversation"].as_u64().unwrap() as usize];
            let input = Input::Messages(messages(turns));
            let text = encoder.render(&input).remove(0);
            if let Some(error) = case["error"].as_str() {
                assert_eq!(text, Err(Fault::Refused(error.to_owned()).into()), "{name}");
                continue;
            }
            assert_eq!(text.unwrap(), case["rendered"].as_str().unwrap(), "{name}: {turns}");
            let ids = one(&encoder, &input, &Options::default()).unwrap().ids;
            assert_eq!(ids, with_bos(&encoder, ids_of(&case["ids"])), "{name}: {turns}");
            let strict = Options { strict_special_tokens: true, ..Options::default() };
            let wanted = case.get("strict_ids").unwrap_or(&case["ids"]);
            let ids = one(&encoder, &input, &strict).unwrap().ids;
            assert_eq!(ids, with_bos(&encoder, ids_of(wanted)), "strict {name}: {turns}");
        }
    }
}

/// What `make_files.py` asked transformers: files beside tokenizer.json, and what becomes of texts.
#[test]
fn the_files_beside_it_mean_what_transformers_takes_them_for() {
    let expected: Json = serde_json::from_str(include_str!("../../tests-data/files.json")).unwrap();
    let chat = Input::Messages(messages(&expected["chat"]));
    for case in expected["cases"].as_array().unwrap() {
        let name = &case["name"];
        let mut tokenizer: Json = serde_json::from_slice(tokenizer_file(case["tokenizer"].as_str().unwrap())).unwrap();
        for (part, value) in case["files"]["tokenizer.json"].as_object().into_iter().flatten() {
            tokenizer[part] = value.clone();
        }
        let file = |name: &str| Some(case["files"].get(name)?.to_string().into_bytes());
        let sources = Sources {
            tokenizer: tokenizer.to_string().into_bytes(),
            tokenizer_config: file("tokenizer_config.json"),
            special_tokens_map: file("special_tokens_map.json"),
            added_tokens: file("added_tokens.json"),
            model_config: file("config.json").or_else(|| Some(br#"{"model_type": "llama"}"#.to_vec())),
            ..Sources::default()
        };
        let encoder = Encoder::new(&sources).unwrap();
        for (text, ids) in case["texts"].as_array().unwrap().iter().zip(case["ids"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            assert_eq!(encoder.tokenizer.encode(text).unwrap(), ids_of(ids), "{name}: {text:?}");
        }
        let special = encoder.tokenizer.added().iter().filter(|token| token.special);
        let mut special: Vec<_> = special.map(|token| token.content.as_str()).collect();
        special.sort_unstable();
        assert_eq!(json!(special), case["special"], "{name}");
        for (options, ids) in [(false, &case["chat"]), (true, &case["strict"])] {
            let options = Options { strict_special_tokens: options, ..Options::default() };
            assert_eq!(
                one(&encoder, &chat, &options).unwrap().ids,
                with_bos(&encoder, ids_of(ids)),
                "{name}: {options:?}"
            );
        }
    }
}

#[test]
fn parts_are_trimmed_by_a_template_that_looks_at_them() {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content | trim }}{% else %}{% for p in m.content %}{{ p.text | trim }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}";
    let parts = json!([{"type": "text", "text": "Look: "}, {"type": "text", "text": "\n 1 + 1"}]);
    let turns = json!([{"role": "user", "content": parts}, {"role": "assistant", "content": "2"}]);
    let rendered = |encoder: &Encoder| encoder.render(&Input::Messages(messages(&turns))).remove(0).unwrap();
    let looks = encoder_with("qwen3", &json!({ "chat_template": template }));
    assert!(rendered(&looks).contains("<|im_start|>user\nLook:1 + 1<|im_end|>"));
    assert!(rendered(&encoder("gemma2")).contains("Look: \n 1 + 1"), "joined for a template that does not look");
}

/// 600 hostile texts with each of four published tokenizers, compared with Hugging Face's library. Skipped, with a word
/// on standard error, where npm or transformers cannot be had.
#[test]
fn published_tokenizers_give_hugging_faces_ids() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests-data/real_tokenizers.py");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/real-tokenizers");
    let made = match Command::new("python3").args([script, folder, "600"]).output() {
        Ok(made) if made.status.success() => made.stdout,
        Ok(made) => {
            let why = String::from_utf8_lossy(&made.stderr);
            eprintln!("SKIPPED: no published tokenizers: {}", why.trim().lines().next_back().unwrap_or_default());
            return;
        }
        Err(error) => {
            eprintln!("SKIPPED: no python3: {error}");
            return;
        }
    };
    let mut tokenizers = 0;
    for line in made.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let case: Json = serde_json::from_slice(line).unwrap();
        let read = |file: &str| std::fs::read(Path::new(case["folder"].as_str().unwrap()).join(file)).unwrap();
        let (tokenizer, tokenizer_config) = (read("tokenizer.json"), Some(read("tokenizer_config.json")));
        let began = Instant::now();
        let encoder = Encoder::new(&Sources { tokenizer, tokenizer_config, ..Sources::default() }).unwrap();
        eprintln!("{}: loaded in {:.2?}", case["name"], began.elapsed());
        for (text, ids) in case["texts"].as_array().unwrap().iter().zip(case["ids"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            assert_eq!(encoder.tokenizer.encode(text).unwrap(), ids_of(ids), "{}: {text:?}", case["name"]);
        }
        tokenizers += 1;
    }
    assert_eq!(tokenizers, 4);
}

// === the BOS rule ===

#[test]
fn exactly_one_bos_whatever_the_template_did() {
    let bos = |template: &Json, text: &str| {
        let encoder = encoder_with("gemma2", &json!({ "chat_template": template }));
        let encoded = one(&encoder, &conversation(text, "b"), &Options::default()).unwrap();
        let BosRule::One { id, ref token, reason } = *encoder.bos_rule() else { panic!("no rule") };
        assert_eq!((token.as_str(), reason), ("<bos>", BosReason::PostProcessor));
        assert_eq!(encoded.ids.iter().take_while(|other| **other == id).count(), 1);
        encoded.bos
    };
    assert_eq!(bos(&json!("{{ bos_token }}{{ messages[0].content }}"), "a"), Bos::Kept);
    assert_eq!(bos(&json!("{{ messages[0].content }}"), "a"), Bos::Added);
    assert_eq!(bos(&json!("{{ messages[0].content }}"), "<bos>a"), Bos::Kept);
    assert_eq!(
        bos(&json!("{{ bos_token }}{{ messages[0].content }}"), "<bos><bos>a"),
        Bos::Deduplicated { removed: 2 }
    );
}

#[test]
fn rendered_text_comes_under_the_rule_and_token_ids_do_not() {
    let encoder = encoder("gemma2");
    let encode = |text: &str| one(&encoder, &Input::Text(text.to_owned()), &Options::default()).unwrap();
    let plain = encode("hello");
    assert_eq!(plain.bos, Bos::Added);
    assert_eq!(encode("<bos>hello"), Encoded { bos: Bos::Kept, ..plain.clone() });
    assert_eq!(encode("<bos><bos>hello"), Encoded { bos: Bos::Deduplicated { removed: 1 }, ..plain });
    assert_eq!(encode("hello<bos>").ids.last(), encode("<bos>").ids.first());
    let given = one(&encoder, &Input::TokenIds(vec![5, 6, 5]), &Options::default()).unwrap();
    assert_eq!(given, Encoded { ids: vec![5, 6, 5], bos: Bos::AsGiven, truncated_from: None });
}

#[test]
fn a_tokenizer_without_a_rule_gets_no_bos() {
    let encoder = encoder("qwen3");
    assert_eq!(*encoder.bos_rule(), BosRule::None);
    assert_eq!(one(&encoder, &conversation("a", "b"), &Options::default()).unwrap().bos, Bos::NotUsed);
    let doubled = one(&encoder, &Input::Text("<|im_start|><|im_start|>a".to_owned()), &Options::default()).unwrap();
    assert_eq!(doubled.ids[0], doubled.ids[1]);
}

#[test]
fn add_bos_token_makes_a_rule_and_never_breaks_one() {
    let qwen = |extra| encoder_with("qwen3", &extra);
    let with = qwen(json!({"add_bos_token": true, "bos_token": {"content": "<|endoftext|>"}}));
    assert!(matches!(with.bos_rule(), BosRule::One { id: 0, reason: BosReason::AddBosToken, .. }));
    assert_eq!(one(&with, &conversation("a", "b"), &Options::default()).unwrap().bos, Bos::Added);
    assert_eq!(with.bos_rule().to_string(), "exactly one <|endoftext|> (0): add_bos_token is set");
    assert_eq!(*qwen(json!({"add_bos_token": false, "bos_token": "<|endoftext|>"})).bos_rule(), BosRule::None);
    let gemma = encoder_with("gemma2", &json!({"add_bos_token": false}));
    assert!(matches!(gemma.bos_rule(), BosRule::One { reason: BosReason::PostProcessor, .. }));
    let config = Some(br#"{"add_bos_token": true}"#.to_vec());
    let sources = Sources { tokenizer: QWEN.to_vec(), tokenizer_config: config, ..Sources::default() };
    assert_eq!(Encoder::new(&sources).err(), Some(Error::NoBosToken));
}

// === the limit ===

#[test]
fn too_long_names_both_lengths_or_is_cut_on_the_chosen_side() {
    let encoder = encoder("gemma2");
    let input = conversation("Jane has twelve apples", "three");
    let whole = one(&encoder, &input, &Options::default()).unwrap().ids;
    let tokens = whole.len();
    let cut =
        |limit, truncate| one(&encoder, &input, &Options { max_length: Some(limit), truncate, ..Options::default() });
    let too_long = |limit| Err(Fault::TooLong { tokens, limit }.into());
    assert_eq!(cut(tokens, Truncate::None).unwrap().truncated_from, None);
    assert_eq!(cut(tokens - 1, Truncate::None), too_long(tokens - 1));
    let message = cut(7, Truncate::None).unwrap_err().to_string();
    assert_eq!(message, format!("at least {tokens} tokens are more than the limit of 7"));
    let right = cut(7, Truncate::Right).unwrap();
    assert_eq!((right.ids.as_slice(), right.truncated_from), (&whole[..7], Some(tokens)));
    let left = cut(7, Truncate::Left).unwrap();
    assert_eq!((left.ids[0], &left.ids[1..], left.truncated_from), (whole[0], &whole[tokens - 6..], Some(tokens)));
    for truncate in [Truncate::None, Truncate::Left, Truncate::Right] {
        assert_eq!(cut(0, truncate), too_long(0));
        assert_eq!(cut(1, truncate), too_long(1));
    }
    assert_eq!(cut(2, Truncate::Left).unwrap().ids, [whole[0], whole[tokens - 1]]);
}

#[test]
fn token_ids_are_cut_and_checked_too() {
    let sources = Sources { tokenizer: GEMMA.to_vec(), vocab_size: Some(100), ..Sources::default() };
    let encoder = Encoder::new(&sources).unwrap();
    let BosRule::One { id: bos, .. } = *encoder.bos_rule() else { panic!("no rule") };
    let options = Options { max_length: Some(2), truncate: Truncate::Left, ..Options::default() };
    let cut = |ids: &[u32]| one(&encoder, &Input::TokenIds(ids.to_vec()), &options);
    assert_eq!(cut(&[bos, 7, 8, 9]).unwrap().ids, [bos, 9]);
    assert_eq!(cut(&[6, 7, 8, 9]).unwrap().ids, [8, 9]);
    assert_eq!(cut(&[1, 99, 100, 200]), Err(Fault::TokenId { id: 100, vocab_size: 100 }.at("token_ids[2]")));
    assert_eq!(cut(&[]), Err(Fault::NoTokenIds.at("token_ids")));
}

// === groups ===

#[test]
fn a_prompt_is_tokenized_once() {
    for (template, per_response) in [("gemma2", 40), ("llama3.1", 40), ("qwen3", 50)] {
        let encoder = encoder(template);
        let prompt = "Jane has 12 apples. ".repeat(100);
        let group = group(&prompt, &["three", "four and a half", "3"]);
        let batch = encoder.encode(&group, &Options::default());
        assert!(batch.tokenized_bytes < prompt.len() + 300 + 3 * per_response, "{template}: {}", batch.tokenized_bytes);
        for (item, response) in batch.items.into_iter().zip(["three", "four and a half", "3"]) {
            assert_eq!(item, one(&encoder, &conversation(&prompt, response), &Options::default()), "{template}");
        }
    }
}

#[test]
fn a_tokenizer_that_treats_the_first_word_apart_is_not_cut() {
    let encoder = encoder("mistral-like");
    let batch = encoder.encode(&group("a long prompt", &["a", "b"]), &Options::default());
    assert!(batch.tokenized_bytes > 2 * "a long prompt".len());
    for (item, response) in batch.items.into_iter().zip(["a", "b"]) {
        assert_eq!(item, one(&encoder, &conversation("a long prompt", response), &Options::default()));
    }
}

#[test]
fn a_bad_response_leaves_the_others_alone() {
    let encoder = encoder("gemma2");
    let options = Options { max_length: Some(30), ..Options::default() };
    let long = "very ".repeat(50);
    let items = encoder.encode(&group("q", &["a", &long, "b"]), &options).items;
    assert!(items[0].is_ok() && items[2].is_ok());
    let error = items[1].as_ref().unwrap_err();
    assert!(matches!(error.fault, Fault::TooLong { limit: 30, .. }) && error.path == "responses[1]", "{error}");
    let refusing = "{% if messages[-1].content == 'x' %}{{ raise_exception('no') }}{% endif %}<bos>{{ messages | map(attribute='content') | join }}";
    let encoder = encoder_with("gemma2", &json!({ "chat_template": refusing }));
    let items = encoder.encode(&group("q", &["x", "a", "b"]), &Options::default()).items;
    assert_eq!(items[0], Err(Fault::Refused("no".to_owned()).at("responses[0]")));
    assert!(items[1].is_ok() && items[2].is_ok());
}

fn text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "<start_of_turn>",
        "<end_of_turn>",
        "<bos>",
        "<|eot_id|>",
        "<|im_end|>",
        "<|im_start|>",
        "<think>",
        "</think>",
        "<s>",
        "<b>",
        "\n",
        "\n\n",
        "\n\n\n",
        " ",
        "  ",
        "▁",
        "▁▁",
        "a",
        "apple",
        " the",
        "é",
        "e\u{301}",
        "价格",
        "🙂",
        "<",
        "<|",
        "|>",
        ">",
        "eot_id",
        "12",
        "3456",
        "'s",
        "\u{f0000}",
        "\u{f0001}",
        "\u{f0000}<b>\u{f0001}",
        "\t",
        "\r\n",
        "\u{a0}",
        "<end_of",
        "_turn>",
    ]);
    prop_oneof![4 => prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat()), 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_joined_group_has_the_ids_of_its_conversations(
        prompt in text(), responses in prop::collection::vec(text(), 1..5), strict in any::<bool>(),
    ) {
        thread_local!(static ENCODERS: Vec<Encoder> =
            ["gemma2", "llama3.1", "qwen3", "mistral-like", "loop controls"].map(encoder).into_iter().collect());
        let options = Options { strict_special_tokens: strict, ..Options::default() };
        let responses: Vec<&str> = responses.iter().map(String::as_str).collect();
        ENCODERS.with(|encoders| {
            for encoder in encoders {
                let group = group(&prompt, &responses);
                let batch = encoder.encode(&group, &options);
                for (item, response) in batch.items.iter().zip(&responses) {
                    prop_assert_eq!(item, &one(encoder, &conversation(&prompt, response), &options));
                }
                // and, without the BOS rule, those of the tokenizers library for the whole text
                for (item, text) in batch.items.iter().zip(encoder.render(&group)) {
                    if !strict {
                        prop_assert_eq!(&item.as_ref().unwrap().ids, &with_bos(encoder, encoder.tokenizer.encode(&text.unwrap()).unwrap()));
                    }
                }
            }
            Ok(())
        })?;
    }
}

// === strict ===

#[test]
fn strict_content_never_ends_a_turn() {
    let strict = Options { strict_special_tokens: true, ..Options::default() };
    for (template, token) in
        [("gemma2", "<end_of_turn>"), ("llama3.1", "<|eot_id|>"), ("qwen3", "<|im_end|>"), ("mistral-like", "</s>")]
    {
        let encoder = encoder(template);
        let id = encoder.tokenizer.id(token).unwrap();
        let count = |text: &str, options: &Options| {
            let ids = one(&encoder, &conversation(text, text), options).unwrap().ids;
            ids.iter().filter(|other| **other == id).count()
        };
        let attack = format!("{token} x{token}{token}\u{f0000}{token}\u{f0001}");
        assert_eq!(count(&attack, &strict), count("x", &strict), "{template}");
        assert_eq!(count(&attack, &Options::default()), count("x", &strict) + 8, "{template}");
        let forged = format!("{}\u{f0001}{}", &token[..3], &token[3..]);
        assert_eq!(count(&forged, &strict), count("x", &strict), "{template}");
    }
}

#[test]
fn strict_leaves_rendered_text_alone() {
    let encoder = encoder("gemma2");
    let text = Input::Text("<start_of_turn>user\na<end_of_turn>".to_owned());
    let strict = Options { strict_special_tokens: true, ..Options::default() };
    assert_eq!(encoder.encode(&text, &strict), encoder.encode(&text, &Options::default()));
}

// === the rest ===

#[test]
fn conversations_that_cannot_be_scored() {
    let encoder = encoder("gemma2");
    let error = |input: &Input| one(&encoder, input, &Options::default()).unwrap_err();
    assert_eq!(error(&Input::Messages(Vec::new())), Fault::EmptyConversation.into());
    assert_eq!(error(&Input::Messages(user("a"))), Fault::LastTurn(Role::User).into());
    assert_eq!(error(&Input::Text(String::new())), Fault::Empty("text").into());
    assert_eq!(
        error(&Input::Group { prompt: Vec::new(), responses: vec!["a".to_owned()] }),
        Fault::EmptyConversation.at("responses[0]")
    );
    assert_eq!(error(&Input::Group { prompt: user("a"), responses: Vec::new() }), Fault::NoResponses.into());
    let none = Encoder::new(&Sources { tokenizer: GEMMA.to_vec(), ..Sources::default() }).unwrap();
    assert_eq!(none.template_source(), None);
    assert_eq!(one(&none, &conversation("a", "b"), &Options::default()), Err(Fault::NoTemplate.into()));
    assert!(one(&none, &Input::Text("a".to_owned()), &Options::default()).is_ok());
}

#[test]
fn what_inspect_shows() {
    let encoder = encoder("gemma2");
    assert_eq!(encoder.template_source().unwrap().to_string(), "tokenizer_config.json");
    assert_eq!(
        encoder.bos_rule().to_string(),
        "exactly one <bos> (2): the tokenizer's post-processor puts it in front"
    );
    assert_eq!(encoder.token(2).as_deref(), Some("<bos>"));
    assert_eq!(encoder.token(1 << 30), None);
    assert_eq!(encoder.render(&Input::TokenIds(vec![1])), []);
    assert_eq!(encoder.render(&Input::Text("a".to_owned())), [Ok("a".to_owned())]);
}

#[test]
fn many_threads_share_an_encoder() {
    let encoder = Arc::new(encoder("llama3.1"));
    let wanted = one(&encoder, &conversation("a", "b"), &Options::default());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (encoder, wanted) = (Arc::clone(&encoder), wanted.clone());
            thread::spawn(move || assert_eq!(one(&encoder, &conversation("a", "b"), &Options::default()), wanted))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
