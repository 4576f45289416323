//! The node agent.
pub mod cgroup;
pub mod host;
pub mod images;
pub mod network;
pub mod pod;
pub mod shim;
