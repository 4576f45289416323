//! A replicated MVCC key-value server that speaks the etcd v3 API, as a library: the `store`
//! binary is a command line around [`Node`]. The modules stand in reading order; what each layer
//! does and what must stay true is in `ARCHITECTURE.md`.
//!
//! # Inside another program
//!
//! A store can live in a process of yours, on the disk ([`Config::new`](config::Config::new)) or
//! in memory only. It listens where you tell it, or nowhere: [`Node::connect`] gives a gRPC channel
//! without a socket, for the clients of the `proto` crate or any other that takes a channel.
//!
//! ```
//! use proto::etcdserverpb::{PutRequest, kv_client::KvClient};
//! use store::{Node, config::Config};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let node = Node::start(Config::in_memory("embedded")).await?;
//! let mut kv = KvClient::new(node.connect());
//! let put = PutRequest { key: "greeting".into(), value: "hello".into(), ..Default::default() };
//! let answer = kv.put(put).await?.into_inner();
//! assert_eq!(answer.header.map(|header| header.revision), Some(2));
//! node.shutdown().await;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! [`Node::failed`] tells when it stopped by itself. Log lines go to whatever `tracing` subscriber
//! the program has; [`logging::install`] is the binary's. Nothing process-wide is touched: no
//! signal handler, no allocator, no default of rustls.

pub mod config;
pub mod limits;

mod histogram;
mod varint;

pub mod command;
pub mod fault;
pub mod machine;

pub mod engine;
pub mod wal;

pub mod compactor;
pub mod lessor;
pub mod raft;
pub mod watch;

pub mod image;

mod auth;
mod chance;
mod ids;
mod rpc;

mod http;
mod listen;
mod metered;
mod pings;
pub mod logging;
mod metrics;
mod slow;
mod socket;
mod tasks;
mod tls;

pub mod offline;

mod node;

pub use auth::TokenError;
pub use node::{Node, StartError};
pub use rpc::{API_VERSION, SERVER_VERSION};
pub use tls::TlsError;
