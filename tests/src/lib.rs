//! The harness: real binaries, real clients, real namespaces.
//!
//! Suites live in `tests/it/` and are one binary. They start the `store` and `orchestrator`
//! binaries that stand beside them in the target folder, drive them with the tools that
//! `tests/tools/fetch` brought, and end only what they started. A test that needs root asks
//! [`root`] first; without root it names itself and counts as skipped.

pub mod authority;
pub mod cluster;
pub mod differential;
pub mod load;
pub mod measure;
pub mod http;
pub mod process;
pub mod server;
pub mod tools;
pub mod world;

use std::io::Write as _;

/// True when the caller is root. Otherwise says so, and records `test` as skipped in the file that
/// `tests/run` prints at the end.
pub fn root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(test, "needs root");
    }
    root
}

/// Records `test` as skipped, with the reason.
pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(path) = std::env::var_os("TESTS_SKIPPED")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
    {
        // The list is a courtesy to the reader; a test does not fail for want of it.
        let _ = writeln!(file, "{test}: {reason}");
    }
}
