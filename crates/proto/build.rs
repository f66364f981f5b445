//! Compiles the protocols, without protoc.

/// What is written as JSON too, for people and for scripts.
const SERIALIZED: [&str; 5] = ["GetStatusResponse", "ModelStatus", "TenantStatus", "ReplicaStatus", "RankStatus"];
/// Their fields that are enums, and what writes them as words.
const WORDS: [(&str, &str); 2] =
    [("ReplicaStatus.state", "crate::words::state"), ("RankStatus.progress", "crate::words::progress")];

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script by a variable where its output goes")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo::rerun-if-changed={root}");
    let descriptors =
        protox::compile(["assay/v1/reward.proto", "assay/v1/status.proto", "assay/shard/v1/shard.proto"], [root])?;
    let bytes = protox::prost::Message::encode_to_vec(&descriptors);
    std::fs::write(std::path::Path::new(&std::env::var("OUT_DIR")?).join("descriptors.bin"), bytes)?;
    let mut generator = tonic_prost_build::configure();
    for message in SERIALIZED {
        generator = generator.type_attribute(format!("assay.v1.{message}"), "#[derive(serde::Serialize)]");
    }
    for (field, writer) in WORDS {
        let attribute = format!("#[serde(serialize_with = {writer:?})]");
        generator = generator.field_attribute(format!("assay.v1.{field}"), attribute);
    }
    generator.compile_fds(descriptors)?;
    Ok(())
}
