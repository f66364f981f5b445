//! Compiles the kernels: with nvcc for the feature `cuda`, with the host's C++ compiler for the feature `host-kernels`.
//! Without either it does nothing.

#[cfg(feature = "cuda")]
#[path = "build/nvcc.rs"]
mod nvcc;
#[cfg(feature = "cuda")]
#[path = "build/ptxas/mod.rs"]
mod ptxas;

fn main() {
    for path in ["build.rs", "build", "kernels"] {
        println!("cargo::rerun-if-changed={path}");
    }
    if let Err(why) = kernels() {
        // what cargo shows before it gives up
        why.lines().filter(|line| !line.is_empty()).for_each(|line| println!("cargo::error={line}"));
    }
}

fn kernels() -> Result<(), String> {
    #[cfg(feature = "cuda")]
    nvcc::compile("kernels/device.cu", "kernels.fatbin")?;
    #[cfg(feature = "host-kernels")]
    compile_for_host("kernels/host.cpp")?;
    Ok(())
}

/// Every operation rounds by itself, as in the kernels' references: no fused multiply-add that the source does not ask
/// for, and no instruction set beyond the target's.
#[cfg(feature = "host-kernels")]
fn compile_for_host(source: &str) -> Result<(), String> {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(3).debug(false).flag("-ffp-contract=off").file(source);
    build.try_compile("host_kernels").map_err(|error| format!("{source} does not compile: {error}"))
}
