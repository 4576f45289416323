//! Those who are compared, all on the same disk: our store, etcd, and the limit.
//!
//! While one is measured the others are stopped by signal, so that nobody's background work falls
//! on another's figures; it is charged when its owner runs again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::endpoint::{Endpoint, TlsFiles};
use super::failure::Failure;
use super::meter::Subject;
use crate::process::Process;
use crate::server::{Program, Server, free_port};
use crate::tools;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Who {
    /// Our store
    Ours,
    /// etcd 3.7, or 3.4 where there is no other
    Etcd,
    /// The echo server with one group fsync
    Limit,
}

impl Who {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Etcd => "etcd",
            Self::Limit => "limit",
        }
    }
}

/// A quota that no measurement reaches; the default of 2 GiB might be.
const QUOTA: &str = "--quota-backend-bytes=8589934592";

/// How long one is left alone after it goes on, so that its timers settle.
const SETTLE: Duration = Duration::from_millis(300);

/// One that runs.
pub struct Contestant {
    /// Which.
    pub who: Who,
    /// Where it serves.
    pub endpoint: Endpoint,
    running: Running,
    dir: PathBuf,
}

enum Running {
    Member(Server),
    Limit(Process),
}

impl Contestant {
    /// Starts it on a folder of its own below `dir`.
    ///
    /// # Errors
    /// When its endpoint is malformed, which it is not.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(who: Who, dir: &Path, value_size: usize) -> Result<Self, Failure> {
        let data = dir.join(who.name());
        let member = |program| Running::Member(Server::start(program, &data, &[QUOTA]));
        let (running, url) = match who {
            Who::Ours => (member(Program::Ours), None),
            Who::Etcd => {
                let path = tools::theirs("etcd-3.7").unwrap_or_else(|| tools::required("etcd-3.4"));
                (member(Program::Peer(path)), None)
            }
            Who::Limit => {
                let listen = format!("127.0.0.1:{}", free_port());
                let program = std::env::current_exe().expect("this program has a path");
                let mut command = Command::new(program);
                command.args(["limit", "--listen", &listen, "--value-size"]);
                command.arg(value_size.to_string()).arg("--dir").arg(&data);
                let mut process = Process::start(&mut command, &data.with_extension("log"));
                process.wait_for("ready to serve client requests", 0);
                (Running::Limit(process), Some(format!("http://{listen}")))
            }
        };
        let url = url.unwrap_or_else(|| match &running {
            Running::Member(server) => server.url(),
            Running::Limit(_) => unreachable!("the limit's was just given"),
        });
        let endpoint = Endpoint::new(&url, &TlsFiles::default())?;
        Ok(Self { who, endpoint, running, dir: dir.to_path_buf() })
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        match &self.running {
            Running::Member(server) => server.process.pid(),
            Running::Limit(process) => process.pid(),
        }
    }

    /// What its use of the machine is read from.
    pub fn subject(&self) -> Subject {
        Subject { pid: Some(self.pid()), dir: Some(self.dir.clone()) }
    }

    /// Stops it in its tracks.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
        std::thread::sleep(SETTLE);
    }

    fn signal(&self, signal: Signal) {
        match &self.running {
            Running::Member(server) => server.process.signal(signal),
            Running::Limit(process) => process.signal(signal),
        }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        match &mut self.running {
            Running::Member(server) => server.process.kill(),
            Running::Limit(process) => process.kill(),
        }
    }

    /// Starts it on its data again and does not wait. The limit keeps nothing and stays as it is.
    pub fn start_again(&mut self) {
        match &mut self.running {
            Running::Member(server) => server.start_again(),
            Running::Limit(_) => {}
        }
    }
}
