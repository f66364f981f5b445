//! The status page, in headless Chromium where Debian's package of it is installed: what a person sees is what the
//! cluster says, and nothing that comes from outside is taken for markup.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
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
const HOSTILE: &str = "<script>document.title = \"owned\"</script><img src=x onerror='document.title = \"owned\"'> & \"it's\"";
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

/// Answers in place of a gateway: with this page, and with a status and scores, or not at all.
fn serve(page: String, status: Option<Value>, scores: Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &page, status.as_ref(), &scores);
        }
    });
    address
}

fn answer(mut stream: TcpStream, page: &str, status: Option<&Value>, scores: &Value) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    let lengths = lines.by_ref().take_while(|line| !line.is_empty());
    let length = lengths.filter_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let length: usize = length.last().unwrap_or_default();
    let (kind, body) = match (first.split(' ').nth(1), status) {
        (Some("/"), _) => ("text/html", page.to_owned()),
        (Some("/api/status"), Some(status)) => ("application/json", status.to_string()),
        (Some("/api/score"), Some(_)) => ("application/json", scores.to_string()),
        _ => return,
    };
    let size = body.len();
    // a body that nobody reads would reset the connection
    let _ = length;
    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n{body}");
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}
