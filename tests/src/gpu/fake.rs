//! Machines without a GPU that behave as if they had some: tests/gpu/fake is compiled, and a test runs in a process of
//! its own that finds these libraries in the place of NVIDIA's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::SystemTime;

use tempfile::TempDir;
use tests::repo_root;

/// A library: its source, and the names under which programs look for it.
struct Library {
    source: &'static str,
    names: [&'static str; 2],
}

/// The driver first: the others are linked with it.
const LIBRARIES: [Library; 3] = [
    Library { source: "cuda.cpp", names: ["libcuda.so.1", "libcuda.so"] },
    Library { source: "cublaslt.cpp", names: ["libcublasLt.so.13", "libcublasLt.so"] },
    Library { source: "nccl.cpp", names: ["libnccl.so.2", "libnccl.so"] },
];
/// As build.rs of the crate `model` compiles the kernels for the host.
const FLAGS: [&str; 8] = ["-shared", "-fPIC", "-std=c++17", "-O3", "-Wall", "-Wextra", "-ffp-contract=off", "-pthread"];
/// Seconds after which a test hangs.
const PATIENCE: &str = "300";
const REPORT: &str = "FAKE_CUDA_REPORT";
const FAULT: &str = "FAKE_CUDA_FAULT";

/// A machine with NVIDIA GPUs.
pub(crate) struct Machine {
    gpus: usize,
    variables: Vec<(&'static str, String)>,
    missing: Option<&'static str>,
    junk: Option<&'static str>,
    fault: Option<String>,
    excused: Vec<&'static str>,
}

// === impl Machine ===

impl Machine {
    pub(crate) fn with(gpus: usize) -> Self {
        Self { gpus, variables: Vec::new(), missing: None, junk: None, fault: None, excused: Vec::new() }
    }

    /// A variable that the fakes read: tests/gpu/fake says which there are.
    pub(crate) fn set(mut self, name: &'static str, value: impl ToString) -> Self {
        self.variables.push((name, value.to_string()));
        self
    }

    /// Without the library that programs look for under this name.
    pub(crate) fn without(mut self, library: &'static str) -> Self {
        self.missing = Some(library);
        self
    }

    /// With something that cannot be loaded where a program may look for another version of a library.
    pub(crate) fn with_junk(mut self, library: &'static str) -> Self {
        self.junk = Some(library);
        self
    }

    /// What goes wrong from the start: as [`fault`].
    pub(crate) fn starting_with(mut self, what: &str) -> Self {
        self.fault = Some(what.to_owned());
        self
    }

    /// The report may have lines that contain this; otherwise it must be empty.
    pub(crate) fn excuse(mut self, what: &'static str) -> Self {
        self.excused.push(what);
        self
    }

    /// Runs the body of the test of this name on the machine: in a process of its own, which runs this test alone.
    #[track_caller]
    pub(crate) fn run(self, test: &str, body: impl FnOnce()) {
        if variable(REPORT).is_some() {
            return body();
        }
        let mut command = Command::new("timeout");
        command.arg(PATIENCE).arg(std::env::current_exe().unwrap()).args(["--exact", test]);
        let stdout = self.call(command);
        assert!(stdout.contains("1 passed"), "there is no test {test}: {stdout}");
    }

    /// Runs a program on the machine to its good end, and checks the report. Returns what it prints.
    #[track_caller]
    pub(crate) fn call(&self, command: Command) -> String {
        let output = self.output(command);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
        stdout
    }

    /// Runs a program on the machine to its bad end: its status, and what it says on the standard error.
    #[track_caller]
    pub(crate) fn fails(&self, command: Command) -> (Option<i32>, String) {
        let output = self.output(command);
        assert!(!output.status.success(), "{}", text(&output.stdout));
        (output.status.code(), text(&output.stderr))
    }

    #[track_caller]
    fn output(&self, mut command: Command) -> Output {
        let folder = tempfile::tempdir().unwrap();
        let report = folder.path().join("report");
        command.env("LD_LIBRARY_PATH", self.libraries(&folder)).env("FAKE_CUDA_DEVICES", self.gpus.to_string());
        command.env(REPORT, &report).env(FAULT, folder.path().join("fault"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(fault) = &self.fault {
            std::fs::write(folder.path().join("fault"), fault).unwrap();
        }
        let output = command.output().unwrap();
        let report = std::fs::read_to_string(report).unwrap_or_default();
        let excused = |line: &&str| self.excused.iter().any(|excuse| line.contains(excuse));
        let lines: Vec<&str> = report.lines().filter(|line| !excused(line)).collect();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(lines.is_empty(), "the driver complains:\n{}\n{stdout}\n{stderr}", lines.join("\n"));
        output
    }

    /// The folder of the libraries. In the place of one that is missing is something that cannot be loaded, so that the
    /// system's own is not found either.
    fn libraries(&self, folder: &TempDir) -> PathBuf {
        if self.missing.is_none() && self.junk.is_none() {
            return built().to_owned();
        }
        for Library { names, .. } in LIBRARIES {
            for name in names {
                let place = folder.path().join(name);
                match self.junk == Some(name) || self.missing.is_some_and(|missing| names.contains(&missing)) {
                    true => std::fs::write(place, "").unwrap(),
                    false => std::os::unix::fs::symlink(built().join(name), place).unwrap(),
                }
            }
        }
        folder.path().to_owned()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Has a function of a library fail: "FUNCTION N CODE" is about its Nth call from now on.
pub(crate) fn fault(what: &str) {
    let path = PathBuf::from(variable(FAULT).unwrap());
    let whole = path.with_extension("new");
    std::fs::write(&whole, what).unwrap();
    std::fs::rename(whole, path).unwrap();
}

/// What [`Machine::set`] has told this process.
pub(crate) fn told(name: &str) -> String {
    variable(name).unwrap().into_string().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "how a process of a test knows what it is for")]
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The folder of all libraries, built when one is older than its sources.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake-cuda");
        std::fs::create_dir_all(&folder).unwrap();
        let (fakes, kernels) = (repo_root().join("tests/gpu/fake"), repo_root().join("crates/model/kernels"));
        let files = [&fakes, &kernels].into_iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
        let newest = files.map(|file| modified(&file.unwrap().path()).unwrap()).max();
        for Library { source, names: [name, other] } in LIBRARIES {
            let library = folder.join(name);
            if modified(&library) < newest {
                let mut compiler = Command::new("c++");
                compiler.args(FLAGS).arg("-I").arg(&kernels).arg(format!("-Wl,-soname,{name}")).arg(fakes.join(source));
                match source {
                    "cuda.cpp" => compiler.arg(kernels.join("host.cpp")),
                    _ => compiler.arg(folder.join(LIBRARIES[0].names[0])),
                };
                assert!(compiler.arg("-o").arg(&library).status().unwrap().success(), "{source} does not compile");
            }
            let _ = std::os::unix::fs::symlink(name, folder.join(other));
        }
        folder
    })
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}
