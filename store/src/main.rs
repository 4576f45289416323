//! The `store` command: reads flags, starts a node, stops it when told to.
//!
//! Exit codes are etcd's: 1 for what does not work, 2 for a command line that cannot be read. A
//! store that was told to stop by a signal ends by that signal once everything is put away, so
//! that whoever started it sees what ended it; as process 1, which the kernel does not let die by
//! its own signals, it exits with 0. Started under the name `etcd` it tells its version as etcd
//! does, for scripts that read it.

mod notify;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::{self as os, SaFlags, SigAction, SigHandler, SigSet, Signal};
use store::Node;
use store::config::{Config, ConfigError, Request};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages. A few threads with many sizes of blocks fill them slowly: a
    // third of an idle store's memory was air. A kernel without the setting just uses more.
    let _ = nix::sys::prctl::set_thp_disable(true);
    if let Some(code) = store::offline::dispatch(std::env::args_os()) {
        return code;
    }
    let mut args = std::env::args();
    let name = args.next().unwrap_or_default();
    let as_etcd = Path::new(&name).file_name().is_some_and(|name| name == "etcd");
    match Config::parse(args, std::env::vars()) {
        Ok(Request::Help) => print(&Config::help()),
        Ok(Request::Version) => print(&version(as_etcd)),
        Ok(Request::Run(config, warnings)) => {
            if let Err(error) = store::logging::install(&config.log) {
                return failure(&error);
            }
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            if config.disk.lock_memory
                && let Err(error) = lock_memory()
            {
                return failure(&error);
            }
            match run(*config) {
                Ok(signal) => die_by(signal),
                Err(code) => code,
            }
        }
        Err(error) => {
            let code = if matches!(error, ConfigError::Usage(_)) { 2 } else { 1 };
            complain(&error);
            ExitCode::from(code)
        }
    }
}

/// Runs until told to stop; the signal that told it, or the exit code of a failure.
fn run(config: Config) -> Result<Signal, ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failure(&error))?;
    runtime.block_on(async {
        let node = Node::start(config).await.map_err(|error| failure(&error))?;
        // Until here a signal ends the process at once, which costs no more than a power cut.
        let signals = signal(SignalKind::terminate())
            .and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
        let (mut terminate, mut interrupt) = signals.map_err(|error| failure(&error))?;
        notify::tell(notify::READY);
        let told = tokio::select! {
            _ = terminate.recv() => Signal::SIGTERM,
            _ = interrupt.recv() => Signal::SIGINT,
            reason = node.failed() => {
                tracing::error!(reason, "the store cannot go on");
                node.shutdown().await;
                return Err(ExitCode::FAILURE);
            }
        };
        tracing::info!(signal = told.as_str(), "received signal; shutting down");
        notify::tell(notify::STOPPING);
        node.shutdown().await;
        tracing::info!("stopped");
        Ok(told)
    })
}

/// Ends the process as the signal would have.
fn die_by(signal: Signal) -> ExitCode {
    if std::process::id() == 1 {
        return ExitCode::SUCCESS;
    }
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    #[expect(unsafe_code, reason = "restores a default action, at the very end of the only thread")]
    // SAFETY: no handler is installed, so none can do what a handler may not.
    let restored = unsafe { os::sigaction(signal, &default) };
    match restored.and_then(|_| os::raise(signal)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

/// Why `--memory-mlock` cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "--memory-mlock: cannot lock memory; raise the limit (LimitMEMLOCK=infinity) or leave it out"
)]
struct LockError(#[source] nix::Error);

/// Keeps every page of the process in memory, those to come included.
fn lock_memory() -> Result<(), LockError> {
    use nix::sys::mman::{MlockAllFlags, mlockall};
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).map_err(LockError)
}

/// Four lines, the first of which scripts read. Under etcd's name all four begin as etcd's do.
fn version(as_etcd: bool) -> String {
    let (api, own) = (store::SERVER_VERSION, env!("CARGO_PKG_VERSION"));
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if !as_etcd {
        return format!(
            "etcd Version: {api}\nstore Version: {own}\nLanguage: Rust\nOS/Arch: {os}/{arch}\n"
        );
    }
    let arch = match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "etcd Version: {api}\nGit SHA: store-{own}\nGo Version: none (Rust)\nGo OS/Arch: {os}/{arch}\n"
    )
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn failure(error: &dyn std::error::Error) -> ExitCode {
    complain(error);
    ExitCode::FAILURE
}

/// One line, with what caused it.
fn complain(error: &dyn std::error::Error) {
    let mut line = format!("store: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    // Standard error is all there is to tell it to.
    let _ = writeln!(std::io::stderr(), "{line}");
}
