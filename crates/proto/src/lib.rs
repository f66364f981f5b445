//! The wire contract as Rust types, generated from `proto/`. What tells how a gateway is doing can be written as JSON too.

mod item;
mod score;
mod weight;
mod words;

pub use prost::Message;

pub use self::weight::weight;

/// The public promise: `proto/assay/v1`.
#[allow(missing_docs, clippy::all, clippy::too_many_lines, reason = "generated; the documentation is in the protocol")]
pub mod v1 {
    tonic::include_proto!("assay.v1");
}

/// The inner protocol: `proto/assay/shard/v1`.
pub mod shard {
    /// Version 1 of the package.
    #[allow(
        missing_docs,
        clippy::all,
        clippy::too_many_lines,
        reason = "generated; the documentation is in the protocol"
    )]
    pub mod v1 {
        tonic::include_proto!("assay.shard.v1");
    }
}

/// The metadata key that says who a call is charged to.
pub const TENANT_KEY: &str = "x-assay-tenant";

/// All protocols, as an encoded set of file descriptors: what reflection serves.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
