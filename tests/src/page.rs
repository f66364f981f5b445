//! The status page, in headless Chromium where Debian's package of it is installed: what a person sees is what the
//! cluster says, and nothing that comes from outside is taken for markup.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tests::golden;

use crate::assay::{jsonl, score};
use crate::up::Up;

const CHROMIUM: &str = "/usr/bin/chromium";
/// Nothing is asked of anybody but the page's server, and nothing is left behind.
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    // time stands still while the page waits for an answer, and runs fast while it does not
    "--virtual-time-budget=4000",
    "--lang=en",
    "--dump-dom",
];
const PATIENCE: Duration = Duration::from_secs(90);
const HOSTILE: &str =
    "<script>document.title = \"owned\"</script><img src=x onerror='document.title = \"owned\"'> & \"it's\"";
/// The same as text in a document.
const SHOWN: &str = "&lt;script&gt;document.title = \"owned\"&lt;/script&gt;&lt;img src=x onerror='document.title = \"owned\"'&gt; &amp; \"it's\"";

/// Whether there is a browser; if not, that is said where it is seen, also of a test that passes.
fn no_browser() -> bool {
    let none = !Path::new(CHROMIUM).exists();
    if none {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {CHROMIUM} is not there, the page is not tested (apt: chromium)");
    }
    none
}

/// The document after its scripts ran for some seconds.
fn document(url: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let data = format!("--user-data-dir={}", home.path().display());
    let mut command = Command::new(CHROMIUM);
    command.args(FLAGS).arg(data).arg(url).env("HOME", home.path());
    let mut browser = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = browser.stdout.take().unwrap();
    let reads = std::thread::spawn(move || {
        let mut document = String::new();
        stdout.read_to_string(&mut document).map(|_| document)
    });
    let start = Instant::now();
    while browser.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            browser.kill().unwrap();
            panic!("the browser does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    reads.join().unwrap().unwrap()
}

/// A link that prefills the form, and scores.
fn link(address: &str, fields: &[(&str, &str)]) -> String {
    let mut url = format!("http://{address}/#");
    for (name, value) in fields {
        write!(url, "{name}=").unwrap();
        value.bytes().for_each(|byte| write!(url, "%{byte:02X}").unwrap());
        url.push('&');
    }
    url
}

/// The contents of the elements that begin like this, up to the next tag.
fn contents<'a>(document: &'a str, opening: &str) -> Vec<&'a str> {
    document.split(opening).skip(1).map(|rest| rest.split('<').next().unwrap()).collect()
}

#[track_caller]
fn check(document: &str, texts: &[&str]) {
    for text in texts {
        assert!(document.contains(text), "{text} is not in\n{document}");
    }
}

#[test]
fn a_person_sees_the_ranks_and_the_responses_by_their_score() {
    if no_browser() {
        return;
    }
    let responses = ["Yes.", HOSTILE, "No, and this is why: 2 + 2 = 4."];
    let input = jsonl([json!({ "prompt": "Is it so?", "responses": responses })]);
    let model = golden("gemma2-v4");
    let scores = score(&model, &["--tensor-parallel", "2"], &input).all_scores();
    let up = Up::start(&model, &["--tensor-parallel", "2"]);
    let mut fields = vec![("prompt", "Is it so?")];
    fields.extend(responses.map(|response| ("response", response)));
    let document = document(&link(&up.endpoint, &fields));
    check(&document, &["rank 0 serving", "rank 1 serving", "replica-0", "gemma2-v4", "live"]);
    let mut ranked = scores.clone();
    ranked.sort_by(|a, b| b.total_cmp(a));
    let expected: Vec<String> = ranked.iter().map(ToString::to_string).collect();
    assert_eq!(contents(&document, "<span class=\"score\">"), expected);
    // what comes from outside is text
    check(&document, &[SHOWN]);
    assert!(!document.contains("<title>owned"), "{document}");
}

#[test]
fn a_page_says_what_cannot_be_scored() {
    if no_browser() {
        return;
    }
    let up = Up::start(&golden("gemma2-v4"), &[]);
    let document =
        document(&link(&up.endpoint, &[("model", "another"), ("prompt", "Is it so?"), ("response", "Yes.")]));
    check(&document, &["another", "class=\"fault\""]);
    assert_eq!(contents(&document, "<span class=\"score\">"), [""; 0]);
}
