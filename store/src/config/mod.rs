//! From what was typed to what it means, in two stages: `flags` reads the command line and the
//! environment, `file` a configuration file, both by one `table`; `check` looks at everything once
//! and sorts it by owner. No port is bound and nothing written here, so a bad option is told before
//! anything is touched.
//!
//! Each subsystem takes its own small struct and never sees the rest. A program that embeds a
//! store starts from [`Config::new`] and sets the fields it cares about.

mod check;
pub(crate) mod duration;
mod file;
mod flags;
pub mod gates;
mod help;
mod table;
mod telling;
pub mod tls;
pub mod urls;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

pub use gates::{FeatureGates, Gate};
pub use telling::{LogConfig, LogOutput, Rotation, SlowConfig};
pub use tls::{Identity, TlsConfig, TlsVersion};
pub use urls::{ClusterMap, Place, Url};

use crate::limits;

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
    /// What is served beside gRPC, and to whom.
    pub http: HttpConfig,
    /// Where and how it stores.
    pub disk: DiskConfig,
    /// The clock of consensus.
    pub raft: RaftConfig,
    /// What a client may ask for at once.
    pub requests: RequestConfig,
    /// Users' passwords and tokens.
    pub auth: AuthConfig,
    /// Compaction by itself.
    pub compaction: AutoCompaction,
    /// How fast any compaction goes.
    pub pace: CompactionPace,
    /// What etcd still tries out.
    pub gates: FeatureGates,
    /// What is slow enough to be told.
    pub slow: SlowConfig,
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
    /// A member without data must not begin a cluster of its own.
    pub existing: bool,
}

/// Listeners. Plain and TLS ones may stand side by side.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// Client places: `https` and `unixs` URLs use `tls`.
    pub client_urls: Vec<Url>,
    /// Not empty: HTTP is served here, and the client places speak gRPC only.
    pub client_http_urls: Vec<Url>,
    /// Peer ports; nothing listens there until replication is built.
    pub peer_urls: Vec<Url>,
    /// HTTP only: metrics and health.
    pub metrics_urls: Vec<Url>,
    /// Certificates of all of them.
    pub tls: Option<TlsConfig>,
    /// HTTP/2 streams a connection may hold open.
    pub max_concurrent_streams: u32,
    /// How idle clients are asked whether they live.
    pub keepalive: KeepaliveConfig,
    /// `SO_REUSEPORT`.
    pub reuse_port: bool,
    /// `SO_REUSEADDR`.
    pub reuse_address: bool,
}

/// Pings: to clients that have said nothing for a while, and from clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveConfig {
    /// Silence before a ping; `None` is never.
    pub interval: Option<Duration>,
    /// Silence after it that ends the connection.
    pub timeout: Duration,
    /// How long a client has to wait between pings of its own.
    pub min_time: Duration,
}

/// HTTP beside gRPC.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// JSON under `/v3/`.
    pub gateway: bool,
    /// Origins that browsers may call from.
    pub cors: Allowed,
    /// Host names taken on plain HTTP.
    pub hosts: Allowed,
    /// Histograms of every RPC in `/metrics`.
    pub metrics_extensive: bool,
}

/// All, or only some names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Every one.
    Any,
    /// These.
    Only(BTreeSet<String>),
}

impl Allowed {
    /// Reads a list of origins, as browsers name them.
    fn origins(list: &str) -> Result<Self, String> {
        if matches!(list, "" | "*") {
            return Ok(Self::Any);
        }
        let origins = list.split(',').map(str::trim);
        let origins = origins.map(|origin| match origin.split_once("://") {
            Some(("http" | "https", host)) if !host.is_empty() && !host.contains('/') => {
                Ok(origin.to_owned())
            }
            _ => Err(format!("{origin:?} is not like https://example.com")),
        });
        origins.collect::<Result<_, _>>().map(Self::Only)
    }

    /// Whether a name is among them.
    pub fn allows(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(names) => names.contains(name),
        }
    }
}

/// The disk.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// On the disk, or nowhere.
    pub storage: StorageKind,
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
    /// Wait until the disk has what is acknowledged.
    pub fsync: bool,
    /// Lock the process's memory against paging.
    pub lock_memory: bool,
}

/// `--storage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// Durable.
    Disk,
    /// Gone with the process; touches no directory.
    Memory,
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

/// Users' passwords and tokens.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// What tokens are made of.
    pub token: TokenKind,
    /// How long an unused simple token lives.
    pub token_ttl: Duration,
    /// Work of a password's hash: 4 to 31, each one twice the one before.
    pub bcrypt_cost: u32,
}

/// `--auth-token`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Random, kept in this member's memory.
    Simple,
    /// Signed, with options by name (`sign-method`, `pub-key`, `priv-key`, `ttl`).
    Jwt(BTreeMap<String, String>),
    /// None can be had: `--auth-token=''`.
    None,
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

/// `--compaction-batch-limit` and `--compaction-sleep-interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionPace {
    /// Revisions in one go.
    pub batch: usize,
    /// Between two goes.
    pub pause: Duration,
}

/// The quota etcd uses when none is set.
pub const QUOTA_DEFAULT_BYTES: u64 = limits::QUOTA_BYTES_DEFAULT;

impl Config {
    /// A single member with etcd's defaults that listens nowhere: the start for embedding.
    pub fn new(name: &str, data_dir: PathBuf) -> Self {
        let given = flags::Given::default();
        let mut config = check::everything(&given).expect("the defaults are sound");
        config.member.name = name.to_owned();
        let peers = config.member.advertise_peer_urls.clone();
        config.member.initial_cluster = ClusterMap::from([(name.to_owned(), peers)]);
        config.member.advertise_client_urls = Vec::new();
        config.listen.client_urls = Vec::new();
        config.listen.peer_urls = Vec::new();
        config.disk.data_dir = data_dir;
        config
    }

    /// The same without a disk: everything is gone with the process.
    pub fn in_memory(name: &str) -> Self {
        let mut config = Self::new(name, PathBuf::new());
        config.disk.storage = StorageKind::Memory;
        config
    }

    /// Reads a command line (without the program's name) and an environment, and the file they
    /// name if they name one.
    pub fn parse(
        args: impl Iterator<Item = String>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Request, ConfigError> {
        let mut given = flags::from_args(args)?;
        if given.help {
            return Ok(Request::Help);
        }
        if given.switch("version") {
            return Ok(Request::Version);
        }
        let env: Vec<(String, String)> = env.collect();
        let variable = env.iter().find(|(key, _)| key == "ETCD_CONFIG_FILE");
        let path = given.set("config-file").or_else(|| variable.map(|(_, path)| path.as_str()));
        if let Some(path) = path.filter(|path| !path.is_empty()) {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::Invalid(format!("open {path}: {error}")))?;
            let (config, mut warnings) = Self::from_yaml(&text)?;
            if !given.is_only("config-file") || env.iter().any(is_option) {
                warnings.push(format!("{path} is used; other flags and variables are ignored"));
            }
            return Ok(Request::Run(Box::new(config), warnings));
        }
        flags::add_env(&mut given, env.into_iter())?;
        let (config, warnings) = check::with_warnings(given)?;
        Ok(Request::Run(Box::new(config), warnings))
    }

    /// Reads the text of a configuration file: the configuration, and what should be said.
    pub fn from_yaml(text: &str) -> Result<(Self, Vec<String>), ConfigError> {
        check::with_warnings(file::from_yaml(text)?)
    }

    /// What `--help` prints.
    pub fn help() -> String {
        help::text()
    }
}

/// Whether a variable is an option beside the file's name.
fn is_option((key, value): &(String, String)) -> bool {
    key.starts_with("ETCD_") && key != "ETCD_CONFIG_FILE" && !value.is_empty()
}

fn invalid(reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid(reason.into())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole;
