//! The table of options: every flag of etcd 3.7 and the few of our own, one line each.
//!
//! A line tells what a value must look like ([`Kind`]), what it is when nobody gives one, and what
//! it means here ([`Meaning`]). An option that means nothing here is not dropped silently, for
//! somebody relies on it: giving it another value than its default says in one line why nothing
//! changes. Options that would need a second member are refused, for a start without that member
//! would look like success.

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anything.
    Text,
    /// Go's spellings of true and false; the bare flag means true.
    Switch,
    /// A whole number that is not negative.
    Count,
    /// A whole number.
    Integer,
    /// A Go duration.
    Time,
    /// Comma-separated; a list of strings in the file.
    List,
    /// Comma-separated URLs.
    Urls,
    /// One of these.
    Choice(&'static [&'static str]),
}

/// What a flag does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// What its help says.
    Works,
    /// Nothing, for this reason.
    Idle(&'static str),
    /// Nothing, and nothing in etcd either.
    Dead,
    /// It cannot be had, for this reason.
    Refused(&'static str),
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) default: &'static str,
    pub(super) kind: Kind,
    pub(super) meaning: Meaning,
    /// Empty for an old name that `--help` does not show.
    pub(super) help: &'static str,
}

/// What etcd says of options that it is about to drop; whoever upgrades looks for its words.
const LEAVING: [(&str, &str); 2] = [
    ("max-snapshots", "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
    (
        "v2-deprecation",
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is \
         enforced, ignoring user input.",
    ),
];

/// Whether etcd is about to drop an option, in its words.
pub(super) fn leaving(name: &str) -> Option<&'static str> {
    LEAVING.iter().find(|(leaving, _)| *leaving == name).map(|(_, words)| *words)
}

/// The line of a name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    groups().flat_map(|(_, flags)| flags).find(|flag| flag.name == name)
}

/// Every flag, in the order `--help` shows them.
pub(super) fn groups() -> impl Iterator<Item = (&'static str, &'static [Flag])> {
    [
        ("Member", MEMBER),
        ("Listening", LISTENING),
        ("Limits", LIMITS),
        ("Cluster", CLUSTER),
        ("Security", SECURITY),
        ("Authentication", AUTH),
        ("Upkeep", UPKEEP),
        ("Logs, metrics, traces", TELLING),
        ("Kept for old scripts", OLD),
    ]
    .into_iter()
}

use Kind::{Choice, Count, Integer, List, Switch, Text, Time, Urls};

const fn works(name: &'static str, default: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag { name, default, kind, meaning: Meaning::Works, help }
}

const fn idle(name: &'static str, default: &'static str, kind: Kind, why: &'static str) -> Flag {
    Flag { name, default, kind, meaning: Meaning::Idle(why), help: why }
}

const fn refused(name: &'static str, kind: Kind, why: &'static str) -> Flag {
    Flag { name, default: "", kind, meaning: Meaning::Refused(why), help: why }
}

const fn dead(name: &'static str) -> Flag {
    Flag { name, default: "", kind: Text, meaning: Meaning::Dead, help: "" }
}

const NO_PEER: &str = "there is no other member, so nothing listens for one";
const NO_DISCOVERY: &str = "discovery finds other members, and this is the only one";
const NO_BBOLT: &str = "writes go to the log at once and to the database by checkpoints";
const NO_MEMBERSHIP: &str = "the cluster has one member and takes no other yet";
const NOBODY_TO_COMPARE: &str = "there is no other member to compare with";
const NO_TRACES: &str = "traces are not sent anywhere; see --warning-unary-request-duration";

const MEMBER: &[Flag] = &[
    works("name", "default", Text, "Human-readable name of this member."),
    works("data-dir", "", Text, "Where data live. Default: <name>.etcd in the working directory."),
    works("wal-dir", "", Text, "A directory of its own for the log, best on a separate disk."),
    works(
        "storage",
        "disk",
        Choice(&["disk", "memory"]),
        "'memory' keeps nothing and needs no directory: for tests and caches.",
    ),
    works("cache-bytes", "67108864", Count, "Memory for pages of the checkpointed database."),
    works("snapshot-count", "10000", Count, "Log entries between two checkpoints, at most."),
    works("quota-backend-bytes", "0", Integer, "Space quota in bytes. 0: 2 GiB; negative: none."),
    works("memory-mlock", "false", Switch, "Lock the process's memory against paging."),
    works("unsafe-no-fsync", "false", Switch, "Do not wait for the disk: a crash loses data."),
    works("config-file", "", Text, "A YAML file; all other flags and variables are then ignored."),
    works("feature-gates", "", Text, "name=true|false,...; see the end."),
    works("version", "false", Switch, "Print the version and exit."),
    idle("snapshot-catchup-entries", "5000", Count, "no follower reads this log"),
    idle("max-snapshots", "5", Count, "a checkpoint replaces the one before it"),
    idle("max-wals", "5", Count, "segments of the log are reused once a checkpoint covers them"),
    idle("backend-bbolt-freelist-type", "map", Text, NO_BBOLT),
    idle("backend-batch-interval", "0s", Time, NO_BBOLT),
    idle("backend-batch-limit", "0", Integer, NO_BBOLT),
    idle(
        "bootstrap-defrag-threshold-megabytes",
        "0",
        Count,
        "space is given back while serving, not at start",
    ),
    idle("force-new-cluster", "false", Switch, "this member is alone already"),
];

const LISTENING: &[Flag] = &[
    works(
        "listen-client-urls",
        "http://localhost:2379",
        Urls,
        "Where clients connect: http, https, unix or unixs.",
    ),
    works(
        "listen-client-http-urls",
        "",
        Urls,
        "Where clients speak HTTP; the places above then speak gRPC only.",
    ),
    works("listen-metrics-urls", "", Urls, "Extra places for /metrics, /health, /livez, /readyz."),
    works("listen-peer-urls", "http://localhost:2380", Urls, "Where other members would connect."),
    works("advertise-client-urls", "http://localhost:2379", Urls, "Client URLs told to clients."),
    works("socket-reuse-port", "false", Switch, "Let several processes listen on one port."),
    works("socket-reuse-address", "false", Switch, "Bind to an address that waits to be freed."),
    works("enable-grpc-gateway", "true", Switch, "Serve JSON over HTTP under /v3/."),
    works("cors", "*", Text, "Origins that browsers may call from; empty or *: all."),
    works("host-whitelist", "*", List, "Host names taken on plain HTTP; empty or *: all."),
    works(
        "grpc-keepalive-interval",
        "2h0m0s",
        Time,
        "How often idle clients are pinged; 0: never.",
    ),
    works("grpc-keepalive-timeout", "20s", Time, "How long a ping may stay unanswered."),
    works(
        "grpc-keepalive-min-time",
        "5s",
        Time,
        "Clients that ping more often are sent away, not over TLS; 0: gRPC's five minutes.",
    ),
    idle("raft-read-timeout", "5s", Time, NO_PEER),
    idle("raft-write-timeout", "5s", Time, NO_PEER),
];

const LIMITS: &[Flag] = &[
    works("max-txn-ops", "128", Count, "Most operations in one branch of a transaction."),
    works("max-request-bytes", "1572864", Count, "Largest request a client may send."),
    works("max-concurrent-streams", "4294967295", Count, "Most streams of one connection."),
    works("heartbeat-interval", "100", Count, "Milliseconds between heartbeats."),
    works("election-timeout", "1000", Count, "Milliseconds without a leader before an election."),
    idle("initial-election-tick-advance", "true", Switch, "a lone member elects itself at once"),
    idle("pre-vote", "true", Switch, "there is no other member to disturb"),
];

const CLUSTER: &[Flag] = &[
    works("initial-advertise-peer-urls", "http://localhost:2380", Urls, "Peer URLs of the member."),
    works("initial-cluster", "", Text, "The member at first start: name=url."),
    works(
        "initial-cluster-state",
        "new",
        Choice(&["new", "existing"]),
        "'new'; 'existing' only starts a member that has its data.",
    ),
    works("initial-cluster-token", "etcd-cluster", Text, "Makes clusters with equal URLs differ."),
    idle("strict-reconfig-check", "true", Switch, NO_MEMBERSHIP),
    idle("max-learners", "1", Integer, NO_MEMBERSHIP),
    refused("discovery-token", Text, NO_DISCOVERY),
    refused("discovery-endpoints", List, NO_DISCOVERY),
    refused("discovery-srv", Text, NO_DISCOVERY),
    refused("discovery-srv-name", Text, NO_DISCOVERY),
    idle("discovery-dial-timeout", "2s", Time, NO_DISCOVERY),
    idle("discovery-request-timeout", "5s", Time, NO_DISCOVERY),
    idle("discovery-keepalive-time", "2s", Time, NO_DISCOVERY),
    idle("discovery-keepalive-timeout", "6s", Time, NO_DISCOVERY),
    idle("discovery-insecure-transport", "true", Switch, NO_DISCOVERY),
    idle("discovery-insecure-skip-tls-verify", "false", Switch, NO_DISCOVERY),
    idle("discovery-cert", "", Text, NO_DISCOVERY),
    idle("discovery-key", "", Text, NO_DISCOVERY),
    idle("discovery-cacert", "", Text, NO_DISCOVERY),
    idle("discovery-user", "", Text, NO_DISCOVERY),
    idle("discovery-password", "", Text, NO_DISCOVERY),
    idle("discovery-fallback", "exit", Choice(&["exit"]), NO_DISCOVERY),
];

const OWN_CLIENT: &str = "the JSON gateway calls its services directly and needs no certificate";

const SECURITY: &[Flag] = &[
    works("cert-file", "", Text, "Certificate of the client ports (PEM)."),
    works("key-file", "", Text, "Key of that certificate (PEM)."),
    works("client-cert-auth", "false", Switch, "Demand a certificate from every client."),
    works("trusted-ca-file", "", Text, "CA bundle that client certificates are checked against."),
    works("client-crl-file", "", Text, "Certificates revoked since (PEM or DER)."),
    works("client-cert-allowed-hostname", "", List, "Names a client's certificate must cover."),
    works("auto-tls", "false", Switch, "Make a certificate when none is given."),
    works("self-signed-cert-validity", "1", Count, "Years that such a certificate is good for."),
    works("cipher-suites", "", List, "TLS cipher suites, by Go's names; empty: all safe ones."),
    works("tls-min-version", "TLS1.2", Text, "TLS1.2 or TLS1.3."),
    works("tls-max-version", "", Text, "TLS1.2 or TLS1.3; empty: the newest."),
    idle("client-cert-file", "", Text, OWN_CLIENT),
    idle("client-key-file", "", Text, OWN_CLIENT),
    idle("peer-cert-file", "", Text, NO_PEER),
    idle("peer-key-file", "", Text, NO_PEER),
    idle("peer-client-cert-auth", "false", Switch, NO_PEER),
    idle("peer-client-cert-file", "", Text, NO_PEER),
    idle("peer-client-key-file", "", Text, NO_PEER),
    idle("peer-trusted-ca-file", "", Text, NO_PEER),
    idle("peer-cert-allowed-cn", "", List, NO_PEER),
    idle("peer-cert-allowed-hostname", "", List, NO_PEER),
    idle("peer-auto-tls", "false", Switch, NO_PEER),
    idle("peer-crl-file", "", Text, NO_PEER),
    idle("peer-skip-client-san-verification", "false", Switch, NO_PEER),
];

const AUTH: &[Flag] = &[
    works("auth-token", "simple", Text, "'simple', or 'jwt,pub-key=...,sign-method=...'."),
    works("auth-token-ttl", "300", Count, "Seconds that an unused simple token lives."),
    works("bcrypt-cost", "10", Count, "Cost of hashing a password, 4 to 31."),
];

const UPKEEP: &[Flag] = &[
    works(
        "auto-compaction-mode",
        "periodic",
        Text,
        "'periodic' keeps a time, 'revision' a number of revisions.",
    ),
    works("auto-compaction-retention", "0", Text, "How much to keep; 0: compact never by itself."),
    works("compaction-batch-limit", "1000", Integer, "Revisions compacted in one go."),
    works("compaction-sleep-interval", "10ms", Time, "Pause between two goes."),
    works(
        "watch-progress-notify-interval",
        "10m",
        Time,
        "How often idle watches hear the revision.",
    ),
    idle("corrupt-check-time", "0s", Time, NOBODY_TO_COMPARE),
    idle("compact-hash-check-time", "1m0s", Time, NOBODY_TO_COMPARE),
    idle("downgrade-check-time", "5s", Time, "a lone member is what its version says"),
];

const TELLING: &[Flag] = &[
    works("log-level", "info", Text, "debug, info, warn, error, dpanic, panic or fatal."),
    works("log-format", "json", Text, "json, or console."),
    works("log-outputs", "default", List, "stderr (the default), stdout, or files."),
    works("enable-log-rotation", "false", Switch, "Rotate the one file among the outputs."),
    works(
        "log-rotation-config-json",
        r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#,
        Text,
        "Megabytes of a file, days and number of old ones (0: all), how they are named and kept.",
    ),
    works("logger", "zap", Text, "zap is the only value."),
    works("warning-unary-request-duration", "300ms", Time, "Requests slower than this are logged."),
    works("warning-apply-duration", "100ms", Time, "Applies slower than this are logged."),
    works("metrics", "basic", Text, "'extensive' adds histograms of every RPC."),
    idle("enable-pprof", "false", Switch, "profiles of Go's runtime do not exist here; use perf"),
    idle("enable-distributed-tracing", "false", Switch, NO_TRACES),
    idle("distributed-tracing-address", "localhost:4317", Text, NO_TRACES),
    idle("distributed-tracing-service-name", "etcd", Text, NO_TRACES),
    idle("distributed-tracing-instance-id", "", Text, NO_TRACES),
    idle("distributed-tracing-sampling-rate", "0", Count, NO_TRACES),
];

const OLD: &[Flag] = &[
    // etcd drops what is given and enforces its default.
    idle(
        "v2-deprecation",
        "write-only",
        Choice(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]),
        "there is no v2 store",
    ),
    // kubeadm up to 1.33 gives these two, which etcd 3.7 no longer knows.
    works("experimental-initial-corrupt-check", "false", Switch, ""),
    works("experimental-watch-progress-notify-interval", "10m", Time, ""),
    dead("cluster-active-size"),
    dead("cluster-remove-delay"),
    dead("cluster-sync-interval"),
    dead("config"),
    dead("force"),
    dead("max-result-buffer"),
    dead("max-retry-attempts"),
    dead("peer-heartbeat-interval"),
    dead("peer-election-timeout"),
    dead("retry-interval"),
    dead("snapshot"),
    dead("v"),
    dead("vv"),
    dead("test.coverprofile"),
    dead("test.outputdir"),
];
