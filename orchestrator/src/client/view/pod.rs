//! A pod as scheduler and controllers see it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::workload::Condition;
use super::{Index, Meta, Requirement, View, or_default, quantity};

/// A pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "Raw")]
pub struct Pod {
    /// Metadata.
    pub meta: Meta,
    /// The node it is bound to; empty while it is not.
    pub node: String,
    /// The scheduler that is to bind it.
    pub scheduler: String,
    /// Pods of higher priority are placed first.
    pub priority: i32,
    /// Labels its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Further wishes about its place.
    pub affinity: Affinity,
    /// Taints it endures.
    pub tolerations: Vec<Toleration>,
    /// Gates that must be lifted before it may be placed.
    pub gates: Vec<String>,
    /// Hard spread constraints, by topology key.
    pub hard_spread: Vec<String>,
    /// What it asks of its node.
    pub requests: Requests,
    /// Its ordinary containers.
    pub containers: Vec<Container>,
    /// Its own host name, if it has one.
    pub hostname: String,
    /// The headless Service that governs its host name.
    pub subdomain: String,
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Its addresses, the main one first.
    pub addresses: Vec<String>,
    /// Restarts of all containers.
    pub restarts: i64,
}

/// What a pod asks of a node: the larger of what runs at once and what each init step needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of local disk.
    pub ephemeral: i64,
    /// Everything else, by resource name.
    pub extended: BTreeMap<String, i64>,
}

/// A container's name and ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Container {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Ports it declares.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<ContainerPort>,
    #[serde(default, deserialize_with = "or_default")]
    resources: Resources,
    #[serde(rename = "restartPolicy", default, deserialize_with = "or_default")]
    restart_policy: String,
}

/// A port a container declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name that Services may use.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Port in the pod.
    #[serde(default)]
    pub container_port: i32,
    /// Port on the node; 0 for none.
    #[serde(default, deserialize_with = "or_default")]
    pub host_port: i32,
    /// Address on the node the host port is for; empty for all.
    #[serde(rename = "hostIP", default, deserialize_with = "or_default")]
    pub host_ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(default = "tcp")]
    pub protocol: String,
}

fn tcp() -> String {
    "TCP".to_owned()
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Resources {
    #[serde(default, deserialize_with = "or_default")]
    requests: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    limits: BTreeMap<String, String>,
}

/// A toleration of a taint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key; empty tolerates all keys.
    #[serde(default, deserialize_with = "or_default")]
    pub key: String,
    /// `Equal` (or empty) or `Exists`.
    #[serde(default, deserialize_with = "or_default")]
    pub operator: String,
    /// The taint's value.
    #[serde(default, deserialize_with = "or_default")]
    pub value: String,
    /// The effect; empty tolerates all.
    #[serde(default, deserialize_with = "or_default")]
    pub effect: String,
    /// For how long a `NoExecute` taint is endured; for ever if absent.
    #[serde(default)]
    pub toleration_seconds: Option<i64>,
}

/// Affinity of a pod. Only the node part is acted on; the rest is known so that it can be refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Affinity {
    /// Towards nodes.
    #[serde(default, deserialize_with = "or_default")]
    pub node_affinity: NodeAffinity,
    #[serde(default, deserialize_with = "or_default")]
    pod_affinity: PodAffinity,
    #[serde(default, deserialize_with = "or_default")]
    pod_anti_affinity: PodAffinity,
}

/// Affinity towards nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct NodeAffinity {
    /// Of these terms one must hold, if there is any.
    #[serde(
        rename = "requiredDuringSchedulingIgnoredDuringExecution",
        default,
        deserialize_with = "or_default"
    )]
    pub required: Option<Required>,
    /// Terms that raise a node's score.
    #[serde(
        rename = "preferredDuringSchedulingIgnoredDuringExecution",
        default,
        deserialize_with = "or_default"
    )]
    pub preferred: Vec<PreferredTerm>,
}

/// Alternatives, one of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Required {
    /// The alternatives. None at all matches no node.
    #[serde(default, deserialize_with = "or_default")]
    pub node_selector_terms: Vec<NodeTerm>,
}

/// Requirements on a node that must all hold. A term without any matches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTerm {
    /// On its labels.
    #[serde(default, deserialize_with = "or_default")]
    pub match_expressions: Vec<Requirement>,
    /// On its fields, of which there is one: `metadata.name`.
    #[serde(default, deserialize_with = "or_default")]
    pub match_fields: Vec<Requirement>,
}

/// A term with a weight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct PreferredTerm {
    /// 1 to 100.
    #[serde(default)]
    pub weight: i64,
    /// The term.
    #[serde(default)]
    pub preference: NodeTerm,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct PodAffinity {
    #[serde(
        rename = "requiredDuringSchedulingIgnoredDuringExecution",
        default,
        deserialize_with = "or_default"
    )]
    required: Vec<serde_json::Value>,
}

impl Affinity {
    /// The hard wish about other pods, which the scheduler cannot grant, by its field's name.
    pub fn unsupported(&self) -> Option<&'static str> {
        if !self.pod_affinity.required.is_empty() {
            Some("spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution")
        } else if !self.pod_anti_affinity.required.is_empty() {
            Some("spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution")
        } else {
            None
        }
    }
}

impl Pod {
    /// It has ended and will not run again.
    pub fn is_terminal(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Neither ended nor on its way out.
    pub fn is_active(&self) -> bool {
        !self.is_terminal() && !self.meta.is_deleting()
    }

    /// A condition by its type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|one| one.kind == kind)
    }

    /// Its `Ready` condition is true.
    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(Condition::is_true)
    }

    /// Since when it is ready, if it is.
    pub fn ready_since(&self) -> Option<jiff::Timestamp> {
        self.condition("Ready").filter(|one| one.is_true())?.transition
    }
}

impl View for Pod {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self, add: &mut dyn FnMut(Index, &str)) {
        if !self.node.is_empty() {
            add(Index::Node, &self.node);
        }
    }
}

/// The stored shape.
#[derive(Deserialize)]
struct Raw {
    metadata: Meta,
    #[serde(default, deserialize_with = "or_default")]
    spec: RawSpec,
    #[serde(default, deserialize_with = "or_default")]
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    #[serde(deserialize_with = "or_default")]
    node_name: String,
    #[serde(deserialize_with = "or_default")]
    scheduler_name: String,
    #[serde(deserialize_with = "or_default")]
    priority: i32,
    #[serde(deserialize_with = "or_default")]
    node_selector: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    affinity: Affinity,
    #[serde(deserialize_with = "or_default")]
    tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "or_default")]
    scheduling_gates: Vec<RawGate>,
    #[serde(deserialize_with = "or_default")]
    topology_spread_constraints: Vec<RawSpread>,
    #[serde(deserialize_with = "or_default")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    overhead: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    hostname: String,
    #[serde(deserialize_with = "or_default")]
    subdomain: String,
}

#[derive(Deserialize)]
struct RawGate {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpread {
    #[serde(default)]
    topology_key: String,
    #[serde(default)]
    when_unsatisfiable: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    #[serde(deserialize_with = "or_default")]
    phase: String,
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<Condition>,
    #[serde(rename = "podIP", deserialize_with = "or_default")]
    pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    pod_ips: Vec<RawAddress>,
    #[serde(deserialize_with = "or_default")]
    container_statuses: Vec<RawContainerStatus>,
}

#[derive(Deserialize)]
struct RawAddress {
    #[serde(default)]
    ip: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainerStatus {
    #[serde(default)]
    restart_count: i64,
}

impl From<Raw> for Pod {
    fn from(raw: Raw) -> Self {
        let Raw { metadata, spec, status } = raw;
        let mut addresses: Vec<String> = status.pod_ips.into_iter().map(|one| one.ip).collect();
        if addresses.is_empty() && !status.pod_ip.is_empty() {
            addresses.push(status.pod_ip);
        }
        addresses.retain(|ip| !ip.is_empty());
        let hard = |one: &RawSpread| one.when_unsatisfiable == "DoNotSchedule";
        Self {
            requests: requests(&spec),
            meta: metadata,
            node: spec.node_name,
            scheduler: spec.scheduler_name,
            priority: spec.priority,
            node_selector: spec.node_selector,
            affinity: spec.affinity,
            tolerations: spec.tolerations,
            gates: spec.scheduling_gates.into_iter().map(|gate| gate.name).collect(),
            hard_spread: spec
                .topology_spread_constraints
                .into_iter()
                .filter(hard)
                .map(|one| one.topology_key)
                .collect(),
            containers: spec.containers,
            hostname: spec.hostname,
            subdomain: spec.subdomain,
            phase: status.phase,
            conditions: status.conditions,
            addresses,
            restarts: status.container_statuses.iter().map(|one| one.restart_count).sum(),
        }
    }
}

impl Requests {
    fn add(&mut self, name: &str, text: &str) {
        match name {
            "cpu" => self.cpu_milli = self.cpu_milli.saturating_add(quantity::milli(text)),
            "memory" => self.memory = self.memory.saturating_add(quantity::whole(text)),
            "ephemeral-storage" => {
                self.ephemeral = self.ephemeral.saturating_add(quantity::whole(text));
            }
            _ => {
                let sum = self.extended.entry(name.to_owned()).or_insert(0);
                *sum = sum.saturating_add(quantity::whole(text));
            }
        }
    }

    /// A container's requests; a limit without a request counts as one.
    fn of(container: &Container) -> Self {
        let mut sum = Self::default();
        let Resources { requests, limits } = &container.resources;
        for (name, text) in requests {
            sum.add(name, text);
        }
        for (name, text) in limits {
            if !requests.contains_key(name) {
                sum.add(name, text);
            }
        }
        sum
    }

    fn plus(mut self, other: &Self) -> Self {
        self.cpu_milli = self.cpu_milli.saturating_add(other.cpu_milli);
        self.memory = self.memory.saturating_add(other.memory);
        self.ephemeral = self.ephemeral.saturating_add(other.ephemeral);
        for (name, amount) in &other.extended {
            let sum = self.extended.entry(name.clone()).or_insert(0);
            *sum = sum.saturating_add(*amount);
        }
        self
    }

    fn max(mut self, other: &Self) -> Self {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory = self.memory.max(other.memory);
        self.ephemeral = self.ephemeral.max(other.ephemeral);
        for (name, amount) in &other.extended {
            let most = self.extended.entry(name.clone()).or_insert(0);
            *most = (*most).max(*amount);
        }
        self
    }
}

/// Kubernetes' rule: containers and restartable init containers (sidecars) run together; each other
/// init container runs alone, beside the sidecars started before it.
fn requests(spec: &RawSpec) -> Requests {
    let mut sidecars = Requests::default();
    let mut init_peak = Requests::default();
    for container in &spec.init_containers {
        let own = Requests::of(container);
        if container.restart_policy == "Always" {
            sidecars = sidecars.plus(&own);
            init_peak = init_peak.max(&sidecars);
        } else {
            init_peak = init_peak.max(&own.plus(&sidecars));
        }
    }
    let running = spec.containers.iter().fold(sidecars, |sum, one| sum.plus(&Requests::of(one)));
    let mut total = running.max(&init_peak);
    for (name, text) in &spec.overhead {
        total.add(name, text);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(cpu: &str, restart: Option<&str>) -> serde_json::Value {
        json!({"name": "c", "restartPolicy": restart, "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn requests_follow_the_order_in_which_containers_run() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": null},
            "spec": {
                "initContainers": [
                    container("300m", None),
                    container("100m", Some("Always")),
                    container("1", None),
                ],
                "containers": [container("200m", None), container("0.5", None)],
                "overhead": {"cpu": "10m"},
            },
        }))
        .expect("a valid pod");
        // 1 + 100m (the sidecar before it) is more than 700m + 100m.
        assert_eq!(pod.requests.cpu_milli, 1110);
    }

    #[test]
    fn a_limit_alone_is_a_request_and_nulls_are_absent() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"nodeSelector": null, "containers": [
                {"name": "c", "resources": {"limits": {"memory": "1Ki", "example.com/gpu": "2"}}},
            ]},
            "status": {"podIP": "10.0.0.1"},
        }))
        .expect("a valid pod");
        assert_eq!(pod.requests.memory, 1024);
        assert_eq!(pod.requests.extended["example.com/gpu"], 2);
        assert_eq!(pod.addresses, ["10.0.0.1"]);
    }
}
