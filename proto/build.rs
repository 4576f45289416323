//! Turns the `.proto` files into Rust with `protox`, so that no system `protoc` is needed.
//!
//! Beside the generated code it leaves the descriptors in binary form, for those who must know the
//! messages by name at run time: the JSON gateway.

use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 5] = [
    "etcd/kv.proto",
    "etcd/auth.proto",
    "etcd/rpc.proto",
    "etcd/lock.proto",
    "etcd/election.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let mut bare = protox::Compiler::new(["."])?;
    // Comments are of use to the generated code only.
    bare.include_imports(true).include_source_info(false).open_files(FILES)?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), bare.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        // Keys and values stay slices of the request frame instead of copies.
        .bytes(".")
        .codec_path("crate::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}
