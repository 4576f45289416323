//! `/metrics`, in Prometheus's text form, under etcd's names, types, labels and buckets, so that its
//! dashboards and alerts work unchanged. What is here has a meaning here; which names of etcd's are
//! left out, and why, is listed in `docs/differences.md`.
//!
//! Three kinds of numbers. What is counted of every RPC and of every command as it is applied is
//! kept here ([`calls`], [`applied`]). What a part of the store knows of itself (how long its syncs
//! take, who leads, what it holds) that part keeps, and it is asked when the page is. The rest is
//! the kernel's ([`process`]). Nothing takes a lock where requests are served: atomic counters and
//! [`crate::histogram`] are all there is.

mod applied;
mod calls;
mod clients;
mod health;
mod methods;
mod page;
mod process;
mod store;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonic::Code;

pub(crate) use health::{Check, List};
pub(crate) use methods::{METHODS, Shape, find};

use self::applied::AppliedCounts;
use self::calls::Calls;
use self::clients::ClientCounts;
use self::health::HealthCounts;
use self::page::Page;
use crate::command::{Command, Outcome};
use crate::rpc::Member;

/// What is counted as it happens.
#[derive(Debug)]
pub(crate) struct Metrics {
    calls: Calls,
    clients: ClientCounts,
    applied: AppliedCounts,
    health: HealthCounts,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    panics: AtomicU64,
}

impl Metrics {
    /// `extensive` keeps a distribution of the times of every RPC.
    pub(crate) fn new(extensive: bool) -> Self {
        Self {
            calls: Calls::new(extensive),
            clients: ClientCounts::new(),
            applied: AppliedCounts::new(),
            health: HealthCounts::new(),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            panics: AtomicU64::new(0),
        }
    }

    /// An RPC begins; the client said which version it speaks, or nothing.
    pub(crate) fn started(&self, method: usize, version: Option<&str>) {
        self.calls.started(method);
        self.clients.note(version, METHODS[method].shape);
    }

    /// An RPC has ended.
    pub(crate) fn handled(&self, method: usize, code: Code, took: Duration) {
        self.calls.handled(method, code, took);
    }

    /// Messages came on a stream.
    pub(crate) fn received(&self, method: usize, messages: u64) {
        self.calls.received(method, messages);
    }

    /// Messages went out on a stream.
    pub(crate) fn sent(&self, method: usize, messages: u64) {
        self.calls.sent(method, messages);
    }

    /// Bytes came from a client.
    pub(crate) fn received_bytes(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes went to a client.
    pub(crate) fn sent_bytes(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// An entry was applied, and whether that took too long.
    pub(crate) fn applied(
        &self,
        commands: &[Command],
        outcomes: &[Outcome],
        took: Duration,
        slow: bool,
    ) {
        self.applied.note(commands, outcomes, took, slow);
    }

    /// How a question to `/health` was answered.
    pub(crate) fn health(&self, well: bool) {
        self.health.health(well);
    }

    /// How a check of `/livez` or `/readyz` came out.
    pub(crate) fn checked(&self, list: List, check: Check, passed: bool) {
        self.health.checked(list, check, passed);
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!("a request handler panicked");
    }

    /// Everything, as Prometheus reads it.
    pub(crate) fn render(&self, member: &Member) -> String {
        let mut page = Page::new(PAGE_BYTES);
        store::data(&mut page, member);
        store::disk(&mut page, member);
        store::watches(&mut page, member);
        store::rights(&mut page, member);
        store::raft(&mut page, member);
        store::identity(&mut page, member);
        self.requests(&mut page);
        process::render(&mut page);
        page.into_text()
    }

    fn requests(&self, page: &mut Page) {
        self.calls.render(page);
        self.clients.render(page);
        self.health.render(page);
        let ranges = [RANGE, RANGE_STREAM].into_iter().filter_map(find);
        self.applied.render(page, ranges.map(|method| self.calls.succeeded(method)).sum());
        let name = "etcd_disk_defrag_inflight";
        let running = find(DEFRAGMENT).map_or(0, |method| self.calls.in_flight(method));
        page.gauge(name, "1 while the database is defragmented.", running.min(1));
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let name = "etcd_network_client_grpc_received_bytes_total";
        page.counter(name, "Bytes that clients sent.", of(&self.received_bytes));
        let name = "etcd_network_client_grpc_sent_bytes_total";
        page.counter(name, "Bytes sent to clients.", of(&self.sent_bytes));
        let name = "store_request_panics_total";
        page.counter(name, "Request handlers that panicked.", of(&self.panics));
    }
}

const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const DEFRAGMENT: &str = "/etcdserverpb.Maintenance/Defragment";

/// What a page takes, about: most of it are the codes of all RPCs.
const PAGE_BYTES: usize = 160 << 10;
