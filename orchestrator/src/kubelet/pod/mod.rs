//! One pod, from its spec to running containers and back: pure decisions here, the shell in `worker`.
//!
//! ```text
//!            ┌ support: may this spec run here at all? ┐
//! pod spec ──┼ plan: what to do next, and when to look ┼──▶ worker: does it, waits, writes status
//! shim state ┤ status: what to tell the world          │
//! probes ────┘ oci + env: how to start one container   ┘
//! ```
//!
//! `support`, `plan`, `status`, `oci`, `env` and `user` have no clock, no files and no sockets: the
//! same input gives the same answer, and their tests are tables.

pub mod env;
pub mod oci;
pub mod plan;
pub mod status;
pub mod support;
pub mod user;
