//! Starting one container: root file system, pipes, and a forked helper that runs libcontainer.
//!
//! The helper is thrown away after each start: libcontainer changes its caller's directory,
//! dumpable flag and OOM score, and a fork confines all that. `as_sibling` makes the container's
//! first process a child of the shim, so the shim gets its exit. The helper reports one line on the
//! result pipe; the line's end, not the pipe's, ends the report, because the container's first
//! process holds a copy of the pipe until it executes its program.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use serde::{Deserialize, Serialize};

use super::protocol::StartRequest;
use super::seccomp::PodExecutor;

/// What a launched container holds open.
pub(super) struct Launched {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) result: OwnedFd,
    pub(super) use_lock: Flock<File>,
}

/// The helper's one line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Report {
    /// The first process runs the program.
    Running(i32),
    /// Nothing runs.
    Failed(String),
}

/// Where a container's bundle lives.
pub(super) fn bundle(pod: &Path, id: &str) -> PathBuf {
    pod.join("containers").join(id)
}

/// Prepares and launches a container; the result pipe will say how it went.
pub(super) fn launch(pod: &Path, request: &StartRequest) -> io::Result<Launched> {
    let bundle = bundle(pod, &request.id);
    let use_lock = lock_image(&request.use_file)?;
    mount_root(&bundle, request)?;
    let launched =
        write_spec(&bundle, request).and_then(|()| fork_helper(pod, &bundle, request, use_lock));
    if launched.is_err() {
        unmount_root(pod, &request.id);
    }
    launched
}

/// Undoes [`launch`]'s mount and removes libcontainer's own state.
pub(super) fn unmount_root(pod: &Path, id: &str) {
    // Detached: whoever still looks inside keeps it alive just as long as needed.
    let _ = umount2(&bundle(pod, id).join("rootfs"), MntFlags::MNT_DETACH);
    let _ = std::fs::remove_dir_all(pod.join("runtime").join(id));
}

fn lock_image(path: &Path) -> io::Result<Flock<File>> {
    let file = File::open(path)
        .map_err(|error| io::Error::other(format!("the image was removed: {error}")))?;
    Flock::lock(file, FlockArg::LockSharedNonblock)
        .map_err(|_| io::Error::other("the image is being removed"))
}

/// Mounts the container's root: the image's layers below, a writable directory above.
fn mount_root(bundle: &Path, request: &StartRequest) -> io::Result<()> {
    for part in ["rootfs", "upper", "work"] {
        std::fs::create_dir_all(bundle.join(part))?;
    }
    // Relative names keep the option string within the kernel's one page.
    let here = std::env::current_dir()?;
    std::env::set_current_dir(&request.layers_dir)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        request.layers.join(":"),
        bundle.join("upper").display(),
        bundle.join("work").display()
    );
    let root = bundle.join("rootfs");
    let attempt = |options: &str| {
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options))
    };
    // A container's root is thrown away with it: no need to sync it to disk at unmount. Kernels
    // before 5.10 do not know the option.
    let mounted = attempt(&format!("{options},volatile")).or_else(|_| attempt(&options));
    std::env::set_current_dir(here)?;
    mounted.map_err(|error| io::Error::other(format!("cannot mount the image: {error}")))
}

fn write_spec(bundle: &Path, request: &StartRequest) -> io::Result<()> {
    let mut spec = request.spec.clone();
    let readonly = spec.pointer("/root/readonly").and_then(serde_json::Value::as_bool);
    spec["root"] = serde_json::json!({
        "path": bundle.join("rootfs"),
        "readonly": readonly.unwrap_or(false),
    });
    std::fs::write(bundle.join("config.json"), serde_json::to_vec(&spec)?)
}

fn fork_helper(
    pod: &Path,
    bundle: &Path,
    request: &StartRequest,
    use_lock: Flock<File>,
) -> io::Result<Launched> {
    // Pipes for all three: libcontainer reopens /dev/null read-only. Input is at its end at once.
    let (stdin, input) = pipe2(OFlag::O_CLOEXEC)?;
    drop(input);
    let (stdout, out) = pipe2(OFlag::O_CLOEXEC)?;
    let (stderr, err) = pipe2(OFlag::O_CLOEXEC)?;
    let (result, report) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: this process has one thread, so the child may run any code.
    #[expect(
        unsafe_code,
        reason = "libcontainer must run in a throw-away child of a single thread"
    )]
    let forked = unsafe { fork() }?;
    if let ForkResult::Parent { .. } = forked {
        return Ok(Launched { stdout, stderr, result, use_lock });
    }
    let outcome = match run_libcontainer(pod, bundle, request, [stdin, out, err]) {
        Ok(pid) => Report::Running(pid),
        Err(message) => Report::Failed(message),
    };
    let mut line = serde_json::to_vec(&outcome).unwrap_or_default();
    line.push(b'\n');
    // The shim may be gone; there is nobody else to tell.
    let _ = File::from(report).write_all(&line);
    exit_now()
}

/// Leaves without running the parent's exit handlers.
#[expect(unsafe_code, reason = "a forked child must not run the exit handlers it inherited")]
fn exit_now() -> ! {
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { nix::libc::_exit(0) }
}

fn run_libcontainer(
    pod: &Path,
    bundle: &Path,
    request: &StartRequest,
    stdio: [OwnedFd; 3],
) -> Result<i32, String> {
    reset_signals().map_err(|error| error.to_string())?;
    let executor = PodExecutor::new(request.seccomp.as_deref())?;
    let [stdin, stdout, stderr] = stdio;
    let runtime = pod.join("runtime");
    std::fs::create_dir_all(&runtime).map_err(|error| error.to_string())?;
    let mut container = ContainerBuilder::new(request.id.clone(), SyscallType::default())
        .with_executor(executor)
        .with_stdin(stdin)
        .with_stdout(stdout)
        .with_stderr(stderr)
        .validate_id()
        .and_then(|builder| builder.with_root_path(&runtime))
        .and_then(|builder| {
            builder.as_init(bundle).with_systemd(false).with_detach(true).as_sibling(true).build()
        })
        .map_err(|error| chain(&error))?;
    let pid = container.pid().map(|pid| pid.as_raw()).ok_or("libcontainer names no process")?;
    if let Err(error) = container.start() {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        return Err(chain(&error));
    }
    Ok(pid)
}

/// The container inherits the signal mask and every ignored signal: give it a clean slate.
fn reset_signals() -> nix::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPIPE] {
        // SAFETY: the default action runs no code of ours.
        #[expect(unsafe_code, reason = "sigaction is unsafe for handlers; this sets none")]
        unsafe { sigaction(signal, &default) }?;
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// An error and its causes in one line; parts that repeat their cause are left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        cause = inner.source();
    }
    parts.join(": ")
}
