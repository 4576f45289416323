//! A replicated MVCC key-value server that speaks the etcd v3 API, as a library: the `store`
//! binary is a command line around [`Node`]. The modules stand in reading order; what each layer
//! does and what must stay true is in `ARCHITECTURE.md`.

pub mod command;
pub mod config;
pub mod engine;
pub mod fault;
mod ids;
pub mod lessor;
pub mod limits;
pub mod logging;
pub mod machine;
pub mod raft;
mod tasks;
mod tls;
pub mod wal;
pub mod watch;
