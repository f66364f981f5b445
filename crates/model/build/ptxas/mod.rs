//! Reads what `ptxas -v` says of the kernels that it compiles. Part of the build script, and of the crate's tests.

use std::fmt;

/// Registers that a kernel keeps in memory for want of room.
#[derive(Debug, PartialEq)]
pub(crate) struct Spill {
    /// As the assembler knows it: mangled, unless it is `extern "C"`.
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    pub(crate) stored_bytes: u64,
    pub(crate) loaded_bytes: u64,
}

impl fmt::Display for Spill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, architecture, stored_bytes, loaded_bytes } = self;
        write!(f, "{kernel} spills registers on {architecture}: {stored_bytes} bytes stored, {loaded_bytes} loaded")
    }
}

/// The spills of all kernels in a log, those of functions that a kernel calls counted as its own.
///
/// A kernel's lines follow the one that names it, also with several threads: nvcc prints the log of each architecture
/// as a whole.
pub(crate) fn spills(log: &str) -> Vec<Spill> {
    let mut found = Vec::new();
    let (mut kernel, mut architecture) = ("", "");
    for line in log.lines() {
        if let Some((_, names)) = line.split_once("Compiling entry function '") {
            let mut names = names.split('\'');
            kernel = names.next().unwrap_or_default();
            architecture = names.nth(1).unwrap_or_default();
        }
        let (stored_bytes, loaded_bytes) = (bytes(line, "spill stores"), bytes(line, "spill loads"));
        if stored_bytes + loaded_bytes > 0 {
            let (kernel, architecture) = (kernel.to_owned(), architecture.to_owned());
            found.push(Spill { kernel, architecture, stored_bytes, loaded_bytes });
        }
    }
    found
}

/// The number in "`number` bytes `what`", zero if the line has none.
fn bytes(line: &str, what: &str) -> u64 {
    let counts = line.split(',').filter_map(|part| part.trim().strip_suffix(what)?.trim().strip_suffix("bytes"));
    counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests;
