//! Compiles knarr's own services, and what it says to a collector of traces, without a system protoc. CRI is compiled by `proto`, which
//! knows nothing of ours.

/// Every file with a service or messages; each names those that it needs.
const FILES: [&str; 4] = ["images.proto", "node.proto", "registry.proto", "traces.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
