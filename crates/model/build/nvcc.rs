//! Finds nvcc and makes one fat binary of the kernels: machine code for sm_80 and sm_90, PTX for what comes after.

#![expect(clippy::disallowed_methods, reason = "a build script is told by variables where its tools and output are")]

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ptxas;

const FLAGS: &[&str] = &[
    "-fatbin",
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=[sm_90,compute_90]",
    "-O3",
    "-std=c++17",
    "--threads=2",
    "-Xptxas=-v",
];

/// Compiles `source` to `output` in OUT_DIR.
pub(crate) fn compile(source: &str, output: &str) -> Result<(), String> {
    let nvcc = find()?;
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let output = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join(output);
    let ran = Command::new(&nvcc).args(FLAGS).arg("-o").arg(output).arg(source).output();
    let ran = ran.map_err(|error| format!("{} does not start: {error}", nvcc.display()))?;
    let log = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    if !ran.status.success() {
        return Err(format!("{log}\n{} does not compile {source}: {}", nvcc.display(), ran.status));
    }
    for warning in log.lines().filter(|line| line.contains("warning")) {
        println!("cargo::warning={warning}");
    }
    // memory is what the kernels wait for
    let spills: Vec<_> = ptxas::spills(&log).iter().map(ToString::to_string).collect();
    if spills.is_empty() { Ok(()) } else { Err(spills.join("\n")) }
}

fn find() -> Result<PathBuf, String> {
    if let Some(nvcc) = variable("NVCC") {
        let nvcc = PathBuf::from(nvcc);
        return nvcc.is_file().then(|| nvcc.clone()).ok_or(format!("$NVCC is {}: no such file", nvcc.display()));
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable);
    let mut folders: Vec<_> = homes.map(|home| Path::new(&home).join("bin")).collect();
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    folders.push(PathBuf::from("/usr/local/cuda/bin"));
    let mut candidates = folders.into_iter().map(|folder| folder.join("nvcc"));
    candidates.find(|nvcc| nvcc.is_file()).ok_or_else(|| {
        "the feature `cuda` needs nvcc of CUDA 13, which is not in $NVCC, $CUDA_HOME/bin, $CUDA_PATH/bin, the PATH \
         or /usr/local/cuda/bin: `make cuda` brings it and builds with it, `make check-cuda` lints without it"
            .to_owned()
    })
}

/// A variable of the environment that is set and not empty; a change of it runs the build script again.
fn variable(name: &str) -> Option<OsString> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var_os(name).filter(|value| !value.is_empty())
}
