//! Regular expressions of a tokenizer.json: refused where the engine here would cut a text in other places than
//! Oniguruma, which Hugging Face uses (docs/adr/0017).

use serde_json::Value;

/// Letters that some character folds to together, so that without regard to case one character may stand for several.
const FOLDED: [&str; 12] =
    ["ss", "ff", "fi", "fl", "st", "'n", "i\u{307}", "h\u{331}", "t\u{308}", "w\u{30a}", "y\u{30a}", "aʾ"];

/// What of the patterns in a part of tokenizer.json means something else here, if anything does.
pub(super) fn difference(part: &Value) -> Option<String> {
    match part {
        Value::Object(fields) => match fields.get("Regex").and_then(Value::as_str) {
            Some(pattern) => in_pattern(pattern).map(|what| format!("{what} in the pattern {pattern:?}")),
            None => fields.values().find_map(difference),
        },
        Value::Array(parts) => parts.iter().find_map(difference),
        _ => None,
    }
}

/// The first construct of a pattern that the two engines take differently.
fn in_pattern(pattern: &str) -> Option<&'static str> {
    let mut classes = 0;
    let mut ignores_case = false;
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let tail = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let escaped = tail.chars().next().unwrap_or('\\');
                if "<>GhHRXKyYOkg".contains(escaped) {
                    return Some("an escape that the regex engines take differently");
                }
                rest = &tail[escaped.len_utf8().min(tail.len())..];
                continue;
            }
            '[' if classes > 0 && tail.starts_with(':') => return Some("a POSIX bracket"),
            '[' => {
                classes += 1;
                // a negation, and a bracket that comes first, are no anchor and no end
                rest = tail.strip_prefix('^').unwrap_or(tail);
                rest = rest.strip_prefix(']').unwrap_or(rest);
                continue;
            }
            ']' if classes > 0 => classes -= 1,
            '&' if classes > 0 && tail.starts_with('&') => return Some("an intersection of classes"),
            '^' | '$' if classes == 0 => return Some("^ or $, which Oniguruma takes for the ends of each line,"),
            '(' if classes == 0 && tail.starts_with('?') => {
                let flags: String = tail[1..].chars().take_while(|c| c.is_ascii_alphabetic() || *c == '-').collect();
                let closed = tail[1 + flags.len()..].starts_with([':', ')']);
                if closed && flags.chars().any(|flag| !"ix-".contains(flag)) {
                    return Some("a flag that Oniguruma takes for another");
                }
                ignores_case |= closed && flags.split('-').next().is_some_and(|on| on.contains('i'));
            }
            _ => {}
        }
        rest = tail;
    }
    let lower = pattern.to_lowercase();
    let folds = ignores_case && FOLDED.iter().any(|letters| lower.contains(letters));
    folds.then_some("letters without regard to case that one character may stand for")
}

#[cfg(test)]
mod tests;
