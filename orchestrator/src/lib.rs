//! A Kubernetes-compatible orchestrator as a library; `main.rs` is a thin door to it.
//!
//! Modules stand in reading order: what a user types, what `up` starts, then each part. Every part
//! is a watch-driven client of the store over the etcd v3 API; only `up` knows that the store of
//! this repository can also live in the same process.

pub mod cli;
pub mod api;
pub mod apiserver;
pub mod client;
pub mod scheduler;
pub mod controllers;
pub mod registry;
pub mod up;
pub mod pki;
pub mod kubeconfig;
pub mod proxy;
pub mod tasks;
pub mod kubelet;
