//! Generates the messages and services from `proto/`, in Rust alone: no `protoc` is needed.

use std::error::Error;
use std::path::PathBuf;

/// What clients are told of by reflection.
const API: [&str; 3] = ["rpc.proto", "cfgsvc.proto", "roles.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut api = protox::Compiler::new(["proto"])?;
    api.include_imports(true).include_source_info(true);
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("api.bin");
    std::fs::write(out, api.open_files(API)?.encode_file_descriptor_set())?;
    let descriptors = protox::compile(API.into_iter().chain(["state.proto"]), ["proto"])?;
    let gate = "#[cfg(feature = \"grpc\")]";
    tonic_prost_build::configure()
        .bytes(".")
        .client_mod_attribute(".", gate)
        .server_mod_attribute(".", gate)
        .compile_fds(descriptors)?;
    Ok(())
}
