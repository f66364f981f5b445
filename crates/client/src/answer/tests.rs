//! A result is a score or says why there is none.

use super::*;

fn given(status: i32, score: Option<f32>) -> v1::Result {
    v1::Result { status, score, tokens: 7, truncated_from: 9, error: "why".to_owned(), ..v1::Result::default() }
}

fn read(given: v1::Result) -> Result<Score, Failure> {
    results(vec![given], 1).remove(0)
}

#[test]
fn a_score_is_finite_and_knows_what_was_given_up() {
    let score = read(given(v1::Status::Truncated.into(), Some(0.5))).unwrap();
    assert_eq!((score.score, score.tokens, score.truncated_from), (0.5, 7, Some(9)));
    assert_eq!(read(given(v1::Status::Ok.into(), Some(0.5))).unwrap().truncated_from, None);
    for score in [None, Some(f32::NAN), Some(f32::INFINITY)] {
        assert_eq!(read(given(v1::Status::Ok.into(), score)).unwrap_err().status, v1::Status::Internal);
    }
}

#[test]
fn a_failure_is_what_the_gateway_says() {
    use v1::Status::{DeadlineExceeded, Internal, Invalid, TooLong, Unavailable};
    for status in [TooLong, Invalid, DeadlineExceeded, Unavailable, Internal] {
        let failure = read(given(status.into(), Some(0.5))).unwrap_err();
        assert_eq!(failure, Failure { tokens: 7, ..Failure::new(status, "why") });
        let problem =
            v1::Problem { code: ProblemCode::NotText.into(), path: "a[1]".to_owned(), message: "no".to_owned() };
        let failure = read(v1::Result { problem: Some(problem), ..given(status.into(), None) }).unwrap_err();
        assert_eq!((failure.code, &*failure.path, &*failure.message), (ProblemCode::NotText, "a[1]", "no"));
        assert_eq!(failure.to_string(), "a[1]: no");
    }
    let newer = read(given(99, Some(0.5))).unwrap_err();
    assert!(newer.status == Internal && newer.message.contains("99"), "{newer}");
}

#[test]
fn there_is_a_result_for_each_conversation_and_no_more() {
    let ok = || given(v1::Status::Ok.into(), Some(1.0));
    assert_eq!(results(vec![ok(), ok(), ok()], 2).len(), 2);
    let missing = results(vec![ok()], 3);
    assert_eq!(missing.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(missing[2].as_ref().unwrap_err().status, v1::Status::Internal);
}
