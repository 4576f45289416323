//! This node's own object and its heartbeat.
//!
//! The Node object says what the machine has and that the kubelet runs; the Lease in
//! `kube-node-lease` is renewed every 10 s and is what others judge the node's life by. The object
//! itself is written only when something changed, and every 5 min.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::host;
use crate::api::kinds::{LEASE, NODE};
use crate::api::{Cidr, Key, Object, Status, time};
use crate::registry::{Actor, Part, Registry, WriteOptions};

const HEARTBEAT: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_millis(200);
const LEASE_SECONDS: i64 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Pods a node takes, as upstream's default.
const PODS_MAX: u32 = 110;
/// Upstream's version that this node speaks like.
const KUBELET_VERSION: &str = "v1.37.0";

/// What a node object is made from.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) pod_cidr: Cidr,
    pub(super) port: u16,
    pub(super) data_dir: std::path::PathBuf,
}

/// Registers the node, then keeps it alive until `stop`.
pub(super) async fn run(registry: Registry, actor: Actor, facts: Facts, stop: CancellationToken) {
    let work = async {
        while let Err(error) = register(&registry, &actor, &facts).await {
            tracing::warn!(%error, "the node cannot be registered yet");
            tokio::time::sleep(RETRY).await;
        }
        tracing::info!(node = facts.name, "the node is ready");
        let mut since_status = Duration::ZERO;
        loop {
            let renewed = renew(&registry, &actor, &facts).await;
            if let Err(error) = &renewed {
                tracing::warn!(%error, "the node's lease cannot be renewed");
            }
            let wait = if renewed.is_ok() { HEARTBEAT } else { RETRY };
            tokio::time::sleep(wait).await;
            since_status += wait;
            if since_status >= STATUS_EVERY {
                since_status = Duration::ZERO;
                if let Err(error) = register(&registry, &actor, &facts).await {
                    tracing::warn!(%error, "the node's status cannot be written");
                }
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Creates the Node object where it is missing, and brings its status up to date.
async fn register(registry: &Registry, actor: &Actor, facts: &Facts) -> Result<(), Status> {
    let key = Key::cluster(facts.name.as_str());
    let labels = labels(&facts.name);
    match registry.get(&NODE, &key).await {
        Ok(_) => {
            let relabel = |node: &mut Object| {
                for (name, value) in &labels {
                    node.set_label(name, value);
                }
                if node.text("/spec/podCIDR").is_none() {
                    node.set("/spec/podCIDR", facts.pod_cidr.to_string());
                    node.set("/spec/podCIDRs", vec![facts.pod_cidr.to_string()]);
                }
                Ok(())
            };
            registry.modify(actor, &NODE, &key, Part::Main, relabel).await?;
        }
        Err(error) if error.is_not_found() => {
            let mut node = Object::new(&NODE, &key);
            for (name, value) in &labels {
                node.set_label(name, value);
            }
            node.set("/spec/podCIDR", facts.pod_cidr.to_string());
            node.set("/spec/podCIDRs", vec![facts.pod_cidr.to_string()]);
            match registry.create(actor, &NODE, node, &WriteOptions::default()).await {
                Err(error) if !error.is_already_exists() => return Err(error),
                _ => {}
            }
        }
        Err(error) => return Err(error),
    }
    let now = Timestamp::now();
    let update = |node: &mut Object| {
        let last = node.get("/status").cloned().unwrap_or(Value::Null);
        let Value::Object(fields) = status(facts, &last, now) else { return Ok(()) };
        for (name, value) in fields {
            node.set(&format!("/status/{name}"), value);
        }
        Ok(())
    };
    registry.modify(actor, &NODE, &key, Part::Status, update).await.map(drop)
}

fn labels(name: &str) -> [(&'static str, String); 5] {
    let arch = architecture();
    [
        ("kubernetes.io/hostname", name.to_owned()),
        ("kubernetes.io/os", "linux".to_owned()),
        ("kubernetes.io/arch", arch.to_owned()),
        ("beta.kubernetes.io/os", "linux".to_owned()),
        ("beta.kubernetes.io/arch", arch.to_owned()),
    ]
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn status(facts: &Facts, last: &Value, now: Timestamp) -> Value {
    let disk = nix::sys::statvfs::statvfs(&facts.data_dir)
        .map_or(0, |stat| stat.fragment_size().saturating_mul(stat.blocks()));
    let resources = json!({
        "cpu": host::processors().to_string(),
        "memory": format!("{}Ki", host::memory() / 1024),
        "ephemeral-storage": format!("{}Ki", disk / 1024),
        "pods": PODS_MAX.to_string(),
    });
    let wanted = [
        (
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    let old = last.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let seconds = time::seconds(now);
    let conditions: Vec<Value> = wanted
        .into_iter()
        .map(|(kind, status, reason, message)| {
            let since = old
                .iter()
                .find(|one| one["type"] == kind && one["status"] == status)
                .and_then(|one| one["lastTransitionTime"].as_str())
                .unwrap_or(&seconds)
                .to_owned();
            json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": seconds, "lastTransitionTime": since,
            })
        })
        .collect();
    json!({
        "capacity": resources,
        "allocatable": resources,
        "conditions": conditions,
        "addresses": [
            {"type": "InternalIP", "address": facts.address.to_string()},
            {"type": "Hostname", "address": facts.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": facts.port}},
        "nodeInfo": node_info(),
    })
}

fn node_info() -> Value {
    let read = |path: &str| {
        std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let image = os
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("Linux", |name| name.trim_matches('"'));
    json!({
        "machineID": read("/etc/machine-id"),
        "systemUUID": read("/sys/class/dmi/id/product_uuid"),
        "bootID": read("/proc/sys/kernel/random/boot_id"),
        "kernelVersion": read("/proc/sys/kernel/osrelease"),
        "osImage": image,
        "containerRuntimeVersion": concat!("orchestrator://", env!("CARGO_PKG_VERSION")),
        "kubeletVersion": KUBELET_VERSION,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": architecture(),
    })
}

async fn renew(registry: &Registry, actor: &Actor, facts: &Facts) -> Result<(), Status> {
    let key = Key::namespaced(LEASE_NAMESPACE, facts.name.as_str());
    let now = time::micros(Timestamp::now());
    let refresh = |lease: &mut Object| {
        lease.set("/spec/holderIdentity", facts.name.as_str());
        lease.set("/spec/leaseDurationSeconds", LEASE_SECONDS);
        lease.set("/spec/renewTime", now.as_str());
        Ok(())
    };
    match registry.modify(actor, &LEASE, &key, Part::Main, refresh).await {
        Err(error) if error.is_not_found() => {
            let mut lease = Object::new(&LEASE, &key);
            refresh(&mut lease)?;
            registry.create(actor, &LEASE, lease, &WriteOptions::default()).await.map(drop)
        }
        outcome => outcome.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_what_it_has_and_keeps_its_times() {
        let facts = Facts {
            name: "n".into(),
            address: "192.0.2.1".parse().expect("an address"),
            pod_cidr: "10.244.0.0/24".parse().expect("a range"),
            port: 10250,
            data_dir: "/".into(),
        };
        let first = status(&facts, &Value::Null, "2026-01-01T00:00:00Z".parse().expect("a time"));
        let second = status(&facts, &first, "2026-01-01T00:05:00Z".parse().expect("a time"));
        let ready = |status: &Value| status["conditions"][3].clone();
        assert_eq!(ready(&second)["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(ready(&second)["lastHeartbeatTime"], "2026-01-01T00:05:00Z");
        assert_eq!(first["addresses"][0]["address"], "192.0.2.1");
        assert_ne!(first["capacity"]["cpu"], "0");
    }
}
