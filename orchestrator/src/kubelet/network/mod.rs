//! The pod network of one node: a bridge, a veth pair per pod, an address per pod.
//!
//! ```text
//!   pod (eth0 10.244.0.7) ══veth══ ve3f2a91… ─┐
//!   pod (eth0 10.244.0.8) ══veth══ ve90bb17… ─┼─ bridge orch0 (10.244.0.1/24) ─ node routing
//! ```
//!
//! A pod's network namespace is its shim's; the pair is made with one end born inside it, and goes
//! away with it. Addresses come from the node's range and are kept on disk, so that a pod keeps its
//! address whatever restarts. The whole cluster range has an `unreachable` route under the bridge's
//! more specific one: a packet to an address nobody holds is refused here and never follows the
//! default route. Ports of the bridge are in hairpin mode, so a pod reaches itself through a
//! Service; bridged packets pass netfilter, so pods of one node reach each other through one.
//!
//! Everything speaks rtnetlink; no program is run.

mod chains;
mod ipam;
mod link;
mod preflight;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

pub use ipam::Pool;
pub use preflight::{Finding, preflight};

use crate::api::Cidr;

/// The bridge's name, unless configured otherwise.
pub const BRIDGE: &str = "orch0";

/// Why the pod network is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused.
    #[error("pod network: {context}: {source}")]
    Kernel {
        /// What was being done.
        context: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// No address is left.
    #[error("no address is left in the node's range {0}")]
    Exhausted(Cidr),
}

pub(super) fn kernel(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> NetworkError {
    let context = context.into();
    move |source| NetworkError::Kernel { context, source }
}

/// What the pod network is made of.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// All pod addresses of the cluster.
    pub cluster_cidr: Cidr,
    /// This node's part of them.
    pub pod_cidr: Cidr,
    /// The bridge's name, at most 15 bytes.
    pub bridge: String,
}

/// The node's pod network.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    pool: Pool,
}

impl Network {
    /// Makes the bridge and its routes, and reads which pod holds which address.
    pub async fn open(config: NetworkConfig, record: &Path) -> Result<Self, NetworkError> {
        let pool =
            Pool::open(config.pod_cidr, record).map_err(kernel(record.display().to_string()))?;
        link::ensure_bridge(&config, pool.gateway()).await?;
        sysctls(&config.bridge)?;
        Ok(Self { config, pool })
    }

    /// The node's address on the bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        self.pool.gateway()
    }

    /// The address that a pod holds or shall hold, kept on disk before anybody uses it.
    pub fn address(&self, uid: &str) -> Result<Ipv4Addr, NetworkError> {
        self.pool
            .assign(uid)
            .map_err(kernel("recording an address"))?
            .ok_or(NetworkError::Exhausted(self.config.pod_cidr))
    }

    /// Connects the network namespace `netns` of pod `uid` and gives it its address.
    pub async fn attach(&self, uid: &str, netns: OwnedFd) -> Result<Ipv4Addr, NetworkError> {
        let address = self.address(uid)?;
        link::connect(&self.config, uid, &netns).await?;
        link::configure(netns, address, self.config.pod_cidr, self.pool.gateway()).await?;
        Ok(address)
    }

    /// Takes the pod's interface away; its address stays its own. Not an error if it had none.
    pub async fn disconnect(&self, uid: &str) -> Result<(), NetworkError> {
        link::disconnect(uid).await
    }

    /// Takes the pod's interface away and frees its address. Not an error if it had none.
    pub async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        self.disconnect(uid).await?;
        self.pool.release(uid).map_err(kernel("freeing an address"))
    }
}

/// Removes the bridge, every pod interface and the routes. Not an error if there are none.
pub async fn remove(bridge: &str, cluster_cidr: Option<Cidr>) -> Result<(), NetworkError> {
    link::remove_all(bridge, cluster_cidr).await
}

/// Settings the pod network needs in the node's network namespace.
fn sysctls(bridge: &str) -> Result<(), NetworkError> {
    let set = |name: &str, value: &str| {
        let path = format!("/proc/sys/net/{name}");
        match std::fs::read_to_string(&path) {
            Ok(present) if present.trim() == value => Ok(()),
            _ => std::fs::write(&path, value).map_err(kernel(path)),
        }
    };
    set("ipv4/ip_forward", "1")?;
    // Answers to a Service come back by another way than the packet went: only a loose check fits.
    let filter = format!("ipv4/conf/{bridge}/rp_filter");
    if std::fs::read_to_string(format!("/proc/sys/net/{filter}")).is_ok_and(|on| on.trim() == "1") {
        set(&filter, "2")?;
    }
    // Absent where br_netfilter is not loaded; Services then work between nodes and from the node,
    // not between two pods of one node, and preflight says so.
    if Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        set("bridge/bridge-nf-call-iptables", "1")?;
    }
    Ok(())
}
