//! How components reach the store: the etcd v3 API and nothing else.

pub mod etcd;
