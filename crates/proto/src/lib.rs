//! The wire contract as Rust types, generated from `proto/`.

/// The public promise: `proto/assay/v1`.
#[allow(missing_docs, clippy::all, clippy::too_many_lines, reason = "generated; the documentation is in the protocol")]
pub mod v1 {
    tonic::include_proto!("assay.v1");
}
