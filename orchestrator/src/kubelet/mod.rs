//! The node agent.
pub mod cgroup;
pub mod images;
pub mod shim;
