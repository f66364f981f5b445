//! Texts as Python sees them: whitespace, case, what prints, splitting and padding. Positions count characters.

/// What `str.isspace` and `str.strip` take for whitespace: four control characters more than Unicode's property.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.isprintable` for one character.
pub(super) fn is_printable(c: char) -> bool {
    // behind another character nothing but what does not print is escaped
    c == ' ' || matches!(c, '\'' | '"' | '\\') || format!("a{c}").escape_debug().count() == 2
}

/// `repr(text)`.
pub(super) fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => out.push_str(&escape(c)),
        }
    }
    out.push(quote);
}

/// The shortest of Python's escapes by number.
pub(super) fn escape(c: char) -> String {
    match u32::from(c) {
        code @ 0..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// `ascii(value)`, of what `repr` gave.
pub(super) fn ascii(repr: &str) -> String {
    repr.chars().map(|c| if c.is_ascii() { c.to_string() } else { escape(c) }).collect()
}

/// A text without characters of a set, or whitespace, at its ends.
pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>, start: bool, end: bool) -> &'a str {
    let wanted = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(wanted) } else { text };
    if end { text.trim_end_matches(wanted) } else { text }
}

/// `str.split` and, from the end, `str.rsplit`; a negative limit is none. The separator is not empty.
pub(super) fn split<'a>(text: &'a str, separator: Option<&str>, limit: i128, from_end: bool) -> Vec<&'a str> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let parts = limit.saturating_add(1);
    let mut found: Vec<&str> = match separator {
        Some(separator) if from_end => text.rsplitn(parts, separator).collect(),
        Some(separator) => text.splitn(parts, separator).collect(),
        None => split_words(text, limit, from_end),
    };
    if from_end {
        found.reverse();
    }
    found
}

/// Words in the order in which they are met; the last one holds what is left once the limit is reached.
fn split_words(text: &str, limit: usize, from_end: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = strip(text, None, !from_end, from_end);
    while !rest.is_empty() {
        let cut = if from_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(cut) = cut.filter(|_| words.len() < limit) else {
            words.push(rest);
            break;
        };
        let width = rest[cut..].chars().next().map_or(1, char::len_utf8);
        let (head, tail) = (&rest[..cut], &rest[cut + width..]);
        words.push(if from_end { tail } else { head });
        rest = strip(if from_end { head } else { tail }, None, !from_end, from_end);
    }
    words
}

/// `str.splitlines`.
pub(super) fn split_lines(text: &str, keep: bool) -> Vec<&str> {
    const BREAKS: [char; 10] = ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(BREAKS) {
        let width = rest[at..].chars().next().map_or(1, char::len_utf8);
        let end = if rest[at..].starts_with("\r\n") { at + 2 } else { at + width };
        lines.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// `str.title`: a letter is upper case where none stands before it, else lower case.
pub(super) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(upper_first(c));
        }
        inside = is_cased(c);
    }
    out
}

/// `str.capitalize`.
pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    upper_first(first).into_iter().collect::<String>() + &chars.as_str().to_lowercase()
}

/// A character in title case: only digraphs and ligatures have one that is not their upper case.
fn upper_first(c: char) -> Vec<char> {
    match c {
        '\u{1c4}'..='\u{1c6}' => vec!['\u{1c5}'],
        '\u{1c7}'..='\u{1c9}' => vec!['\u{1c8}'],
        '\u{1ca}'..='\u{1cc}' => vec!['\u{1cb}'],
        '\u{1f1}'..='\u{1f3}' => vec!['\u{1f2}'],
        // ligatures keep small letters behind the first
        'ß' | '\u{587}' | '\u{fb00}'..='\u{fb17}' => {
            let mut upper = c.to_uppercase();
            upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
        }
        _ => c.to_uppercase().collect(),
    }
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || matches!(c, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}')
}

/// `str.islower` and `str.isupper`: some letter is of this case, and none of the other.
pub(super) fn is_case(text: &str, wanted: fn(char) -> bool) -> bool {
    text.chars().any(wanted) && text.chars().all(|c| wanted(c) || !is_cased(c))
}

/// Digits above and below the line, and in circles, which are digits and no decimals.
pub(super) fn is_script_digit(c: char) -> bool {
    matches!(c, '²' | '³' | '¹' | '\u{2070}' | '\u{2074}'..='\u{2079}' | '\u{2080}'..='\u{2089}' | '\u{2460}'..='\u{2468}' | '\u{24ea}')
}

/// Numbers that are no decimal digits: fractions, Roman numerals, numbers in circles.
pub(super) fn is_other_number(c: char) -> bool {
    is_script_digit(c)
        || matches!(c, '¼'..='¾' | '\u{2150}'..='\u{218b}' | '\u{2460}'..='\u{249b}' | '\u{24ea}'..='\u{24ff}' | '\u{2776}'..='\u{2793}')
        || matches!(c, '\u{3007}' | '\u{3021}'..='\u{3029}' | '\u{3192}'..='\u{3195}' | '\u{3220}'..='\u{3229}' | '\u{3280}'..='\u{3289}')
}

/// `str.casefold`.
pub(super) fn fold_case(text: &str) -> String {
    let fold = |c: char| -> Vec<char> {
        match c {
            'ς' => vec!['σ'],
            'ſ' => vec!['s'],
            'ẞ' => vec!['s', 's'],
            // ligatures come apart
            c if c.is_lowercase() && c.to_uppercase().len() > 1 => {
                c.to_uppercase().flat_map(char::to_lowercase).collect()
            }
            c => c.to_lowercase().collect(),
        }
    };
    text.chars().flat_map(fold).collect()
}

/// `str.swapcase`.
pub(super) fn swap_case(text: &str) -> String {
    let swap = |c: char| -> Vec<char> {
        match (c.is_uppercase(), c.is_lowercase()) {
            (true, _) => c.to_lowercase().collect(),
            (_, true) => c.to_uppercase().collect(),
            _ => vec![c],
        }
    };
    text.chars().flat_map(swap).collect()
}

/// `str.istitle`.
pub(super) fn is_title(text: &str) -> bool {
    let (mut inside, mut found) = (false, false);
    for c in text.chars() {
        if c.is_uppercase() || (is_cased(c) && !c.is_lowercase()) {
            if inside {
                return false;
            }
            (inside, found) = (true, true);
        } else if c.is_lowercase() {
            if !inside {
                return false;
            }
            found = true;
        } else {
            inside = false;
        }
    }
    found
}

/// Where the fill of a padded text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pad {
    Left,
    Right,
    Both,
}

/// A text in a field of so many characters.
pub(super) fn pad(text: &str, width: usize, fill: char, side: Pad) -> String {
    let length = text.chars().count();
    let room = width.saturating_sub(length);
    let left = match side {
        Pad::Left => room,
        Pad::Right => 0,
        // Python puts the odd one left where the width is odd
        Pad::Both => room / 2 + (room & width & 1),
    };
    let fills = |count: usize| std::iter::repeat_n(fill, count);
    fills(left).chain(text.chars()).chain(fills(room - left)).collect()
}

/// `str.expandtabs`.
pub(super) fn expand_tabs(text: &str, size: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' => {
                let blanks = if size == 0 { 0 } else { size - column % size };
                out.extend(std::iter::repeat_n(' ', blanks));
                column += blanks;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            _ => {
                out.push(c);
                column += 1;
            }
        }
    }
    out
}

/// The byte where a character begins.
pub(super) fn byte_at(text: &str, index: usize) -> usize {
    text.char_indices().nth(index).map_or(text.len(), |(at, _)| at)
}
