//! The shim's one loop: everything it waits for goes through one poll(2).
//!
//! Waited for: the listening socket, clients, SIGCHLD by signalfd, helpers that report a start, and
//! the output of containers. Nothing in the loop blocks; a client that does not read its answer is
//! dropped, and reads the whole state again when it comes back.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::container::{self, Report};
use super::live::{Client, Live, Output, nonblocking};
use super::log::LogFile;
use super::protocol::{
    ContainerPhase, ContainerState, Request, Response, Sandbox, StartRequest, State,
};
use super::{SANDBOX_FILE, SOCKET_FILE, STATE_FILE};
use crate::kubelet::cgroup;

/// Clients beyond this many at once are refused.
const CLIENTS_MAX: usize = 64;

/// Runs the shim for the pod directory named in `args`. No thread may exist when this is called.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let outcome = match <[OsString; 1]>::try_from(args) {
        Ok([directory]) => run(PathBuf::from(directory)),
        Err(_) => Err(io::Error::other("usage: orchestrator shim PODDIR (the kubelet starts it)")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "shim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(pod: PathBuf) -> io::Result<()> {
    let signals = block_signals()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    let sandbox: Sandbox = serde_json::from_slice(&std::fs::read(pod.join(SANDBOX_FILE))?)?;
    make_sandbox(&pod, &sandbox)?;
    // Relative, because a socket's path has 107 bytes at most; renamed when it answers.
    std::env::set_current_dir(&pod)?;
    let _ = std::fs::remove_file(SOCKET_FILE);
    let listener = UnixListener::bind(SOCKET_FILE)?;
    listener.set_nonblocking(true)?;
    let mut shim = Shim::new(pod);
    shim.publish();
    // The kubelet reads this line, then the pipe's end.
    let mut out = io::stdout();
    out.write_all(b"ready\n")?;
    out.flush()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    while !shim.done {
        shim.turn(&listener, &signals)?;
    }
    std::fs::remove_file(SOCKET_FILE)
}

/// SIGCHLD arrives by descriptor; what terminals and service managers send is not for containers.
fn block_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        mask.add(signal);
    }
    // SIGPIPE is ignored by the Rust runtime already.
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Leaves the node's namespaces for the pod's own; containers inherit them from here.
fn make_sandbox(pod: &Path, sandbox: &Sandbox) -> io::Result<()> {
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    if !sandbox.host_network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags)?;
    // The node's later mounts and unmounts still reach here; ours never reach the node.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    nix::unistd::sethostname(&sandbox.hostname)?;
    // POSIX shared memory belongs to the ipc namespace: one for all containers of the pod.
    let shm = pod.join("shm");
    std::fs::create_dir_all(&shm)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), &shm, Some("tmpfs"), flags, Some("mode=1777,size=64m"))?;
    for volume in &sandbox.tmpfs {
        std::fs::create_dir_all(&volume.path)?;
        let size = volume.size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
        let options = format!("mode=1777{size}");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), &volume.path, Some("tmpfs"), flags, Some(options.as_str()))?;
    }
    Ok(())
}

struct Shim {
    pod: PathBuf,
    state: State,
    live: BTreeMap<String, Live>,
    clients: Vec<Client>,
    next_client: u64,
    /// Exits seen before the report that says whose process it was.
    early: BTreeMap<i32, WaitStatus>,
    changed: bool,
    done: bool,
}

/// What a ready descriptor belongs to.
enum Source {
    Listener,
    Signals,
    Client(u64),
    Report(String),
    Output(String, usize),
}

impl Shim {
    fn new(pod: PathBuf) -> Self {
        let pid = std::process::id().cast_signed();
        Self {
            pod,
            state: State { pid, ..inherited() },
            live: BTreeMap::new(),
            clients: Vec::new(),
            next_client: 0,
            early: BTreeMap::new(),
            changed: false,
            done: false,
        }
    }

    /// Waits for something and handles all that is ready.
    fn turn(&mut self, listener: &UnixListener, signals: &SignalFd) -> io::Result<()> {
        for source in self.wait(listener, signals)? {
            match source {
                Source::Listener => self.accept(listener),
                Source::Signals => {
                    while let Ok(Some(_)) = signals.read_signal() {}
                    self.reap();
                }
                Source::Client(id) => self.serve(id),
                Source::Report(id) => self.read_report(&id),
                Source::Output(id, which) => {
                    if let Some(live) = self.live.get_mut(&id) {
                        live.pump(which);
                    }
                }
            }
        }
        if std::mem::take(&mut self.changed) {
            self.state.version += 1;
            self.publish();
        }
        self.clients.retain(|client| !client.gone);
        Ok(())
    }

    fn wait(&self, listener: &UnixListener, signals: &SignalFd) -> io::Result<Vec<Source>> {
        let mut waited: Vec<(BorrowedFd<'_>, Source)> =
            vec![(listener.as_fd(), Source::Listener), (signals.as_fd(), Source::Signals)];
        for client in &self.clients {
            waited.push((client.stream.as_fd(), Source::Client(client.id)));
        }
        for (id, live) in &self.live {
            if let Some((report, _)) = &live.report {
                waited.push((report.as_fd(), Source::Report(id.clone())));
            }
            for (which, output) in live.outputs.iter().enumerate() {
                if let Some(pipe) = &output.pipe {
                    waited.push((pipe.as_fd(), Source::Output(id.clone(), which)));
                }
            }
        }
        let mut polled: Vec<PollFd<'_>> =
            waited.iter().map(|(fd, _)| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        match poll(&mut polled, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => return Ok(Vec::new()),
            outcome => outcome?,
        };
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        Ok(waited
            .into_iter()
            .zip(ready)
            .filter_map(|((_, source), ready)| ready.then_some(source))
            .collect())
    }

    fn accept(&mut self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.clients.len() >= CLIENTS_MAX || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let id = self.next_client;
            self.next_client += 1;
            self.clients.push(Client {
                id,
                stream,
                input: Vec::new(),
                watches: false,
                gone: false,
            });
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
        let Some(line) = client.read_line() else { return };
        match serde_json::from_slice::<Request>(&line) {
            Ok(request) => self.answer(id, request),
            Err(error) => self.send(id, &Response::Error { message: error.to_string() }),
        }
    }

    fn answer(&mut self, client: u64, request: Request) {
        let response = match request {
            Request::Start(request) => match self.start(*request, client) {
                // Answered when the helper reports.
                Ok(()) => return,
                Err(error) => Response::Error { message: error.to_string() },
            },
            Request::Signal { id, signal } => self.signal(&id, signal),
            Request::Forget { id } => self.forget(&id),
            Request::State => Response::State(self.state.clone()),
            Request::Watch => {
                if let Some(watcher) = self.clients.iter_mut().find(|known| known.id == client) {
                    watcher.watches = true;
                }
                Response::State(self.state.clone())
            }
            Request::Shutdown if self.live.is_empty() => {
                self.done = true;
                Response::Ok
            }
            Request::Shutdown => Response::Error { message: "a container still runs".to_owned() },
        };
        self.send(client, &response);
    }

    fn send(&mut self, id: u64, response: &Response) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.send(response);
        }
    }

    fn start(&mut self, request: StartRequest, client: u64) -> io::Result<()> {
        if self.state.containers.contains_key(&request.id) {
            return Err(io::Error::other(format!("container {} exists", request.id)));
        }
        let log = LogFile::open(&request.log)?;
        let started_ms = now_ms();
        let launched = container::launch(&self.pod, &request)?;
        let id = request.id.clone();
        self.state.containers.insert(
            id.clone(),
            ContainerState {
                name: request.name.clone(),
                attempt: request.attempt,
                image: request.image.clone(),
                image_id: request.image_id.clone(),
                pid: 0,
                started_ms,
                phase: ContainerPhase::Starting,
            },
        );
        let live = Live {
            outputs: [
                Output::new("stdout", launched.stdout)?,
                Output::new("stderr", launched.stderr)?,
            ],
            log,
            report: Some((nonblocking(launched.result)?, Vec::new())),
            client: Some(client),
            _use_lock: launched.use_lock,
            request,
        };
        self.live.insert(id, live);
        self.changed = true;
        Ok(())
    }

    fn read_report(&mut self, id: &str) {
        let Some(live) = self.live.get_mut(id) else { return };
        let Some((pipe, text)) = &mut live.report else { return };
        let mut chunk = [0_u8; 4096];
        let report = match pipe.read(&mut chunk) {
            Ok(0) => Report::Failed("the helper died".to_owned()),
            Ok(length) => {
                text.extend_from_slice(&chunk[..length]);
                let Some(end) = text.iter().position(|byte| *byte == b'\n') else { return };
                serde_json::from_slice(&text[..end])
                    .unwrap_or_else(|error| Report::Failed(error.to_string()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => Report::Failed(error.to_string()),
        };
        live.report = None;
        let client = live.client.take();
        let response = match report {
            Report::Running(pid) => {
                if let Some(container) = self.state.containers.get_mut(id) {
                    container.pid = pid;
                    container.phase = ContainerPhase::Running;
                    container.started_ms = now_ms();
                }
                if let Some(status) = self.early.remove(&pid) {
                    self.ended(pid, status);
                }
                Response::Ok
            }
            Report::Failed(message) => {
                let finished_ms = now_ms();
                let phase = ContainerPhase::Failed { message: message.clone(), finished_ms };
                self.finish(id, phase);
                Response::Error { message }
            }
        };
        if self.live.values().all(|live| live.report.is_none()) {
            // Nobody is left who could own them.
            self.early.clear();
        }
        if let Some(client) = client {
            self.send(client, &response);
        }
        self.changed = true;
    }

    /// Collects every child that ended: first processes, helpers, orphans of containers.
    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..))) => {
                    let pid = pid.as_raw();
                    let known = self.state.containers.values().any(|container| {
                        container.pid == pid && container.phase == ContainerPhase::Running
                    });
                    if known {
                        self.ended(pid, status);
                    } else if self.live.values().any(|live| live.report.is_some()) {
                        self.early.insert(pid, status);
                    }
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// The first process of a container ended, and with it its whole pid namespace.
    fn ended(&mut self, pid: i32, status: WaitStatus) {
        let running =
            |state: &ContainerState| state.pid == pid && state.phase == ContainerPhase::Running;
        let Some(id) = self
            .state
            .containers
            .iter()
            .find(|(_, state)| running(state))
            .map(|(id, _)| id.clone())
        else {
            return;
        };
        let (code, signal) = match status {
            WaitStatus::Exited(_, code) => (code, 0),
            WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, signal as i32),
            _ => return,
        };
        let oom =
            self.live.get(&id).is_some_and(|live| cgroup::oom_kills(&live.request.cgroup) > 0);
        self.finish(&id, ContainerPhase::Exited { code, signal, oom, finished_ms: now_ms() });
    }

    /// Writes the last output, lets go of everything, and records how the container ended.
    fn finish(&mut self, id: &str, phase: ContainerPhase) {
        if let Some(mut live) = self.live.remove(id) {
            for which in 0..live.outputs.len() {
                while live.pump(which) {}
                live.close(which);
            }
            container::unmount_root(&self.pod, id);
            if let Err(error) = cgroup::remove(&live.request.cgroup) {
                let _ = writeln!(io::stderr(), "shim: {}: {error}", live.request.cgroup);
            }
        }
        if let Some(container) = self.state.containers.get_mut(id) {
            container.phase = phase;
        }
        self.changed = true;
    }

    fn signal(&self, id: &str, signal: i32) -> Response {
        let outcome = match self.state.containers.get(id) {
            // Our own unreaped child: its number cannot have gone to another process.
            Some(state) if state.phase == ContainerPhase::Running => Signal::try_from(signal)
                .and_then(|signal| kill(Pid::from_raw(state.pid), signal))
                .map_err(|error| error.to_string()),
            Some(_) => Ok(()),
            None => Err(format!("no container {id}")),
        };
        match outcome {
            Ok(()) => Response::Ok,
            Err(message) => Response::Error { message },
        }
    }

    fn forget(&mut self, id: &str) -> Response {
        if self.live.contains_key(id) {
            return Response::Error { message: format!("container {id} runs") };
        }
        self.state.containers.remove(id);
        self.changed = true;
        Response::Ok
    }

    /// Tells everybody the state: the file for later kubelets, the watchers for this one.
    fn publish(&mut self) {
        let write = || -> io::Result<()> {
            std::fs::write("state.json.new", serde_json::to_vec(&self.state)?)?;
            std::fs::rename("state.json.new", STATE_FILE)
        };
        if let Err(error) = write() {
            let _ = writeln!(io::stderr(), "shim: {STATE_FILE}: {error}");
        }
        let response = Response::State(self.state.clone());
        for client in self.clients.iter_mut().filter(|client| client.watches) {
            client.send(&response);
        }
    }
}

/// What the pod's last shim recorded: its history counts on, but what it ran is gone.
fn inherited() -> State {
    let mut state = std::fs::read(STATE_FILE)
        .ok()
        .and_then(|text| serde_json::from_slice::<State>(&text).ok())
        .unwrap_or_default();
    for container in state.containers.values_mut() {
        if matches!(container.phase, ContainerPhase::Starting | ContainerPhase::Running) {
            container.phase = ContainerPhase::Lost { finished_ms: now_ms() };
        }
    }
    state
}

fn now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
