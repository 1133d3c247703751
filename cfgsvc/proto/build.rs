//! Generates the messages and services from `proto/`, in Rust alone: no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(
        ["rpc.proto", "cfgsvc.proto", "roles.proto", "state.proto"],
        ["proto"],
    )?;
    let gate = "#[cfg(feature = \"grpc\")]";
    tonic_prost_build::configure()
        .bytes(".")
        .client_mod_attribute(".", gate)
        .server_mod_attribute(".", gate)
        .compile_fds(descriptors)?;
    Ok(())
}
