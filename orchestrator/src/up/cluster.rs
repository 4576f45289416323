//! The parts of a cluster above its store, in stages that start in order and stop backwards.
//!
//! | stage | parts | stopped |
//! |---|---|---|
//! | `front` | API server | last: the others write until they end, and people look on |
//! | `control` | scheduler, controllers | first: they would replace every pod that stops |
//! | `edge` | proxy, and the caches of the node | third: it serves as long as there are pods |
//! | `node` | kubelet | second, with the pods or without |

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::config::{Config, Ranges};
use super::progress::Progress;
use super::signals::{Signals, Wish};
use crate::api::{Cidr, Key};
use crate::apiserver::{self, Pem, StaticToken};
use crate::client::etcd::Store;
use crate::client::view::{Lease, Namespace, Node, View};
use crate::client::{Cache, Context};
use crate::kubelet::network::{BRIDGE, NetworkConfig};
use crate::kubelet::{self, AtEnd, Dns, KubeletConfig, Leftovers, ServerTls};
use crate::pki::{Identity, Pki, Role};
use crate::proxy::{self, ProxyConfig};
use crate::registry::{self, Actor, Registry};
use crate::tasks::Tasks;
use crate::{controllers, scheduler};

/// How long a stage may take to stop.
const STAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pods may take as long as their grace periods say; this only keeps the number finite.
const PODS_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// A start that takes longer than this has failed.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

const LOG_DIR: &str = "/var/log/pods";
const CGROUP_ROOT: &str = "/kubepods";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const DOMAIN: &str = "cluster.local";
/// The only client a kubelet admits.
const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
const API_SERVICE_PORT: u16 = 443;

/// What the parts are started with.
pub(super) struct Setup<'a> {
    pub(super) config: &'a Config,
    pub(super) pki: &'a Pki,
    pub(super) data_dir: &'a Path,
    /// Where the `kubernetes` Service leads to.
    pub(super) advertise: SocketAddr,
}

/// The sockets, taken before anything else is touched.
pub(super) struct Listeners {
    pub(super) api: TcpListener,
    pub(super) kubelet: Option<TcpListener>,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> anyhow::Result<Self> {
        let api = bind("--api-port", config.api).await?;
        let kubelet = match &config.node {
            Some(node) => {
                let address = SocketAddr::from(([0, 0, 0, 0], node.kubelet_port));
                Some(bind("--kubelet-port", address).await?)
            }
            None => None,
        };
        Ok(Self { api, kubelet })
    }
}

/// Binds one socket; the error names the flag that would choose another.
pub(super) async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("cannot listen on {address} (choose another with {flag})"))
}

/// A running cluster.
pub(super) struct Cluster {
    root: Tasks,
    front: Tasks,
    control: Tasks,
    edge: Tasks,
    node: Tasks,
    at_end: AtEnd,
    /// Set when this machine is a node.
    has_node: bool,
}

impl Cluster {
    /// Starts every part and waits until it does its work.
    pub(super) async fn start(
        setup: &Setup<'_>,
        store: Store,
        listeners: Listeners,
        progress: &mut Progress,
    ) -> anyhow::Result<Self> {
        registry::claim(&store).await?;
        let root = Tasks::new();
        let cluster = Self {
            front: root.stage(),
            control: root.stage(),
            edge: root.stage(),
            node: root.stage(),
            at_end: AtEnd::default(),
            has_node: listeners.kubelet.is_some(),
            root,
        };
        let registry = Registry::new(store, registry_config(setup.config.ranges));
        let started = cluster.start_parts(setup, &registry, listeners, progress);
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(READY_TIMEOUT, started) => match outcome {
                Ok(outcome) => outcome,
                Err(_) => Err(anyhow::anyhow!("not ready after {} s", READY_TIMEOUT.as_secs())),
            },
            failure = cluster.failed() => Err(failure),
        };
        match outcome {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.abandon().await;
                Err(error)
            }
        }
    }

    async fn start_parts(
        &self,
        setup: &Setup<'_>,
        registry: &Registry,
        listeners: Listeners,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let config = ApiserverSetup {
            pki: setup.pki,
            advertise: setup.advertise,
            compact_every: setup.config.compact_every,
        };
        let config = config.config(registry.clone(), listeners.api)?;
        let stop = self.front.token();
        self.front.spawn("API server", &self.root, apiserver::run(config, stop));

        let context = Context::new(registry.clone(), &self.control, &self.root);
        let control = controllers::Config { root_ca: setup.pki.ca_pem.clone() };
        self.control.spawn("scheduler", &self.root, scheduler::run(context.clone()));
        self.control.spawn("controllers", &self.root, controllers::run(context.clone(), control));
        // The node's heartbeat is an object in this namespace, which the API server makes.
        let namespaces: Cache<Namespace> = context.caches.get();
        let lease_namespace = Key::cluster(LEASE_NAMESPACE);
        holds(&namespaces, || namespaces.get(&lease_namespace).is_some()).await;
        progress.done("control plane", &format!("https://{}", setup.config.api));

        if let Some(listener) = listeners.kubelet {
            let context = Context::new(registry.clone(), &self.edge, &self.root);
            self.start_node(setup, &context, listener).await?;
            progress.done("node", &format!("{} is Ready", setup.config.node_name));
        }
        Ok(())
    }

    /// Starts kubelet and proxy, and waits for the node's first sign of life.
    async fn start_node(
        &self,
        setup: &Setup<'_>,
        context: &Context,
        listener: TcpListener,
    ) -> anyhow::Result<()> {
        let started = Timestamp::now();
        let name = &setup.config.node_name;
        let ranges = setup.config.ranges;
        let config = KubeletSetup { name, ranges, data_dir: setup.data_dir, pki: setup.pki };
        let config = config.config(context.clone(), listener, setup.advertise)?;
        let kubelet = kubelet::run(config, self.node.token(), self.at_end.clone());
        self.node.spawn("kubelet", &self.root, kubelet);

        let config = ProxyConfig {
            node_name: name.clone(),
            cluster_cidr: ranges.cluster,
            service_cidr: ranges.service,
        };
        let proxy = proxy::run(context.clone(), config, self.edge.token());
        self.edge.spawn("proxy", &self.root, proxy);

        // The object may be there from an earlier run; the heartbeat tells that it is meant now.
        let leases: Cache<Lease> = context.caches.get();
        let key = Key::namespaced(LEASE_NAMESPACE, name);
        let beats = || leases.get(&key).and_then(|lease| lease.spec.renew_time);
        holds(&leases, || beats().is_some_and(|at| at >= started)).await;
        let nodes: Cache<Node> = context.caches.get();
        let key = Key::cluster(name);
        holds(&nodes, || nodes.get(&key).is_some_and(|node| is_ready(&node))).await;
        Ok(())
    }

    /// Waits until a part has failed, and says which.
    pub(super) async fn failed(&self) -> anyhow::Error {
        self.root.stopping().await;
        let failure = self.root.take_failure();
        failure.map_or_else(|| anyhow::anyhow!("the cluster stopped"), Into::into)
    }

    /// Stops everything and leaves the pods as they are.
    pub(super) async fn abandon(&self) {
        self.root.stop();
        for stage in [&self.control, &self.node, &self.edge, &self.front] {
            // What does not stop in time ends with the process.
            let _ = stage.wait(STAGE_TIMEOUT).await;
        }
    }

    /// Stops everything in order, with the pods if that is the wish.
    pub(super) async fn stop(&self, wish: Wish, signals: &mut Signals, progress: &mut Progress) {
        if wish == Wish::LeavePods || !self.has_node {
            progress.say(if self.has_node { "Stopping; pods stay." } else { "Stopping." });
            return self.abandon().await;
        }
        progress.begin("Stopping the pods; Ctrl-C once more to leave them.");
        self.control.stop();
        let _ = self.control.wait(STAGE_TIMEOUT).await;
        self.at_end.stop_pods();
        self.node.stop();
        tokio::select! {
            _ = self.node.wait(PODS_TIMEOUT) => progress.done("pods", "stopped"),
            () = show_left(&self.at_end, progress) => {}
            _ = signals.next() => progress.say("Pods that still run stay."),
        }
        self.abandon().await;
    }
}

/// Tells how many pods still stop, as often as that changes; never returns.
async fn show_left(at_end: &AtEnd, progress: &Progress) {
    let mut left = at_end.left();
    loop {
        let count = *left.borrow_and_update();
        if let Some(count) = count.filter(|count| *count > 0) {
            progress.say(&format!("  {count} left"));
        }
        if left.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Returns once the condition holds on the cache; it is looked at after every change.
async fn holds<T: View>(cache: &Cache<T>, condition: impl Fn() -> bool) {
    let changed = Arc::new(Notify::new());
    let told = Arc::clone(&changed);
    cache.subscribe(move |_| told.notify_one());
    while !condition() {
        changed.notified().await;
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = &node.status.conditions;
    conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
}

/// What an API server's configuration is made of.
pub(super) struct ApiserverSetup<'a> {
    pub(super) pki: &'a Pki,
    /// Where the `kubernetes` Service leads to.
    pub(super) advertise: SocketAddr,
    pub(super) compact_every: Duration,
}

impl ApiserverSetup<'_> {
    /// What the API server is started with.
    pub(super) fn config(
        &self,
        registry: Registry,
        listener: TcpListener,
    ) -> anyhow::Result<apiserver::Config> {
        Ok(apiserver::Config {
            listeners: vec![listener],
            identity: pem(self.pki.identity(Role::Apiserver)?),
            kubelet_client: pem(self.pki.identity(Role::ApiserverKubeletClient)?),
            authority: self.pki.ca_pem.clone(),
            tokens: vec![admin_token(self.pki)],
            registry,
            advertise: self.advertise,
            compact_every: self.compact_every,
        })
    }
}

/// What a registry of this cluster is made with.
pub(super) fn registry_config(ranges: Ranges) -> registry::Config {
    registry::Config { service_cidr: ranges.service, ..registry::Config::default() }
}

fn pem(identity: Identity) -> Pem {
    Pem { certificates: identity.cert_pem, key: identity.key_pem }
}

/// The token that stands for the person who runs the cluster.
fn admin_token(pki: &Pki) -> StaticToken {
    let groups = vec!["system:masters".to_owned()];
    let user = Actor { user: "kubernetes-admin".to_owned(), groups };
    StaticToken { token: pki.admin_token.clone(), user }
}

/// What a kubelet's configuration is made of.
pub(super) struct KubeletSetup<'a> {
    pub(super) name: &'a str,
    pub(super) ranges: Ranges,
    pub(super) data_dir: &'a Path,
    pub(super) pki: &'a Pki,
}

impl KubeletSetup<'_> {
    /// What the kubelet is started with; `api` is where the API server can be reached.
    pub(super) fn config(
        &self,
        context: Context,
        listener: TcpListener,
        api: SocketAddr,
    ) -> anyhow::Result<KubeletConfig> {
        let identity = self.pki.identity(Role::KubeletServer)?;
        let api_service = self.ranges.service.nth(1).context("the Service range is too small")?;
        Ok(KubeletConfig {
            context,
            node_name: self.name.to_owned(),
            node_ip: api.ip(),
            data_dir: self.data_dir.to_owned(),
            log_dir: LOG_DIR.into(),
            cgroup_root: CGROUP_ROOT.to_owned(),
            program: std::env::current_exe().context("cannot find this program's file")?,
            network: NetworkConfig {
                cluster_cidr: self.ranges.cluster,
                pod_cidr: self.ranges.pods(),
                bridge: BRIDGE.to_owned(),
            },
            dns: Dns { server: None, domain: DOMAIN.to_owned() },
            api_service: (api_service, API_SERVICE_PORT),
            listener,
            tls: ServerTls {
                certificate: identity.cert_pem,
                key: identity.key_pem,
                client_ca: self.pki.ca_pem.clone(),
                admitted: [KUBELET_CLIENT.to_owned()].into(),
            },
        })
    }
}

/// What a node leaves on this machine, for `down`.
pub(super) fn leftovers(data_dir: PathBuf, cluster_cidr: Option<Cidr>) -> Leftovers {
    Leftovers {
        data_dir,
        log_dir: LOG_DIR.into(),
        cgroup_root: CGROUP_ROOT.to_owned(),
        bridge: BRIDGE.to_owned(),
        cluster_cidr,
    }
}
