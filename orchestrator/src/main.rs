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
    if args.nth(1).is_some_and(|role| role == "shim") {
        return orchestrator::cli::shim(args.collect());
    }
    orchestrator::cli::main()
}
