//! A template's text as Jinja reads it, before minijinja does: line ends, escapes in string literals, and the tags that
//! transformers adds.

/// Makes a template's text one that minijinja reads as Jinja reads this one. `\r\n` and `\r` are line ends. Escapes are
/// Python's. transformers adds the tags `{% generation %}` and `{% endgeneration %}`, which mark what the assistant wrote
/// and print it unchanged, with a scope of its own for variables: `{% with %}` does just that.
///
/// # Errors
/// Says which escape is not taken, and in which line.
pub(super) fn normalized(template: &str) -> Result<String, String> {
    let template = template.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(template.len());
    let mut rest = template.as_str();
    let (mut raw, mut rest_of_raw) = (false, false);
    while let Some(at) = rest.find("{%").into_iter().chain(rest.find("{{")).chain(rest.find("{#")).min() {
        let (before, block) = rest.split_at(at);
        out.push_str(before);
        let (length, code) = match &block[..2] {
            "{%" => (block_length(block, "%}"), true),
            _ if raw => (2, false),
            "{#" => (block.find("#}").map_or(block.len(), |end| end + 2), false),
            _ => (block_length(block, "}}"), true),
        };
        let (block, after) = block.split_at(length);
        rest = after;
        let inner = block.strip_prefix("{%").and_then(|block| block.strip_suffix("%}")).unwrap_or_default();
        let tag = inner.trim_matches(['-', '+']).trim();
        match tag {
            "raw" => {
                raw = true;
                // minijinja takes the line end behind it away, and Jinja does not
                if rest.starts_with('\n') && !block.ends_with("-%}") {
                    rest_of_raw = true;
                }
            }
            "endraw" => raw = false,
            _ => {}
        }
        match tag {
            "generation" if !raw => out.push_str(&block.replace("generation", "with")),
            "endgeneration" if !raw => out.push_str(&block.replace("endgeneration", "endwith")),
            _ if code && !raw && block.contains('\\') => {
                let line = 1 + out.matches('\n').count();
                literals(block, &mut out).map_err(|escape| format!("line {line}: the escape {escape}"))?;
            }
            _ => out.push_str(block),
        }
        if std::mem::take(&mut rest_of_raw) {
            out.push('\n');
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The length of a block up to and with its end, which is not looked for inside string literals and brackets.
fn block_length(block: &str, end: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    let mut open = 0usize;
    for (at, c) in block.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(opening) if c == opening => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if open == 0 && block[at..].starts_with(end) => return at + end.len(),
            None if "([{".contains(c) => open += 1,
            None if ")]}".contains(c) => open = open.saturating_sub(1),
            None => {}
        }
    }
    block.len()
}

/// Writes a block with its string literals as minijinja reads them: only backslashes and quotes escaped.
fn literals(block: &str, out: &mut String) -> Result<(), String> {
    let mut rest = block;
    while let Some(at) = rest.find(['"', '\'']) {
        let quote = if rest[at..].starts_with('"') { '"' } else { '\'' };
        out.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        loop {
            let Some(c) = rest.chars().next() else { return Ok(()) };
            rest = &rest[c.len_utf8()..];
            if c == quote {
                out.push(c);
                break;
            }
            let c = if c == '\\' { escape(&mut rest)? } else { Some(c) };
            match c {
                Some(c) if c == '\\' || c == quote => out.extend(['\\', c]),
                Some(c) => out.push(c),
                None => {}
            }
        }
    }
    out.push_str(rest);
    Ok(())
}

/// The character of an escape behind its backslash, as Python reads it; a backslash that begins none is itself.
fn escape(rest: &mut &str) -> Result<Option<char>, String> {
    let text = *rest;
    let mut take = |count: usize| {
        let (taken, tail) = text.split_at(count);
        *rest = tail;
        taken
    };
    let Some(first) = text.chars().next() else { return Ok(Some('\\')) };
    let number = |digits: &str, base: u32| {
        let code = u32::from_str_radix(digits, base).ok().and_then(char::from_u32);
        code.map(Some).ok_or_else(|| format!("\\{first}{digits} is no character"))
    };
    let simple = match first {
        '\n' => None,
        '\\' | '\'' | '"' => Some(first),
        'a' => Some('\x07'),
        'b' => Some('\x08'),
        'f' => Some('\x0c'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\x0b'),
        '0'..='7' => {
            let length = text.bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
            return number(take(length), 8);
        }
        'x' | 'u' | 'U' => {
            let length = match first {
                'x' => 2,
                'u' => 4,
                _ => 8,
            };
            let digits = text.get(1..=length).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let digits = digits.ok_or_else(|| format!("\\{first} wants {length} digits"))?;
            take(1 + length);
            return number(digits, 16);
        }
        'N' => return Err("\\N is not implemented".to_owned()),
        _ => return Ok(Some('\\')),
    };
    take(first.len_utf8());
    Ok(simple)
}
