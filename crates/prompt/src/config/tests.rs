//! Which template and which special tokens are taken from the files beside tokenizer.json, and files that are broken.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn sources(config: Value) -> Sources {
    Sources { tokenizer_config: Some(config.to_string().into_bytes()), ..Sources::default() }
}

fn template_of(sources: &Sources) -> Option<(String, String)> {
    Config::new(sources).unwrap().template.map(|(text, source)| (text, source.to_string()))
}

#[test]
fn the_template_is_found_where_transformers_finds_it() {
    let taken = |config| template_of(&sources(config)).unwrap();
    let plain = "tokenizer_config.json".to_owned();
    assert_eq!(taken(json!({"chat_template": "a"})), ("a".to_owned(), plain));
    let named = "tokenizer_config.json (template default)".to_owned();
    let list = json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
    assert_eq!(taken(json!({"chat_template": list})), ("d".to_owned(), named.clone()));
    assert_eq!(taken(json!({"chat_template": {"default": "d", "rag": "r"}})), ("d".to_owned(), named));
    let both = Sources { chat_template: Some(b"file".to_vec()), ..sources(json!({"chat_template": "a"})) };
    assert_eq!(template_of(&both), Some(("file".to_owned(), "chat_template.jinja".to_owned())));
    assert_eq!(template_of(&Sources::default()), None);
    let none = Config::new(&sources(
        json!({"chat_template": [{"name": "a", "template": "t"}, {"name": "b", "template": "t"}]}),
    ));
    assert_eq!(none.err(), Some(Error::NoDefaultTemplate { file: CONFIG, names: "a, b".to_owned() }));
}

#[test]
fn special_tokens_are_strings_or_objects() {
    let object = json!({"__type": "AddedToken", "content": "<s>", "lstrip": true, "normalized": false});
    let config = Config::new(&sources(json!({"bos_token": object, "eos_token": "</s>", "pad_token": null}))).unwrap();
    let (bos, eos) = (AddedToken::from("<s>", true).lstrip(true), AddedToken::from("</s>", true));
    assert_eq!(config.named, [("bos_token".to_owned(), bos), ("eos_token".to_owned(), eos)]);
    assert_eq!((config.named("bos_token"), &config.unnamed[..]), (Some("<s>"), &["pad_token"][..]));
}

#[test]
fn the_older_map_of_special_tokens_counts_without_a_decoder_only() {
    let map = Some(br#"{"bos_token": {"content": "<new>"}, "additional_special_tokens": ["<x>"]}"#.to_vec());
    let old = Sources { special_tokens_map: map.clone(), ..sources(json!({"bos_token": "<s>"})) };
    let config = Config::new(&old).unwrap();
    assert_eq!(config.named("bos_token"), Some("<new>"));
    assert_eq!(config.extra, [AddedToken::from("<x>", true)]);
    let decoder = json!({"10": {"content": "b"}, "2": {"content": "a", "special": true}});
    let new =
        Sources { special_tokens_map: map, ..sources(json!({"bos_token": "<s>", "added_tokens_decoder": decoder})) };
    let config = Config::new(&new).unwrap();
    assert_eq!(config.named("bos_token"), Some("<s>"));
    let Decoder::Whole(tokens) = config.decoder else { panic!("the decoder is not whole") };
    assert_eq!(tokens, [(2, AddedToken::from("a", true)), (10, AddedToken::from("b", false))]);
}

#[test]
fn broken_files_are_named() {
    let message = |sources: &Sources| Config::new(sources).err().unwrap().to_string();
    let raw = |bytes: &[u8]| Sources { tokenizer_config: Some(bytes.to_vec()), ..Sources::default() };
    assert!(message(&raw(b"{")).starts_with("tokenizer_config.json: EOF while parsing"));
    assert!(message(&raw(b"\xff\xfe")).starts_with("tokenizer_config.json: "));
    assert_eq!(message(&raw(b"[]")), "tokenizer_config.json: not a JSON object");
    let map = Sources { special_tokens_map: Some(b"3".to_vec()), ..Sources::default() };
    assert_eq!(message(&map), "special_tokens_map.json: not a JSON object");
    let jinja = Sources { chat_template: Some(b"\xff".to_vec()), ..Sources::default() };
    assert!(message(&jinja).starts_with("chat_template.jinja: invalid utf-8"));
    for (wrong, field) in [
        (json!({"bos_token": 3}), "bos_token"),
        (json!({"bos_token": {"lstrip": true}}), "bos_token"),
        (json!({"add_bos_token": "yes"}), "add_bos_token"),
        (json!({"chat_template": 3}), "chat_template"),
        (json!({"chat_template": [{"name": "default"}]}), "chat_template"),
        (json!({"chat_template": {"default": 1}}), "chat template"),
        (json!({"added_tokens_decoder": []}), "added_tokens_decoder"),
        (json!({"added_tokens_decoder": {"x": {"content": "a"}}}), "added_tokens_decoder"),
        (json!({"additional_special_tokens": "a"}), "special_tokens"),
        (json!({"fast_tokenizer_files": ["tokenizer.json", "tokenizer.4.0.json"]}), "fast_tokenizer_files"),
        (json!({"init_inputs": ["a"]}), "init_inputs"),
        (json!({"fix_mistral_regex": true}), "fix_mistral_regex"),
        (json!({"auto_map": {"AutoTokenizer": ["a.B", null]}}), "auto_map"),
        (json!({"split_special_tokens": 1}), "split_special_tokens"),
        (json!({"chat_control_tokens": "<x>"}), "chat_control_tokens"),
        (json!({"tokenizer_class": 1}), "tokenizer_class"),
    ] {
        assert!(message(&sources(wrong)).contains(field), "{field}");
    }
}

#[test]
fn a_field_that_nobody_knows_is_named_once_and_null_is_none() {
    let config = json!({"clean_up_tokenization_spaces": true, "model_max_length": 1e30, "tokenizer_class": "X", "auto_map": null,
        "bos_token": null, "image_token": "<i>", "surprise": 1, "nothing": null, "fast_tokenizer_files": ["tokenizer.json"]});
    let config = Config::new(&sources(config)).unwrap();
    assert_eq!(config.warnings, ["tokenizer_config.json: unknown field surprise is ignored"]);
    assert_eq!(config.named("image_token"), Some("<i>"));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), words in prop::collection::vec(prop::sample::select(vec![
        "{", "}", "[", "]", ":", ",", "\"chat_template\"", "\"bos_token\"", "\"content\"", "\"added_tokens_decoder\"", "\"1\"", "null",
        "true", "\"name\"", "\"default\"", "\"template\"", "1", "\"add_bos_token\"", "\"extra_special_tokens\"",
    ]), 0..20)) {
        for file in [bytes, format!("{{{}}}", words.concat()).into_bytes()] {
            let _ = Config::new(&Sources {
                tokenizer_config: Some(file.clone()), special_tokens_map: Some(file.clone()), ..Sources::default()
            });
            let _ = Config::new(&Sources { chat_template: Some(file), ..Sources::default() });
        }
    }
}
