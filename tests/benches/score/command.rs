//! The command as a user runs it: start-up, memory, and Hugging Face on the same work.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::workload::Workload;
use crate::{BUDGET, OnDisk, THREADS};

/// Prints what the command takes, and what Hugging Face takes if it is installed.
pub(crate) fn bench(model: &OnDisk, workloads: &[Workload], work: &Path) {
    std::fs::create_dir_all(work).expect("a folder for the work");
    let files: Vec<PathBuf> =
        workloads.iter().enumerate().map(|(number, workload)| write(work, number, workload)).collect();
    start_up(model, work);
    for tensor_parallel in [1, 2] {
        memory(model, &files, work, tensor_parallel);
    }
    hugging_face(model, workloads, &files, work);
}

fn write(work: &Path, number: usize, workload: &Workload) -> PathBuf {
    let path = work.join(format!("{number}.jsonl"));
    let lines = workload.sequences.iter().map(|ids| json!({"input_ids": &ids[..]}).to_string() + "\n");
    std::fs::write(&path, lines.collect::<String>()).expect("a writable folder");
    path
}

/// The release build of the command, beside this bench.
fn assay(model: &OnDisk, input: &Path, output: &Path) -> Command {
    let bench = std::env::current_exe().expect("a path");
    let binary = bench.ancestors().nth(2).expect("the target folder").join("assay");
    let mut command = Command::new(&binary);
    command.args(["score", "--threads", &THREADS.to_string(), "--max-batch-tokens", &BUDGET.to_string()]);
    command.args([Path::new("--model"), &model.folder, Path::new("--input"), input, Path::new("--output"), output]);
    command
}

/// From the start of the process to the score of a conversation of 16 tokens.
fn start_up(model: &OnDisk, work: &Path) {
    let (input, output) = (work.join("short.jsonl"), work.join("short.out"));
    let ids: Vec<u32> = (300..316).collect();
    std::fs::write(&input, json!({ "input_ids": ids }).to_string()).expect("a writable folder");
    let mut seconds: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            let status = assay(model, &input, &output).status().expect("the command runs");
            assert!(status.success());
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    println!("\nstart to first score, 0.5 GB on disk: {:.2} s (promised 2 s)", seconds[2]);
}

/// The most anonymous memory of a run over all workloads, sampled (Linux only).
fn memory(model: &OnDisk, files: &[PathBuf], work: &Path, tensor_parallel: usize) {
    if !cfg!(target_os = "linux") {
        return;
    }
    let input = work.join("all.jsonl");
    let lines: String = files.iter().map(|file| std::fs::read_to_string(file).expect("just written")).collect();
    std::fs::write(&input, lines).expect("a writable folder");
    let mut command = assay(model, &input, &work.join("all.out"));
    let mut child =
        command.args(["--tensor-parallel", &tensor_parallel.to_string()]).spawn().expect("the command runs");
    let peak = peak_anonymous(&mut child) as f64 / 1e6;
    let weights = 4.0 * model.config.parameters() as f64 / 1e6;
    let embedding = 4.0 * (model.config.vocab * model.config.hidden * (tensor_parallel - 1)) as f64 / 1e6;
    println!(
        "most anonymous memory, {tensor_parallel} rank(s): {peak:.0} MB = weights {weights:.0} + {:.0} (promised {:.0})",
        peak - weights,
        400.0 + embedding
    );
}

fn peak_anonymous(child: &mut Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().expect("a child").is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        peak = peak.max(kilobytes * 1024);
        std::thread::sleep(Duration::from_millis(5));
    }
    peak
}

/// The method of tests/golden/reference.py in batches of 8, in turn with the command.
fn hugging_face(model: &OnDisk, workloads: &[Workload], files: &[PathBuf], work: &Path) {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let installed = Command::new(&python).args(["-c", "import torch, transformers"]).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        println!("\n{python} has no torch and transformers: no comparison with Hugging Face (PYTHON names another)");
        return;
    }
    println!("\n{:<42} {:>9} {:>13} {:>6}  largest difference", "tokens/s", "assay", "Hugging Face", "ratio");
    for (workload, input) in workloads.iter().zip(files).take(2) {
        let mut races: Vec<Race> = (0..3).map(|_| race(model, &python, input, work)).collect();
        races.sort_by(|a, b| (a.ours / a.theirs).total_cmp(&(b.ours / b.theirs)));
        let Race { ours, theirs, difference } = races[1];
        println!("{:<42} {ours:>9.0} {theirs:>13.0} {:>6.2}  {difference:.1e}", workload.name, ours / theirs);
    }
    println!("(aims: 1.4 independent, 2.4 groups)");
}

/// Tokens a second of both, and how far their scores are apart.
struct Race {
    ours: f64,
    theirs: f64,
    difference: f64,
}

fn race(model: &OnDisk, python: &str, input: &Path, work: &Path) -> Race {
    let (ours, theirs, stats) = (work.join("ours.out"), work.join("theirs.out"), work.join("stats.json"));
    let status = assay(model, input, &ours).arg("--stats").arg(&stats).status().expect("the command runs");
    assert!(status.success());
    let run = Command::new(python)
        .arg(tests::repo_root().join("tests/golden/reference.py"))
        .args([Path::new("--model"), &model.folder, Path::new("--input"), input, Path::new("--output"), &theirs])
        .args(["--threads", &THREADS.to_string()])
        .output()
        .expect("python runs");
    let stderr = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{stderr}");
    Race {
        ours: rate(&std::fs::read_to_string(&stats).expect("stats")),
        theirs: rate(stderr.lines().last().expect("figures")),
        difference: difference(&ours, &theirs),
    }
}

fn rate(figures: &str) -> f64 {
    serde_json::from_str::<Value>(figures).expect("figures")["tokens_per_second"].as_f64().expect("a rate")
}

/// The largest difference between the scores of two outputs, relative where they are larger than 1.
fn difference(ours: &Path, theirs: &Path) -> f64 {
    let scores = |path: &Path| -> Vec<f64> {
        let text = std::fs::read_to_string(path).expect("an output");
        let row =
            |line: &str| serde_json::from_str::<Value>(line).expect("a line")["scores"][0].as_f64().expect("a score");
        text.lines().map(row).collect()
    };
    let pairs = scores(ours).into_iter().zip(scores(theirs));
    pairs.map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max)
}
