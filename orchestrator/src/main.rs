//! The `orchestrator` program: one binary, many roles.
//!
//! The shim role comes first and alone. A shim keeps the containers of one pod and forks for each
//! operation, which is safe only in a process that never had a second thread; so it is picked by
//! the first argument, before the argument parser, a runtime or a logger exists. Every other role
//! is a sub-command (see `cli`).

use std::process::ExitCode;

/// Fewer cycles per request than glibc's allocator, and memory goes back to the system sooner.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let is_shim = args.nth(1).is_some_and(|role| role == "shim");
    // The allocator asks for huge pages, which a dozen mostly idle threads never fill: half of the idle
    // memory would be air. The setting is inherited, and containers shall have the system's own, so a
    // shim takes it back. A kernel without it just uses more memory.
    let _ = nix::sys::prctl::set_thp_disable(!is_shim);
    if is_shim {
        return orchestrator::cli::shim(args.collect());
    }
    orchestrator::cli::main()
}
