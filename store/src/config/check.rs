//! What options mean together. Each function makes one owner's struct, or says in one line which
//! option is wrong; texts and exit codes are etcd's where etcd has one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::flags::Given;
use super::{
    Allowed, AuthConfig, AutoCompaction, ClusterMap, CompactionPace, Config, ConfigError,
    DiskConfig, FeatureGates, HttpConfig, KeepaliveConfig, ListenConfig, MemberConfig,
    QUOTA_DEFAULT_BYTES, RaftConfig, RequestConfig, StorageKind, TokenKind, Url, duration, invalid,
    telling, tls, urls,
};

/// What gRPC takes for the shortest time between a client's pings when nothing is said.
const PING_MIN_TIME_UNSET: Duration = Duration::from_secs(5 * 60);

/// Checks everything, and tells what is worth a warning.
pub(super) fn with_warnings(mut given: Given) -> Result<(Config, Vec<String>), ConfigError> {
    let config = everything(&given)?;
    let mut warnings = std::mem::take(&mut given.warnings);
    gates(&given)?.check(&mut warnings).map_err(invalid)?;
    remarks(&given, &config, &mut warnings);
    Ok((config, warnings))
}

/// Checks everything.
pub(super) fn everything(given: &Given) -> Result<Config, ConfigError> {
    let log = telling::log(given)?;
    let listen = listen(given)?;
    Ok(Config {
        member: member(given)?,
        listen,
        http: http(given)?,
        disk: disk(given)?,
        raft: raft(given)?,
        requests: requests(given)?,
        auth: auth(given)?,
        compaction: compaction(given)?,
        pace: pace(given)?,
        gates: gates(given)?,
        slow: telling::slow(given),
        log,
    })
}

/// What is allowed, and should be known.
fn remarks(given: &Given, config: &Config, warnings: &mut Vec<String>) {
    let mut say = |text: String| warnings.push(text);
    if config.member.name == "default" {
        say("no --name given: members of one cluster need names of their own".to_owned());
    }
    if given.set("listen-peer-urls").is_some() {
        say("--listen-peer-urls: there is no other member, so nothing listens there".to_owned());
    }
    for (old, new) in [
        ("experimental-watch-progress-notify-interval", "watch-progress-notify-interval"),
        ("experimental-initial-corrupt-check", "feature-gates=InitialCorruptCheck=true"),
    ] {
        if given.set(old).is_some() {
            say(format!("--{old} is now --{new}"));
        }
    }
    telling::remarks(given, &mut say);
    let listen = &config.listen;
    let places = || listen.client_urls.iter().chain(&listen.client_http_urls);
    if let Some(tls) = &listen.tls {
        for url in places().filter(|url| !url.tls()) {
            let lost = if tls.client_ca_file.is_some() { " and client certificates" } else { "" };
            say(format!("{url} is plain: certificate and key{lost} are not used there"));
        }
    }
    let cost = given.text("bcrypt-cost");
    if config.auth.bcrypt_cost.to_string() != cost {
        say(format!("--bcrypt-cost={cost} is not within 4 and 31; 10 is used"));
    }
    if config.disk.quota_bytes.is_some_and(|bytes| bytes > 8 << 30) {
        say("--quota-backend-bytes is above 8 GiB, the most that etcd's tools expect".to_owned());
    }
    const LARGE_REQUEST: usize = 10 << 20;
    if config.requests.max_bytes > LARGE_REQUEST {
        say("--max-request-bytes is above 10 MiB: one request can hold up many".to_owned());
    }
    if !config.disk.fsync {
        say("--unsafe-no-fsync: what is acknowledged can be lost".to_owned());
    }
    if config.disk.storage == StorageKind::Memory {
        say("--storage=memory: everything is gone when the process ends".to_owned());
    }
    if !matches!(given.text("metrics"), "basic" | "extensive") {
        say("--metrics is neither basic nor extensive; basic is used".to_owned());
    }
}

fn url_list(given: &Given, flag: &str) -> Result<Vec<Url>, ConfigError> {
    match given.text(flag) {
        "" => Ok(Vec::new()),
        list => Url::parse_list(list).map_err(|reason| invalid(format!("--{flag}: {reason}"))),
    }
}

fn bind_list(given: &Given, flag: &str) -> Result<Vec<Url>, ConfigError> {
    let urls = url_list(given, flag)?;
    for url in &urls {
        url.place().map_err(|reason| invalid(format!("--{flag}: {reason}")))?;
    }
    Ok(urls)
}

fn advertise_list(given: &Given, flag: &str) -> Result<Vec<Url>, ConfigError> {
    let urls = url_list(given, flag)?;
    if let Some(url) = urls.iter().find(|url| url.host() == Some("")) {
        let list = given.text(flag);
        return Err(invalid(format!(
            "--{flag} {list:?} must be \"host:port\" (unexpected empty host ({url}))"
        )));
    }
    Ok(urls)
}

fn listen(given: &Given) -> Result<ListenConfig, ConfigError> {
    let client_urls = bind_list(given, "listen-client-urls")?;
    let client_http_urls = bind_list(given, "listen-client-http-urls")?;
    let metrics_urls = bind_list(given, "listen-metrics-urls")?;
    if client_urls.is_empty() {
        return Err(invalid("--listen-client-urls is empty: nobody could connect"));
    }
    if let Some(url) = client_http_urls.iter().find(|url| client_urls.contains(url)) {
        return Err(invalid(format!(
            "{url} is in --listen-client-urls and in --listen-client-http-urls; choose one"
        )));
    }
    let places: Vec<&Url> = client_urls.iter().chain(&client_http_urls).collect();
    let tls = tls::tls(given, &places)?;
    if tls.is_none() {
        let needed = "TLS key/cert (--cert-file, --key-file) must be provided for";
        if let Some(url) = places.iter().find(|url| url.tls()) {
            return Err(invalid(format!("{needed} {url}")));
        }
        if let Some(url) = metrics_urls.iter().find(|url| url.tls()) {
            return Err(invalid(format!("client {needed} metrics secure url {url}")));
        }
    }
    let keepalive = KeepaliveConfig {
        interval: Some(given.time("grpc-keepalive-interval")).filter(|time| !time.is_zero()),
        timeout: given.time("grpc-keepalive-timeout"),
        min_time: match given.time("grpc-keepalive-min-time") {
            Duration::ZERO => PING_MIN_TIME_UNSET,
            min_time => min_time,
        },
    };
    Ok(ListenConfig {
        client_urls,
        client_http_urls,
        peer_urls: bind_list(given, "listen-peer-urls")?,
        metrics_urls,
        tls,
        max_concurrent_streams: given.number("max-concurrent-streams")?,
        keepalive,
        reuse_port: given.switch("socket-reuse-port"),
        reuse_address: given.switch("socket-reuse-address"),
    })
}

fn http(given: &Given) -> Result<HttpConfig, ConfigError> {
    let cors = Allowed::origins(given.text("cors"));
    let hosts = given.list("host-whitelist");
    let any = hosts.is_empty() || hosts.iter().any(|host| host == "*");
    Ok(HttpConfig {
        gateway: given.switch("enable-grpc-gateway"),
        cors: cors.expect("lists of origins are checked when they are given"),
        hosts: if any { Allowed::Any } else { Allowed::Only(hosts.into_iter().collect()) },
        metrics_extensive: given.text("metrics") == "extensive",
    })
}

fn disk(given: &Given) -> Result<DiskConfig, ConfigError> {
    let data_dir = match given.text("data-dir") {
        "" => format!("{}.etcd", given.text("name")),
        dir => dir.to_owned(),
    };
    let storage = match given.text("storage") {
        "memory" => StorageKind::Memory,
        _ => StorageKind::Disk,
    };
    Ok(DiskConfig {
        storage,
        data_dir: PathBuf::from(data_dir),
        wal_dir: given.set("wal-dir").map(PathBuf::from),
        snapshot_count: given.number("snapshot-count")?,
        cache_bytes: given.number("cache-bytes")?,
        quota_bytes: match given.number::<i64>("quota-backend-bytes")? {
            0 => Some(QUOTA_DEFAULT_BYTES),
            bytes => u64::try_from(bytes).ok(),
        },
        fsync: !given.switch("unsafe-no-fsync"),
        lock_memory: given.switch("memory-mlock"),
    })
}

fn member(given: &Given) -> Result<MemberConfig, ConfigError> {
    let name = given.text("name").to_owned();
    if given.set("listen-client-urls").is_some() && given.set("advertise-client-urls").is_none() {
        return Err(invalid(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ));
    }
    let advertise_peer_urls = advertise_list(given, "initial-advertise-peer-urls")?;
    if advertise_peer_urls.is_empty() {
        return Err(invalid("--initial-advertise-peer-urls is empty"));
    }
    let initial_cluster = match given.set("initial-cluster") {
        Some(list) => urls::parse_cluster(list)
            .map_err(|reason| invalid(format!("--initial-cluster: {reason}")))?,
        None => ClusterMap::from([(name.clone(), advertise_peer_urls.clone())]),
    };
    same_urls(&name, &advertise_peer_urls, &initial_cluster)?;
    if initial_cluster.len() > 1 {
        return Err(invalid("--initial-cluster: more than one member is not built yet"));
    }
    Ok(MemberConfig {
        name,
        advertise_peer_urls,
        advertise_client_urls: advertise_list(given, "advertise-client-urls")?,
        initial_cluster,
        cluster_token: given.text("initial-cluster-token").to_owned(),
        existing: given.text("initial-cluster-state") == "existing",
    })
}

/// The cluster must hold this member with the URLs it tells the others.
fn same_urls(name: &str, told: &[Url], cluster: &ClusterMap) -> Result<(), ConfigError> {
    let Some(own) = cluster.get(name) else {
        return Err(invalid(format!(
            "couldn't find local name {name:?} in the initial cluster configuration"
        )));
    };
    if let Some(url) = own.iter().find(|url| !told.contains(url)) {
        return Err(invalid(format!(
            "--initial-cluster has {name}={url} but missing from --initial-advertise-peer-urls"
        )));
    }
    if let Some(url) = told.iter().find(|url| !own.contains(url)) {
        return Err(invalid(format!(
            "--initial-advertise-peer-urls has {url} but missing from --initial-cluster"
        )));
    }
    Ok(())
}

/// etcd's ceiling for the election timeout.
const ELECTION_MAX_MS: u64 = 50_000;

fn raft(given: &Given) -> Result<RaftConfig, ConfigError> {
    let heartbeat: u64 = given.number("heartbeat-interval")?;
    let election: u64 = given.number("election-timeout")?;
    for (flag, value) in [("heartbeat-interval", heartbeat), ("election-timeout", election)] {
        if value == 0 {
            return Err(invalid(format!("--{flag} must be >0 (set to 0ms)")));
        }
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

fn requests(given: &Given) -> Result<RequestConfig, ConfigError> {
    const OLD: &str = "experimental-watch-progress-notify-interval";
    let flag = if given.set(OLD).is_some() { OLD } else { "watch-progress-notify-interval" };
    let max_bytes = given.number("max-request-bytes")?;
    if max_bytes > i32::MAX as usize {
        return Err(invalid("--max-request-bytes is above 2 GiB, the most one message can carry"));
    }
    Ok(RequestConfig {
        max_bytes,
        max_txn_ops: given.number("max-txn-ops")?,
        watch_progress_interval: given.time(flag).max(PROGRESS_MIN),
    })
}

fn auth(given: &Given) -> Result<AuthConfig, ConfigError> {
    const COST_DEFAULT: u32 = 10;
    const TTL_DEFAULT_SECONDS: u64 = 300;
    let seconds = match given.number("auth-token-ttl")? {
        0 => TTL_DEFAULT_SECONDS,
        seconds => seconds,
    };
    let cost = given.number("bcrypt-cost")?;
    Ok(AuthConfig {
        token: token(given.text_or_empty("auth-token"))?,
        token_ttl: Duration::from_secs(seconds),
        bcrypt_cost: if (4..=31).contains(&cost) { cost } else { COST_DEFAULT },
    })
}

/// `simple`, or `jwt,name=value,...`.
fn token(text: &str) -> Result<TokenKind, ConfigError> {
    // Never the whole value: an option may hold a key.
    let bad = |what: &str| invalid(format!("auth: invalid auth options (--auth-token: {what})"));
    let mut parts = text.split(',');
    let kind = parts.next().unwrap_or_default();
    let mut options = BTreeMap::new();
    for part in parts {
        let (name, value) = part
            .split_once('=')
            .filter(|(_, value)| !value.contains('='))
            .ok_or_else(|| bad("options are name=value"))?;
        if options.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(bad(&format!("{name} is given twice")));
        }
    }
    match kind {
        "" => Ok(TokenKind::None),
        "simple" => Ok(TokenKind::Simple),
        "jwt" => Ok(TokenKind::Jwt(options)),
        other => Err(bad(&format!("{other:?} is neither simple nor jwt"))),
    }
}

fn compaction(given: &Given) -> Result<AutoCompaction, ConfigError> {
    const FLAG: &str = "auto-compaction-retention";
    let text = given.text(FLAG);
    let bad = || invalid(format!("error parsing --{FLAG} {text:?}"));
    match given.text_or_empty("auto-compaction-mode") {
        "revision" => match text.parse::<i64>().map_err(|_| bad())? {
            0 => Ok(AutoCompaction::Off),
            keep if keep < 0 => Err(bad()),
            keep => Ok(AutoCompaction::Revision(keep)),
        },
        "periodic" => {
            // A bare number is hours.
            let period = match text.parse::<u64>() {
                Ok(hours) => hours.checked_mul(3600).map(Duration::from_secs),
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

fn pace(given: &Given) -> Result<CompactionPace, ConfigError> {
    let default = CompactionPace { batch: 1000, pause: Duration::from_millis(10) };
    let batch = match given.number::<i64>("compaction-batch-limit")? {
        0 => default.batch,
        batch => usize::try_from(batch)
            .map_err(|_| invalid("--compaction-batch-limit must not be negative"))?,
    };
    let pause = match given.time("compaction-sleep-interval") {
        Duration::ZERO => default.pause,
        pause => pause,
    };
    Ok(CompactionPace { batch, pause })
}

fn gates(given: &Given) -> Result<FeatureGates, ConfigError> {
    let mut list = given.text("feature-gates").to_owned();
    let old = given.set("experimental-initial-corrupt-check");
    if let Some(value) = old.filter(|_| !list.contains("InitialCorruptCheck")) {
        list.push_str(&format!(",InitialCorruptCheck={value}"));
    }
    FeatureGates::parse(&list).map_err(|reason| {
        let given = given.text("feature-gates");
        ConfigError::Usage(format!("invalid value {given:?} for flag -feature-gates: {reason}"))
    })
}
