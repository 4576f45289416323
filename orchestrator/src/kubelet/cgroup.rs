//! Cgroups of pods: where they are, who is in them, whether memory killed somebody, and removal.
//!
//! libcontainer creates the directories and sets limits; what it leaves (pod-level directories) and
//! what nobody else can find (processes of a shim that died) is handled here. A path such as
//! `/kubepods/burstable/pod<uid>` means that directory below every mounted v1 controller, or below
//! the one v2 root. A host that mounts both is treated as v1, as libcontainer treats it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MOUNT: &str = "/sys/fs/cgroup";

/// Whether the host runs cgroup v2 alone.
pub fn is_v2() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// The directories that a cgroup path is relative to.
fn roots() -> Vec<PathBuf> {
    if is_v2() {
        return vec![PathBuf::from(MOUNT)];
    }
    let Ok(entries) = std::fs::read_dir(MOUNT) else { return Vec::new() };
    let mut roots: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        // Symbolic links (cpu → cpu,cpuacct) would only count the same directory twice.
        .filter(|path| !path.is_symlink() && path.join("cgroup.procs").exists())
        .collect();
    roots.sort();
    roots
}

fn directories(cgroup: &str) -> impl Iterator<Item = PathBuf> {
    let relative = cgroup.trim_start_matches('/').to_owned();
    assert!(!relative.is_empty(), "the root cgroup is never ours");
    roots().into_iter().map(move |root| root.join(&relative)).filter(|path| path.is_dir())
}

/// Every process in the cgroup or below it.
pub fn processes(cgroup: &str) -> BTreeSet<i32> {
    fn collect(directory: &Path, found: &mut BTreeSet<i32>) {
        if let Ok(text) = std::fs::read_to_string(directory.join("cgroup.procs")) {
            // 0 stands for a process of another pid namespace: not ours to name.
            found.extend(
                text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|p| *p > 0),
            );
        }
        for child in children(directory) {
            collect(&child, found);
        }
    }
    let mut found = BTreeSet::new();
    for directory in directories(cgroup) {
        collect(&directory, &mut found);
    }
    found
}

/// Kills everything in the cgroup and waits for it to be gone, at most `patience`.
pub fn kill_all(cgroup: &str, patience: Duration) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let found = processes(cgroup);
        if found.is_empty() {
            return Ok(());
        }
        if start.elapsed() > patience {
            return Err(io::Error::other(format!("processes {found:?} of {cgroup} do not die")));
        }
        for pid in found {
            // Gone already is as good as killed.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes the cgroup and all below it. Not an error if it is not there.
pub fn remove(cgroup: &str) -> io::Result<()> {
    fn remove_tree(directory: &Path) -> io::Result<()> {
        for child in children(directory) {
            remove_tree(&child)?;
        }
        match std::fs::remove_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
    // A process that just died may hold its cgroup for a moment longer.
    let mut last = Ok(());
    for attempt in 0..20 {
        last = directories(cgroup).try_for_each(|directory| remove_tree(&directory));
        if last.is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2 * (attempt + 1)));
    }
    last
}

/// How many processes of the cgroup the kernel killed for memory.
pub fn oom_kills(cgroup: &str) -> u64 {
    let relative = cgroup.trim_start_matches('/');
    let file = if is_v2() {
        Path::new(MOUNT).join(relative).join("memory.events")
    } else {
        Path::new(MOUNT).join("memory").join(relative).join("memory.oom_control")
    };
    std::fs::read_to_string(file)
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("oom_kill "))
                .and_then(|count| count.trim().parse().ok())
        })
        .unwrap_or(0)
}

/// Names of the direct children of a cgroup, over all controllers.
pub fn child_names(cgroup: &str) -> BTreeSet<String> {
    directories(cgroup)
        .flat_map(|directory| children(&directory))
        .filter_map(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .collect()
}

fn children(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
