//! The list of jobs that `load all` runs, in this order: first what reads the fresh key space, then
//! what adds to it, then what kills, last the leases.

use super::disturb::Disturbance;
use super::job::{Job, Kind};
use super::work::Ask;

/// All of them.
pub fn all() -> Vec<Job> {
    let mut jobs = vec![job("fill", Kind::Fill, 8, 4)];
    jobs.extend(reads());
    jobs.extend(watches());
    jobs.extend(writes());
    jobs.extend(pauses());
    jobs.push(job("boot, idle before", Kind::Boot { loaded: false }, 1, 1));
    jobs.push(job("boot, full load before", Kind::Boot { loaded: true }, 64, 8));
    // Last: the leases stay, and a boot would have to read them.
    jobs.push(job("lease grant, 64 clients", Kind::Grant, 64, 8));
    jobs.push(job("lease keepalive, 64 clients", Kind::KeepAlive, 64, 8));
    jobs
}

fn job(name: &str, kind: Kind, clients: usize, connections: usize) -> Job {
    Job { name: name.to_owned(), kind, clients, connections, rate: None }
}

fn keys(name: &str, ask: Ask, clients: usize, connections: usize) -> Job {
    job(name, Kind::Keys(ask), clients, connections)
}

fn reads() -> Vec<Job> {
    let get = |serializable| Ask::Get { serializable };
    let mut jobs = vec![
        keys("get, linearizable, 1 client", get(false), 1, 1),
        keys("get, linearizable, 64 clients", get(false), 64, 8),
        keys("get, serializable, 64 clients", get(true), 64, 8),
    ];
    for rows in [1, 100, 1_000, 10_000] {
        for (hot, name) in [(true, "hot"), (false, "whole key space")] {
            let name = format!("range of {rows}, {name}, rows");
            jobs.push(keys(&name, Ask::Range { rows, hot }, 8, 8));
        }
    }
    jobs.push(keys("page of 500, rows", Ask::Page { rows: 500 }, 8, 8));
    jobs.push(keys("range stream of 10000, rows", Ask::RangeStream { rows: 10_000 }, 8, 8));
    jobs
}

/// Different keys of a fan-out on many.
const FAN_KEYS: u64 = 1_000;

fn watches() -> Vec<Job> {
    let mut jobs = Vec::new();
    for (watchers, puts) in [(100, 10_000), (1_000, 1_000)] {
        for (keys, name) in [(1, "one key"), (FAN_KEYS, "many keys")] {
            let name = format!("watch, {watchers} × {puts}, {name}, events");
            jobs.push(job(&name, Kind::Fan { watchers, puts, keys }, 32, 8));
        }
    }
    jobs.push(job("watch, put to event", Kind::WatchLatency, 1, 1));
    jobs
}

fn writes() -> Vec<Job> {
    let mut jobs: Vec<Job> = [(1, 1), (64, 8), (512, 32), (1_000, 32)]
        .map(|(clients, connections)| {
            let name = format!("put, {clients} client{}", if clients == 1 { "" } else { "s" });
            keys(&name, Ask::Put, clients, connections)
        })
        .into();
    let open = keys("put, open loop at 5000/s", Ask::Put, 1_000, 8);
    jobs.push(Job { rate: Some(5_000), ..open });
    jobs.push(keys("txn, 64 clients", Ask::Txn, 64, 8));
    jobs.push(keys("mixed, 4 gets to 1 put, 64 clients", Ask::Mixed, 64, 8));
    jobs.push(keys("delete, 64 clients", Ask::Delete, 64, 8));
    jobs.push(job("kubernetes:", Kind::Kubernetes, 32, 4));
    jobs
}

fn pauses() -> Vec<Job> {
    let kinds = [
        Disturbance::None,
        Disturbance::Snapshot,
        Disturbance::Compaction,
        Disturbance::Defragment,
    ];
    let name = |kind: Disturbance| format!("puts, 8 clients, during: {}", kind.name());
    kinds.map(|kind| job(&name(kind), Kind::Disturb(kind), 8, 8)).into()
}

#[cfg(test)]
mod tests {
    //! Names are what `--only` finds jobs by.

    #[test]
    fn names_differ() {
        let jobs = super::all();
        let names: std::collections::BTreeSet<_> = jobs.iter().map(|job| &job.name).collect();
        assert_eq!(names.len(), jobs.len());
    }
}
