//! A line of the output says everything about each conversation, and nothing that is not there.

use proptest::prelude::*;

use super::*;

fn scored(score: f32, tokens: u32, truncated: bool) -> Result<Score, ItemFailure> {
    let truncated_from = truncated.then_some(99);
    Ok(Score { score, tokens, truncated_from, computed_tokens: 1, generation: 1, fingerprint: "f".to_owned() })
}

fn line(number: u64, id: Option<&str>) -> Line {
    let id = id.map(|id| RawValue::from_string(id.to_owned()).unwrap());
    Line { number, position: 0, id, items: Vec::new() }
}

fn answers() -> Answers<Vec<u8>> {
    Answers::new(Vec::new(), "input.jsonl".to_owned())
}

#[test]
fn a_line_says_everything_about_each_conversation() {
    let mut answers = answers();
    let too_long = ItemFailure { problem: "9 tokens are too many".to_owned(), status: Status::TooLong, tokens: 9 };
    let late = ItemFailure { problem: "too late".to_owned(), status: Status::DeadlineExceeded, tokens: 5 };
    let outcomes =
        [scored(0.1, 3, false), Err(too_long), scored(-0.25, 4, true), Err(ItemFailure::new("bad")), Err(late)];
    answers.write(line(17, Some(r#"{"a": 1.50}"#)), &outcomes).unwrap();
    let expected = concat!(
        r#"{"id":{"a": 1.50},"scores":[0.1,null,-0.25,null,null],"tokens":[3,9,4,0,5],"#,
        r#""status":["ok","too_long","truncated","invalid","deadline_exceeded"],"#,
        r#""errors":[null,"input.jsonl:17: 9 tokens are too many",null,"input.jsonl:17: bad","#,
        r#""input.jsonl:17: too late"]}"#,
        "\n"
    );
    assert_eq!(std::str::from_utf8(&answers.output).unwrap(), expected);
    assert_eq!(answers.first_failure(), Some("input.jsonl:17: 9 tokens are too many"));
}

#[test]
fn what_is_not_there_is_left_out() {
    let mut answers = answers();
    answers.write(line(1, None), &[scored(1.0, 2, false)]).unwrap();
    assert_eq!(answers.output, b"{\"scores\":[1.0],\"tokens\":[2],\"status\":[\"ok\"]}\n");
    assert_eq!(answers.first_failure(), None);
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
    let failed = answers.write(line(1, None), &[Err(ItemFailure::new("bad"))]);
    assert_eq!(failed.unwrap_err().to_string(), "the disk is full");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_score_is_written_to_the_last_bit(bits in any::<u32>()) {
        let score = f32::from_bits(bits);
        prop_assume!(score.is_finite());
        let mut answers = answers();
        answers.write(line(1, None), &[scored(score, 1, false)]).unwrap();
        let text = std::str::from_utf8(&answers.output).unwrap();
        let printed = text.strip_prefix("{\"scores\":[").and_then(|text| text.split(']').next()).unwrap();
        prop_assert_eq!(printed.parse::<f32>().unwrap().to_bits(), bits);
    }
}
