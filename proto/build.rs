//! Turns the `.proto` files into Rust with `protox`, so that no system `protoc` is needed.

use std::error::Error;

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
    tonic_prost_build::configure()
        // Keys and values stay slices of the request frame instead of copies.
        .bytes(".")
        .codec_path("crate::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}
