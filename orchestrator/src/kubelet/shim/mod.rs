//! The shim: one small process per pod that owns the pod's namespaces and its containers' lives.
//!
//! libcontainer clones raw processes and runs ordinary code in them, which is only sound in a
//! process that never had a second thread. So the kubelet, a threaded program, starts itself again
//! as `orchestrator shim PODDIR` for every pod:
//!
//! ```text
//! kubelet (tokio) ──spawn──▶ shim PODDIR      one thread, poll(2), PODDIR/shim.sock
//!    │ one JSON line a request                 ├ is the pod's net, ipc and uts namespace
//!    │ watch: one JSON line a change           ├ its own mount namespace: root file systems live here
//!    └ after a restart: PODDIR/*/shim.sock     ├ fork per start → libcontainer, init as the shim's child
//!                                              └ SIGCHLD → exit code, OOM counter; pipes → CRI logs
//! ```
//!
//! The shim outlives the kubelet, and everything it made is bound to its life: when it goes, its
//! mounts go with its mount namespace, the pod's network interface with the network namespace. Only
//! processes could stay behind if it is killed; the kubelet finds those by cgroup.
//!
//! The shim decides nothing. It starts what it is told to, sends the signals it is told to, writes
//! logs, and says what happened; `state.json` keeps the last word for a kubelet that comes after it.

mod client;
mod container;
mod live;
mod log;
mod protocol;
mod seccomp;
mod server;

pub use client::{Shim, ShimError, Watch};
pub use protocol::{ContainerPhase, ContainerState, Sandbox, StartRequest, State, Tmpfs};
pub use server::main;

/// The file that holds the last state, readable when nobody answers the socket.
pub const STATE_FILE: &str = "state.json";
/// The socket in the pod's directory.
pub const SOCKET_FILE: &str = "shim.sock";
/// What the pod's namespaces should look like, written by the kubelet before it starts the shim.
pub const SANDBOX_FILE: &str = "sandbox.json";
