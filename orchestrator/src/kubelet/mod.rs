//! The node agent: runs the pods that are bound to this node.
//!
//! Reading order: [`pod`] decides (pure), the `worker` of each pod acts, the [`shim`] holds its
//! processes, [`images`] what they run, [`network`] how they are reached. `source` follows the pods
//! bound here, `node` is the node's own object and heartbeat, `server` answers the apiserver.
//!
//! On disk, below the data directory: `pods/<uid>/` (one pod: its shim's socket and state, its
//! volumes, the bundles of its containers), `kubelet/addresses.json` (who holds which pod address),
//! `images/`. Logs are where every tool looks for them, in `/var/log/pods`.
//!
//! The kubelet can die at any moment: pods live in their shims, and the next kubelet adopts them.

pub mod cgroup;
pub mod host;
pub mod images;
mod logs;
pub mod network;
mod node;
pub mod pod;
pub mod probes;
mod running;
mod server;
pub mod shim;
mod source;
mod teardown;
mod volumes;
mod worker;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use server::ServerTls;
pub use teardown::{Leftovers, teardown};
pub use volumes::Dns;

use crate::api::{Key, Object};
use crate::client::Context;
use crate::registry::{Actor, Registry};
use images::{ImageError, ImageStore};
use network::{Network, NetworkConfig, NetworkError};
use pod::oci::Host;
use running::Running;
use server::Server;
use source::Change;
use worker::{End, Told, Worker};

/// Changes of pods that wait to be handed to workers.
const CHANGES: usize = 256;

/// How the kubelet is started.
pub struct KubeletConfig {
    /// Caches, events, and the registry.
    pub context: Context,
    /// This node's name.
    pub node_name: String,
    /// This node's address, as others reach it.
    pub node_ip: IpAddr,
    /// Below it: `pods`, `images`, `kubelet`.
    pub data_dir: PathBuf,
    /// `/var/log/pods`.
    pub log_dir: PathBuf,
    /// `/kubepods`.
    pub cgroup_root: String,
    /// This very program: what shims are started from.
    pub program: PathBuf,
    /// Pod network.
    pub network: NetworkConfig,
    /// Name service inside pods.
    pub dns: Dns,
    /// Where pods find the API: address and port of the `kubernetes` Service.
    pub api_service: (Ipv4Addr, u16),
    /// Where the kubelet's own server listens.
    pub listener: TcpListener,
    /// Its certificates, and whom it admits.
    pub tls: ServerTls,
}

impl KubeletConfig {
    /// The variables by which every pod finds the API.
    fn api_variables(&self) -> Vec<(String, String)> {
        let (ip, port) = self.api_service;
        let url = format!("tcp://{ip}:{port}");
        [
            ("KUBERNETES_SERVICE_HOST", ip.to_string()),
            ("KUBERNETES_SERVICE_PORT", port.to_string()),
            ("KUBERNETES_SERVICE_PORT_HTTPS", port.to_string()),
            ("KUBERNETES_PORT", url.clone()),
            ("KUBERNETES_PORT_443_TCP", url),
            ("KUBERNETES_PORT_443_TCP_PROTO", "tcp".to_owned()),
            ("KUBERNETES_PORT_443_TCP_PORT", port.to_string()),
            ("KUBERNETES_PORT_443_TCP_ADDR", ip.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

/// Why the kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// The image store.
    #[error(transparent)]
    Images(#[from] ImageError),
    /// The pod network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A directory.
    #[error("{path}: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: std::io::Error,
    },
    /// Certificates of the server.
    #[error("{0}")]
    Tls(String),
}

/// What becomes of the pods when the kubelet ends; can be decided until it does.
#[derive(Debug, Clone, Default)]
pub struct AtEnd {
    stop_pods: watch::Sender<bool>,
    left: watch::Sender<Option<usize>>,
}

impl AtEnd {
    /// Pods are left running for the next kubelet unless this is called before the end.
    pub fn stop_pods(&self) {
        self.stop_pods.send_replace(true);
    }

    /// How many pods still stop, once they do: for a progress display.
    pub fn left(&self) -> watch::Receiver<Option<usize>> {
        self.left.subscribe()
    }
}

/// What all workers share.
struct Shared {
    config: KubeletConfig,
    actor: Actor,
    images: ImageStore,
    network: Network,
    host: Host,
    running: Arc<Running>,
}

impl Shared {
    fn registry(&self) -> &Registry {
        &self.config.context.registry
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.data_dir.join("pods").join(uid)
    }

    fn log_dir(&self, pod: &Key, uid: &str) -> PathBuf {
        let namespace = pod.namespace.as_deref().unwrap_or_default();
        server::log_directory(&self.config.log_dir, namespace, &pod.name, uid)
    }
}

/// Runs the kubelet until `stop`. Pods go on running afterwards, unless `at_end` says otherwise.
pub async fn run(
    config: KubeletConfig,
    stop: CancellationToken,
    at_end: AtEnd,
) -> Result<(), KubeletError> {
    let (shared, server, listener) = prepare(config).await?;
    let facts = node::Facts {
        name: shared.config.node_name.clone(),
        address: shared.config.node_ip,
        pod_cidr: shared.config.network.pod_cidr,
        port: listener.local_addr().map_or(10250, |address| address.port()),
        data_dir: shared.config.data_dir.clone(),
    };
    let (sender, changes) = mpsc::channel(CHANGES);
    let registry = shared.registry().clone();
    let store = registry.store().clone();
    // The heart beats on while pods stop, so that nobody takes the node for dead meanwhile.
    let quiet = CancellationToken::new();
    let background = async {
        tokio::join!(
            node::run(registry, shared.actor.clone(), facts, quiet.clone()),
            server.run(listener, quiet.clone()),
            source::follow(store, shared.config.node_name.clone(), sender, quiet.clone()),
        );
    };
    let pods = async {
        Pods::new(Arc::clone(&shared)).run(changes, &stop, &at_end).await;
        quiet.cancel();
    };
    tokio::join!(background, pods);
    Ok(())
}

/// Opens everything that can fail before the first pod.
async fn prepare(
    mut config: KubeletConfig,
) -> Result<(Arc<Shared>, Server, TcpListener), KubeletError> {
    let directory =
        |path: PathBuf| move |source| KubeletError::Directory { path: path.clone(), source };
    for path in ["pods", "kubelet"].map(|part| config.data_dir.join(part)) {
        std::fs::create_dir_all(&path).map_err(directory(path))?;
    }
    std::fs::create_dir_all(&config.log_dir).map_err(directory(config.log_dir.clone()))?;
    let image_dir = config.data_dir.join("images");
    let images = tokio::task::spawn_blocking(move || ImageStore::open(image_dir));
    let record = config.data_dir.join("kubelet/addresses.json");
    let network = Network::open(config.network.clone(), &record).await?;
    let images = match images.await {
        Ok(images) => images?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let running = Arc::new(Running::default());
    let server = Server::new(&config.tls, Arc::clone(&running), config.log_dir.clone())
        .map_err(KubeletError::Tls)?;
    // The listener is the server's; everything else of the configuration is shared.
    let placeholder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(directory(PathBuf::from("127.0.0.1:0")))?;
    let listener = std::mem::replace(&mut config.listener, placeholder);
    let actor = Actor {
        user: format!("system:node:{}", config.node_name),
        groups: vec!["system:nodes".to_owned(), "system:authenticated".to_owned()],
    };
    let shared = Shared { config, actor, images, network, host: host::host(), running };
    Ok((Arc::new(shared), server, listener))
}

/// The pods of this node, one worker each.
struct Pods {
    shared: Arc<Shared>,
    /// By uid: what each worker is told.
    told: BTreeMap<String, watch::Sender<Told>>,
    workers: JoinSet<(String, End)>,
}

impl Pods {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, told: BTreeMap::new(), workers: JoinSet::new() }
    }

    async fn run(
        mut self,
        mut changes: mpsc::Receiver<Change>,
        stop: &CancellationToken,
        at_end: &AtEnd,
    ) {
        let mut synced = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = self.workers.join_next(), if !self.workers.is_empty() => {
                    self.ended(ended);
                }
                change = changes.recv() => match change {
                    Some(Change::Now(object)) => self.tell(object),
                    Some(Change::Gone(key)) => self.gone(&key),
                    Some(Change::Synced) if !synced => {
                        synced = true;
                        self.clear_orphans();
                    }
                    Some(Change::Synced) => {}
                    None => break,
                },
            }
        }
        if *at_end.stop_pods.borrow() {
            self.stop_pods(at_end).await;
        }
        // Workers end with this set, pods do not: their shims hold them.
        self.workers.shutdown().await;
    }

    /// Hands a pod to its worker, which is made if there is none.
    fn tell(&mut self, object: Arc<Object>) {
        let uid = object.uid().to_owned();
        // Another pod of this name took the place of the one we know.
        let key = object.key();
        let replaced: Vec<String> = self
            .told
            .iter()
            .filter(|(known, told)| **known != uid && told.borrow().object.key() == key)
            .map(|(known, _)| known.clone())
            .collect();
        for known in replaced {
            self.told[&known].send_modify(|told| told.gone = true);
        }
        match self.told.get(&uid) {
            Some(told) => told.send_modify(|told| {
                told.object = object;
                told.gone = false;
            }),
            None => self.employ(Told { object, gone: false, stop: false }),
        }
    }

    fn employ(&mut self, told: Told) {
        let uid = told.object.uid().to_owned();
        // A pod that is over and left no traces needs no worker.
        let phase = told.object.text("/status/phase").unwrap_or("").to_owned();
        let over = matches!(phase.as_str(), "Succeeded" | "Failed");
        if over && !told.object.is_deleting() && !self.shared.pod_dir(&uid).exists() {
            return;
        }
        let (sender, receiver) = watch::channel(told);
        match Worker::new(Arc::clone(&self.shared), receiver) {
            Ok(worker) => {
                self.told.insert(uid.clone(), sender);
                self.workers.spawn(async move { (uid, worker.run().await) });
            }
            Err(error) => tracing::error!(%error, "a pod bound here is no readable pod"),
        }
    }

    fn gone(&mut self, key: &Key) {
        for told in self.told.values().filter(|told| told.borrow().object.key() == *key) {
            told.send_modify(|told| told.gone = true);
        }
    }

    fn ended(&mut self, ended: Result<(String, End), tokio::task::JoinError>) {
        match ended {
            Ok((uid, _)) => {
                self.told.remove(&uid);
            }
            Err(error) if error.is_panic() => {
                // One pod is stuck until the next change of it; the others go on.
                tracing::error!(%error, "a pod's worker panicked");
                self.told.retain(|_, told| told.receiver_count() > 0);
            }
            Err(_) => {}
        }
    }

    /// Pod directories that no pod of the registry owns: remains of pods deleted while no kubelet
    /// ran. A worker that is told its pod is gone takes care of each.
    fn clear_orphans(&mut self) {
        let Ok(entries) = std::fs::read_dir(self.shared.config.data_dir.join("pods")) else {
            return;
        };
        for entry in entries.flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if self.told.contains_key(&uid) {
                continue;
            }
            let record = std::fs::read(entry.path().join("pod.json")).ok();
            let object = record
                .and_then(|text| serde_json::from_slice(&text).ok())
                .and_then(Object::from_value);
            match object {
                Some(object) => {
                    tracing::info!(pod = %object.key(), "removing a pod that was deleted meanwhile");
                    self.employ(Told { object: Arc::new(object), gone: true, stop: false });
                }
                None => {
                    tracing::warn!(uid, "removing a pod directory without a record");
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
        }
    }

    /// Stops every pod gracefully and says how many are left.
    async fn stop_pods(&mut self, at_end: &AtEnd) {
        for told in self.told.values() {
            told.send_modify(|told| told.stop = true);
        }
        at_end.left.send_replace(Some(self.workers.len()));
        while let Some(ended) = self.workers.join_next().await {
            self.ended(ended);
            at_end.left.send_replace(Some(self.workers.len()));
        }
    }
}
