//! A row of JSON Lines: the values of the keys that are read here, and nothing of the others but where they end.
//!
//! Rows carry their caller's own keys, and those hold what Python writes and JSON has not: NaN, Infinity, numbers beyond
//! any float, halves of surrogate pairs, a hundred levels of lists. None of that is a reason to leave a conversation out.

use serde_json::{Map, Value};

/// The keys whose values are read.
const READ: [&str; 9] = [
    "messages",
    "prompt",
    "responses",
    "text",
    "input_ids",
    "attention_mask",
    "tools",
    "documents",
    "chat_template_kwargs",
];
/// Keys of other tools' forms, of which it is only said that they are there.
const FOREIGN: [&str; 3] = ["chosen", "rejected", "conversations"];
const BOM: &[u8] = b"\xef\xbb\xbf";

/// What a row says.
#[derive(Debug, PartialEq)]
pub struct Row<'a> {
    /// The keys that are read, with their values, and those of other tools' forms with null.
    pub fields: Map<String, Value>,
    /// The value of `id` as it is written.
    pub id: Option<&'a str>,
}

/// Walks over the text of a row.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

// === impl Row ===

impl<'a> Row<'a> {
    /// Reads a row.
    ///
    /// # Errors
    /// What is wrong with it: no JSON object, or a value that is read and is no JSON.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).map_err(|error| format!("not a JSON object: not UTF-8: {error}"))?;
        let mut reader = Reader { text, at: 0 };
        match reader.next() {
            Some('{') => reader.object(),
            Some('[') => {
                Err("not a JSON object but an array: give one object a line, as jq -c '.[]' writes them".to_owned())
            }
            Some(other) => Err(format!("not a JSON object: it begins with {other:?}")),
            None => Err("the line is empty".to_owned()),
        }
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// The next character that is no blank, which is passed.
    fn next(&mut self) -> Option<char> {
        let rest = self.text[self.at..].trim_start_matches([' ', '\t', '\n', '\r']);
        let next = rest.chars().next();
        self.at = self.text.len() - rest.len() + next.map_or(0, char::len_utf8);
        next
    }

    fn wrong<T>(&self, expected: &str) -> Result<T, String> {
        Err(format!("not a JSON object: expected {expected} at column {}", self.at))
    }

    /// The fields, behind the brace that opens them.
    fn object(mut self) -> Result<Row<'a>, String> {
        let mut row = Row { fields: Map::new(), id: None };
        let mut next = self.next();
        while next != Some('}') {
            if next != Some('"') {
                return self.wrong("a key");
            }
            let start = self.at - 1;
            self.skip_string()?;
            let key: String = serde_json::from_str(&self.text[start..self.at]).unwrap_or_default();
            if self.next() != Some(':') {
                return self.wrong("':'");
            }
            let value = self.value()?;
            if key == "id" {
                row.id = Some(value);
            } else if READ.contains(&key.as_str()) {
                let value =
                    serde_json::from_str(value).map_err(|error| format!("not a JSON object: {key}: {error}"))?;
                row.fields.insert(key, value);
            } else if FOREIGN.contains(&key.as_str()) {
                row.fields.insert(key, Value::Null);
            }
            next = match self.next() {
                Some(',') => match self.next() {
                    Some('"') => Some('"'),
                    _ => return self.wrong("a key"),
                },
                Some('}') => Some('}'),
                _ => return self.wrong("',' or '}'"),
            };
        }
        if self.next().is_some() { self.wrong("the end of the line") } else { Ok(row) }
    }

    /// Goes to the end of a string, behind its opening quote.
    fn skip_string(&mut self) -> Result<(), String> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'"' => return Ok(()),
                b'\\' => self.at += 1,
                _ => {}
            }
        }
        self.at = self.text.len();
        self.wrong("the end of a string")
    }

    /// The text of a value, whatever it holds.
    fn value(&mut self) -> Result<&'a str, String> {
        let first = self.next();
        let start = self.at - first.map_or(0, char::len_utf8);
        match first {
            Some('"') => self.skip_string()?,
            Some('[' | '{') => {
                let mut open = 1usize;
                while open > 0 {
                    let rest = &self.text[self.at..];
                    let Some(found) = rest.find(['"', '[', ']', '{', '}']) else {
                        return self.wrong("the end of a value");
                    };
                    self.at += found + 1;
                    match rest.as_bytes()[found] {
                        b'"' => self.skip_string()?,
                        b'[' | b'{' => open += 1,
                        _ => open -= 1,
                    }
                }
            }
            Some(',' | '}' | ':' | ']') | None => return self.wrong("a value"),
            Some(_) => {
                let rest = &self.text[self.at..];
                self.at += rest.find([',', '}', ']', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
            }
        }
        Ok(&self.text[start..self.at])
    }
}

#[cfg(test)]
mod tests;
