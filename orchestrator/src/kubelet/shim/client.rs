//! The kubelet's end: starting shims and talking to them.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::protocol::{Request, Response, Sandbox, StartRequest, State};
use super::{SANDBOX_FILE, SOCKET_FILE, STATE_FILE};

/// A shim that does not answer within this long is taken for dead.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a shim did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// Nobody answers: the process is gone or stuck.
    #[error("the pod's shim does not answer: {0}")]
    Gone(#[source] io::Error),
    /// It answered, and refused or failed.
    #[error("{0}")]
    Refused(String),
}

/// A pod's shim, addressed by the pod's directory.
#[derive(Debug, Clone)]
pub struct Shim {
    pod: PathBuf,
}

impl Shim {
    /// Addresses the shim of a pod directory, whether or not one runs.
    pub fn at(pod: impl Into<PathBuf>) -> Self {
        Self { pod: pod.into() }
    }

    /// Starts a shim from `program` (this very binary) and waits until it answers.
    pub async fn spawn(&self, program: &Path, sandbox: &Sandbox) -> Result<(), ShimError> {
        let start = async {
            tokio::fs::create_dir_all(&self.pod).await?;
            tokio::fs::write(self.pod.join(SANDBOX_FILE), serde_json::to_vec(sandbox)?).await?;
            let errors = std::fs::File::options()
                .create(true)
                .append(true)
                .open(self.pod.join("shim.log"))?;
            // Its own process group, so that a terminal's Ctrl-C is not also for the shim.
            let mut child = Command::new(program)
                .arg("shim")
                .arg(&self.pod)
                .env_clear()
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(errors)
                .process_group(0)
                .kill_on_drop(false)
                .spawn()?;
            let mut line = String::new();
            if let Some(mut out) = child.stdout.take() {
                out.read_to_string(&mut line).await?;
            }
            if line == "ready\n" {
                // Dropping the handle leaves it running; tokio reaps it when it ends.
                return Ok(());
            }
            let log = tokio::fs::read_to_string(self.pod.join("shim.log")).await?;
            Err(io::Error::other(log.lines().last().unwrap_or("it ended at once").to_owned()))
        };
        match timeout(PATIENCE, start).await {
            Ok(outcome) => outcome.map_err(ShimError::Gone),
            Err(_) => Err(ShimError::Gone(io::ErrorKind::TimedOut.into())),
        }
    }

    /// The state now.
    pub async fn state(&self) -> Result<State, ShimError> {
        match self.request(&Request::State).await? {
            Response::State(state) => Ok(state),
            other => Err(unexpected(&other)),
        }
    }

    /// The last state written, for when nobody answers.
    pub fn recorded_state(&self) -> Option<State> {
        let text = std::fs::read(self.pod.join(STATE_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Starts a container; returns once its program runs.
    pub async fn start(&self, request: StartRequest) -> Result<(), ShimError> {
        self.command(&Request::Start(Box::new(request))).await
    }

    /// Sends a signal to a container; no error if it ended already.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<(), ShimError> {
        self.command(&Request::Signal { id: id.to_owned(), signal }).await
    }

    /// Makes the shim forget an ended container.
    pub async fn forget(&self, id: &str) -> Result<(), ShimError> {
        self.command(&Request::Forget { id: id.to_owned() }).await
    }

    /// Ends the shim; refused while a container runs.
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        self.command(&Request::Shutdown).await
    }

    /// Opens a stream of states: the present one, then one after each change.
    pub async fn watch(&self) -> Result<Watch, ShimError> {
        let stream = self.send(&Request::Watch).await.map_err(ShimError::Gone)?;
        Ok(Watch { lines: BufReader::new(stream).lines() })
    }

    async fn command(&self, request: &Request) -> Result<(), ShimError> {
        match self.request(request).await? {
            Response::Ok => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn request(&self, request: &Request) -> Result<Response, ShimError> {
        let talk = async {
            let stream = self.send(request).await?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).await?;
            if line.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            Ok(serde_json::from_str(&line)?)
        };
        match timeout(PATIENCE, talk).await {
            Ok(Ok(Response::Error { message })) => Err(ShimError::Refused(message)),
            Ok(outcome) => outcome.map_err(ShimError::Gone),
            Err(_) => Err(ShimError::Gone(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn send(&self, request: &Request) -> io::Result<UnixStream> {
        // Through the directory's descriptor: the full path may be too long for a socket.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(&self.pod, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", directory.as_raw_fd());
        let mut stream = UnixStream::connect(path).await?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        Ok(stream)
    }
}

fn unexpected(response: &Response) -> ShimError {
    ShimError::Refused(format!("unexpected answer {response:?}"))
}

/// A stream of states; ends with the shim.
pub struct Watch {
    lines: Lines<BufReader<UnixStream>>,
}

impl Watch {
    /// The next state; `None` when the shim is gone.
    pub async fn next(&mut self) -> Option<State> {
        let line = self.lines.next_line().await.ok()??;
        match serde_json::from_str(&line) {
            Ok(Response::State(state)) => Some(state),
            _ => None,
        }
    }
}
