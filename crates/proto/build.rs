//! Compiles the protocols, without protoc.

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script by a variable where its output goes")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo::rerun-if-changed={root}");
    let descriptors =
        protox::compile(["assay/v1/reward.proto", "assay/v1/status.proto", "assay/shard/v1/shard.proto"], [root])?;
    let bytes = protox::prost::Message::encode_to_vec(&descriptors);
    std::fs::write(std::path::Path::new(&std::env::var("OUT_DIR")?).join("descriptors.bin"), bytes)?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
