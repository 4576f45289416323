//! The node with real containers, each test in a network namespace of its own.
//!
//! These tests need root: without it each says so and passes. They use the built-in testbox image
//! and cgroups below a root of their own, and leave nothing behind: the last thing each checks.
//! `shim` drives one shim by hand; `kubelet` runs the whole node agent on an embedded store.

mod kubelet;
mod shim;

use std::future::Future;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs `test` as root in a fresh network namespace, on one thread.
fn in_private_network<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !tests::root(std::thread::current().name().unwrap_or("node")) {
        return;
    }
    // `RUST_LOG=orchestrator=debug` shows what the parts say.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.is_ok_and(|status| status.success()), "loopback comes up");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_orchestrator"))
}
