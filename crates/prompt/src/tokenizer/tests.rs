//! Loading: settings that a file was saved with, tokens that only the configuration knows, files that are broken; and
//! where a text may be cut.

use serde_json::{Value, json};

use super::*;
use crate::Sources;

const GEMMA: &str = include_str!("../../tests-data/gemma.json");

fn load(tokenizer: &Value, config: &Value) -> Result<Tokenizer, Error> {
    let config = Some(config.to_string().into_bytes());
    let config = Config::new(&Sources { tokenizer_config: config, ..Sources::default() })?;
    read(tokenizer.to_string().as_bytes(), &config)
}

fn read(tokenizer: &[u8], config: &Config) -> Result<Tokenizer, Error> {
    Tokenizer::new(File::read(tokenizer)?, Class::File, config)
}

fn gemma() -> Value {
    serde_json::from_str(GEMMA).unwrap()
}

#[test]
fn truncation_and_padding_of_the_file_are_off() {
    let file = gemma();
    assert!(
        file["truncation"]["max_length"] == 8 && file["padding"]["strategy"]["Fixed"] == 16,
        "the file lost its settings"
    );
    let tokenizer = load(&file, &json!({})).unwrap();
    assert_eq!(tokenizer.encode("a").unwrap().len(), 1);
    assert_eq!(tokenizer.encode(&"\t".repeat(50)).unwrap().len(), 50);
}

#[test]
fn tokens_that_only_the_configuration_knows_are_added() {
    let tokenizer = load(&gemma(), &json!({"pad_token": "[PAD]", "additional_special_tokens": ["<x>"]})).unwrap();
    for token in ["[PAD]", "<x>"] {
        assert_eq!(tokenizer.encode(&format!("a{token}b")).unwrap().len(), 3);
        assert!(tokenizer.is_added(token));
    }
    let stripping = json!({"added_tokens_decoder": {"2": {"content": "<bos>", "special": true, "rstrip": true}}});
    let tokenizer = load(&gemma(), &stripping).unwrap();
    assert_eq!(tokenizer.encode("<bos>   a").unwrap().len(), 2);
    assert_eq!(tokenizer.shared_head(&["<bos>a", "<bos>b"]), 0, "a token that swallows spaces is no place to cut");
}

#[test]
fn heads_end_behind_an_added_token_that_all_texts_find() {
    let tokenizer = load(&gemma(), &json!({})).unwrap();
    let head = |texts: &[&str]| tokenizer.shared_head(texts);
    assert_eq!(head(&["q<bos>a", "q<bos>b"]), 6);
    assert_eq!(head(&["q<bos>", "q<bos>"]), 6);
    assert_eq!(head(&["q<bos>abc", "q<bos>abd", "q<boS>"]), 0);
    assert_eq!(head(&["abc", "abc"]), 0);
    assert_eq!(head(&[]), 0);
    // a newline that one text ends with is part of a longer token in the other
    assert_eq!(head(&["<bos>a\n", "<bos>a\n\n"]), 5);
    assert_eq!(head(&["é\n🙂", "é\n🙃"]), 3);
}

#[test]
fn broken_files_are_errors() {
    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut file = gemma();
        change(&mut file);
        load(&file, &json!({})).err().unwrap()
    };
    assert!(matches!(wrong(&|file| *file = json!({})), Error::File { file: "tokenizer.json", .. }));
    assert!(matches!(wrong(&|file| file["model"] = json!(3)), Error::File { .. }));
    assert_eq!(wrong(&|file| file["model"]["dropout"] = json!(0.5)), Error::Dropout("0.5".to_owned()));
    let twice = json!([{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"SpecialToken": {"id": "<bos>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}]);
    assert_eq!(wrong(&|file| file["post_processor"]["single"] = twice.clone()), Error::Prefix { count: 2 });
    let config = Config::new(&Sources::default()).unwrap();
    assert!(read(b"\xff", &config).is_err());
    for length in (0..GEMMA.len()).step_by(997) {
        assert!(read(&GEMMA.as_bytes()[..length], &config).is_err());
    }
}

#[test]
fn many_added_tokens_cost_little() {
    let mut file = gemma();
    let first = file["model"]["vocab"].as_object().unwrap().len();
    let token = |at: usize| {
        json!({"content": format!("<sid_{at}>"), "lstrip": false, "rstrip": false, "normalized": false,
        "single_word": false, "special": false})
    };
    let tokens: Vec<(usize, Value)> = (0..16_000).map(|at| (first + at, token(at))).collect();
    let listed = tokens.iter().map(|(id, token)| {
        let mut token = token.clone();
        token["id"] = json!(id);
        token
    });
    file["added_tokens"].as_array_mut().unwrap().extend(listed);
    let decoder: serde_json::Map<_, _> = tokens.into_iter().map(|(id, token)| (id.to_string(), token)).collect();
    let began = std::time::Instant::now();
    let tokenizer = load(&file, &json!({"added_tokens_decoder": decoder})).unwrap();
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(tokenizer.encode("<sid_0><sid_15999>").unwrap(), [first as u32, first as u32 + 15_999]);
}

#[test]
fn a_token_at_the_end_is_no_rule() {
    let mut file = gemma();
    let single = json!([{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<bos>", "type_id": 0}}]);
    file["post_processor"]["single"] = single;
    assert_eq!(*load(&file, &json!({})).unwrap().bos(), BosRule::None);
}
