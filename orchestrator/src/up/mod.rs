//! `orchestrator up`: a whole cluster in one process.
//!
//! ```text
//! flags ─ config ─▶ data directory ─▶ certificates ─▶ store ─▶ API server ─▶ scheduler, controllers
//!                                                                    └─▶ kubelet, proxy ─▶ node Ready
//! ```
//!
//! Each step is one line on the terminal. What can be wrong with the machine (not root, ports, address
//! ranges, the data directory) is found out before the store is opened. After that the process waits for
//! the first of: Ctrl-C, SIGTERM, a part that fails.
//!
//! Stopping goes backwards. Ctrl-C first stops those who would replace a stopping pod, then the pods,
//! gracefully; their objects stay, so the next `up` starts them again. A second Ctrl-C, or SIGTERM,
//! leaves the containers running: they belong to their shims, and the next `up` adopts them.

pub mod alone;
mod backend;
mod cluster;
pub mod config;
pub mod data_dir;
pub mod down;
mod host;
mod progress;
pub mod record;
mod signals;

use std::net::{IpAddr, SocketAddr};

use crate::cli::{args, logging, root};
use crate::kubeconfig::{self, Caller, Entry};
use crate::pki::{Pki, Role};
use anyhow::Context as _;
use backend::Backend;
use cluster::{Cluster, Listeners, Setup};
use config::{Config, StoreConfig};
use data_dir::DataDir;
use progress::Progress;
use record::{KubeconfigEntry, NodeTrace, Record};
use signals::{Signals, Wish};

/// Runs a cluster until it is asked to stop.
pub fn run(args: args::Up) -> anyhow::Result<()> {
    let host_name = host::name().context("cannot read the host name")?;
    let config = Config::new(args, &host_name)?;
    logging::filter(&config.log_level)?;
    if config.node.is_some() {
        root::require("a node (leave it out with --no-node)")?;
    }
    let mut progress = Progress::new();
    let data = DataDir::open(&config.data_dir)?;
    logging::to_file(&data.path().join("orchestrator.log"), &config.log_level)?;
    let runtime = runtime()?;
    let result = runtime.block_on(serve(&config, &host_name, &data, &mut progress));
    // Whatever still blocks a thread of the pool must not hold the process.
    runtime.shutdown_background();
    result
}

/// The runtime of every role with more than one task.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    raise_open_files();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start worker threads")
}

/// Watches and connections each take a descriptor; the usual soft limit of 1024 is for `select`.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

async fn serve(
    config: &Config,
    host_name: &str,
    data: &DataDir,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    progress.say(&format!(
        "orchestrator {}, data in {}",
        env!("CARGO_PKG_VERSION"),
        data.path().display()
    ));
    preflight(config, progress).await?;
    let listeners = Listeners::bind(config).await?;
    let pki = certificates(config, host_name, data, progress)?;

    let backend = Backend::start(&config.store, &pki, data.path()).await?;
    let what = match &config.store {
        StoreConfig::Embedded(listen) => listen.url.clone(),
        StoreConfig::Remote(_) => {
            format!("{} (not in this process)", backend.access.endpoints.join(","))
        }
    };
    progress.done("store", &what);
    if matches!(&config.store, StoreConfig::Embedded(listen) if !listen.tls) {
        progress
            .warn("the store listens without TLS: every local user can read and change everything");
    }

    let kubeconfig = write_access(config, &pki, &backend, data)?;
    let setup = Setup {
        advertise: host::advertised(config.api, config.ranges)
            .context("cannot list this machine's addresses")?,
        config,
        pki: &pki,
        data_dir: data.path(),
    };
    let started = tokio::select! {
        started = Cluster::start(&setup, backend.store.clone(), listeners, progress) => started,
        wish = signals.next() => {
            progress.say("Stopped before it was ready; pods stay as they are.");
            backend.shutdown().await;
            return if wish == Wish::StopPods { Err(anyhow::anyhow!("interrupted")) } else { Ok(()) };
        }
    };
    let result = match started {
        Ok(cluster) => {
            say_ready(progress, &kubeconfig, config.node.is_some());
            supervise(&cluster, &backend, &mut signals, progress).await
        }
        Err(error) => Err(error),
    };
    backend.shutdown().await;
    result
}

/// Waits for the end, and brings it about.
async fn supervise(
    cluster: &Cluster,
    backend: &Backend,
    signals: &mut Signals,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    tokio::select! {
        wish = signals.next() => {
            cluster.stop(wish, signals, progress).await;
            Ok(())
        }
        failure = cluster.failed() => {
            cluster.abandon().await;
            Err(failure)
        }
        reason = backend.failed() => {
            cluster.abandon().await;
            Err(anyhow::anyhow!("store: {reason}"))
        }
    }
}

/// Says what on this machine stands in the way of pods, and refuses to start where it would break it.
async fn preflight(config: &Config, progress: &mut Progress) -> anyhow::Result<()> {
    use crate::kubelet::network::{BRIDGE, Finding, preflight};
    if config.node.is_none() {
        return Ok(());
    }
    let findings = preflight(config.ranges.cluster, config.ranges.service, BRIDGE).await?;
    for finding in findings {
        // Our own route to the Service range, left by an earlier run.
        if matches!(&finding, Finding::Overlap { link, .. } if link == "lo") {
            continue;
        }
        anyhow::ensure!(!finding.is_fatal(), "{finding}");
        progress.warn(&finding.to_string());
    }
    Ok(())
}

fn certificates(
    config: &Config,
    host_name: &str,
    data: &DataDir,
    progress: &mut Progress,
) -> anyhow::Result<Pki> {
    let names = host::names(host_name, &config.node_name, config.ranges, config.api.ip())
        .context("cannot list this machine's addresses")?;
    let now = time::OffsetDateTime::now_utc();
    let pki = Pki::open(&data.path().join("pki"), &names, now)?;
    let detail = match pki.renewed.len() {
        0 => String::new(),
        count => format!("{count} made"),
    };
    progress.done("certificates", &detail);
    Ok(pki)
}

/// Writes the kubeconfig, and the record for `env` and `down`. Returns what to tell about it.
fn write_access(
    config: &Config,
    pki: &Pki,
    backend: &Backend,
    data: &DataDir,
) -> anyhow::Result<KubeconfigEntry> {
    let admin = pki.identity(Role::Admin)?;
    let ip = config.api.ip();
    let host = if ip.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { ip };
    let entry = Entry {
        server: format!("https://{}", SocketAddr::new(host, config.api.port())),
        ca_pem: pki.ca_pem.clone(),
        cert_pem: admin.cert_pem,
        key_pem: admin.key_pem,
    };
    let target = kubeconfig::locate(config.kubeconfig.as_deref(), &Caller::from_env())?;
    let context = kubeconfig::add(&target, &entry)?;
    let kubeconfig = KubeconfigEntry { path: target.path, context };
    let at = || format!("cannot write to data directory {}", data.path().display());
    // A node that once ran here leaves traces that `down` must find, also after a `--no-node`.
    let before = Record::read(data.path()).with_context(at)?.and_then(|record| record.node);
    let node = config.node.is_some().then(|| NodeTrace::of(config.ranges));
    let record = Record {
        store: backend.access.clone(),
        kubeconfig: Some(kubeconfig.clone()),
        node: node.or(before),
    };
    record.write(data.path()).with_context(at)?;
    Ok(kubeconfig)
}

fn say_ready(progress: &Progress, kubeconfig: &KubeconfigEntry, with_node: bool) {
    let KubeconfigEntry { path, context } = kubeconfig;
    progress
        .say(&format!("The cluster is ready after {}. In a second terminal:", progress.total()));
    progress.say(&format!(
        "  kubectl get nodes     context \"{context}\" in {} is current",
        path.display()
    ));
    progress.say("  orchestrator env      variables for etcdctl");
    progress.say(if with_node {
        "Ctrl-C stops the pods and this process; pressed twice, the pods stay."
    } else {
        "Ctrl-C stops this process."
    });
}
