//! The CRI v1 contract, complete, as of cri-api v0.37.2: messages, clients and servers made from `proto/*.proto`.
//!
//! Names, numbers and types are the contract's; the comments are ours. What holds it to the contract: `tests/reference.rs` compares it
//! with the published module, `tests/k8s_cri.rs` exchanges bytes with an independent client. Nothing of knarr's lives here.

/// Protocol buffers package `runtime`.
pub mod runtime {
    /// Protocol buffers package `runtime.v1`.
    #[allow(
        missing_docs,
        unreachable_pub,
        deprecated,
        rust_2018_idioms,
        clippy::all,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
    }
}

/// The contract's own description, an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.descriptors"));
