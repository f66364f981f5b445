//! Slices have the ids of the whole, on texts that are made to be cut badly; and no token stands for more than is said.

use super::super::{Class, Tokenizer};
use super::*;
use crate::config::{Config, Sources};

const TEXTS: usize = 20_000;

fn tokenizer(file: &[u8]) -> Tokenizer {
    let sources = Sources { tokenizer: file.to_vec(), ..Sources::default() };
    let file = super::super::File::read(file).unwrap();
    Tokenizer::new(file, Class::File, &Config::new(&sources).unwrap()).unwrap()
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }
}

/// A text of pieces that tokenizers treat in their own ways, added tokens among them.
fn text(random: &mut Random, added: &[AddedToken]) -> String {
    const PIECES: [&str; 42] = [
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "a",
        "the",
        " the",
        "don't",
        "'s",
        "'S",
        "'ll",
        "I'm",
        "x'",
        "1",
        "12",
        "1234",
        ".",
        ",",
        "...",
        "!?",
        " .",
        "é",
        "e\u{301}",
        "\u{301}",
        "ﬁ",
        "한",
        "\u{1112}\u{1161}\u{11ab}",
        "。",
        "，今天",
        "日本語",
        "か\u{3099}",
        "🙂",
        "👩\u{200d}👧",
        "\u{a0}",
        "\u{2581}",
        "\u{2581}the",
        "\u{212a}",
        "ß",
        "<0x0A>",
    ];
    (0..1 + random.below(24))
        .map(|_| match random.below(8) {
            0 if !added.is_empty() => added[random.below(added.len())].content.clone(),
            1 if !added.is_empty() => {
                // a part of one
                let content = &added[random.below(added.len())].content;
                content.chars().take(random.below(content.chars().count() + 1)).collect()
            }
            _ => PIECES[random.below(PIECES.len())].to_owned(),
        })
        .collect()
}

/// Tries many texts, each cut wherever it may be cut.
fn check(name: &str, file: &[u8]) {
    let tokenizer = tokenizer(file);
    let slices = tokenizer.slices.as_ref().unwrap_or_else(|| panic!("{name}: nothing is cut"));
    let (mut random, mut cuts) = (Random(7), 0);
    for _ in 0..TEXTS {
        let text = text(&mut random, &tokenizer.added);
        let (mut ids, mut from) = (Vec::new(), 0);
        while from < text.len() {
            let end = slices.next(&tokenizer.inner, &text, from + 1);
            ids.extend(tokenizer.encode_part(&text[from..end]).unwrap());
            cuts += usize::from(end < text.len());
            from = end;
        }
        assert_eq!(ids, tokenizer.encode_part(&text).unwrap(), "{name}: {text:?}");
        let most = tokenizer.longest().unwrap() * ids.len();
        assert!(text.len() <= most, "{name}: {} bytes are {} tokens: {text:?}", text.len(), ids.len());
    }
    assert!(cuts > TEXTS / 4, "{name}: {cuts} cuts in {TEXTS} texts");
    println!("{name}: {TEXTS} texts with {cuts} cuts");
}

#[test]
fn slices_have_the_ids_of_the_whole() {
    for name in ["gemma2-v4", "llama-sharded", "qwen2", "qwen3", "mistral"] {
        let file = format!("{}/../../tests/golden/{name}/tokenizer.json", env!("CARGO_MANIFEST_DIR"));
        check(name, &std::fs::read(file).unwrap());
    }
}

#[test]
fn tokenizers_that_nobody_knows_leave_texts_whole() {
    let golden = format!("{}/../../tests/golden/qwen3/tokenizer.json", env!("CARGO_MANIFEST_DIR"));
    let file: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let changed = |path: &str, value: Value| {
        let mut file = file.clone();
        *file.pointer_mut(path).unwrap() = value;
        tokenizer(file.to_string().as_bytes())
    };
    assert!(changed("/normalizer", json!({ "type": "NFC" })).cuts_texts());
    for (path, value) in [
        ("/normalizer", json!({ "type": "NFKC" })),
        ("/normalizer", json!({ "type": "Strip", "strip_left": true, "strip_right": true })),
        ("/pre_tokenizer", json!({ "type": "WhitespaceSplit" })),
        ("/pre_tokenizer/pretokenizers/0/pattern", json!({ "Regex": "a+|b" })),
        ("/pre_tokenizer/pretokenizers/0/behavior", json!("Removed")),
        ("/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true)),
        ("/added_tokens/0/lstrip", json!(true)),
    ] {
        assert!(!changed(path, value.clone()).cuts_texts(), "{path} {value}");
    }
    // a byte that is no entry is dropped, however often it comes
    let mut file = file.clone();
    file["model"]["vocab"].as_object_mut().unwrap().remove("Ā");
    let merges = file["model"]["merges"].as_array().unwrap().clone();
    let kept = merges.into_iter().filter(|pair| !pair.to_string().contains('Ā')).collect();
    file["model"]["merges"] = Value::Array(kept);
    let tokenizer = tokenizer(file.to_string().as_bytes());
    assert_eq!((tokenizer.cuts_texts(), tokenizer.longest()), (true, None));
}

#[test]
fn a_text_is_read_as_far_as_is_needed_from_either_end() {
    let golden = format!("{}/../../tests/golden/gemma2-v4/tokenizer.json", env!("CARGO_MANIFEST_DIR"));
    let tokenizer = tokenizer(&std::fs::read(golden).unwrap());
    let text: String = (0..40_000).map(|number| format!("{number} is a number. ")).collect();
    let ids = tokenizer.encode(&text).unwrap();
    let bound = |most, wanted: &'static (dyn Fn() -> bool + Sync)| super::super::Bound { most, wanted };
    for most in [0, 100, 5000, 100_000] {
        let (front, whole) = tokenizer.beginning(&text, &bound(most, &|| true)).unwrap();
        assert!(!whole && front.len() > most && ids.starts_with(&front) && front.len() < most + SLICE);
        let (back, whole) = tokenizer.end(&text, &bound(most, &|| true)).unwrap();
        assert!(!whole && back.len() > most && ids.ends_with(&back) && back.len() < 8 * most + 2 * SLICE);
    }
    let all = (ids.clone(), true);
    assert_eq!(tokenizer.beginning(&text, &bound(usize::MAX, &|| true)).unwrap(), all);
    assert_eq!(tokenizer.end(&text, &bound(ids.len(), &|| true)).unwrap(), all);
    assert!(tokenizer.beginning(&text, &bound(9, &|| false)).is_err());
}
