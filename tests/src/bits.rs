//! A conversation's score is the same bits alone, in every batch, order and budget, with its prefix shared or not,
//! twice in a row, and on any number of threads.

use std::collections::HashMap;
use std::sync::Arc;

use model::Packer;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tests::{GOLDEN, golden};

use crate::assay::{expected, ids, jsonl, score};
use crate::replica::{self, Replica};

type Sequence = Arc<[u32]>;

/// The same model on different numbers of threads, which must not matter, for each number of ranks, which does.
struct Replicas {
    threads: Vec<Replica>,
    /// What each conversation scored alone.
    alone: HashMap<Sequence, u32>,
}

/// What to score, and how.
#[derive(Debug, Clone)]
struct Case {
    checkpoint: usize,
    sequences: Vec<Sequence>,
    budgets: Vec<usize>,
    orders: Vec<Index>,
}

const RANKS: [usize; 2] = [1, 2];
const THREADS: [usize; 3] = [1, 2, 3];

// === cases ===

/// Lengths at which something changes: a single row, less than a share, tiles and key blocks, several row blocks.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1usize..20, 4 => 20usize..140, 2 => 140usize..400, 1 => 500usize..700]
}

/// Token ids that every golden vocabulary has.
fn tokens(length: impl Strategy<Value = usize>) -> impl Strategy<Value = Vec<u32>> {
    length.prop_flat_map(|length| prop::collection::vec(7u32..750, length))
}

/// A tree of conversations: each goes on from somewhere in one of those before it, or starts anew.
fn sequences() -> impl Strategy<Value = Vec<Sequence>> {
    let branch = (any::<Index>(), any::<Index>(), tokens(length()), 0u8..4);
    prop::collection::vec(branch, 3..12).prop_map(|branches| {
        let mut sequences: Vec<Vec<u32>> = Vec::new();
        for (from, at, mut tail, kind) in branches {
            let head = match (sequences.is_empty(), kind) {
                (true, _) | (_, 0) => Vec::new(),
                // a response to a prompt that was there, or a conversation that goes on
                (_, 1) => from.get(&sequences).clone(),
                _ => {
                    let other = from.get(&sequences);
                    other[..at.index(other.len()) + 1].to_vec()
                }
            };
            // prefixes of others are conversations, too, and so are equal ones
            tail.truncate(if kind == 3 { at.index(tail.len() + 1) } else { tail.len() });
            let sequence = [head, tail].concat();
            if (1..=700).contains(&sequence.len()) {
                sequences.push(sequence);
            }
        }
        sequences.into_iter().map(Into::into).collect()
    })
}

fn case() -> impl Strategy<Value = Case> {
    let budget = prop_oneof![Just(700usize), 700usize..2500, select(vec![1024, 4096, 8192])];
    let budgets = prop::collection::vec(budget, THREADS.len());
    let orders = prop::collection::vec(any::<Index>(), 16);
    (0..GOLDEN.len(), sequences(), budgets, orders).prop_map(|(checkpoint, sequences, budgets, orders)| Case {
        checkpoint,
        sequences,
        budgets,
        orders,
    })
}

// === checks ===

impl Replicas {
    fn load(name: &str, ranks: usize) -> Self {
        let threads = THREADS.iter().map(|threads| replica::load(name, ranks, threads * ranks)).collect();
        Self { threads, alone: HashMap::new() }
    }

    /// The bits of a conversation alone, on one thread a rank.
    fn alone(&mut self, sequence: &Sequence) -> u32 {
        let Self { threads, alone } = self;
        let score = || replica::scores(&threads[0], std::slice::from_ref(sequence))[0].to_bits();
        *alone.entry(Arc::clone(sequence)).or_insert_with(score)
    }
}

/// The bits of all sequences, in steps of a budget, of which the ranks have two at a time.
fn in_steps(replica: &Replica, sequences: &[Sequence], budget: usize) -> Vec<u32> {
    let mut steps = vec![Packer::default()];
    for sequence in sequences {
        if !steps.last().unwrap().fits(sequence, budget) {
            steps.push(Packer::default());
        }
        steps.last_mut().unwrap().push(Arc::clone(sequence));
    }
    let (mut scores, mut flying) = (Vec::new(), None);
    for step in steps.into_iter().filter(|step| !step.is_empty()) {
        let next = replica.submit(step.pack());
        scores.extend(flying.replace(next).into_iter().flat_map(|step| replica.collect(step).unwrap()));
    }
    scores.extend(flying.into_iter().flat_map(|step| replica.collect(step).unwrap()));
    scores.into_iter().map(|score| score.unwrap().to_bits()).collect()
}

/// Another order; it depends on the case alone.
fn shuffled(sequences: &[Sequence], orders: &[Index]) -> Vec<Sequence> {
    let mut sequences = sequences.to_vec();
    for (at, order) in (1..sequences.len()).zip(orders.iter().cycle()) {
        sequences.swap(at, order.index(at + 1));
    }
    sequences
}

fn check(case: &Case, replicas: &mut Replicas) -> Result<(), TestCaseError> {
    let mut sequences = case.sequences.clone();
    for (threads, budget) in case.budgets.iter().enumerate() {
        let bits = in_steps(&replicas.threads[threads], &sequences, *budget);
        for (sequence, bits) in sequences.iter().zip(bits) {
            let alone = replicas.alone(sequence);
            prop_assert!(
                bits == alone,
                "{} tokens score {} in company and {} alone ({} threads a rank, budget {budget})",
                sequence.len(),
                f32::from_bits(bits),
                f32::from_bits(alone),
                THREADS[threads]
            );
        }
        sequences = shuffled(&sequences, &case.orders);
    }
    // once more, on another number of threads than the first time
    for sequence in &sequences {
        let again = in_steps(&replicas.threads[1], std::slice::from_ref(sequence), 1);
        prop_assert_eq!(again, [replicas.alone(sequence)]);
    }
    Ok(())
}

#[test]
fn a_score_is_the_same_bits_in_any_company() {
    let mut replicas: Vec<Vec<Replicas>> =
        GOLDEN.iter().map(|name| RANKS.iter().map(|ranks| Replicas::load(name, *ranks)).collect()).collect();
    let config = Config { cases: 16, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let replicas = std::cell::RefCell::new(&mut replicas);
    let outcome = runner.run(&case(), |case| {
        let mut replicas = replicas.borrow_mut();
        replicas[case.checkpoint].iter_mut().try_for_each(|replicas| check(&case, replicas))
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// What `assay score` prints for these lines, by id.
fn printed(name: &str, flags: &[&str], lines: &[Value]) -> HashMap<String, u32> {
    let scored = score(&golden(name), flags, jsonl(lines.iter().cloned()));
    let ids = scored.lines.iter().map(|line| line["id"].to_string());
    ids.zip(scored.all_scores().into_iter().map(f32::to_bits)).collect()
}

#[test]
fn the_command_prints_the_same_bits_for_every_order_budget_and_number_of_threads() {
    for name in GOLDEN {
        let rows = expected(name);
        // the conversations, and what they begin with: prefixes that are shared
        let line = |(id, row): (usize, &Value)| {
            let ids = ids(row);
            let half = json!({ "id": format!("half of {id}"), "input_ids": ids[..ids.len() / 2] });
            [json!({ "id": id, "input_ids": ids }), half]
        };
        let mut lines: Vec<Value> = rows.iter().enumerate().flat_map(line).collect();
        for ranks in ["1", "2"] {
            let reference = printed(name, &["--tensor-parallel", ranks, "--threads", "1"], &lines);
            for (threads, budget) in [("2", "760"), ("3", "8192"), ("1", "1500")] {
                lines.rotate_left(7);
                lines.reverse();
                let flags = ["--tensor-parallel", ranks, "--threads", threads, "--max-batch-tokens", budget];
                assert_eq!(printed(name, &flags, &lines), reference, "{name}, {flags:?}");
            }
        }
    }
}
