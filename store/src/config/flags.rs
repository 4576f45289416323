//! What was typed: etcd's flags in Go's syntax, and the same options as `ETCD_*` variables.
//!
//! Go's `flag` package takes one or two dashes, `=` or a space before the value, and needs `=` for
//! booleans. Scripts rely on all of it, so this is a small parser of our own over one table. The
//! table holds every flag etcd 3.7 has. A flag of etcd's that does nothing here yet is refused by
//! name (unless its value only restates the default): an option that is silently ignored is worse
//! than a refusal, because somebody relies on it.
//!
//! An option given both as a flag and in the environment is fatal, as in etcd: nobody can tell
//! which one was meant.

use std::collections::BTreeMap;

use super::ConfigError;

/// What the store does with a flag of etcd's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Support {
    /// It works.
    Built,
    /// etcd itself accepts and ignores it.
    Ignored,
    /// Refused, unless the value is the default.
    Unbuilt,
}

/// One line of the table.
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) default: &'static str,
    pub(super) support: Support,
    pub(super) help: &'static str,
}

const fn built(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, default, support: Support::Built, help }
}

const fn unbuilt(name: &'static str, default: &'static str) -> Flag {
    Flag { name, default, support: Support::Unbuilt, help: "" }
}

const fn ignored(name: &'static str) -> Flag {
    Flag { name, default: "", support: Support::Ignored, help: "" }
}

/// Flags that are switches: `--flag` means `--flag=true`.
const SWITCHES: &[&str] = &[
    "help",
    "h",
    "version",
    "client-cert-auth",
    "peer-client-cert-auth",
    "auto-tls",
    "peer-auto-tls",
    "pre-vote",
    "strict-reconfig-check",
    "initial-election-tick-advance",
    "socket-reuse-port",
    "socket-reuse-address",
    "enable-grpc-gateway",
    "enable-pprof",
    "enable-log-rotation",
    "enable-distributed-tracing",
    "memory-mlock",
    "unsafe-no-fsync",
    "force-new-cluster",
    "discovery-insecure-transport",
    "discovery-insecure-skip-tls-verify",
    "peer-skip-client-san-verification",
    "experimental-initial-corrupt-check",
];

/// Every flag, in the order `--help` shows them.
pub(super) const FLAGS: &[Flag] = &[
    built("name", "default", "Human-readable name of this member."),
    built("data-dir", "", "Where data lives. Default: <name>.etcd in the working directory."),
    built("wal-dir", "", "A directory of its own for the log, best on a separate disk."),
    built("snapshot-count", "10000", "Log entries between two checkpoints, at most."),
    built("quota-backend-bytes", "0", "Space quota in bytes. 0: 2 GiB; negative: none."),
    built("cache-bytes", "67108864", "Memory for pages of the checkpointed database."),
    built("heartbeat-interval", "100", "Milliseconds between heartbeats."),
    built("election-timeout", "1000", "Milliseconds without a leader before an election."),
    built("listen-peer-urls", "http://localhost:2380", "Where other members reach this one."),
    built("listen-client-urls", "http://localhost:2379", "Where clients connect; http or https."),
    built("listen-metrics-urls", "", "Extra places for /metrics, /health, /livez and /readyz."),
    built("max-txn-ops", "128", "Most operations in one branch of a transaction."),
    built("max-request-bytes", "1572864", "Largest request a client may send."),
    built("max-concurrent-streams", "4294967295", "Most streams one connection may hold open."),
    built("initial-advertise-peer-urls", "http://localhost:2380", "Peer URLs told to the cluster."),
    built("initial-cluster", "", "Members at first start: name=url,name=url."),
    built("initial-cluster-state", "new", "'new', or 'existing' to join a running cluster."),
    built("initial-cluster-token", "etcd-cluster", "Makes clusters with equal URLs differ."),
    built("advertise-client-urls", "http://localhost:2379", "Client URLs told to clients."),
    built("cert-file", "", "Certificate of the client port (PEM)."),
    built("key-file", "", "Key of that certificate (PEM)."),
    built("client-cert-auth", "false", "Demand a certificate from every client."),
    built("trusted-ca-file", "", "CA bundle that client certificates are checked against."),
    built("auto-compaction-mode", "periodic", "periodic, or revision."),
    built("auto-compaction-retention", "0", "History to keep; 0 turns automatic compaction off."),
    built("watch-progress-notify-interval", "10m", "How often idle watches hear the revision."),
    built("log-level", "info", "debug, info, warn, error, panic or fatal."),
    built("log-format", "json", "json, or console."),
    built("log-outputs", "default", "stderr (default) or stdout."),
    built("logger", "zap", "Accepted for compatibility; zap is the only value."),
    built("version", "false", "Print the version and exit."),
    unbuilt("snapshot-catchup-entries", "5000"),
    unbuilt("max-snapshots", "5"),
    unbuilt("max-wals", "5"),
    unbuilt("memory-mlock", "false"),
    unbuilt("backend-bbolt-freelist-type", "map"),
    unbuilt("backend-batch-interval", "0s"),
    unbuilt("backend-batch-limit", "0"),
    unbuilt("bootstrap-defrag-threshold-megabytes", "0"),
    unbuilt("force-new-cluster", "false"),
    unbuilt("unsafe-no-fsync", "false"),
    unbuilt("v2-deprecation", "not-yet"),
    unbuilt("initial-election-tick-advance", "true"),
    unbuilt("pre-vote", "true"),
    unbuilt("raft-read-timeout", "5s"),
    unbuilt("raft-write-timeout", "5s"),
    unbuilt("strict-reconfig-check", "true"),
    unbuilt("max-learners", "1"),
    unbuilt("listen-client-http-urls", ""),
    unbuilt("grpc-keepalive-min-time", "5s"),
    unbuilt("grpc-keepalive-interval", "2h0m0s"),
    unbuilt("grpc-keepalive-timeout", "20s"),
    unbuilt("socket-reuse-port", "false"),
    unbuilt("socket-reuse-address", "false"),
    unbuilt("enable-grpc-gateway", "false"),
    unbuilt("cors", "*"),
    unbuilt("host-whitelist", "*"),
    unbuilt("discovery-token", ""),
    unbuilt("discovery-endpoints", ""),
    unbuilt("discovery-dial-timeout", "2s"),
    unbuilt("discovery-request-timeout", "5s"),
    unbuilt("discovery-keepalive-time", "2s"),
    unbuilt("discovery-keepalive-timeout", "6s"),
    unbuilt("discovery-insecure-transport", "true"),
    unbuilt("discovery-insecure-skip-tls-verify", "false"),
    unbuilt("discovery-cert", ""),
    unbuilt("discovery-key", ""),
    unbuilt("discovery-cacert", ""),
    unbuilt("discovery-user", ""),
    unbuilt("discovery-password", ""),
    unbuilt("discovery-fallback", "exit"),
    unbuilt("discovery-srv", ""),
    unbuilt("discovery-srv-name", ""),
    unbuilt("client-cert-file", ""),
    unbuilt("client-key-file", ""),
    unbuilt("client-crl-file", ""),
    unbuilt("client-cert-allowed-hostname", ""),
    unbuilt("auto-tls", "false"),
    unbuilt("peer-cert-file", ""),
    unbuilt("peer-key-file", ""),
    unbuilt("peer-client-cert-auth", "false"),
    unbuilt("peer-client-cert-file", ""),
    unbuilt("peer-client-key-file", ""),
    unbuilt("peer-trusted-ca-file", ""),
    unbuilt("peer-cert-allowed-cn", ""),
    unbuilt("peer-cert-allowed-hostname", ""),
    unbuilt("peer-auto-tls", "false"),
    unbuilt("peer-crl-file", ""),
    unbuilt("peer-skip-client-san-verification", "false"),
    unbuilt("self-signed-cert-validity", "1"),
    unbuilt("cipher-suites", ""),
    unbuilt("tls-min-version", "TLS1.2"),
    unbuilt("tls-max-version", ""),
    unbuilt("compaction-batch-limit", "1000"),
    unbuilt("compaction-sleep-interval", "10ms"),
    unbuilt("corrupt-check-time", "0s"),
    unbuilt("compact-hash-check-time", "1m0s"),
    unbuilt("downgrade-check-time", "5s"),
    unbuilt("auth-token", "simple"),
    unbuilt("bcrypt-cost", "10"),
    unbuilt("auth-token-ttl", "300"),
    unbuilt("feature-gates", ""),
    unbuilt("config-file", ""),
    unbuilt("enable-pprof", "false"),
    unbuilt("metrics", "basic"),
    unbuilt("enable-log-rotation", "false"),
    unbuilt("log-rotation-config-json", ""),
    unbuilt("warning-unary-request-duration", "300ms"),
    unbuilt("warning-apply-duration", "100ms"),
    unbuilt("enable-distributed-tracing", "false"),
    unbuilt("distributed-tracing-address", "localhost:4317"),
    unbuilt("distributed-tracing-service-name", "etcd"),
    unbuilt("distributed-tracing-instance-id", ""),
    unbuilt("distributed-tracing-sampling-rate", "0"),
    unbuilt("experimental-initial-corrupt-check", "false"),
    built("experimental-watch-progress-notify-interval", "", ""),
    ignored("cluster-active-size"),
    ignored("cluster-remove-delay"),
    ignored("cluster-sync-interval"),
    ignored("config"),
    ignored("force"),
    ignored("max-result-buffer"),
    ignored("max-retry-attempts"),
    ignored("peer-heartbeat-interval"),
    ignored("peer-election-timeout"),
    ignored("retry-interval"),
    ignored("snapshot"),
    ignored("v"),
    ignored("vv"),
];

/// The options that were given, by flag name, whatever way they came.
#[derive(Default)]
pub(super) struct Given {
    values: BTreeMap<&'static str, String>,
    /// What should be said but stops nothing.
    pub(super) warnings: Vec<String>,
    /// `-h` or `--help`.
    pub(super) help: bool,
}

impl Given {
    /// The value given, or the table's default.
    pub(super) fn text(&self, name: &str) -> &str {
        self.set(name).unwrap_or_else(|| find(name).map_or("", |flag| flag.default))
    }

    /// The value given, if any was.
    pub(super) fn set(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value as a switch.
    pub(super) fn switch(&self, name: &str) -> Result<bool, ConfigError> {
        go_bool(self.text(name)).ok_or_else(|| invalid_value(name, self.text(name)))
    }

    /// The value as a number (or anything else that parses itself).
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, ConfigError> {
        self.text(name).trim().parse().map_err(|_| invalid_value(name, self.text(name)))
    }

    fn put(&mut self, flag: &'static Flag, value: String, said: &str) -> Result<(), ConfigError> {
        match flag.support {
            Support::Built => {}
            Support::Ignored => {
                self.warnings.push(format!("{said} has no effect (nor in etcd)"));
                return Ok(());
            }
            Support::Unbuilt if restates_default(flag, &value) => return Ok(()),
            Support::Unbuilt => {
                return Err(ConfigError::Invalid(format!(
                    "{said}={value}: this option of etcd's is not built yet; leave it out"
                )));
            }
        }
        self.values.insert(flag.name, value);
        Ok(())
    }
}

/// Reads the command line.
pub(super) fn from_args(args: impl Iterator<Item = String>) -> Result<Given, ConfigError> {
    let mut given = Given::default();
    let mut args = args;
    while let Some(arg) = args.next() {
        let Some(body) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
            return Err(ConfigError::Invalid(format!("{arg:?} is not a valid flag")));
        };
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if name == "help" || name == "h" {
            given.help = true;
            return Ok(given);
        }
        let flag = find(name).ok_or_else(|| {
            ConfigError::Usage(format!("flag provided but not defined: -{name}{}", nearest(name)))
        })?;
        let value = match inline {
            Some(value) => value,
            None if SWITCHES.contains(&name) => "true".to_owned(),
            None => args
                .next()
                .ok_or_else(|| ConfigError::Usage(format!("flag needs an argument: -{name}")))?,
        };
        given.put(flag, value, &format!("--{name}"))?;
    }
    Ok(given)
}

/// Adds what the environment says. `given` must hold the command line already.
pub(super) fn add_env(
    given: &mut Given,
    env: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    for (key, value) in env {
        let Some(rest) = key.strip_prefix("ETCD_") else { continue };
        if value.is_empty() || key == "ETCD_UNSUPPORTED_ARCH" {
            continue;
        }
        let name = rest.to_ascii_lowercase().replace('_', "-");
        let known = find(&name).filter(|flag| flag.name != "version" && env_name(flag) == key);
        let Some(flag) = known else {
            given.warnings.push(format!("unrecognized environment variable {key}"));
            continue;
        };
        if given.values.contains_key(flag.name) {
            return Err(ConfigError::Invalid(format!(
                "conflicting environment variable {key} is shadowed by the command-line flag \
                 --{name} (unset the one or leave out the other)"
            )));
        }
        given.put(flag, value, &key)?;
    }
    Ok(())
}

fn env_name(flag: &Flag) -> String {
    format!("ETCD_{}", flag.name.to_ascii_uppercase().replace('-', "_"))
}

fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

fn restates_default(flag: &Flag, value: &str) -> bool {
    match (go_bool(flag.default), go_bool(value)) {
        (Some(default), Some(value)) if SWITCHES.contains(&flag.name) => default == value,
        _ => flag.default == value,
    }
}

/// The spellings Go's `strconv.ParseBool` takes.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

pub(super) fn invalid_value(name: &str, value: &str) -> ConfigError {
    ConfigError::Usage(format!("invalid value {value:?} for flag -{name}"))
}

/// ` (did you mean -x?)` for a name that is one slip away from a real one.
fn nearest(name: &str) -> String {
    FLAGS
        .iter()
        .filter(|flag| flag.support == Support::Built)
        .map(|flag| (distance(name, flag.name), flag.name))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map_or_else(String::new, |(_, near)| format!(" (did you mean -{near}?)"))
}

/// Edits between two names (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}
