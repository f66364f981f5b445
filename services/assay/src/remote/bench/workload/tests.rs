//! A seed says everything about what is sent.

use clap::Parser as _;

use super::*;
use crate::args::{Args, Command};

fn workload(flags: &str) -> Workload {
    let line = format!("assay bench --endpoint a:1 {flags}");
    let Command::Bench(args) = Args::try_parse_from(line.split_whitespace()).unwrap().command else {
        panic!("it is bench")
    };
    Workload::new(&args)
}

#[test]
fn the_same_seed_sends_the_same() {
    let calls = |flags| {
        let mut workload = workload(flags);
        [(); 20].map(|()| workload.next_call())
    };
    assert_eq!(calls("--seed 7"), calls("--seed 7"));
    assert_ne!(calls("--seed 7"), calls("--seed 8"));
}

#[test]
fn token_ids_are_as_many_and_as_small_as_was_said() {
    let mut workload = workload("--tokens 3..5 --vocab 2 --batch 100");
    let (mut lengths, mut seen) = ([0; 6], [0; 2]);
    for item in workload.next_call() {
        let Some(Input::TokenIds(ids)) = item.input else { panic!("token ids were asked for") };
        lengths[ids.ids.len()] += 1;
        ids.ids.iter().for_each(|id| seen[*id as usize] += 1);
    }
    assert!(lengths[..3] == [0; 3] && lengths[3..].iter().all(|count| *count > 10), "{lengths:?}");
    assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    assert_eq!(workload.conversations(), 100);
}

#[test]
fn a_group_has_one_prompt() {
    let mut workload = workload("--group 4 --prompt-tokens 9 --tokens 6 --batch 2");
    assert_eq!(workload.conversations(), 8);
    for item in workload.next_call() {
        let Some(Input::Group(group)) = item.input else { panic!("groups were asked for") };
        let words = |text: &str| text.split(' ').count();
        let Some(Prompt::Messages(prompt)) = group.prompt else { panic!("a prompt has roles") };
        assert_eq!((prompt.messages.len(), words(&prompt.messages[0].content)), (1, 9));
        assert!(group.responses.len() == 4 && group.responses.iter().all(|response| words(response) == 6));
    }
    let text = &super::tests::workload("--text").next_call()[0];
    assert!(matches!(&text.input, Some(Input::Messages(turns)) if turns.messages.len() == 2));
}

#[test]
fn arrivals_come_at_the_rate_and_without_memory() {
    let mut random = Rng::with_seed(1);
    let gaps: Vec<f64> = (0..20_000).map(|_| Workload::gap(&mut random, 50.0)).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    assert!((mean * 50.0 - 1.0).abs() < 0.03, "{mean}");
    // of exponential gaps, one in e is longer than the mean
    let longer = gaps.iter().filter(|gap| **gap > 0.02).count() as f64 / gaps.len() as f64;
    assert!((longer - (-1.0_f64).exp()).abs() < 0.02, "{longer}");
    assert!(gaps.iter().all(|gap| gap.is_finite() && *gap >= 0.0));
}
