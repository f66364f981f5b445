//! The program under test: the real binary, built once for each run of the tests, in an environment of its own.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tests::{golden, repo_root};

/// What a call came to.
pub(crate) struct Call {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// What `assay score` came to.
pub(crate) struct Scored {
    pub(crate) call: Call,
    /// The output, parsed.
    pub(crate) lines: Vec<Value>,
    /// The contents of `--stats`; null if there are none.
    pub(crate) stats: Value,
    /// What the input was called.
    pub(crate) input: String,
}

/// How the variables begin that cargo sets for a test.
const OWN: [&str; 3] = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_"];

/// Builds the binary, and says where it is.
///
/// The workspace is named as a whole, so that the dependencies have the features that they have for `cargo test`, and
/// are not built again.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--offline", "--workspace", "--bin", "assay", "--message-format"]);
        cargo.arg("json-render-diagnostics").current_dir(repo_root()).stderr(Stdio::inherit());
        if cfg!(feature = "cuda") {
            cargo.args(["--features", "tests/cuda"]);
            // as the tests were built; the fakes of tests/gpu bring their own kernels, so a stand-in does as well
            if !std::env::vars_os().any(|(name, _)| name == "NVCC") {
                cargo.env("NVCC", repo_root().join("deploy/cuda/nvcc-standin"));
            }
        }
        // what cargo tells a test about its own package would count as a change for build scripts that look at it
        let own =
            |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| OWN.iter().any(|own| name.starts_with(own)));
        for (name, _) in std::env::vars_os().filter(|(name, _)| own(name)) {
            cargo.env_remove(name);
        }
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let built = cargo.output().unwrap();
        assert!(built.status.success(), "the binary does not build");
        // where it lies is for whoever has set cargo's target folder to say
        let messages = built.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let mut paths = messages.filter_map(|message: Value| message["executable"].as_str().map(PathBuf::from));
        paths.next_back().expect("cargo says where the binary is")
    })
}

/// The binary with these arguments, and nothing of this process's environment, nor a GPU that this machine may have.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if cfg!(feature = "cuda") {
        command.env("LD_LIBRARY_PATH", no_driver());
    }
    command
}

/// A folder with something in the place of NVIDIA's driver that cannot be loaded.
fn no_driver() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-driver");
        std::fs::create_dir_all(&folder).unwrap();
        ["libcuda.so", "libcuda.so.1"].iter().for_each(|name| std::fs::write(folder.join(name), "").unwrap());
        folder
    })
}

/// Runs the binary to its end.
pub(crate) fn assay(arguments: &[&str], input: &[u8]) -> Call {
    let mut child = command(arguments).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // it need not read everything
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let call = Call { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert!(!call.stderr.contains("panicked"), "{}", call.stderr);
    call
}

/// Scores a file.
pub(crate) fn score(model: &Path, flags: &[&str], input: impl AsRef<[u8]>) -> Scored {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (file, stats) = (path("input.jsonl"), path("stats.json"));
    std::fs::write(&file, input).unwrap();
    let mut arguments = vec!["score", "--model", model.to_str().unwrap(), "--input", &file, "--stats", &stats];
    arguments.extend_from_slice(flags);
    let call = assay(&arguments, b"");
    let lines = call.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stats = std::fs::read(stats).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
    Scored { call, lines, stats, input: file }
}

/// The rows of a golden checkpoint's `expected.json`.
pub(crate) fn expected(name: &str) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(golden(name).join("expected.json")).unwrap()).unwrap()
}

/// The token ids of a row of `expected.json`.
pub(crate) fn ids(row: &Value) -> Vec<u32> {
    serde_json::from_value(row["input_ids"].clone()).unwrap()
}

/// JSON Lines.
pub(crate) fn jsonl(lines: impl IntoIterator<Item = Value>) -> String {
    lines.into_iter().fold(String::new(), |mut text, line| {
        writeln!(text, "{line}").unwrap();
        text
    })
}

/// The golden conversations as lines of messages, numbered.
pub(crate) fn messages(rows: &[Value]) -> String {
    jsonl(rows.iter().enumerate().map(|(id, row)| json!({ "id": id, "messages": row["messages"] })))
}

// === impl Scored ===

impl Scored {
    /// The scores of all conversations, in order.
    pub(crate) fn scores(&self) -> Vec<Option<f32>> {
        let scores = |line: &Value| line["scores"].as_array().unwrap().clone();
        self.lines.iter().flat_map(scores).map(|score| score.as_f64().map(|score| score as f32)).collect()
    }

    /// The scores, if every conversation has one.
    #[track_caller]
    pub(crate) fn all_scores(&self) -> Vec<f32> {
        assert_eq!(self.call.status, Some(0), "{}{}", self.call.stderr, self.call.stdout);
        self.scores().into_iter().map(Option::unwrap).collect()
    }
}
