//! Compiles knarr's own services without a system protoc. CRI is compiled by `proto`, which knows nothing of ours.

/// Every file with a service or messages; each names those that it needs.
const FILES: [&str; 2] = ["node.proto", "registry.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
