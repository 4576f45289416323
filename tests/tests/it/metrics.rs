//! `/metrics` has what etcd's dashboards and alerts read, in the shape they read it.
//!
//! `metrics.txt` lists each name with its type, its labels, and of a histogram the first bound, the
//! last and their number. The list is checked against our page, and against that of etcd 3.7 where
//! it is at hand; a name that etcd has and the list has not must be in `store/docs/differences.md`,
//! with the reason.

use std::collections::{BTreeMap, BTreeSet};

use tests::http;
use tests::server::{Program, Server};
use tests::tools;

const LIST: &str = include_str!("metrics.txt");
const DIFFERENCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../store/docs/differences.md");

/// The shape of a family of samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shape {
    kind: String,
    /// Names of labels, sorted; every sample has the same.
    labels: Vec<String>,
    bounds: Vec<String>,
}

impl Shape {
    fn line(&self, name: &str) -> String {
        let labels = if self.labels.is_empty() { "-".to_owned() } else { self.labels.join(",") };
        let mut line = format!("{name} {} {labels}", self.kind);
        if let (Some(first), Some(last)) = (self.bounds.first(), self.bounds.last()) {
            line.push_str(&format!(" {first} {last} {}", self.bounds.len()));
        }
        line
    }
}

/// Reads a page, which must be well-formed: each family introduced once, before its samples.
fn families(page: &str) -> BTreeMap<String, Shape> {
    let mut families: BTreeMap<String, Shape> = BTreeMap::new();
    let mut labels_of: BTreeMap<String, BTreeSet<Vec<String>>> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name has a help text");
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name has a type");
            let shape = Shape { kind: kind.to_owned(), ..Shape::default() };
            assert!(families.insert(name.to_owned(), shape).is_none(), "{name} twice");
            assert!(helped.contains(name), "{name} has no help text");
        } else {
            let (sample, value) = line.rsplit_once(' ').expect("a sample has a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let (name, labels) = match sample.split_once('{') {
                Some((name, labels)) => (name, labels.trim_end_matches('}')),
                None => (sample, ""),
            };
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
                let base = name.strip_suffix(suffix)?;
                families.get(base).filter(|shape| shape.kind != "counter").map(|_| base)
            });
            let base = base.unwrap_or(name);
            let shape =
                families.get_mut(base).unwrap_or_else(|| panic!("{line} comes unannounced"));
            let mut names = Vec::new();
            for pair in labels.split("\",").filter(|pair| !pair.is_empty()) {
                let (label, value) = pair.split_once("=\"").expect("a label has a value");
                let value = value.trim_end_matches('"').to_owned();
                if label == "quantile" {
                    // Of Go's own summaries, which are not ours to compare.
                } else if label != "le" {
                    names.push(label.to_owned());
                } else if value != "+Inf" && !shape.bounds.contains(&value) {
                    shape.bounds.push(value);
                }
            }
            labels_of.entry(base.to_owned()).or_default().insert(names);
        }
    }
    for (name, labels) in labels_of {
        assert_eq!(labels.len(), 1, "{name} has samples with different labels: {labels:?}");
        let shape = families.get_mut(&name).expect("it was seen");
        shape.labels = labels.into_iter().next().expect("there is one");
    }
    families
}

/// Starts a server, makes it do a little of everything, and reads its page.
fn page_of(program: Program) -> String {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let server = Server::start(program, &dir.path().join("data"), &["--metrics=extensive"]);
    let endpoint = &server.endpoint;
    for (path, json) in [
        ("kv/put", "{\"key\":\"YQ==\"}"),
        ("kv/put", "{\"key\":\"YQ==\",\"lease\":77}"),
        ("kv/range", "{\"key\":\"YQ==\"}"),
        ("kv/txn", "{\"success\":[{\"request_put\":{\"key\":\"YQ==\"}}]}"),
        ("kv/compaction", "{\"revision\":2}"),
        ("lease/grant", "{\"ID\":7,\"TTL\":100}"),
        ("lease/keepalive", "{\"ID\":7}"),
        ("maintenance/alarm", "{\"action\":\"ACTIVATE\",\"memberID\":7,\"alarm\":\"NOSPACE\"}"),
    ] {
        http::post(endpoint, &format!("/v3/{path}"), json);
    }
    for path in ["/health", "/readyz", "/livez"] {
        http::get(endpoint, path);
    }
    let (status, page) = http::get(endpoint, "/metrics");
    assert_eq!(status, 200);
    page
}

#[test]
fn every_listed_name_is_there_in_its_shape() {
    let ours = families(&page_of(Program::Ours));
    for line in LIST.lines() {
        let name = line.split(' ').next().expect("a line has a name");
        let found = ours.get(name).map(|shape| shape.line(name));
        assert_eq!(found.as_deref(), Some(line), "on our page");
    }
}

#[test]
fn the_list_is_what_etcd_has() {
    let Some(etcd) = tools::theirs("etcd-3.7") else {
        return tests::skip("metrics::the_list_is_what_etcd_has", "needs etcd 3.7");
    };
    let theirs = families(&page_of(Program::Peer(etcd)));
    for line in LIST.lines() {
        let name = line.split(' ').next().expect("a line has a name");
        let found = theirs.get(name).map(|shape| shape.line(name));
        assert_eq!(found.as_deref(), Some(line), "on etcd's page");
    }
    let listed: BTreeSet<&str> = LIST.lines().filter_map(|line| line.split(' ').next()).collect();
    let differences = std::fs::read_to_string(DIFFERENCES).expect("the differences are listed");
    for name in theirs.keys().filter(|name| !listed.contains(name.as_str())) {
        // A whole family of names may be left out for one reason, written with a star.
        let excused = name
            .match_indices('_')
            .any(|(at, _)| differences.contains(&format!("`{}*`", &name[..=at])));
        assert!(
            excused || differences.contains(&format!("`{name}`")),
            "{name} is left out silently"
        );
    }
}

#[test]
fn numbers_follow_what_happens() {
    let page = page_of(Program::Ours);
    let value = |sample: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{sample} is missing")).parse::<f64>().expect("a number")
    };
    let put = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    assert_eq!(value(&format!("grpc_server_started_total{{{put}}}")), 2.0);
    assert_eq!(value(&format!("grpc_server_handled_total{{grpc_code=\"OK\",{put}}}")), 1.0);
    assert_eq!(value(&format!("grpc_server_handled_total{{grpc_code=\"NotFound\",{put}}}")), 1.0);
    assert_eq!(value(&format!("grpc_server_handling_seconds_count{{{put}}}")), 2.0);
    let alive = "grpc_method=\"LeaseKeepAlive\",grpc_service=\"etcdserverpb.Lease\",\
                 grpc_type=\"bidi_stream\"";
    for name in ["started", "msg_received", "msg_sent"] {
        assert_eq!(value(&format!("grpc_server_{name}_total{{{alive}}}")), 1.0, "{name}");
    }
    for (name, expected) in [
        ("etcd_mvcc_put_total", 2.0),
        ("etcd_debugging_mvcc_current_revision", 3.0),
        ("etcd_debugging_mvcc_compact_revision", 2.0),
        ("etcd_debugging_mvcc_keys_total", 1.0),
        ("etcd_debugging_lease_granted_total", 1.0),
        ("etcd_debugging_lease_renewed_total", 1.0),
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_is_leader", 1.0),
        ("etcd_server_leader_changes_seen_total", 1.0),
        ("etcd_server_health_failures", 1.0),
        ("etcd_server_proposals_failed_total", 0.0),
        ("etcd_server_quota_backend_bytes", 2_147_483_648.0),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    for name in [
        "etcd_disk_wal_fsync_duration_seconds_count",
        "etcd_disk_wal_write_bytes_total",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ] {
        assert!(value(name) > 0.0, "{name}");
    }
}
