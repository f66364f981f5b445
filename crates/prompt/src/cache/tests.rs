//! The ids are the same with a cache, whatever the text; and prompts that come again are not tokenized again.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::{Encoder, Fault, Input, Message, Options, Role, Sources};

const CHECKPOINTS: [&str; 4] = ["gemma2-v4", "gemma2-v5", "llama-sharded", "qwen3"];

fn encoder(checkpoint: &str) -> Encoder {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(checkpoint);
    let tokenizer = std::fs::read(folder.join("tokenizer.json")).unwrap();
    let tokenizer_config = std::fs::read(folder.join("tokenizer_config.json")).ok();
    let chat_template = std::fs::read(folder.join("chat_template.jinja")).ok();
    Encoder::new(&Sources { tokenizer, tokenizer_config, chat_template, ..Sources::default() }).unwrap()
}

/// What texts are made of: the tokens that a text may be cut at, and what may stand around them.
fn pieces() -> impl Strategy<Value = String> {
    let tokens = [
        "<bos>",
        "<eos>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|im_start|>",
        "<|im_end|>",
        "<think>",
        "</think>",
        "<|endoftext|>",
    ];
    let plain =
        [" ", "\n", "\n\n", "  ", "user\n", "model\n", "Jane has 12 apples. ", "é", "の", "🙂", "<", "|>", "\t"];
    let piece = prop_oneof![
        prop::sample::select(tokens.to_vec()).prop_map(str::to_owned),
        prop::sample::select(plain.to_vec()).prop_map(str::to_owned),
        prop::sample::select(vec!["the quick brown fox ".repeat(8), "x".repeat(200), " \n".repeat(100)]),
        any::<String>(),
    ];
    prop::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat())
}

/// The same ids and errors without a cache, and twice with it.
fn same(plain: &Encoder, cached: &Encoder, input: &Input, options: &Options) -> Result<(), TestCaseError> {
    let expected = plain.encode(input, options);
    for _ in 0..2 {
        prop_assert_eq!(&cached.encode(input, options).items, &expected.items, "{:?}", input);
    }
    Ok(())
}

#[test]
fn ids_are_the_same_with_a_cache() {
    for checkpoint in CHECKPOINTS {
        let (plain, cached) = (encoder(checkpoint), encoder(checkpoint).with_cache(1 << 20));
        let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
        let inputs = (prop::collection::vec(pieces(), 2..5), any::<bool>());
        let run = |(texts, strict): (Vec<String>, bool)| {
            let options = Options { strict_special_tokens: strict, ..Options::default() };
            let roles = [Role::User, Role::Assistant].into_iter().cycle();
            let turns: Vec<_> = roles.zip(&texts).map(|(role, text)| Message::new(role, text.as_str())).collect();
            let responses = texts[1..].to_vec();
            same(&plain, &cached, &Input::Text(texts[0].clone()), &options)?;
            same(&plain, &cached, &Input::Messages(turns[..2].to_vec()), &options)?;
            same(&plain, &cached, &Input::Messages(turns), &options)?;
            same(
                &plain,
                &cached,
                &Input::Group { prompt: vec![Message::new(Role::User, &*texts[0])], responses },
                &options,
            )
        };
        proptest::test_runner::TestRunner::new(config).run(&inputs, run).unwrap();
        let (hits, _) = cached.cache_hits_and_misses();
        assert!(hits > 100, "{checkpoint}: only {hits} hits");
    }
}

#[test]
fn a_prompt_that_comes_again_is_not_tokenized_again() {
    for checkpoint in CHECKPOINTS {
        let encoder = encoder(checkpoint).with_cache(1 << 20);
        let prompt = "How many apples has Jane? ".repeat(20);
        let ask = |response: &str| {
            let turns = vec![Message::new(Role::User, &*prompt), Message::new(Role::Assistant, response)];
            encoder.encode(&Input::Messages(turns), &Options::default())
        };
        let (first, second) = (ask("She has eight."), ask("I do not know."));
        assert!(first.tokenized_bytes > prompt.len() && second.tokenized_bytes < 100, "{checkpoint}");
        assert_eq!(encoder.cache_hits_and_misses(), (1, 1));
        // both begin with the tokens of the prompt, and differ soon after that
        let ids = |batch: &crate::Batch| batch.items[0].as_ref().unwrap().ids.clone();
        assert_eq!((first.prompt > 100, first.prompt), (true, second.prompt));
        assert_eq!(ids(&first)[..first.prompt], ids(&second)[..first.prompt]);
        assert!(ids(&first).len() < first.prompt + 40, "{checkpoint}");
    }
}

#[test]
fn the_cache_is_bounded_and_forgets_what_is_not_used() {
    let cache = Cache::new(100_000);
    for number in 0..1000 {
        let prompt = format!("{number:0>1000}");
        let (ids, bytes) = cache.get_or(&prompt, || Ok(vec![number; 250]));
        assert_eq!((ids.unwrap()[0], bytes), (number, 1000));
    }
    assert!(cache.prompts.weight() <= 100_000 && cache.prompts.len() > 10);
    let failed = cache.get_or("bad", || Err(Fault::NoTemplate.into())).0;
    assert_eq!(failed, Err(Fault::NoTemplate.into()));
    assert!(cache.prompts.get("bad").is_none());
}

#[test]
fn without_a_cache_nothing_is_cut() {
    let encoder = encoder("gemma2-v4").with_cache(0);
    let text = format!("<start_of_turn>{}<start_of_turn>b", "a".repeat(200));
    let batch = encoder.encode(&Input::Text(text), &Options::default());
    assert_eq!((batch.prompt, encoder.cache_hits_and_misses()), (0, (0, 0)));
}
