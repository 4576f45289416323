//! `/metrics`, in Prometheus's text form, under etcd's names so that its dashboards and alerts
//! work. Counters live here; everything else is read when it is asked for.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use tonic::Code;

use crate::rpc::Member;

/// How many messages go which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Unary,
    ServerStream,
    BidiStream,
}

impl Shape {
    fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

/// One RPC of the API.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) path: &'static str,
    pub(crate) shape: Shape,
}

impl Method {
    pub(crate) fn service(&self) -> &'static str {
        self.path[1..].split_once('/').map_or("", |(service, _)| service)
    }

    fn name(&self) -> &'static str {
        self.path[1..].split_once('/').map_or("", |(_, name)| name)
    }
}

const fn unary(path: &'static str) -> Method {
    Method { path, shape: Shape::Unary }
}

const fn server_stream(path: &'static str) -> Method {
    Method { path, shape: Shape::ServerStream }
}

const fn bidi_stream(path: &'static str) -> Method {
    Method { path, shape: Shape::BidiStream }
}

/// Every RPC, sorted by path.
pub(crate) const METHODS: &[Method] = &[
    unary("/etcdserverpb.Auth/AuthDisable"),
    unary("/etcdserverpb.Auth/AuthEnable"),
    unary("/etcdserverpb.Auth/AuthStatus"),
    unary("/etcdserverpb.Auth/Authenticate"),
    unary("/etcdserverpb.Auth/RoleAdd"),
    unary("/etcdserverpb.Auth/RoleDelete"),
    unary("/etcdserverpb.Auth/RoleGet"),
    unary("/etcdserverpb.Auth/RoleGrantPermission"),
    unary("/etcdserverpb.Auth/RoleList"),
    unary("/etcdserverpb.Auth/RoleRevokePermission"),
    unary("/etcdserverpb.Auth/UserAdd"),
    unary("/etcdserverpb.Auth/UserChangePassword"),
    unary("/etcdserverpb.Auth/UserDelete"),
    unary("/etcdserverpb.Auth/UserGet"),
    unary("/etcdserverpb.Auth/UserGrantRole"),
    unary("/etcdserverpb.Auth/UserList"),
    unary("/etcdserverpb.Auth/UserRevokeRole"),
    unary("/etcdserverpb.Cluster/MemberAdd"),
    unary("/etcdserverpb.Cluster/MemberList"),
    unary("/etcdserverpb.Cluster/MemberPromote"),
    unary("/etcdserverpb.Cluster/MemberRemove"),
    unary("/etcdserverpb.Cluster/MemberUpdate"),
    unary("/etcdserverpb.KV/Compact"),
    unary("/etcdserverpb.KV/DeleteRange"),
    unary("/etcdserverpb.KV/Put"),
    unary("/etcdserverpb.KV/Range"),
    server_stream("/etcdserverpb.KV/RangeStream"),
    unary("/etcdserverpb.KV/Txn"),
    unary("/etcdserverpb.Lease/LeaseGrant"),
    bidi_stream("/etcdserverpb.Lease/LeaseKeepAlive"),
    unary("/etcdserverpb.Lease/LeaseLeases"),
    unary("/etcdserverpb.Lease/LeaseRevoke"),
    unary("/etcdserverpb.Lease/LeaseTimeToLive"),
    unary("/etcdserverpb.Maintenance/Alarm"),
    unary("/etcdserverpb.Maintenance/Defragment"),
    unary("/etcdserverpb.Maintenance/Downgrade"),
    unary("/etcdserverpb.Maintenance/Hash"),
    unary("/etcdserverpb.Maintenance/HashKV"),
    unary("/etcdserverpb.Maintenance/MoveLeader"),
    server_stream("/etcdserverpb.Maintenance/Snapshot"),
    unary("/etcdserverpb.Maintenance/Status"),
    bidi_stream("/etcdserverpb.Watch/Watch"),
    unary("/grpc.health.v1.Health/Check"),
    server_stream("/grpc.health.v1.Health/Watch"),
    unary("/v3electionpb.Election/Campaign"),
    unary("/v3electionpb.Election/Leader"),
    server_stream("/v3electionpb.Election/Observe"),
    unary("/v3electionpb.Election/Proclaim"),
    unary("/v3electionpb.Election/Resign"),
    unary("/v3lockpb.Lock/Lock"),
    unary("/v3lockpb.Lock/Unlock"),
];

/// How many codes gRPC has; they are numbered from 0, which is success.
const CODES: usize = 17;

/// A named check of `/livez` and `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    SerializableRead,
    LinearizableRead,
    DataCorruption,
    NonLearner,
}

impl Check {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::DataCorruption => "data_corruption",
            Self::NonLearner => "non_learner",
        }
    }
}

/// What is counted as it happens.
#[derive(Debug)]
pub(crate) struct Metrics {
    started: Vec<AtomicU64>,
    handled: Vec<[AtomicU64; CODES]>,
    panics: AtomicU64,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            started: METHODS.iter().map(|_| AtomicU64::new(0)).collect(),
            handled: METHODS.iter().map(|_| Default::default()).collect(),
            panics: AtomicU64::new(0),
        }
    }

    pub(crate) fn started(&self, method: usize) {
        self.started[method].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn handled(&self, method: usize, code: Code) {
        self.handled[method][code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How a question to `/health` was answered.
    pub(crate) fn health(&self, _well: bool) {}

    /// How a check of `/livez` or `/readyz` came out.
    pub(crate) fn checked(&self, _list: &'static str, _check: Check, _passed: bool) {}

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!("a request handler panicked");
    }

    /// Everything, as Prometheus reads it.
    pub(crate) fn render(&self, member: &Member) -> String {
        let mut page = Page(String::with_capacity(16 << 10));
        self.requests(&mut page);
        store(&mut page, member);
        raft(&mut page, member);
        process(&mut page);
        page.0
    }

    fn requests(&self, page: &mut Page) {
        page.family("grpc_server_started_total", "counter", "RPCs started on the server.");
        for (method, count) in METHODS.iter().zip(&self.started) {
            let labels = labels(method);
            page.sample("grpc_server_started_total", &labels, count.load(Ordering::Relaxed));
        }
        page.family(
            "grpc_server_handled_total",
            "counter",
            "RPCs completed on the server, by code.",
        );
        for (method, counts) in METHODS.iter().zip(&self.handled) {
            for (code, count) in (0..).map(Code::from_i32).zip(counts) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 || code == Code::Ok {
                    let labels = format!("{},grpc_code=\"{code:?}\"", labels(method));
                    page.sample("grpc_server_handled_total", &labels, count);
                }
            }
        }
        let panics = self.panics.load(Ordering::Relaxed);
        page.counter("store_request_panics_total", "Request handlers that panicked.", panics);
    }
}

fn store(page: &mut Page, member: &Member) {
    let view = member.reader.view();
    let sizes = view.sizes();
    let (watchers, streams) = member.watching.counts();
    page.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Bytes of retained revisions, as the quota counts them.",
        sizes.retained,
    );
    page.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Bytes of live keys, as the quota counts them.",
        sizes.live,
    );
    let quota = member.quota_bytes.unwrap_or(0);
    page.gauge("etcd_server_quota_backend_bytes", "The space quota.", quota);
    page.gauge(
        "etcd_debugging_mvcc_current_revision",
        "The newest revision.",
        unsigned(view.revision().0),
    );
    page.gauge(
        "etcd_debugging_mvcc_compact_revision",
        "The revision of the last compaction.",
        unsigned(view.compacted().0),
    );
    page.gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", watchers as u64);
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", streams as u64);
}

fn raft(page: &mut Page, member: &Member) {
    let raft = member.raft.status();
    let me = member.ids.member.0;
    page.gauge("etcd_server_has_leader", "1 if there is a leader.", raft.leader.is_some().into());
    page.gauge(
        "etcd_server_is_leader",
        "1 if it is this member.",
        (raft.leader == Some(me)).into(),
    );
    page.gauge("etcd_server_is_learner", "1 if this member is a learner.", 0);
    page.gauge("etcd_server_proposals_committed_total", "Entries committed.", raft.committed);
    page.gauge("etcd_server_proposals_applied_total", "Entries applied.", raft.applied);
    let version = crate::rpc::API_VERSION;
    page.family("etcd_server_version", "gauge", "The level of etcd's API.");
    page.sample("etcd_server_version", &format!("server_version=\"{version}\""), 1);
    page.family("etcd_cluster_version", "gauge", "The level of the cluster.");
    page.sample("etcd_cluster_version", "cluster_version=\"3.7\"", 1);
    page.family("etcd_server_id", "gauge", "The id of this member.");
    page.sample("etcd_server_id", &format!("server_id=\"{me:x}\""), 1);
}

/// What the kernel knows of this process; left out where it does not say.
fn process(page: &mut Page) {
    let resident = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok());
    if let Some(pages) = resident {
        const PAGE_BYTES: u64 = 4096;
        page.gauge("process_resident_memory_bytes", "Resident memory.", pages * PAGE_BYTES);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open file descriptors.", open.count() as u64);
    }
}

fn labels(method: &Method) -> String {
    let (service, name, shape) = (method.service(), method.name(), method.shape.label());
    format!("grpc_service=\"{service}\",grpc_method=\"{name}\",grpc_type=\"{shape}\"")
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A page of samples under construction.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect("a String takes all");
    }

    fn sample(&mut self, name: &str, labels: &str, value: u64) {
        writeln!(self.0, "{name}{{{labels}}} {value}").expect("a String takes all");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        writeln!(self.0, "{name} {value}").expect("a String takes all");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        writeln!(self.0, "{name} {value}").expect("a String takes all");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_searched() {
        assert!(METHODS.is_sorted_by(|a, b| a.path < b.path));
    }

    #[test]
    fn all_codes_have_a_counter() {
        assert_eq!(Code::from_i32(16), Code::Unauthenticated);
        assert_eq!(Code::from_i32(17), Code::Unknown, "16 is the last");
    }
}
