//! One member on the loopback interface: our `store`, or a real etcd to compare it with.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::process::Process;
use crate::tools;

/// Which program serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Our own binary.
    Ours,
    /// A peer's, by its path.
    Peer(PathBuf),
}

/// A running member.
pub struct Server {
    /// The process.
    pub process: Process,
    /// `127.0.0.1:port` of the client listener.
    pub endpoint: String,
    scheme: &'static str,
    dir: PathBuf,
    program: Program,
    peer_port: u16,
    extra: Vec<String>,
}

/// Ports are handed out below the range that the kernel gives to outgoing connections.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A loopback port that nobody listens on.
///
/// # Panics
/// When none is free.
pub fn free_port() -> u16 {
    let start = u16::try_from(std::process::id() % 8000).expect("below 8000") + 20_000;
    for _ in 0..4000 {
        let port = start.wrapping_add(NEXT_PORT.fetch_add(1, Ordering::Relaxed)) % 32_000;
        let port = if port < 20_000 { port % 12_000 + 20_000 } else { port };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 20000 and 32000");
}

impl Server {
    /// Starts a member on the data folder `dir` and waits until it serves.
    pub fn start(program: Program, dir: &Path, extra: &[&str]) -> Self {
        Self::start_by("http", program, dir, extra)
    }

    /// Starts a member that speaks TLS and wants certificates of `certs/ca.pem`; its own are
    /// `certs/server.pem` and `certs/server.key`.
    pub fn start_secure(program: Program, dir: &Path, certs: &Path, extra: &[&str]) -> Self {
        let file = |flag: &str, name: &str| format!("--{flag}={}", certs.join(name).display());
        let tls = [
            file("cert-file", "server.pem"),
            file("key-file", "server.key"),
            file("trusted-ca-file", "ca.pem"),
            "--client-cert-auth".to_owned(),
        ];
        let flags: Vec<&str> =
            tls.iter().map(String::as_str).chain(extra.iter().copied()).collect();
        Self::start_by("https", program, dir, &flags)
    }

    fn start_by(scheme: &'static str, program: Program, dir: &Path, extra: &[&str]) -> Self {
        let (client_port, peer_port) = (free_port(), free_port());
        let endpoint = format!("127.0.0.1:{client_port}");
        let extra: Vec<String> = extra.iter().map(ToString::to_string).collect();
        let url = format!("{scheme}://{endpoint}");
        let mut command = command(&program, dir, &url, peer_port, &extra);
        let process = Process::start(&mut command, &log_path(dir));
        let dir = dir.to_path_buf();
        let mut server = Self { process, endpoint, scheme, dir, program, peer_port, extra };
        server.process.wait_for("ready to serve client requests", 0);
        server
    }

    /// Starts it again on the same data and the same port, after it has ended, and does not wait.
    pub fn start_again(&mut self) {
        let mut command =
            command(&self.program, &self.dir, &self.url(), self.peer_port, &self.extra);
        self.process = Process::start(&mut command, &log_path(&self.dir));
    }

    /// Starts it again as [`Server::start_again`] does, and waits until it serves.
    pub fn restart(&mut self) {
        let from = self.process.output().len();
        self.start_again();
        self.process.wait_for("ready to serve client requests", from);
    }

    /// The client URL.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.endpoint)
    }
}

fn log_path(dir: &Path) -> PathBuf {
    dir.with_extension("log")
}

/// The advertised peer URL is etcd's default, since member and cluster ids derive from it.
fn command(program: &Program, dir: &Path, url: &str, peer_port: u16, extra: &[String]) -> Command {
    let path = match program {
        Program::Ours => tools::ours("store"),
        Program::Peer(path) => path.clone(),
    };
    let mut command = Command::new(path);
    command
        .args(["--name", "default", "--initial-cluster", "default=http://localhost:2380"])
        .args(["--initial-advertise-peer-urls", "http://localhost:2380"])
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"))
        .arg(format!("--listen-client-urls={url}"))
        .arg(format!("--advertise-client-urls={url}"))
        .arg("--data-dir")
        .arg(dir)
        .args(extra);
    command
}
