//! The script that tries everything on a GPU: run to its end with tiny shapes and the CPU in the GPU's place, and with
//! programs in the place of its parts that fail, hang, or are cut.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tests::repo_root;

/// What the parts' program may do in [`Trial::with`].
const DEVICE: &str = r#"device) echo '{"name": "a stub", "nccl": "none", "libraries": []}';;"#;
/// What the program says of an algorithm.
const ALGORITHM: &str = r#"{"dtype": "bf16", "algorithm": {"output": 8, "input": 4, "rows": 64, "place": 0, "made_of": [["id", 66]], "workspace": 0, "waves": 1, "refused": null, "bits": "1", "milliseconds": 2, "taken_for": [128, 8192]}}"#;
/// Prints a finding, and no more ever.
const HANGS: &str =
    r#"golden) echo '{"checkpoint": "qwen3", "dtype": "f32", "worst": 1e-6}'; echo $$ >"$0.pid"; sleep 1000;;"#;
/// Tools of NVIDIA's that are called with the program behind their options.
const SANITIZER: &str = "echo '========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)'";
const NCU: &str = r#"echo '==PROF== Connected'; echo '"ID","Kernel Name","gpu__time_duration.sum"'; echo '"","","us"'
echo '"0","norm_bf16","71.5"'"#;

/// The script, with a program and tools of a test's own.
struct Trial(TempDir);

// === impl Trial ===

impl Trial {
    /// The program does what these arms of a shell's `case` say of its command.
    fn with(arms: &[&str]) -> Self {
        let trial = Self(tempfile::tempdir().unwrap());
        trial.tool("gpu", &format!("case $1 in {DEVICE}\n{}\n*) ;; esac", arms.join("\n")));
        trial
    }

    fn tool(&self, name: &str, script: &str) {
        let file = self.0.path().join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = script();
        let path = format!("{}:/usr/bin:/bin", self.0.path().display());
        command.args(arguments).arg("--binary").arg(self.0.path().join("gpu")).arg("--out").arg(self.out());
        command.env("PATH", path).arg("--scratch").arg(self.0.path());
        command
    }

    fn out(&self) -> std::path::PathBuf {
        self.0.path().join("trial.json")
    }

    /// What it has written so far.
    fn found(&self) -> Value {
        std::fs::read_to_string(self.out()).map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
    }
}

fn script() -> Command {
    let mut command = Command::new("python3");
    command.arg("-B").arg(repo_root().join("tests/gpu/run.py"));
    command
}

fn has_python() -> bool {
    let there = Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("SKIPPED: there is no python3 to run tests/gpu/run.py");
    }
    there
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
}

/// The state of a part, or of all promises that begin like this.
fn state<'a>(found: &'a Value, name: &str) -> Vec<&'a str> {
    let part = found["parts"][name]["state"].as_str();
    let promises = found["promises"].as_array().unwrap().iter();
    let those = promises.filter(|promise| promise["promise"].as_str().unwrap().starts_with(name));
    part.into_iter().chain(those.map(|promise| promise["state"].as_str().unwrap())).collect()
}

#[test]
fn the_trial_on_a_gpu_runs_without_one() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("trial.json");
    let mut command = script();
    command.args(["A", "B", "--small", "--binary", env!("CARGO_BIN_EXE_gpu"), "--golden"]);
    command.arg(repo_root().join("tests/golden")).arg("--out").arg(&out).arg("--scratch").arg(folder.path());
    let ran = command.output().unwrap();
    println!("{}", said(&ran));
    assert!(ran.status.success(), "{}", said(&ran));
    let found: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    let promises = found["promises"].as_array().unwrap();
    let passed = promises.iter().filter(|promise| promise["state"] == "pass").count();
    // what is not about speed, nor about Hugging Face: kernels, golden, bits, ranks, the hash, two loads
    assert!(passed >= 9, "only {passed} of {} promises were judged", promises.len());
}

/// One part hangs and one fails: what they had found is kept, and the others are tried.
#[test]
fn a_part_that_hangs_or_fails_is_one_part() {
    if !has_python() {
        return;
    }
    let trial = Trial::with(&[
        r#"kernels) case "$*" in *--only*) ;; *) echo '{"check": "norm", "worst": 0, "largest": 1, "holds": true}'; sleep 1000;; esac;;"#,
        &format!("algorithms) echo '{ALGORITHM}'; echo 'the GPU is on fire' >&2; exit 3;;"),
        r#"speed) echo '{"step_tokens": 8192, "opened_in": 1.0}';;"#,
    ]);
    trial.tool("compute-sanitizer", SANITIZER);
    trial.tool("ncu", NCU);
    let ran = trial.command(&["A", "--patience", "0.1"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(1), "{}", said(&ran));
    let found = trial.found();
    assert_eq!(state(&found, "kernels"), ["stopped", "FAIL"], "{}", said(&ran));
    assert_eq!(found["parts"]["kernels"]["lines"].as_array().unwrap().len(), 1);
    assert_eq!(state(&found, "algorithms"), ["failed"]);
    assert_eq!(found["parts"]["algorithms"]["problem"], "exit status 3: the GPU is on fire");
    assert_eq!(found["parts"]["algorithms"]["lines"][0]["dtype"], "bf16");
    for part in ["speed-main", "racecheck", "ncu"] {
        assert_eq!(found["parts"][part]["state"], "done", "{part}: {}", said(&ran));
    }
    assert_eq!(state(&found, "compute-sanitizer finds no race"), ["pass"]);
    let table = String::from_utf8_lossy(&ran.stdout);
    assert!(table.contains("norm_bf16") && table.contains("time 71.5 us"), "{table}");
    assert!(
        table.contains("bf16 [8, 4]: 1 suggested, 1 good, 1 kinds of bits; 2.000 ms, for 64 rows (id 66)"),
        "{table}"
    );
}

/// Ended from outside in the middle: the findings, the table and the names of what was not tried are there, and no
/// program of it is left behind.
#[test]
fn a_run_that_is_ended_leaves_what_it_has_found() {
    if !has_python() {
        return;
    }
    let trial = Trial::with(&[HANGS]);
    let running = trial.command(&["B"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while trial.found()["parts"]["golden"]["lines"][0].is_null() {
        assert!(start.elapsed() < Duration::from_secs(60), "no finding is written while a part runs");
        std::thread::sleep(Duration::from_millis(20));
    }
    Command::new("kill").arg("-TERM").arg(running.id().to_string()).status().unwrap();
    let ran = running.wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(2), "{}", said(&ran));
    let found = trial.found();
    assert_eq!(state(&found, "golden"), ["cut", "cut", "cut"], "{}", said(&ran));
    assert_eq!(found["parts"]["golden"]["lines"][0]["worst"], 1e-6);
    let table = String::from_utf8_lossy(&ran.stdout);
    for part in ["golden", "bits", "speed", "hugging-face", "load", "tp2"] {
        assert!(table.contains(&format!("cut     {part} ")), "{part}: {table}");
    }
    let pid = std::fs::read_to_string(trial.0.path().join("gpu.pid")).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "the part still runs");
}

/// A run that has no time left says so of each part, and another run adds to the same table.
#[test]
fn a_run_whose_time_is_over_names_what_it_has_cut() {
    if !has_python() {
        return;
    }
    let trial =
        Trial::with(&[HANGS, r#"kernels) echo '{"check": "norm", "worst": 0, "largest": 1, "holds": true}';;"#]);
    let ran = trial.command(&["--only", "kernels"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(0), "{}", said(&ran));
    let ran = trial.command(&["--only", "golden,bits", "--time", "3"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(2), "{}", said(&ran));
    let found = trial.found();
    assert_eq!(found["parts"]["bits"]["problem"], "no time was left for it");
    let problem = found["parts"]["golden"]["problem"].as_str().unwrap();
    assert!(problem.starts_with("stopped after "), "{problem}");
    assert_eq!(state(&found, "kernels"), ["done", "pass"]);
    // the table of a record can be printed again
    let ran = trial.command(&["--table"]).output().unwrap();
    let table = String::from_utf8_lossy(&ran.stdout);
    assert!(table.contains("pass    kernels agree") && table.contains("cut     bits "), "{table}");
}
