//! Published patterns pass, what the engines take differently does not.

use serde_json::json;

use super::*;

#[test]
fn published_patterns_mean_the_same() {
    for pattern in [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"[!\x22#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|\p{N}{1,3}|[一-龥぀-ゟ゠-ヿ]+",
    ] {
        assert_eq!(in_pattern(pattern), None, "{pattern}");
    }
}

#[test]
fn what_differs_is_found_wherever_it_stands() {
    for pattern in [
        r"^a",
        r"a$",
        r"\<a",
        r"a\>",
        "(?m).",
        "(?m:.)",
        "(?s).",
        "(?i)strasse",
        "(?i:off)",
        "[[:alpha:]]",
        "[a&&b]",
        r"\R",
        r"\h",
    ] {
        let part = json!({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": pattern}}]});
        assert!(difference(&part).is_some_and(|what| what.contains("pattern")), "{pattern}");
    }
    assert_eq!(difference(&json!({"pattern": {"String": "^"}})), None);
}
