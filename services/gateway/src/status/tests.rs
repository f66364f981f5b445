//! Every way to fail has its code, and those that may be tried again say when.

use super::*;
use score::Disagreement;

use crate::core::Scope;

#[track_caller]
fn check(error: CallError, code: Code, conversations: v1::Status, retry_after: Option<Duration>) {
    assert_eq!(error.of_conversations(), conversations);
    let text = error.to_string();
    let status = Status::from(error);
    assert_eq!((status.code(), status.message()), (code, &*text));
    let found = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!(found, retry_after);
    assert!(retry_after.is_none_or(|_| text.contains("come back in 2.5 s")), "{text}");
}

#[test]
fn every_way_to_fail_has_its_code() {
    let after = Duration::from_millis(2500);
    let (left, wait) = (Duration::from_secs(1), Duration::from_secs(3));
    let refused = CallError::Refused;
    let deadline = |retry_after| refused(Refusal::Deadline { left, wait, retry_after });
    let unknown = CallError::UnknownModel { name: "x".to_owned(), served: "m".to_owned() };
    let full = refused(Refusal::Full { scope: Scope::Queue, retry_after: after });
    let large = refused(Refusal::TooLarge { tokens: 1, conversations: 1 });
    check(CallError::Invalid("why".to_owned()), Code::InvalidArgument, v1::Status::Invalid, None);
    check(unknown, Code::NotFound, v1::Status::Invalid, None);
    check(full, Code::ResourceExhausted, v1::Status::Invalid, Some(after));
    check(large, Code::ResourceExhausted, v1::Status::Invalid, None);
    check(CallError::TooLarge { bytes: 1 }, Code::ResourceExhausted, v1::Status::Invalid, None);
    check(deadline(Some(after)), Code::DeadlineExceeded, v1::Status::DeadlineExceeded, Some(after));
    check(deadline(None), Code::DeadlineExceeded, v1::Status::DeadlineExceeded, None);
    check(CallError::Deadline, Code::DeadlineExceeded, v1::Status::DeadlineExceeded, None);
    check(CallError::Ending, Code::Unavailable, v1::Status::Unavailable, None);
    check(CallError::Internal, Code::Internal, v1::Status::Internal, None);
}

#[test]
fn a_conversation_without_a_score_says_why() {
    let why = Some("no replica");
    let deadline = "the deadline has passed before it was computed";
    let found = of_failure(&Failure::DeadlineExceeded, None);
    assert_eq!(found, (v1::Status::DeadlineExceeded, deadline.to_owned()));
    let found = of_failure(&Failure::DeadlineExceeded, why);
    assert_eq!(found, (v1::Status::Unavailable, format!("{deadline}: no replica")));
    assert_eq!(of_failure(&Failure::Unavailable, why).0, v1::Status::Unavailable);
    let not_finite = Failure::Disagreement(Disagreement::NotFinite);
    assert_eq!(of_failure(&not_finite, why), (v1::Status::Internal, "the score is not a finite number".to_owned()));
}
