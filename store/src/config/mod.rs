//! From what was typed to what it means, in two stages: `flags` reads the command line and the
//! environment, [`Config::from_given`] checks everything once and sorts it by owner. No file is
//! opened and no port bound here, so a bad option is told before anything is touched.
//!
//! Each subsystem takes its own small struct and never sees the rest. The orchestrator, which
//! embeds a store, starts from [`Config::new`] and sets the fields it cares about.

mod duration;
mod flags;
pub mod urls;

use std::path::PathBuf;
use std::time::Duration;

pub use urls::{ClusterMap, Url};

/// Why there is no configuration. One line each.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line cannot be read: exit code 2, as Go programs do.
    #[error("{0}")]
    Usage(String),
    /// It can be read and makes no sense: exit code 1.
    #[error("{0}")]
    Invalid(String),
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Run with this, after saying these warnings.
    Run(Box<Config>, Vec<String>),
    /// Print the version.
    Version,
    /// Print the help.
    Help,
}

/// Everything a node is started with, by owner.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this member is and whom it starts with.
    pub member: MemberConfig,
    /// Where it listens.
    pub listen: ListenConfig,
    /// Where and how it stores.
    pub disk: DiskConfig,
    /// The clock of consensus.
    pub raft: RaftConfig,
    /// What a client may ask for at once.
    pub requests: RequestConfig,
    /// Compaction by itself.
    pub compaction: AutoCompaction,
    /// How it logs.
    pub log: LogConfig,
}

/// Identity, and the cluster at first start.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// Human-readable name.
    pub name: String,
    /// Peer URLs other members are told.
    pub advertise_peer_urls: Vec<Url>,
    /// Client URLs clients are told.
    pub advertise_client_urls: Vec<Url>,
    /// The members of a new cluster.
    pub initial_cluster: ClusterMap,
    /// Makes ids of clusters with equal URLs differ.
    pub cluster_token: String,
}

/// Listeners. Plain and TLS ones may stand side by side.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// Client ports: `https` URLs use `tls`.
    pub client_urls: Vec<Url>,
    /// Peer ports; nothing listens there until replication is built.
    pub peer_urls: Vec<Url>,
    /// HTTP only: metrics and health.
    pub metrics_urls: Vec<Url>,
    /// Certificates of the client ports.
    pub tls: Option<TlsConfig>,
    /// HTTP/2 streams a connection may hold open.
    pub max_concurrent_streams: u32,
}

/// Certificate files (PEM).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's chain.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// Set: every client must show a certificate that this bundle vouches for.
    pub client_ca_file: Option<PathBuf>,
}

/// The disk.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Mode 0700; holds everything.
    pub data_dir: PathBuf,
    /// The log, when it lives elsewhere.
    pub wal_dir: Option<PathBuf>,
    /// Log entries between two checkpoints, at most.
    pub snapshot_count: u64,
    /// Cache of the checkpointed database.
    pub cache_bytes: usize,
    /// Space quota; `None` is without.
    pub quota_bytes: Option<u64>,
}

/// Raft's clock.
#[derive(Clone, Copy, Debug)]
pub struct RaftConfig {
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// Without a leader before an election.
    pub election_timeout: Duration,
}

/// Bounds on requests.
#[derive(Clone, Copy, Debug)]
pub struct RequestConfig {
    /// Largest request.
    pub max_bytes: usize,
    /// Operations in one branch of a transaction.
    pub max_txn_ops: usize,
    /// How often idle watches that asked for it hear the revision.
    pub watch_progress_interval: Duration,
}

/// `--auto-compaction-mode` and `-retention`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never by itself.
    Off,
    /// Keep what is younger.
    Periodic(Duration),
    /// Keep the last revisions.
    Revision(i64),
}

/// Log lines.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// What is worth a line.
    pub level: tracing::Level,
    /// JSON lines in the shape of etcd's, or plain text.
    pub json: bool,
    /// Standard output instead of standard error.
    pub stdout: bool,
}

/// The quota etcd uses when none is set.
pub const QUOTA_DEFAULT_BYTES: u64 = 2 << 30;

impl Config {
    /// A single member with etcd's defaults that listens nowhere: the start for embedding.
    pub fn new(name: &str, data_dir: PathBuf) -> Self {
        let peer = Url::parse("http://localhost:2380").expect("a constant that parses");
        let cluster = ClusterMap::from([(name.to_owned(), vec![peer.clone()])]);
        Self {
            member: MemberConfig {
                name: name.to_owned(),
                advertise_peer_urls: vec![peer],
                advertise_client_urls: Vec::new(),
                initial_cluster: cluster,
                cluster_token: "etcd-cluster".to_owned(),
            },
            listen: ListenConfig {
                client_urls: Vec::new(),
                peer_urls: Vec::new(),
                metrics_urls: Vec::new(),
                tls: None,
                max_concurrent_streams: u32::MAX,
            },
            disk: DiskConfig {
                data_dir,
                wal_dir: None,
                snapshot_count: 10_000,
                cache_bytes: 64 << 20,
                quota_bytes: Some(QUOTA_DEFAULT_BYTES),
            },
            raft: RaftConfig {
                heartbeat: Duration::from_millis(100),
                election_timeout: Duration::from_millis(1000),
            },
            requests: RequestConfig {
                max_bytes: 1536 << 10,
                max_txn_ops: 128,
                watch_progress_interval: Duration::from_secs(600),
            },
            compaction: AutoCompaction::Off,
            log: LogConfig { level: tracing::Level::INFO, json: true, stdout: false },
        }
    }

    /// Reads a command line (without the program's name) and an environment.
    pub fn parse(
        args: impl Iterator<Item = String>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Request, ConfigError> {
        let mut given = flags::from_args(args)?;
        if given.help {
            return Ok(Request::Help);
        }
        if given.switch("version")? {
            return Ok(Request::Version);
        }
        flags::add_env(&mut given, env)?;
        let config = Self::from_given(&mut given)?;
        Ok(Request::Run(Box::new(config), given.warnings))
    }

    fn from_given(given: &mut flags::Given) -> Result<Self, ConfigError> {
        let name = given.text("name").to_owned();
        let data_dir = match given.text("data-dir") {
            "" => format!("{name}.etcd"),
            dir => dir.to_owned(),
        };
        let mut config = Self::new(&name, PathBuf::from(data_dir));
        config.listen = listen(given)?;
        config.member = member(given, name)?;
        config.disk.wal_dir = given.set("wal-dir").map(PathBuf::from);
        config.disk.snapshot_count = given.number("snapshot-count")?;
        config.disk.cache_bytes = given.number("cache-bytes")?;
        config.disk.quota_bytes = match given.number::<i64>("quota-backend-bytes")? {
            0 => Some(QUOTA_DEFAULT_BYTES),
            bytes => u64::try_from(bytes).ok(),
        };
        config.raft = raft(given)?;
        config.requests = requests(given)?;
        config.compaction = compaction(given)?;
        config.log = log(given)?;
        if config.member.name == "default" {
            given
                .warnings
                .push("no --name given: members of one cluster need names of their own".to_owned());
        }
        Ok(config)
    }

    /// What `--help` prints.
    pub fn help() -> String {
        let mut text = String::from(
            "store: a key-value server that speaks etcd's v3 API\n\n\
             Usage: store [--flag=value]...\n\n\
             Try:   store --data-dir /tmp/store &\n       \
             etcdctl put greeting hello && etcdctl get greeting\n\n\
             One or two dashes, `=` or a space. Every flag is also an environment variable:\n\
             --data-dir is ETCD_DATA_DIR. Giving an option both ways is an error.\n\n",
        );
        for flag in flags::FLAGS.iter().filter(|flag| !flag.help.is_empty()) {
            let shown = match flag.default {
                "" => format!("--{}", flag.name),
                default => format!("--{} '{default}'", flag.name),
            };
            text.push_str(&format!("  {shown}\n        {}\n", flag.help));
        }
        text.push_str(
            "\nFlags of etcd's that are not listed are refused by name until they work.\n",
        );
        text
    }
}

fn invalid(reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid(reason.into())
}

fn url_list(given: &flags::Given, flag: &str) -> Result<Vec<Url>, ConfigError> {
    match given.text(flag) {
        "" => Ok(Vec::new()),
        list => Url::parse_list(list).map_err(|reason| invalid(format!("--{flag}: {reason}"))),
    }
}

fn bind_list(given: &flags::Given, flag: &str) -> Result<Vec<Url>, ConfigError> {
    let urls = url_list(given, flag)?;
    for url in &urls {
        url.bind_address().map_err(|reason| invalid(format!("--{flag}: {reason}")))?;
    }
    Ok(urls)
}

fn listen(given: &flags::Given) -> Result<ListenConfig, ConfigError> {
    let config = ListenConfig {
        client_urls: bind_list(given, "listen-client-urls")?,
        peer_urls: bind_list(given, "listen-peer-urls")?,
        metrics_urls: bind_list(given, "listen-metrics-urls")?,
        tls: tls(given)?,
        max_concurrent_streams: given.number("max-concurrent-streams")?,
    };
    let wants_tls = config.client_urls.iter().chain(&config.metrics_urls).find(|url| url.tls());
    if let (Some(url), None) = (wants_tls, &config.tls) {
        return Err(invalid(format!(
            "TLS key/cert (--cert-file, --key-file) must be provided for {url}"
        )));
    }
    if config.client_urls.is_empty() {
        return Err(invalid("--listen-client-urls is empty: nobody could connect"));
    }
    Ok(config)
}

fn tls(given: &flags::Given) -> Result<Option<TlsConfig>, ConfigError> {
    let demand = given.switch("client-cert-auth")?;
    let ca = given.set("trusted-ca-file").map(PathBuf::from);
    match (given.set("cert-file"), given.set("key-file")) {
        (Some(cert), Some(key)) => {
            if demand && ca.is_none() {
                return Err(invalid("--client-cert-auth needs --trusted-ca-file"));
            }
            Ok(Some(TlsConfig { cert_file: cert.into(), key_file: key.into(), client_ca_file: ca }))
        }
        (None, None) if demand || ca.is_some() => {
            Err(invalid("--client-cert-auth and --trusted-ca-file need --cert-file and --key-file"))
        }
        (None, None) => Ok(None),
        _ => Err(invalid("--cert-file and --key-file must both be present or both be absent")),
    }
}

fn member(given: &mut flags::Given, name: String) -> Result<MemberConfig, ConfigError> {
    if given.set("listen-client-urls").is_some() && given.set("advertise-client-urls").is_none() {
        return Err(invalid(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ));
    }
    match given.text("initial-cluster-state") {
        "new" => {}
        "existing" => {
            return Err(invalid(
                "--initial-cluster-state=existing: joining a cluster is not built yet",
            ));
        }
        other => return Err(invalid(format!("unexpected clusterState {other:?}"))),
    }
    let advertise_peer_urls = url_list(given, "initial-advertise-peer-urls")?;
    if advertise_peer_urls.is_empty() {
        return Err(invalid("--initial-advertise-peer-urls is empty"));
    }
    let initial_cluster = match given.set("initial-cluster") {
        Some(list) => urls::parse_cluster(list)
            .map_err(|reason| invalid(format!("--initial-cluster: {reason}")))?,
        None => ClusterMap::from([(name.clone(), advertise_peer_urls.clone())]),
    };
    let Some(own) = initial_cluster.get(&name) else {
        return Err(invalid(format!(
            "couldn't find local name {name:?} in the initial cluster configuration"
        )));
    };
    if let Some(url) = own.iter().find(|url| !advertise_peer_urls.contains(url)) {
        return Err(invalid(format!(
            "--initial-cluster has {name}={url} but missing from --initial-advertise-peer-urls"
        )));
    }
    if let Some(url) = advertise_peer_urls.iter().find(|url| !own.contains(url)) {
        return Err(invalid(format!(
            "--initial-advertise-peer-urls has {url} but missing from --initial-cluster"
        )));
    }
    if initial_cluster.len() > 1 {
        return Err(invalid("--initial-cluster: more than one member is not built yet"));
    }
    Ok(MemberConfig {
        name,
        advertise_peer_urls,
        advertise_client_urls: url_list(given, "advertise-client-urls")?,
        initial_cluster,
        cluster_token: given.text("initial-cluster-token").to_owned(),
    })
}

/// etcd's ceiling for the election timeout.
const ELECTION_MAX_MS: u64 = 50_000;

fn raft(given: &flags::Given) -> Result<RaftConfig, ConfigError> {
    let heartbeat: u64 = given.number("heartbeat-interval")?;
    let election: u64 = given.number("election-timeout")?;
    if heartbeat == 0 {
        return Err(invalid("--heartbeat-interval must be >0 (set to 0ms)"));
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(invalid(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as \
             --heartbeat-interval[{heartbeat}ms]"
        )));
    }
    if election > ELECTION_MAX_MS {
        return Err(invalid(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than \
             {ELECTION_MAX_MS}ms"
        )));
    }
    Ok(RaftConfig {
        heartbeat: Duration::from_millis(heartbeat),
        election_timeout: Duration::from_millis(election),
    })
}

/// etcd's floor for progress notifications.
const PROGRESS_MIN: Duration = Duration::from_millis(100);

fn requests(given: &mut flags::Given) -> Result<RequestConfig, ConfigError> {
    const OLD: &str = "experimental-watch-progress-notify-interval";
    let mut flag = "watch-progress-notify-interval";
    if given.set(OLD).is_some() {
        given.warnings.push(format!("--{OLD} is now --{flag}"));
        flag = OLD;
    }
    let interval = duration::parse(given.text(flag))
        .ok_or_else(|| flags::invalid_value(flag, given.text(flag)))?;
    let max_bytes = given.number("max-request-bytes")?;
    if max_bytes > i32::MAX as usize {
        return Err(invalid("--max-request-bytes is above 2 GiB, the most one message can carry"));
    }
    Ok(RequestConfig {
        max_bytes,
        max_txn_ops: given.number("max-txn-ops")?,
        watch_progress_interval: interval.max(PROGRESS_MIN),
    })
}

fn compaction(given: &flags::Given) -> Result<AutoCompaction, ConfigError> {
    const FLAG: &str = "auto-compaction-retention";
    let text = given.text(FLAG);
    let bad = || invalid(format!("error parsing --{FLAG} {text:?}"));
    match given.text("auto-compaction-mode") {
        "revision" => match text.parse::<i64>().map_err(|_| bad())? {
            0 => Ok(AutoCompaction::Off),
            keep if keep < 0 => Err(bad()),
            keep => Ok(AutoCompaction::Revision(keep)),
        },
        "periodic" => {
            // A bare number is hours.
            let period = match text.parse::<u64>() {
                Ok(hours) => Some(Duration::from_secs(hours.saturating_mul(3600))),
                Err(_) => duration::parse(text),
            };
            match period.ok_or_else(bad)? {
                Duration::ZERO => Ok(AutoCompaction::Off),
                period => Ok(AutoCompaction::Periodic(period)),
            }
        }
        "" => Err(invalid("undefined auto-compaction-mode")),
        other => Err(invalid(format!("unknown auto-compaction-mode {other:?}"))),
    }
}

fn log(given: &flags::Given) -> Result<LogConfig, ConfigError> {
    if given.text("logger") != "zap" {
        return Err(invalid(format!("unknown logger option {:?}", given.text("logger"))));
    }
    let level = match given.text("log-level") {
        "debug" => tracing::Level::DEBUG,
        "info" => tracing::Level::INFO,
        "warn" => tracing::Level::WARN,
        // Nothing is logged above error: what is worse stops the process with its reason.
        "error" | "dpanic" | "panic" | "fatal" => tracing::Level::ERROR,
        other => return Err(invalid(format!("unrecognized level: {other:?}"))),
    };
    let json = match given.text("log-format") {
        "json" => true,
        "console" => false,
        other => return Err(invalid(format!("unknown log-format {other:?}"))),
    };
    let stdout = match given.text("log-outputs") {
        "default" | "stderr" | "systemd/journal" => false,
        "stdout" => true,
        other => {
            return Err(invalid(format!(
                "--log-outputs={other}: only stderr and stdout are built"
            )));
        }
    };
    Ok(LogConfig { level, json, stdout })
}

#[cfg(test)]
mod tests;
