//! The `store` command: reads flags, starts a node, stops it when told to.
//!
//! Exit codes are etcd's: 0 after a clean stop, 1 for what does not work, 2 for a command line that
//! cannot be read.

use std::io::Write as _;
use std::process::ExitCode;

use store::Node;
use store::config::{Config, ConfigError, Request};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages. A few threads with many sizes of blocks fill them slowly: a
    // third of an idle store's memory was air. A kernel without the setting just uses more.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let request = Config::parse(std::env::args().skip(1), std::env::vars());
    match request {
        Ok(Request::Help) => print(&Config::help()),
        Ok(Request::Version) => print(&version()),
        Ok(Request::Run(config, warnings)) => {
            store::logging::install(&config.log);
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            run(*config)
        }
        Err(error) => {
            let code = if matches!(error, ConfigError::Usage(_)) { 2 } else { 1 };
            complain(&error);
            ExitCode::from(code)
        }
    }
}

fn run(config: Config) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error),
    };
    runtime.block_on(async {
        let signals = signal(SignalKind::terminate())
            .and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
        let (mut terminate, mut interrupt) = match signals {
            Ok(signals) => signals,
            Err(error) => return failure(&error),
        };
        let node = match Node::start(config).await {
            Ok(node) => node,
            Err(error) => return failure(&error),
        };
        let told = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            reason = node.failed() => {
                tracing::error!(reason, "the store cannot go on");
                node.shutdown().await;
                return ExitCode::FAILURE;
            }
        };
        tracing::info!(signal = told, "received signal; shutting down");
        node.shutdown().await;
        tracing::info!("stopped");
        ExitCode::SUCCESS
    })
}

/// Four lines, the first of which scripts read.
fn version() -> String {
    format!(
        "etcd Version: {api}\nstore Version: {own}\nLanguage: Rust\nOS/Arch: {os}/{arch}\n",
        api = store::API_VERSION,
        own = env!("CARGO_PKG_VERSION"),
        os = std::env::consts::OS,
        arch = std::env::consts::ARCH,
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
