//! Answers come in any order; lines leave in the order of the input, each as soon as it can.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::*;

fn scored(score: f32, tokens: usize, truncated: bool) -> Result<Scored, ItemFailure> {
    Ok(Scored { score, tokens, truncated })
}

fn line(number: u64, id: Option<&str>, items: Vec<Result<(), ItemFailure>>) -> Line<()> {
    Line { number, position: 0, id: id.map(|id| RawValue::from_string(id.to_owned()).unwrap()), items }
}

fn answers() -> Answers<Vec<u8>> {
    Answers::new(Vec::new(), "input.jsonl".to_owned())
}

fn written(answers: &Answers<Vec<u8>>) -> Vec<Value> {
    let text = std::str::from_utf8(&answers.output).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_line_says_everything_about_each_conversation() {
    let mut answers = answers();
    let too_long = ItemFailure { problem: "9 tokens are too many".to_owned(), status: Status::TooLong, tokens: 9 };
    let late = ItemFailure { problem: "too late".to_owned(), status: Status::DeadlineExceeded, tokens: 5 };
    let items = vec![Ok(()), Err(too_long), Ok(()), Err(ItemFailure::new("bad")), Ok(())];
    let wanted = answers.expect(line(17, Some(r#"{"a": 1.50}"#), items));
    assert_eq!(wanted.iter().map(|(slot, _)| slot.item).collect::<Vec<_>>(), [0, 2, 4]);
    answers.answer(wanted[1].0, scored(-0.25, 4, true));
    answers.answer(wanted[0].0, scored(0.1, 3, false));
    answers.write().unwrap();
    assert_eq!(answers.output, b"");
    answers.answer(wanted[2].0, Err(late));
    answers.write().unwrap();
    let expected = concat!(
        r#"{"id":{"a": 1.50},"scores":[0.1,null,-0.25,null,null],"tokens":[3,9,4,0,5],"#,
        r#""status":["ok","too_long","truncated","invalid","deadline_exceeded"],"#,
        r#""errors":[null,"input.jsonl:17: 9 tokens are too many",null,"input.jsonl:17: bad","#,
        r#""input.jsonl:17: too late"]}"#,
        "\n"
    );
    assert_eq!(std::str::from_utf8(&answers.output).unwrap(), expected);
}

#[test]
fn what_is_not_there_is_left_out() {
    let mut answers = answers();
    let wanted = answers.expect(line(1, None, vec![Ok(())]));
    answers.answer(wanted[0].0, scored(1.0, 2, false));
    answers.write().unwrap();
    assert_eq!(answers.output, b"{\"scores\":[1.0],\"tokens\":[2],\"status\":[\"ok\"]}\n");
    assert_eq!(answers.waiting(), 0);
}

#[test]
fn a_line_waits_for_those_before_it() {
    let mut answers = answers();
    let first = answers.expect(line(1, Some("1"), vec![Ok(())]));
    assert_eq!(answers.expect(line(2, Some("2"), vec![Err(ItemFailure::new("bad"))])).len(), 0);
    answers.write().unwrap();
    assert_eq!((answers.waiting(), written(&answers).len()), (2, 0));
    answers.answer(first[0].0, scored(1.0, 1, false));
    answers.write().unwrap();
    let ids: Vec<Value> = written(&answers).iter().map(|line| line["id"].clone()).collect();
    assert_eq!((answers.waiting(), ids), (0, vec![json!(1), json!(2)]));
}

#[test]
fn an_output_that_is_full_is_an_error() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is full"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut answers = Answers::new(Full, "-".to_owned());
    answers.expect(line(1, None, vec![Err(ItemFailure::new("bad"))]));
    assert_eq!(answers.write().unwrap_err().to_string(), "the disk is full");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_score_is_written_to_the_last_bit(bits in any::<u32>()) {
        let score = f32::from_bits(bits);
        prop_assume!(score.is_finite());
        let mut answers = answers();
        let wanted = answers.expect(line(1, None, vec![Ok(())]));
        answers.answer(wanted[0].0, scored(score, 1, false));
        answers.write().unwrap();
        let text = std::str::from_utf8(&answers.output).unwrap();
        let printed = text.strip_prefix("{\"scores\":[").and_then(|text| text.split(']').next()).unwrap();
        prop_assert_eq!(printed.parse::<f32>().unwrap().to_bits(), bits);
    }

    #[test]
    fn every_line_leaves_in_order_and_as_soon_as_it_can(
        lines in prop::collection::vec(prop::collection::vec(any::<bool>(), 1..4), 1..12),
        picks in prop::collection::vec(any::<Index>(), 48),
        ahead in 1usize..12,
    ) {
        let mut answers = answers();
        let mut open: Vec<(Slot, f32)> = Vec::new();
        let mut left: Vec<usize> = Vec::new();
        let mut picks = picks.into_iter().cycle();
        let mut ahead_of = lines.iter().enumerate();
        loop {
            // lines are read while others are answered
            for (number, sound) in ahead_of.by_ref().take(ahead) {
                let item = |sound: &bool| if *sound { Ok(()) } else { Err(ItemFailure::new("bad")) };
                let wanted = answers.expect(line(number as u64 + 1, None, sound.iter().map(item).collect()));
                left.push(wanted.len());
                open.extend(wanted.into_iter().map(|(slot, _)| (slot, (10 * number + slot.item) as f32)));
            }
            if !open.is_empty() {
                let (slot, score) = open.remove(picks.next().map_or(0, |pick| pick.index(open.len())));
                left[slot.line as usize] -= 1;
                answers.answer(slot, scored(score, 1, false));
            }
            answers.write().unwrap();
            let complete = left.iter().take_while(|open| **open == 0).count();
            prop_assert_eq!((written(&answers).len(), answers.waiting()), (complete, left.len() - complete));
            if open.is_empty() && left.len() == lines.len() {
                break;
            }
        }
        for (number, (sound, written)) in lines.iter().zip(written(&answers)).enumerate() {
            let score = |(item, sound): (usize, &bool)| sound.then_some((10 * number + item) as f32);
            prop_assert_eq!(&written["scores"], &json!(sound.iter().enumerate().map(score).collect::<Vec<_>>()));
            prop_assert_eq!(written.get("errors").is_some(), sound.contains(&false));
        }
    }
}
