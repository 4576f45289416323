//! The grammar of the command line. Each flag says what it is for, so that `--help` teaches.
//!
//! These structs hold what was typed; each sub-command turns its own into what it means and checks it
//! there, before it touches a file or a port.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

const AFTER_HELP: &str = "\
Getting started:
  sudo orchestrator up               start a whole cluster in this terminal
In a second terminal:
  kubectl apply -f orchestrator/examples/hello.yaml
  kubectl get pods -o wide           three replicas behind a Service
  eval \"$(sudo orchestrator env)\"    then etcdctl, as root, reads the cluster's store
  sudo orchestrator down --purge     remove everything it made";

/// A Kubernetes-compatible cluster in one binary.
#[derive(Debug, Parser)]
#[command(name = "orchestrator", version, after_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

/// Every role of the binary.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole cluster in this process: store, API server, scheduler, controllers, node
    Up(Up),
    /// Stop `up` if it runs, then remove every pod, mount, namespace, cgroup, table and bridge it made
    Down(Down),
    /// Print the variables that point kubectl and etcdctl at this cluster: eval "$(orchestrator env)"
    Env(Env),
    /// Import, list and remove container images of this node
    #[command(subcommand)]
    Image(Image),
    /// Run the API server alone against a store
    Apiserver(Apiserver),
    /// Run the scheduler alone against a store
    Scheduler(Component),
    /// Run the controllers alone against a store
    Controllers(Component),
    /// Run the node agent alone against a store
    Kubelet(Kubelet),
    /// Run the Service proxy alone against a store
    Proxy(Proxy),
    /// Hold the containers of one pod (started by the kubelet)
    #[command(hide = true, disable_help_flag = true)]
    Shim(Shim),
    /// Print the version
    Version,
}

/// Where the cluster keeps its files.
#[derive(Debug, Clone, clap::Args)]
pub struct Data {
    /// Directory of the store's data, certificates, images and pods
    #[arg(
        long,
        value_name = "DIR",
        env = "ORCHESTRATOR_DATA_DIR",
        default_value = "/var/lib/orchestrator"
    )]
    pub data_dir: PathBuf,
}

/// A store that runs elsewhere: ours or etcd.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Store {
    /// Endpoints of a running store (ours or etcd), separated by commas, e.g. https://10.0.0.5:2379
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub store_endpoints: Vec<String>,
    /// CA that signed the store's server certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub store_cacert: Option<PathBuf>,
    /// Client certificate shown to the store (PEM)
    #[arg(long, value_name = "FILE", requires = "store_key")]
    pub store_cert: Option<PathBuf>,
    /// Key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "store_cert")]
    pub store_key: Option<PathBuf>,
}

/// How much the process says about itself.
#[derive(Debug, Clone, clap::Args)]
pub struct Log {
    /// Verbosity: error, warn, info, debug, trace, or per module: info,orchestrator::proxy=debug
    #[arg(long, value_name = "LEVEL", env = "ORCHESTRATOR_LOG", default_value = "info")]
    pub log_level: String,
}

/// The address ranges of pods and Services.
#[derive(Debug, Clone, clap::Args)]
pub struct Cidrs {
    /// Range the pods take their addresses from; must not overlap a route of this host
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16")]
    pub cluster_cidr: String,
    /// Range the Services take their virtual addresses from; the first one is the API's own
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/12")]
    pub service_cidr: String,
}

/// Flags of `up`.
#[derive(Debug, Clone, clap::Args)]
pub struct Up {
    #[command(flatten)]
    pub data: Data,
    /// Kubeconfig to merge the cluster into [default: first of $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where the embedded store listens for etcd clients; http:// is plain text and open to every
    /// local user
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://127.0.0.1:2379",
        conflicts_with = "store_endpoints"
    )]
    pub store_listen: String,
    #[command(flatten)]
    pub store: Store,
    /// Run the control plane alone, without a node on this machine (needs no root)
    #[arg(long)]
    pub no_node: bool,
    /// Name of this machine's node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address the API server listens on
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub api_address: IpAddr,
    /// Port of the API server
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub api_port: u16,
    /// Port of the node agent
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub kubelet_port: u16,
    #[command(flatten)]
    pub cidrs: Cidrs,
    /// Seconds between two compactions of the store's history; 0 compacts never
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub compaction_interval: u64,
    #[command(flatten)]
    pub log: Log,
}

/// Flags of `down`.
#[derive(Debug, Clone, clap::Args)]
pub struct Down {
    #[command(flatten)]
    pub data: Data,
    /// Also delete the data directory (store, images, certificates) and the kubeconfig's context
    #[arg(long)]
    pub purge: bool,
    /// Kubeconfig to take the context out of [default: the one `up` wrote]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Flags of `env`.
#[derive(Debug, Clone, clap::Args)]
pub struct Env {
    #[command(flatten)]
    pub data: Data,
}

/// What can be done with images.
#[derive(Debug, Clone, Subcommand)]
pub enum Image {
    /// Import an OCI archive (.tar, .tar.gz) or layout directory
    Import(ImageImport),
    /// List the images of this node
    Ls(ImageLs),
    /// Remove an image by its name
    Rm(ImageRm),
}

/// Flags of `image import`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageImport {
    #[command(flatten)]
    pub data: Data,
    /// The archive or layout directory
    pub path: PathBuf,
    /// Name to give the image, e.g. web:v1 [default: the name inside the archive]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// Flags of `image ls`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageLs {
    #[command(flatten)]
    pub data: Data,
}

/// Flags of `image rm`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageRm {
    #[command(flatten)]
    pub data: Data,
    /// Name of the image, as `image ls` shows it
    pub name: String,
}

/// Flags every lone component takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Component {
    #[command(flatten)]
    pub data: Data,
    #[command(flatten)]
    pub store: Store,
    #[command(flatten)]
    pub log: Log,
}

/// Flags of `apiserver`.
#[derive(Debug, Clone, clap::Args)]
pub struct Apiserver {
    #[command(flatten)]
    pub component: Component,
    /// Address the API server listens on
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub api_address: IpAddr,
    /// Port of the API server
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub api_port: u16,
    #[command(flatten)]
    pub cidrs: Cidrs,
    /// Seconds between two compactions of the store's history; 0 compacts never
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub compaction_interval: u64,
}

/// Flags of `kubelet`.
#[derive(Debug, Clone, clap::Args)]
pub struct Kubelet {
    #[command(flatten)]
    pub component: Component,
    /// Name of this machine's node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Port of the node agent
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Port of the API server on this machine, given to pods that talk to it
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub api_port: u16,
    #[command(flatten)]
    pub cidrs: Cidrs,
}

/// Flags of `proxy`.
#[derive(Debug, Clone, clap::Args)]
pub struct Proxy {
    #[command(flatten)]
    pub component: Component,
    /// Name of this machine's node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    #[command(flatten)]
    pub cidrs: Cidrs,
}

/// The shim's own words; parsed by the shim, shown here only so that the name is taken.
#[derive(Debug, Clone, clap::Args)]
pub struct Shim {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub words: Vec<OsString>,
}
