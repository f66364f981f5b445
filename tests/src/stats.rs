//! What `--stats` proves: every common prefix is computed once a step, and the fingerprint names what was computed.

use std::collections::HashSet;

use serde_json::{Value, json};
use tests::{GOLDEN, golden};

use crate::assay::{assay, expected, ids, jsonl, messages, score};

/// The tokens that a step computes: as many as there are distinct prefixes.
fn distinct_prefixes(sequences: &[Vec<u32>]) -> usize {
    let prefixes = sequences.iter().flat_map(|sequence| (1..=sequence.len()).map(move |end| &sequence[..end]));
    prefixes.collect::<HashSet<_>>().len()
}

fn common_prefix(sequences: &[Vec<u32>]) -> usize {
    let same = |at: usize| sequences.iter().all(|sequence| sequence.get(at).is_some_and(|id| *id == sequences[0][at]));
    (0..sequences[0].len()).take_while(|at| same(*at)).count()
}

/// The token ids that `inspect` shows.
fn inspected(name: &str, input: &str) -> Vec<Vec<u32>> {
    let call = assay(&["inspect", "--model", golden(name).to_str().unwrap(), "--input", "-"], input.as_bytes());
    assert_eq!(call.status, Some(0), "{}{}", call.stdout, call.stderr);
    let ids = call.stdout.lines().filter_map(|line| line.strip_prefix("  input_ids "));
    ids.map(|ids| serde_json::from_str(ids).unwrap()).collect()
}

/// A prompt, and responses that share nothing with each other.
fn group(responses: usize) -> (Value, Vec<String>) {
    let prompt =
        json!([{ "role": "user", "content": "How many apples does each person get, if Jane has 12? ".repeat(3) }]);
    let response = |i: usize| format!("{} is the answer, I think. ", (b'A' + i as u8) as char).repeat(3 + i % 4);
    (prompt, (0..responses).map(response).collect())
}

#[test]
fn a_group_computes_its_prompt_once() {
    for name in GOLDEN {
        let (prompt, responses) = group(8);
        let as_group = jsonl([json!({ "prompt": prompt, "responses": responses })]);
        let alone = |response: &String| {
            let turns = [prompt[0].clone(), json!({ "role": "assistant", "content": response })];
            json!({ "messages": turns })
        };
        let as_messages = jsonl(responses.iter().map(alone));
        let sequences = inspected(name, &as_group);
        assert_eq!(sequences, inspected(name, &as_messages));
        let shared = common_prefix(&sequences);
        let own: usize = sequences.iter().map(|sequence| sequence.len() - shared).sum();
        assert!(shared >= 16, "{name}: {shared} tokens are too few to prove anything");
        assert_eq!(distinct_prefixes(&sequences), shared + own);
        for input in [as_group, as_messages] {
            let scored = score(&golden(name), &[], &input);
            assert_eq!(scored.all_scores().len(), 8);
            let total: usize = sequences.iter().map(Vec::len).sum();
            assert_eq!(scored.stats["computed_tokens"], json!(shared + own), "{name}");
            assert_eq!(scored.stats["input_tokens"], json!(total), "{name}");
            assert_eq!((&scored.stats["conversations"], &scored.stats["steps"]), (&json!(8), &json!(1)), "{name}");
        }
    }
}

#[test]
fn a_group_beyond_the_budget_computes_its_prompt_once_a_step() {
    const BUDGET: usize = 300;
    for name in GOLDEN {
        let (prompt, responses) = group(24);
        let input = jsonl([json!({ "prompt": prompt, "responses": responses })]);
        let sequences = inspected(name, &input);
        // the steps, filled in order
        let mut steps: Vec<Vec<Vec<u32>>> = vec![Vec::new()];
        for sequence in &sequences {
            let step = steps.last_mut().unwrap();
            step.push(sequence.clone());
            if distinct_prefixes(step) > BUDGET {
                let sequence = step.pop().unwrap();
                steps.push(vec![sequence]);
            }
        }
        let computed: usize = steps.iter().map(|step| distinct_prefixes(step)).sum();
        let shared = common_prefix(&sequences);
        let own: usize = sequences.iter().map(|sequence| sequence.len() - shared).sum();
        assert!(steps.len() > 2, "{name}: {} steps are too few to prove anything", steps.len());
        assert_eq!(computed, steps.len() * shared + own);
        let scored = score(&golden(name), &["--max-batch-tokens", &BUDGET.to_string()], &input);
        assert_eq!(scored.stats["computed_tokens"], json!(computed), "{name}");
        assert_eq!(scored.stats["steps"], json!(steps.len()), "{name}");
        assert_eq!(scored.all_scores(), score(&golden(name), &[], &input).all_scores(), "{name}");
    }
}

#[test]
fn equal_conversations_are_computed_once() {
    let row = &expected("qwen3")[0];
    let scored = score(&golden("qwen3"), &[], messages(&vec![row.clone(); 20]));
    let tokens = ids(row).len();
    assert_eq!(
        (&scored.stats["computed_tokens"], &scored.stats["input_tokens"]),
        (&json!(tokens), &json!(20 * tokens))
    );
    assert!(scored.all_scores().windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits()));
}

#[test]
fn the_counts_are_of_what_has_a_score() {
    let rows = expected("llama-sharded");
    let input =
        messages(&rows[..3]) + "nope\n" + &messages(&rows[..1]) + "{\"prompt\": \"a\", \"responses\": [null]}\n";
    let scored = score(&golden("llama-sharded"), &["--max-length", "290"], input);
    let stats = &scored.stats;
    // the first is longer than 290 tokens, and so is its copy
    assert_eq!((&stats["conversations"], &stats["failed"]), (&json!(2), &json!(4)), "{}", scored.call.stdout);
    assert_eq!(stats["input_tokens"], json!(ids(&rows[1]).len() + ids(&rows[2]).len()));
    let seconds = |key: &str| stats[key].as_f64().unwrap();
    assert!(seconds("load_seconds") > 0.0 && seconds("seconds") > 0.0);
    let rate = stats["input_tokens"].as_f64().unwrap() / seconds("seconds");
    assert!((seconds("tokens_per_second") / rate - 1.0).abs() < 1e-6);
    let nothing = score(&golden("llama-sharded"), &[], "").stats;
    for key in ["conversations", "failed", "input_tokens", "computed_tokens", "steps"] {
        assert_eq!(nothing[key], json!(0), "{key}");
    }
}

#[test]
fn the_fingerprint_tells_models_and_ranks_apart() {
    let mut seen = HashSet::new();
    for name in GOLDEN {
        for ranks in ["1", "2"] {
            let flags = ["--tensor-parallel", ranks];
            let fingerprint = score(&golden(name), &flags, "").stats["fingerprint"].as_str().unwrap().to_owned();
            assert_eq!(
                fingerprint,
                score(&golden(name), &flags, "").stats["fingerprint"],
                "{name}: not the same twice"
            );
            let model = golden(name);
            let call = assay(&["inspect", "--model", model.to_str().unwrap(), flags[0], flags[1]], b"");
            let shown = call.stdout.lines().find_map(|line| line.strip_prefix("fingerprint")).map(str::trim);
            assert_eq!(shown, Some(fingerprint.as_str()), "{name}");
            assert!(seen.insert(fingerprint), "{name} on {ranks} ranks has a fingerprint that was there before");
        }
    }
}
