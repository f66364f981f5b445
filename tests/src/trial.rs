//! The script that tries everything on a GPU, run to its end with tiny shapes and the CPU in the GPU's place.

use std::process::Command;

use serde_json::Value;
use tests::repo_root;

#[test]
fn the_trial_on_a_gpu_runs_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("trial.json");
    let golden = repo_root().join("tests/golden");
    let ran = Command::new("python3")
        .arg("-B")
        .arg(repo_root().join("tests/gpu/run.py"))
        .args(["--small", "--binary", env!("CARGO_BIN_EXE_gpu"), "--golden"])
        .arg(golden)
        .arg("--out")
        .arg(&out)
        .arg("--scratch")
        .arg(folder.path())
        .output();
    let Ok(ran) = ran else {
        eprintln!("SKIPPED: there is no python3 to run tests/gpu/run.py");
        return;
    };
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stderr), String::from_utf8_lossy(&ran.stdout));
    println!("{said}");
    assert!(ran.status.success(), "{said}");
    let found: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    let promises = found["promises"].as_array().unwrap();
    let passed = promises.iter().filter(|promise| promise["state"] == "pass").count();
    // what is not about speed, nor about Hugging Face: kernels, golden, bits, ranks, the hash, a load
    assert!(passed >= 8, "only {passed} of {} promises were judged\n{said}", promises.len());
}
