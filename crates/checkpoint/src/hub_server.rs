//! A hub on 127.0.0.1 for tests: the paths and headers that a client sees, a redirect of large files to a storage host
//! of another name, and faults on demand. It keeps a record of every request.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a part of the tests")]

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// A running hub; it ends with the test's process.
#[derive(Clone)]
pub struct HubServer {
    /// Its address, for [`HubOptions::endpoint`](crate::HubOptions::endpoint).
    pub url: String,
    state: Arc<Mutex<State>>,
}

/// A request that the server saw.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The path with the query, such as `/owner/name/resolve/main/config.json`; the storage's begin with `/storage/`.
    pub path: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
}

/// What goes wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Any request: this status and nothing else.
    Status(u16),
    /// Any request: the connection is closed without an answer.
    Close,
    /// Any request: no answer, and the connection stays open.
    Hang,
    /// A file's content: the connection is closed after this many bytes.
    Cut(usize),
    /// A file's content: nothing comes after this many bytes, and the connection stays open.
    Stall(usize),
    /// A file's content: the whole file with status 200, whatever range was asked for.
    NoRange,
    /// A file's content: one byte is wrong.
    Flip,
}

#[derive(Default)]
struct State {
    revisions: HashMap<String, Revision>,
    renamed: HashMap<String, String>,
    token: Option<String>,
    faults: Vec<(String, Fault, usize)>,
    requests: Vec<Request>,
}

#[derive(Clone)]
struct Revision {
    commit: String,
    files: BTreeMap<String, Vec<u8>>,
}

// === impl HubServer ===

impl HubServer {
    /// Starts a hub without repositories.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { url: format!("http://127.0.0.1:{port}"), state: Arc::default() };
        let state = server.state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = state.clone();
                // A client that goes away is not the server's failure.
                std::thread::spawn(move || drop(answer(&stream.unwrap(), &state, port)));
            }
        });
        server
    }

    /// Publishes files as a revision of a repository, and returns the commit, which is a revision too.
    pub fn publish(&self, repo: &str, revision: &str, files: &[(&str, &[u8])]) -> String {
        let mut hasher = Sha256::new();
        for (name, content) in files {
            hasher.update(name);
            hasher.update(content);
        }
        let commit = hex(&hasher.finalize())[..40].to_owned();
        let files = files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        let published = Revision { commit: commit.clone(), files };
        let revisions = &mut self.state.lock().unwrap().revisions;
        revisions.insert(format!("{repo}@{revision}"), published.clone());
        revisions.insert(format!("{repo}@{commit}"), published);
        commit
    }

    /// Answers whatever asks for one repository with a redirect to another, as the hub does for a renamed one.
    pub fn rename(&self, old: &str, new: &str) {
        self.state.lock().unwrap().renamed.insert(old.to_owned(), new.to_owned());
    }

    /// From now on only this token opens anything.
    pub fn require_token(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.to_owned());
    }

    /// Lets the next `times` requests go wrong whose path ends with `path`.
    pub fn fault(&self, path: &str, fault: Fault, times: usize) {
        self.state.lock().unwrap().faults.push((path.to_owned(), fault, times));
    }

    /// Takes back the faults that have not happened yet.
    pub fn heal(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }
}

/// Reads one request and answers it.
fn answer(stream: &TcpStream, state: &Mutex<State>, port: u16) -> std::io::Result<()> {
    let request = read_request(stream)?;
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    let early = |fault| matches!(fault, Fault::Status(_) | Fault::Close | Fault::Hang);
    match state.take_fault(&request.path, early) {
        Some(Fault::Status(status)) => return respond(stream, status, &[], b""),
        Some(Fault::Close) => return Ok(()),
        Some(_) => {
            drop(state);
            std::thread::sleep(Duration::from_secs(60));
            return Ok(());
        }
        None => {}
    }
    if let Some(path) = request.path.strip_prefix("/storage/") {
        let (revision, file) = path.split_once("//").unwrap();
        return content(stream, state, &request, &format!("{revision}//{file}"), &[]);
    }
    if let Some((old, new)) = state.renamed.iter().find(|(old, _)| request.path.contains(&format!("/{old}/"))) {
        let location = format!("Location: {}", request.path.replacen(old, new, 1));
        return respond(stream, 307, &[location], b"");
    }
    let wanted = state.token.as_ref().map(|token| format!("Bearer {token}"));
    if wanted.is_some() && wanted != request.authorization {
        return respond(stream, 401, &[], b"");
    }
    if let Some(path) = request.path.strip_prefix("/api/models/") {
        let (repo, revision) = path.split_once("/revision/").unwrap_or((path, "main"));
        return info(stream, &state, &format!("{repo}@{}", revision.replace("%2F", "/")));
    }
    let Some((repo, (revision, file))) =
        request.path[1..].split_once("/resolve/").and_then(|(repo, rest)| Some((repo, rest.split_once('/')?)))
    else {
        return respond(stream, 404, &[], b"");
    };
    let key = format!("{repo}@{}", revision.replace("%2F", "/"));
    let Some((commit, bytes)) = state.file(&key, file) else {
        return respond(stream, 404, &[], b"");
    };
    let commit = format!("X-Repo-Commit: {commit}");
    let sha = hex(&Sha256::digest(&bytes));
    if file.ends_with(".safetensors") {
        let location = format!("Location: http://localhost:{port}/storage/{key}//{file}");
        let (etag, size) = (format!("X-Linked-Etag: \"{sha}\""), format!("X-Linked-Size: {}", bytes.len()));
        return respond(stream, 302, &[location, etag, size, "ETag: \"other\"".to_owned(), commit], b"");
    }
    // Small files carry the hash of git, 40 digits.
    let etag = format!("ETag: \"{}\"", &sha[..40]);
    content(stream, state, &request, &format!("{key}//{file}"), &[etag, commit])
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().ok_or(std::io::ErrorKind::UnexpectedEof)??;
    let mut request = Request { path: first.split(' ').nth(1).unwrap_or("/").to_owned(), ..Request::default() };
    for line in lines {
        let line = line?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("range") => request.range = Some(value.to_owned()),
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                request.authorization = Some(value.to_owned());
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(request)
}

fn info(stream: &TcpStream, state: &State, key: &str) -> std::io::Result<()> {
    let Some(revision) = state.revisions.get(key) else {
        return respond(stream, 404, &[], b"");
    };
    let siblings: Vec<_> = revision.files.keys().map(|file| serde_json::json!({ "rfilename": file })).collect();
    let body = serde_json::json!({ "sha": revision.commit, "siblings": siblings }).to_string();
    respond(stream, 200, &["Content-Type: application/json".to_owned()], body.as_bytes())
}

/// Answers with a file or a range of it; the lock is let go before anything is sent.
fn content(
    stream: &TcpStream,
    mut state: std::sync::MutexGuard<'_, State>,
    request: &Request,
    place: &str,
    headers: &[String],
) -> std::io::Result<()> {
    let (key, file) = place.split_once("//").unwrap();
    let Some((_, mut bytes)) = state.file(key, file) else {
        return respond(stream, 404, &[], b"");
    };
    let range = request.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let fault = match range {
        Some((_, "")) => state.take_fault(&request.path, |_| true),
        _ => None,
    };
    drop(state);
    let size = bytes.len();
    if fault == Some(Fault::Flip) {
        bytes[size - 1] ^= 1;
    }
    let range = range.filter(|_| fault != Some(Fault::NoRange));
    let from = range.map_or(0, |(from, _)| from.parse().unwrap());
    let to = range.and_then(|(_, to)| to.parse().ok()).map_or(size, |to: usize| (to + 1).min(size));
    if from >= to {
        return respond(stream, 416, &[format!("Content-Range: bytes */{size}")], b"");
    }
    let mut headers = headers.to_vec();
    if range.is_some() {
        headers.push(format!("Content-Range: bytes {from}-{}/{size}", to - 1));
    }
    let sent = match fault {
        Some(Fault::Cut(bytes) | Fault::Stall(bytes)) => bytes.min(to - from),
        _ => to - from,
    };
    headers.push(format!("Content-Length: {}", to - from));
    head(stream, if range.is_some() { 206 } else { 200 }, &headers)?;
    (&*stream).write_all(&bytes[from..from + sent])?;
    if matches!(fault, Some(Fault::Stall(_))) {
        std::thread::sleep(Duration::from_secs(60));
    }
    Ok(())
}

fn respond(stream: &TcpStream, status: u16, headers: &[String], body: &[u8]) -> std::io::Result<()> {
    let mut headers = headers.to_vec();
    headers.push(format!("Content-Length: {}", body.len()));
    head(stream, status, &headers)?;
    (&*stream).write_all(body)
}

fn head(mut stream: &TcpStream, status: u16, headers: &[String]) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} -\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    stream.write_all((text + "\r\n").as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// === impl State ===

impl State {
    fn take_fault(&mut self, path: &str, applies: impl Fn(Fault) -> bool) -> Option<Fault> {
        let found = |(end, fault, times): &&mut (String, Fault, usize)| {
            *times > 0 && path.ends_with(end.as_str()) && applies(*fault)
        };
        let (_, fault, times) = self.faults.iter_mut().find(found)?;
        *times -= 1;
        Some(*fault)
    }

    fn file(&self, key: &str, file: &str) -> Option<(String, Vec<u8>)> {
        let revision = self.revisions.get(key)?;
        Some((revision.commit.clone(), revision.files.get(file)?.clone()))
    }
}
