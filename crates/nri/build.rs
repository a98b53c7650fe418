//! Compiles the interface without a system protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["nri.proto", "ttrpc.proto"], ["proto"])?;
    // In one order always: what is sent for the same container is the same bytes.
    prost_build::Config::new().btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}
