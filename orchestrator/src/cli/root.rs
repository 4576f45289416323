//! What needs root says so with the exact command to run.

use std::ffi::OsString;

/// Refuses to go on without root. `why` completes "… needs root".
pub fn require(why: &str) -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let program = std::env::current_exe().map_or_else(|_| "orchestrator".into(), OsString::from);
    let words = std::iter::once(program).chain(std::env::args_os().skip(1));
    let command: Vec<String> =
        words.map(|word| super::env::quote(&word.to_string_lossy())).collect();
    anyhow::bail!("{why} needs root; run: sudo {}", command.join(" "))
}
