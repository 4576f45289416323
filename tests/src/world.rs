//! A network namespace that stands for one machine: only a loopback device, no way out.
//!
//! Cluster tests run in one, so that nothing they do to routes, bridges or packet filters is seen by
//! the host, and no packet for a pod or a service can leave it. Dropping it removes it.

use std::path::PathBuf;
use std::process::{Command, Output};

/// A namespace named after the test and this process.
pub struct World {
    name: String,
}

impl World {
    /// Makes it, with the loopback device up.
    ///
    /// # Panics
    /// When the caller is not root.
    pub fn new(test: &str) -> Self {
        let world = Self { name: format!("t-{test}-{}", std::process::id()) };
        run(Command::new("ip").args(["netns", "add", &world.name]));
        run(world.command("ip").args(["link", "set", "lo", "up"]));
        world
    }

    /// The file that holds the namespace.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that will run inside. `nsenter` changes nothing but the network; `ip netns exec`
    /// would mount another `/sys` and hide the cgroups.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Best effort: a namespace that is left behind is empty and harms nobody.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

/// Runs to the end.
///
/// # Panics
/// When it fails, with what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Both streams of an output, for messages.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
