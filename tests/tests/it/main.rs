//! Every end-to-end suite, in one binary.

mod bad_input;
mod clients;
mod crash;
mod differential;
mod doors;
mod edges;
mod etcdctl;
mod flags;
mod full_disk;
mod gateway;
mod hello;
mod hygiene;
mod load;
mod metrics;
mod offline;
mod ops;
mod pings;
mod security;
mod snapshot;
mod tidy;
mod watchers;
