//! A child process whose output goes to a file, which is ended by its own pid and never outlives
//! the test that started it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a test waits for something that a healthy machine does in well under a second.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running child.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both output streams going to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("log file opens");
        let twin = file.try_clone().expect("a file handle can be cloned");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(twin)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Self { child, log: log.to_path_buf() }
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid fits"))
    }

    /// Everything it has written.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the output after `from` bytes holds `text`.
    ///
    /// # Panics
    /// When the process ends or patience does.
    pub fn wait_for(&mut self, text: &str, from: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.output().get(from..).is_some_and(|tail| tail.contains(text)) {
                return;
            }
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                panic!("ended with {status} before saying {text:?}:\n{}", self.output());
            }
            assert!(Instant::now() < deadline, "never said {text:?}:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a signal reaches an own child");
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When patience ends first.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "does not end:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        // Both fail only when it has ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop and waits.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for a level condition.
///
/// # Panics
/// With `what` when patience ends first.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
