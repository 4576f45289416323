//! A replicated MVCC key-value server that speaks the etcd v3 API, as a library: the `store`
//! binary is a command line around [`Node`]. The modules stand in reading order; what each layer
//! does and what must stay true is in `ARCHITECTURE.md`.

pub mod config;
pub mod limits;

mod histogram;

pub mod command;
pub mod fault;
pub mod machine;

pub mod engine;
pub mod wal;

pub mod compactor;
pub mod lessor;
pub mod raft;
pub mod watch;

mod auth;
mod chance;
mod ids;
mod rpc;

mod http;
mod listen;
mod metered;
pub mod logging;
mod metrics;
mod socket;
mod tasks;
mod tls;

mod node;

pub use node::{Node, StartError};
pub use rpc::API_VERSION;
pub use tls::TlsError;
