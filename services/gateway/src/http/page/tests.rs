//! The page fits what is said about it.

use sha2::{Digest, Sha256};

use ::score::{Outputs, Stamp};

use super::*;
use crate::core::{ReplicaId, Score};
use crate::entrance::Answer;

#[test]
fn the_policy_names_the_script_of_the_page() {
    let (_, rest) = PAGE.split_once("<script>").unwrap();
    let (script, rest) = rest.split_once("</script>").unwrap();
    assert!(!rest.contains("<script"), "there is more than one");
    let digest = format!("'sha256-{}'", base64(&Sha256::digest(script)));
    assert!(POLICY.contains(&digest), "the script has changed, and its digest in POLICY has to: {digest}");
}

#[test]
fn nothing_is_fetched_from_elsewhere_and_no_text_becomes_markup() {
    for word in ["http:", "https:", "src=", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!PAGE.contains(word), "{word}");
    }
}

#[test]
fn a_score_has_its_digits_and_not_those_of_a_double() {
    let stamp = Stamp { generation: 1, epoch: 1, step: 1 };
    let outputs = Outputs { score: 0.1, ..Outputs::default() };
    let score = Score { outputs, stamp, fingerprint: "f".into(), tokens: 2, replica: ReplicaId(0) };
    let answer = Answer { result: Ok(score), tokens: 3, truncated_from: 9 };
    let text = serde_json::to_string(&score::Scored::from(answer)).unwrap();
    assert_eq!(text, r#"{"status":"truncated","score":0.1,"tokens":3,"error":null}"#);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |bytes: &[u8]| {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(bytes.get(at).copied().unwrap_or_default()));
        let digit = |at: usize| if at > bytes.len() { '=' } else { char::from(DIGITS[bits >> (18 - 6 * at) & 63]) };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}
