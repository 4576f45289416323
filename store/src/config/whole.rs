//! Nothing is left out: every flag that works is read, every key of the file is known.

use super::*;

/// What is asked for by a start with these flags.
fn asked(args: &[&str]) -> BTreeSet<String> {
    let given = flags::from_args(args.iter().map(ToString::to_string)).expect("good flags");
    check::everything(&given).expect("they fit together");
    given.asked.into_inner()
}

/// Goal: no flag that is said to work is forgotten. Method: a start that has certificates, and one
/// that makes its own, ask for each.
#[test]
fn every_flag_that_works_is_asked_for() {
    let places =
        ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"];
    let files = [
        "--name=x",
        "--cert-file=c",
        "--key-file=k",
        "--client-cert-auth",
        "--trusted-ca-file=t",
        "--auto-compaction-retention=1h",
        "--enable-log-rotation",
        "--log-outputs=/tmp/x.log",
    ];
    let mut asked_for = asked(&[places.as_slice(), &files].concat());
    asked_for.extend(asked(&[places.as_slice(), &["--name=x", "--auto-tls"]].concat()));
    // These are looked at before all others.
    let first = ["config-file", "version"];
    let works = |flag: &&table::Flag| flag.meaning == table::Meaning::Works;
    let forgotten: Vec<&str> = table::groups()
        .flat_map(|(_, flags)| flags)
        .filter(works)
        .map(|flag| flag.name)
        .filter(|name| !first.contains(name) && !asked_for.contains(*name))
        .collect();
    assert_eq!(forgotten, [""; 0]);
}

/// All keys of etcd's file, by the tags of its structures.
const KEYS: &[&str] = &[
    "advertise-client-urls",
    "auth-token",
    "auth-token-ttl",
    "auto-compaction-mode",
    "auto-compaction-retention",
    "backend-batch-interval",
    "backend-batch-limit",
    "backend-bbolt-freelist-type",
    "bcrypt-cost",
    "bootstrap-defrag-threshold-megabytes",
    "cipher-suites",
    "client-transport-security",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "cors",
    "data-dir",
    "discovery-config",
    "discovery-srv",
    "discovery-srv-name",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "election-timeout",
    "enable-distributed-tracing",
    "enable-grpc-gateway",
    "enable-log-rotation",
    "enable-pprof",
    "feature-gates",
    "force-new-cluster",
    "grpc-keepalive-interval",
    "grpc-keepalive-min-time",
    "grpc-keepalive-timeout",
    "heartbeat-interval",
    "host-whitelist",
    "initial-advertise-peer-urls",
    "initial-cluster",
    "initial-cluster-state",
    "initial-cluster-token",
    "initial-election-tick-advance",
    "listen-client-http-urls",
    "listen-client-urls",
    "listen-metrics-urls",
    "listen-peer-urls",
    "log-format",
    "log-level",
    "log-outputs",
    "log-rotation-config-json",
    "logger",
    "max-concurrent-streams",
    "max-learners",
    "max-request-bytes",
    "max-snapshots",
    "max-txn-ops",
    "max-wals",
    "memory-mlock",
    "metrics",
    "name",
    "peer-transport-security",
    "pre-vote",
    "quota-backend-bytes",
    "self-signed-cert-validity",
    "snapshot-catchup-entries",
    "snapshot-count",
    "socket-options",
    "strict-reconfig-check",
    "tls-max-version",
    "tls-min-version",
    "unsafe-no-fsync",
    "v2-deprecation",
    "wal-dir",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
];

#[test]
fn every_key_of_etcds_file_is_known() {
    let file: String = KEYS.iter().map(|key| format!("{key}: null\n")).collect();
    let given = file::from_yaml(&file).expect("keys without values");
    assert_eq!(given.warnings, [""; 0]);
    let given = file::from_yaml("no-such-key: null\n").expect("only a warning");
    assert_eq!(given.warnings.len(), 1);
}
