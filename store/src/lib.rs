//! A replicated MVCC key-value server that speaks the etcd v3 API, as a library: the `store`
//! binary is a command line around [`Node`]. The modules stand in reading order; what each layer
//! does and what must stay true is in `ARCHITECTURE.md`.

pub mod command;
pub mod config;
mod ids;
pub mod lessor;
pub mod limits;
pub mod logging;
mod tasks;
mod tls;
pub mod wal;
pub mod watch;
