//! What kubelet and shim say to each other: one JSON object a line.
//!
//! A connection carries one request and its answer, except `Watch`, which is answered by the whole
//! state now and again after each change. Whole states, not events: a reader that was away lost
//! nothing. Both ends come from one binary at pod start, but a newer kubelet may adopt an older
//! shim, so fields may be added here and never change their meaning.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A longer request is refused.
pub(super) const REQUEST_BYTES_MAX: usize = 1 << 20;

/// The pod-level facts a shim needs before its first container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sandbox {
    /// Host name inside the pod.
    pub hostname: String,
    /// The pod stays in the node's network namespace.
    pub host_network: bool,
    /// Memory-backed volumes to mount.
    #[serde(default)]
    pub tmpfs: Vec<Tmpfs>,
}

/// A file system in memory, for a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Where.
    pub path: PathBuf,
    /// At most so many bytes.
    pub size: Option<i64>,
}

/// A request, one line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(super) enum Request {
    /// Start a container; answered once its program runs or failed to.
    Start(Box<StartRequest>),
    /// Send a signal to a container's first process.
    Signal {
        /// The container.
        id: String,
        /// The signal's number.
        signal: i32,
    },
    /// Forget an exited container.
    Forget {
        /// The container.
        id: String,
    },
    /// Answer with the state.
    State,
    /// Answer with the state now and after every change.
    Watch,
    /// End, unless a container runs.
    Shutdown,
}

/// All it takes to start one container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartRequest {
    /// Unique in the pod: name and attempt.
    pub id: String,
    /// The container's name in the pod's spec.
    pub name: String,
    /// How many times it was started before.
    pub attempt: u32,
    /// The image, as the status should name it.
    pub image: String,
    /// The image's digest.
    pub image_id: String,
    /// The OCI runtime configuration, complete but for the root's path.
    pub spec: serde_json::Value,
    /// Directory of all layers; `layers` are relative to it.
    pub layers_dir: PathBuf,
    /// Layer directories, uppermost first.
    pub layers: Vec<String>,
    /// Locked shared while the container lives.
    pub use_file: PathBuf,
    /// The CRI log.
    pub log: PathBuf,
    /// The container's cgroup, absolute below each controller's root.
    pub cgroup: String,
    /// Load the default system call filter, then keep only these capabilities.
    pub seccomp: Option<Vec<String>>,
}

/// An answer, one line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(super) enum Response {
    /// Done.
    Ok,
    /// The state.
    State(State),
    /// Not done.
    Error {
        /// Why.
        message: String,
    },
}

/// Every container the shim knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Rises with everything that is told to watchers. A state asked for may overtake one that is on
    /// its way to a watcher, who must not take the older for news.
    #[serde(default)]
    pub version: u64,
    /// The shim's process.
    pub pid: i32,
    /// Containers by id.
    pub containers: BTreeMap<String, ContainerState>,
}

/// What is known about one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// The container's name in the pod's spec.
    pub name: String,
    /// How many times it was started before.
    pub attempt: u32,
    /// The image, as given.
    pub image: String,
    /// The image's digest, as given.
    pub image_id: String,
    /// The first process, as the node sees it.
    pub pid: i32,
    /// When it was started, milliseconds since 1970.
    pub started_ms: i64,
    /// Where it stands.
    pub phase: ContainerPhase,
}

/// Where a container stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum ContainerPhase {
    /// Being made.
    Starting,
    /// Its program runs.
    Running,
    /// It never ran.
    Failed {
        /// Why.
        message: String,
        /// When, milliseconds since 1970.
        finished_ms: i64,
    },
    /// It ended.
    Exited {
        /// Its exit code; 128 + signal where a signal ended it.
        code: i32,
        /// The signal that ended it, or 0.
        signal: i32,
        /// The kernel killed a process of it for memory.
        oom: bool,
        /// When, milliseconds since 1970.
        finished_ms: i64,
    },
    /// It ran under a shim that died, and nobody saw its end.
    Lost {
        /// When a new shim found out, milliseconds since 1970.
        finished_ms: i64,
    },
}
