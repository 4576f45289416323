//! A replicated MVCC key-value server that speaks the etcd v3 API.

pub mod command;
pub mod limits;
