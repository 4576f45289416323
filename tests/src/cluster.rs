//! A whole cluster by `orchestrator up`, in a namespace of its own, driven by the real `kubectl`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Process, eventually};
use crate::tools;
use crate::world::{World, run, text};

/// What `up` prints when the node is Ready.
const READY: &str = "is ready";

/// A running cluster. Dropping it runs `down --purge`.
pub struct Cluster {
    /// The machine it runs on.
    pub world: World,
    /// The `up` process.
    pub process: Process,
    dir: TempDir,
}

impl Cluster {
    /// Starts one and waits until its node is Ready.
    pub fn up(test: &str) -> Self {
        let world = World::new(test);
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let process = Process::start(&mut up(&world, dir.path()), &dir.path().join("up.log"));
        let mut cluster = Self { world, process, dir };
        cluster.process.wait_for(READY, 0);
        cluster
    }

    /// Starts `up` again after it has ended.
    pub fn up_again(&mut self) {
        let from = self.process.output().len();
        let mut command = up(&self.world, self.dir.path());
        self.process = Process::start(&mut command, &self.dir.path().join("up.log"));
        self.process.wait_for(READY, from);
    }

    /// The folder that holds data, kubeconfig and log of this cluster.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The data folder given to `up`.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(self.dir.path())
    }

    /// A kubectl command, arguments split at blanks.
    pub fn kubectl_command(&self, args: &str) -> Command {
        let mut command = self.world.command(tools::required("kubectl"));
        command.env("KUBECONFIG", kubeconfig(self.dir.path())).env("HOME", self.dir.path());
        command.args(args.split_whitespace());
        command
    }

    /// Runs kubectl and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn kubectl(&self, args: &str) -> String {
        run(&mut self.kubectl_command(args))
    }

    /// Runs kubectl whatever comes of it.
    pub fn try_kubectl(&self, args: &str) -> Output {
        self.kubectl_command(args).output().expect("kubectl starts")
    }

    /// An object or a list, as JSON.
    pub fn json(&self, args: &str) -> Value {
        let text = self.kubectl(&format!("get {args} -o json"));
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// The items of a list.
    pub fn items(&self, args: &str) -> Vec<Value> {
        self.json(args)["items"].as_array().cloned().unwrap_or_default()
    }

    /// One HTTP GET from the machine itself: the body, or what went wrong.
    ///
    /// # Errors
    /// With curl's words when there is no answer of status 200.
    pub fn http(&self, url: &str) -> Result<String, String> {
        let mut command = self.world.command("curl");
        let output = command
            .args(["--silent", "--show-error", "--fail", "--max-time", "5", url])
            .output()
            .expect("curl starts");
        if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
    }

    /// Runs `orchestrator` with arguments, on this cluster's data.
    pub fn orchestrator(&self, args: &[&str]) -> Output {
        let mut command = self.world.command(tools::ours("orchestrator"));
        command.env("HOME", self.dir.path()).env_remove("SUDO_USER");
        command.args(args).arg("--data-dir").arg(self.data_dir());
        command.output().expect("the binary starts")
    }

    /// Takes everything down, and fails if `down` does.
    pub fn purge(&mut self) -> String {
        let config = kubeconfig(self.dir.path());
        let config = config.to_str().expect("temporary paths are text");
        let output = self.orchestrator(&["down", "--purge", "--kubeconfig", config]);
        assert!(output.status.success(), "down failed: {}", text(&output));
        text(&output)
    }

    /// Every process in the control group of a pod: its containers' processes.
    pub fn pids_of(&self, uid: &str) -> Vec<i32> {
        let proc = std::fs::read_dir("/proc").expect("/proc is readable");
        proc.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                    .is_ok_and(|groups| groups.contains(uid))
            })
            .collect()
    }

    /// Waits until `kubectl get ARGS -o json` satisfies a condition on its items.
    pub fn eventually_items(
        &self,
        args: &str,
        what: &str,
        ok: impl Fn(&[Value]) -> bool,
    ) -> Vec<Value> {
        eventually(what, || {
            let items = self.items(args);
            ok(&items).then_some(items)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- orchestrator up said:\n{}", self.process.output());
            let log = std::fs::read_to_string(self.data_dir().join("orchestrator.log"));
            let log = log.unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(80).collect();
            eprintln!("--- its log ends:");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        // A test that failed half way leaves containers; `down` knows how to find them all.
        let _ = nix::sys::signal::kill(self.process.pid(), Signal::SIGKILL);
        let _ = self.orchestrator(&["down", "--purge"]);
    }
}

fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

fn kubeconfig(dir: &Path) -> PathBuf {
    dir.join("kubeconfig")
}

fn up(world: &World, dir: &Path) -> Command {
    let mut command = world.command(tools::ours("orchestrator"));
    command
        .env("HOME", dir)
        .env_remove("SUDO_USER")
        .env_remove("KUBECONFIG")
        .args(["up", "--node-name", "n1"])
        .arg("--data-dir")
        .arg(data_dir(dir))
        .arg("--kubeconfig")
        .arg(kubeconfig(dir));
    command
}
