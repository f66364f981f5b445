//! Settings as they should be, and what is said about those that are not.

use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{BytesText, DurationText, load};

#[derive(Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    listen: String,
    limits: Limits,
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    #[serde(with = "DurationText")]
    patience: Duration,
    #[serde(with = "DurationText", skip_serializing_if = "Option::is_none")]
    drain: Option<Duration>,
    #[serde(with = "BytesText")]
    message: usize,
    #[serde(with = "BytesText")]
    window: u32,
}

#[derive(Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Node {
    name: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8080".to_owned(), limits: Limits::default(), nodes: Vec::new() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { patience: Duration::from_secs(2), drain: None, message: 4 << 20, window: 1 << 16 }
    }
}

fn read(text: &str) -> Result<Settings, String> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("assay.toml");
    fs::write(&path, text).unwrap();
    load(&path).map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), ""))
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    assert_eq!(read(text).unwrap_err(), expected);
}

#[test]
fn what_is_not_said_is_as_ever() {
    assert_eq!(read("").unwrap(), Settings::default());
    let some = read("[limits]\npatience = '250ms'\ndrain = '1m 30s'\nmessage = '512KiB'\nwindow = '1.5MB'").unwrap();
    let expected = Limits {
        patience: Duration::from_millis(250),
        drain: Some(Duration::from_secs(90)),
        message: 512 << 10,
        window: 1_500_000,
    };
    assert_eq!(some.limits, expected);
}

#[test]
fn what_is_wrong_is_named() {
    refused(
        "listen = 'x'\nport = 1\n",
        "/assay.toml:2: port: unknown field `port`, expected one of `listen`, `limits`, `nodes`",
    );
    refused("\n\nlisten = 1\n", "/assay.toml:3: listen: invalid type: integer `1`, expected a string");
    refused(
        "[[nodes]]\nname = 'a'\n[[nodes]]\nnme = 'b'\n",
        "/assay.toml:4: nodes[1].nme: unknown field `nme`, expected `name`",
    );
    refused("[[nodes]]\nname = 'a'\n\n[[nodes]]\n", "/assay.toml:4: nodes[1]: missing field `name`");
}

#[test]
fn what_is_no_toml_is_refused() {
    refused("listen = 'a'\nlisten = 'b'\n", "/assay.toml:2: duplicate key");
    assert!(read("[limits]\nlisten =\n").unwrap_err().starts_with("/assay.toml:2: "));
}

#[test]
fn durations_and_sizes_carry_their_unit() {
    let duration = "is no duration, expected one such as \"2s\" or \"250ms\"";
    for wrong in ["2", "2x", "-2s", ""] {
        refused(
            &format!("[limits]\npatience = '{wrong}'"),
            &format!("/assay.toml:2: limits.patience: {wrong:?} {duration}"),
        );
    }
    let size = "is no size, expected one such as \"4MiB\" or \"512KiB\"";
    for wrong in ["4", "4M", "4 apples", "-4MiB", ""] {
        refused(&format!("[limits]\nmessage = '{wrong}'"), &format!("/assay.toml:2: limits.message: {wrong:?} {size}"));
    }
    refused("[limits]\nwindow = '4GiB'", "/assay.toml:2: limits.window: 4GiB is too large");
    refused("[limits]\npatience = 2", "/assay.toml:2: limits.patience: invalid type: integer `2`, expected a string");
}

#[test]
fn what_is_written_reads_the_same() {
    let limits = Limits {
        patience: Duration::from_millis(1250),
        drain: Some(Duration::from_secs(3600)),
        message: (4 << 20) + 1,
        window: 1 << 20,
    };
    let json = serde_json::to_value(&limits).unwrap();
    assert_eq!(json["message"], "4194305B");
    assert_eq!(json["window"], "1MiB");
    assert_eq!(serde_json::from_value::<Limits>(json).unwrap(), limits);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load::<Settings>("/nowhere/assay.toml".as_ref()).unwrap_err();
    assert_eq!(error.to_string(), "/nowhere/assay.toml: No such file or directory (os error 2)");
}
