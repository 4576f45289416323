//! Compiles the built-in `testbox` program, so that the binary can run something on a machine
//! without internet.
//!
//! It is compiled with the very compiler that builds the crate, for the host, statically linked: no
//! cross target to install, no system package. `kubelet::images` embeds the result.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=testbox/main.rs");
    let variable = |name: &str| std::env::var_os(name).expect("cargo sets it for build scripts");
    let program = PathBuf::from(variable("OUT_DIR")).join("testbox");
    // Wrappers and flags of the outer build (coverage, sanitizers) must not leak into it.
    let outcome = Command::new(variable("RUSTC"))
        .env_remove("RUSTFLAGS")
        .args(["--edition", "2024", "--crate-name", "testbox", "--crate-type", "bin"])
        .args([
            "-C",
            "target-feature=+crt-static",
            "-C",
            "strip=symbols",
            "-C",
            "panic=abort",
            "-O",
        ])
        .arg("--target")
        .arg(variable("TARGET"))
        .arg("-o")
        .arg(&program)
        .arg("testbox/main.rs")
        .status();
    match outcome {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            println!("cargo::error=compiling testbox/main.rs failed: {status}");
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("cargo::error=cannot start the compiler for testbox/main.rs: {error}");
            ExitCode::FAILURE
        }
    }
}
