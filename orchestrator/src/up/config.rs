//! What `up` was asked for, checked before a file or a port is touched.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::api::Cidr;
use crate::cli::args;

/// Smallest part of the Service range that has room for the API's address and a few more.
const PREFIX_MAX: u8 = 28;
/// A node takes a /24 of the pod range.
const CLUSTER_PREFIX_MAX: u8 = 24;
/// Longest name of a node, as for every object.
const NODE_NAME_MAX: usize = 253;

/// Everything `up` needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub kubeconfig: Option<PathBuf>,
    pub store: StoreConfig,
    /// `None` for a control plane alone.
    pub node: Option<NodeConfig>,
    /// The name for certificates, node or not.
    pub node_name: String,
    pub api: SocketAddr,
    pub ranges: Ranges,
    /// Time between two compactions; zero for never.
    pub compact_every: Duration,
    pub log_level: String,
}

/// Which store is used.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// One in this process.
    Embedded(StoreListen),
    /// One that runs elsewhere.
    Remote(args::Store),
}

/// Where the embedded store listens for etcd's clients.
#[derive(Debug, Clone)]
pub struct StoreListen {
    pub url: String,
    pub tls: bool,
}

/// This machine as a node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub kubelet_port: u16,
}

/// The address ranges of the cluster.
#[derive(Debug, Clone, Copy)]
pub struct Ranges {
    pub cluster: Cidr,
    pub service: Cidr,
}

impl Ranges {
    /// Reads both ranges.
    pub fn parse(args: &args::Cidrs) -> anyhow::Result<Self> {
        let cluster = range("--cluster-cidr", &args.cluster_cidr, CLUSTER_PREFIX_MAX)?;
        let service = range("--service-cidr", &args.service_cidr, PREFIX_MAX)?;
        ensure!(
            !cluster.overlaps(service),
            "--cluster-cidr {cluster} and --service-cidr {service} overlap; choose another for one of them"
        );
        Ok(Self { cluster, service })
    }

    /// Where pods find the API: the first address of the Service range.
    pub fn api_service(&self) -> IpAddr {
        self.service.nth(1).expect("the range was checked to have more than one address").into()
    }

    /// The node's part of the pod range. There is one node, so it is the first.
    pub fn pods(&self) -> Cidr {
        let text = format!("{}/{CLUSTER_PREFIX_MAX}", self.cluster.network());
        text.parse().expect("the range was checked to hold a node's part")
    }

    /// The node's own address on its bridge: the first of its part.
    pub fn bridge(&self) -> Ipv4Addr {
        self.pods().nth(1).expect("a node's part has 256 addresses")
    }
}

fn range(flag: &str, text: &str, prefix_max: u8) -> anyhow::Result<Cidr> {
    let range: Cidr = text.parse().map_err(anyhow::Error::msg).context(flag.to_owned())?;
    ensure!(
        range.prefix_length() <= prefix_max,
        "{flag}: {range} is too small; its prefix may be /{prefix_max} at most"
    );
    Ok(range)
}

impl Config {
    /// Turns what was typed into what it means.
    pub fn new(args: args::Up, host_name: &str) -> anyhow::Result<Self> {
        let ranges = Ranges::parse(&args.cidrs)?;
        let store = if args.store.store_endpoints.is_empty() {
            let stray = [&args.store.store_cacert, &args.store.store_cert, &args.store.store_key];
            ensure!(
                stray.iter().all(|flag| flag.is_none()),
                "--store-cacert, --store-cert and --store-key go with --store-endpoints"
            );
            StoreConfig::Embedded(store_listen(&args.store_listen)?)
        } else {
            check_endpoints(&args.store)?;
            StoreConfig::Remote(args.store)
        };
        Ok(Self {
            data_dir: absolute(&args.data.data_dir)?,
            kubeconfig: args.kubeconfig,
            store,
            node: (!args.no_node).then_some(NodeConfig { kubelet_port: args.kubelet_port }),
            node_name: node_name(args.node_name.as_deref(), host_name)?,
            api: SocketAddr::new(args.api_address, args.api_port),
            ranges,
            compact_every: Duration::from_secs(args.compaction_interval),
            log_level: args.log.log_level,
        })
    }
}

/// A path that stays valid in another working directory.
pub fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()))
}

fn store_listen(url: &str) -> anyhow::Result<StoreListen> {
    let (scheme, rest) = url.split_once("://").with_context(|| {
        format!("--store-listen {url:?} is not a URL such as https://127.0.0.1:2379")
    })?;
    let tls = match scheme {
        "https" => true,
        "http" => false,
        _ => bail!("--store-listen {url:?}: the scheme may be https or http"),
    };
    rest.trim_end_matches('/').parse::<SocketAddr>().with_context(|| {
        format!("--store-listen {url:?}: an IP address and a port are needed, as in 127.0.0.1:2379")
    })?;
    Ok(StoreListen { url: url.trim_end_matches('/').to_owned(), tls })
}

/// Endpoints are URLs of one scheme; certificates only make sense with TLS.
pub fn check_endpoints(store: &args::Store) -> anyhow::Result<()> {
    for endpoint in &store.store_endpoints {
        let known = endpoint.starts_with("https://") || endpoint.starts_with("http://");
        ensure!(
            known,
            "--store-endpoints: {endpoint:?} is not a URL such as https://10.0.0.5:2379"
        );
    }
    let plain = store.store_endpoints.iter().any(|endpoint| endpoint.starts_with("http://"));
    ensure!(
        !plain || (store.store_cacert.is_none() && store.store_cert.is_none()),
        "--store-endpoints: certificates are given, but an endpoint is http://"
    );
    Ok(())
}

/// The flag as it is, or the host's name made into a node name.
pub fn node_name(flag: Option<&str>, host_name: &str) -> anyhow::Result<String> {
    let Some(name) = flag else {
        let made = host_name.to_ascii_lowercase().replace('_', "-");
        ensure!(
            is_node_name(&made),
            "the host name {host_name:?} cannot name a node; give one with --node-name"
        );
        return Ok(made);
    };
    ensure!(
        is_node_name(name),
        "--node-name {name:?}: lower-case letters, digits, '-' and '.' only, with a letter or digit at both ends"
    );
    Ok(name.to_owned())
}

fn is_node_name(name: &str) -> bool {
    let inner =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-".contains(&byte);
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= NODE_NAME_MAX
        && name.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(edge)
                && bytes.last().is_some_and(edge)
                && bytes.iter().all(|byte| inner(*byte))
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn config(flags: &str) -> Result<Config, String> {
        let words = ["orchestrator", "up"].into_iter().chain(flags.split_whitespace());
        let parsed = args::Args::try_parse_from(words).map_err(|error| error.to_string())?;
        let args::Command::Up(up) = parsed.command else { return Err("not up".into()) };
        Config::new(up, "My_Box").map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn defaults_make_a_whole_cluster() {
        let config = config("").expect("defaults are fine");
        assert_eq!(config.node_name, "my-box");
        assert_eq!(config.api.port(), 6443);
        assert_eq!(config.ranges.api_service().to_string(), "10.96.0.1");
        assert!(config.node.is_some());
        assert!(matches!(config.store, StoreConfig::Embedded(StoreListen { tls: true, .. })));
    }

    /// Goal: each mistake has one line that names the flag and what would be right.
    #[test]
    fn mistakes_are_named() {
        for (flags, says) in [
            ("--cluster-cidr 10.96.0.0/16", "overlap"),
            ("--cluster-cidr banana", "--cluster-cidr: \"banana\" is not an IPv4 range"),
            ("--service-cidr 10.0.0.0/30", "--service-cidr: 10.0.0.0/30 is too small"),
            ("--cluster-cidr 10.244.0.0/25", "may be /24 at most"),
            ("--node-name Web_1", "--node-name \"Web_1\""),
            ("--node-name a..b", "--node-name \"a..b\""),
            ("--store-listen 127.0.0.1:2379", "is not a URL"),
            ("--store-listen https://localhost:2379", "an IP address and a port"),
            ("--store-listen ftp://127.0.0.1:1", "https or http"),
            ("--store-endpoints 10.0.0.5:2379", "is not a URL"),
            ("--store-endpoints http://a:1 --store-cacert ca", "an endpoint is http://"),
            ("--store-cacert ca", "go with --store-endpoints"),
            ("--store-cert c --store-endpoints https://a:1", "--store-key"),
            ("--store-listen http://127.0.0.1:1 --store-endpoints http://a:1", "cannot be used"),
            ("--api-port 70000", "70000"),
        ] {
            let error = config(flags).expect_err(flags);
            assert!(error.contains(says), "{flags}: {error}");
        }
    }
}
