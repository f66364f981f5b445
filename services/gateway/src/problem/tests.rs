//! Every way to fail has its code, and those that may be tried again say when.

use score::Disagreement;

use super::*;
use crate::core::Scope;

#[track_caller]
fn check(
    problem: impl Into<Problem>,
    code: tonic::Code,
    conversation: v1::Status,
    http: u16,
    retry_after: Option<Duration>,
) {
    let problem = problem.into();
    assert_eq!((problem.conversation(), problem.http().as_u16()), (conversation, http));
    let text = problem.to_string();
    let status = Status::from(problem);
    assert_eq!((status.code(), status.message()), (code, &*text));
    let found = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!(found, retry_after);
    assert!(retry_after.is_none_or(|_| text.contains("come back in 2.5 s")), "{text}");
}

#[test]
fn every_way_to_fail_has_its_code() {
    use tonic::Code as Rpc;
    use v1::Status::{DeadlineExceeded, Internal, Invalid, TooLong, Unavailable};
    let after = Duration::from_millis(2500);
    let (left, wait) = (Duration::from_secs(1), Duration::from_secs(3));
    let refused = Unanswered::Refused;
    let deadline = |retry_after| refused(Refusal::Deadline { left, wait, retry_after });
    let full = refused(Refusal::Full { scope: Scope::Queue, retry_after: after });
    let large = refused(Refusal::TooLarge { tokens: 1, conversations: 1 });
    check(Problem::bad_request("options.model", "why"), Rpc::InvalidArgument, Invalid, 400, None);
    check(&ItemError::from(Fault::NoTemplate), Rpc::InvalidArgument, Invalid, 400, None);
    check(&ItemError::from(Fault::TooLong { tokens: 2, limit: 1 }), Rpc::InvalidArgument, TooLong, 400, None);
    check(Problem::new(Code::UnknownModel, ""), Rpc::NotFound, Invalid, 404, None);
    check(full, Rpc::ResourceExhausted, Invalid, 429, Some(after));
    check(large, Rpc::ResourceExhausted, Invalid, 413, None);
    check(Problem::too_large(1), Rpc::ResourceExhausted, Invalid, 413, None);
    check(deadline(Some(after)), Rpc::DeadlineExceeded, DeadlineExceeded, 504, Some(after));
    check(deadline(None), Rpc::DeadlineExceeded, DeadlineExceeded, 504, None);
    check(Problem::deadline(), Rpc::DeadlineExceeded, DeadlineExceeded, 504, None);
    check(Unanswered::Ended, Rpc::Unavailable, Unavailable, 503, None);
    check(Problem::untokenized(Undone::Failed, 1), Rpc::Internal, Internal, 500, None);
}

#[test]
fn a_conversation_without_a_score_says_why() {
    let of = |failure: &Failure, why_none| {
        let problem = Problem::of_failure(failure, why_none);
        (problem.conversation(), problem.message)
    };
    let why = Some("no replica");
    let deadline = "the deadline has passed before it was computed";
    assert_eq!(of(&Failure::DeadlineExceeded, None), (v1::Status::DeadlineExceeded, deadline.to_owned()));
    assert_eq!(of(&Failure::DeadlineExceeded, why), (v1::Status::Unavailable, format!("{deadline}: no replica")));
    assert_eq!(of(&Failure::Unavailable, why).0, v1::Status::Unavailable);
    let not_finite = Failure::Disagreement(Disagreement::NotFinite);
    assert_eq!(of(&not_finite, why), (v1::Status::Internal, "the score is not a finite number".to_owned()));
}

#[test]
fn a_place_is_seen_from_what_holds_it() {
    let at = |path: &str, within: &str| Problem::bad_request(path, "why").within(within).to_string();
    assert_eq!(at("messages[1].role", "items[3]"), "items[3].messages[1].role: why");
    assert_eq!(at("", "items[3]"), "items[3]: why");
    assert_eq!(at("[2]", "items"), "items[2]: why");
    assert_eq!(Problem::deadline().to_string(), "the deadline has passed");
}
