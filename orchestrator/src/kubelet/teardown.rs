//! Removing everything a kubelet made on this machine: `down`.
//!
//! Works without a kubelet and without the registry, from what is on disk and in the kernel: shims
//! by the pod directories, containers by cgroup, the pod network by the bridge. What cannot be
//! removed is named, and the rest is removed all the same.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::shim::{STATE_FILE, State};
use super::worker::kill_shim;
use super::{cgroup, network};
use crate::api::Cidr;

const DEATH: Duration = Duration::from_secs(10);

/// What to remove.
#[derive(Debug, Clone)]
pub struct Leftovers {
    /// The kubelet's data directory.
    pub data_dir: PathBuf,
    /// `/var/log/pods`.
    pub log_dir: PathBuf,
    /// `/kubepods`.
    pub cgroup_root: String,
    /// The bridge.
    pub bridge: String,
    /// The range whose refusing route was made.
    pub cluster_cidr: Option<Cidr>,
}

/// Removes every pod, process, mount, namespace, cgroup, link and log; returns what could not be.
/// Images stay: they are the caller's to remove with the data directory.
pub async fn teardown(leftovers: &Leftovers) -> Vec<String> {
    let what = leftovers.clone();
    let blocking = tokio::task::spawn_blocking(move || remove_pods(&what)).await;
    let mut failures = blocking.unwrap_or_else(|error| vec![format!("removing the pods: {error}")]);
    if let Err(error) = network::remove(&leftovers.bridge, leftovers.cluster_cidr).await {
        failures.push(error.to_string());
    }
    failures
}

fn remove_pods(what: &Leftovers) -> Vec<String> {
    let mut failures = Vec::new();
    let pods = what.data_dir.join("pods");
    let directories: Vec<PathBuf> = std::fs::read_dir(&pods)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    // Shims first: nobody may restart or start anything behind our back. Their mounts and network
    // namespaces go with them.
    for directory in &directories {
        let state = std::fs::read(directory.join(STATE_FILE)).ok();
        let state = state.and_then(|text| serde_json::from_slice::<State>(&text).ok());
        if let Some(state) = state.filter(|state| state.pid > 1) {
            kill_shim(state.pid, directory);
        }
    }
    let done =
        cgroup::kill_all(&what.cgroup_root, DEATH).and_then(|()| cgroup::remove(&what.cgroup_root));
    if let Err(error) = done {
        failures.push(error.to_string());
    }
    for directory in &directories {
        let uid = directory.file_name().map(|name| name.to_string_lossy().into_owned());
        remove(directory, &mut failures);
        remove_logs(&what.log_dir, uid.as_deref().unwrap_or(""), &mut failures);
    }
    remove(&pods, &mut failures);
    remove(&what.data_dir.join("kubelet"), &mut failures);
    // Only if nobody else's logs are there.
    let _ = std::fs::remove_dir(&what.log_dir);
    failures
}

fn remove_logs(log_dir: &Path, uid: &str, failures: &mut Vec<String>) {
    let suffix = format!("_{uid}");
    for entry in std::fs::read_dir(log_dir).into_iter().flatten().flatten() {
        if !uid.is_empty() && entry.file_name().to_string_lossy().ends_with(&suffix) {
            remove(&entry.path(), failures);
        }
    }
}

fn remove(path: &Path, failures: &mut Vec<String>) {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            failures.push(format!("{}: {error}", path.display()));
        }
        _ => {}
    }
}
