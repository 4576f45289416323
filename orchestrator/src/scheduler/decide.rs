//! Where a pod goes, or why it cannot go anywhere. Pure: the same pod and snapshot give the same
//! answer, whatever the order in which nodes were learnt.
//!
//! *Filters* take out the nodes that cannot run the pod, in upstream's order, so that a node is
//! counted under the same reason as there. *Scores* rank the rest: each part gives 0 to 100 and has
//! upstream's weight.
//!
//! | part | weight | likes |
//! |---|---|---|
//! | least allocated | 1 | what stays free |
//! | balanced | 1 | cpu and memory used alike |
//! | taints | 3 | few `PreferNoSchedule` taints the pod does not endure |
//! | node affinity | 2 | the pod's preferred terms |
//! | spread | 2 | few pods of the same owner |
//!
//! Equal totals go to the node with fewer pods, then to the first by name.

use std::collections::BTreeMap;
use std::fmt;

use super::snapshot::{HostPort, Snapshot, scored};
use crate::client::view::{Effect, NodeTerm, Pod, Taint};

const WEIGHT_TAINTS: i64 = 3;
const WEIGHT_AFFINITY: i64 = 2;
const WEIGHT_SPREAD: i64 = 2;
/// The most one part gives.
const FULL: i64 = 100;

/// Why a node cannot run a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is cordoned.
    Unschedulable,
    /// The pod names another node.
    NodeName,
    /// It has a taint the pod does not endure.
    Taint(String, String),
    /// Node selector or required affinity.
    Affinity,
    /// A host port is taken.
    Ports,
    /// It runs as many pods as it may.
    TooManyPods,
    /// It has too little of a resource.
    Insufficient(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => formatter.write_str("node(s) were unschedulable"),
            Self::NodeName => formatter.write_str("node(s) didn't match the requested node name"),
            Self::Taint(key, value) => {
                write!(formatter, "node(s) had untolerated taint {{{key}: {value}}}")
            }
            Self::Affinity => {
                formatter.write_str("node(s) didn't match Pod's node affinity/selector")
            }
            Self::Ports => {
                formatter.write_str("node(s) didn't have free ports for the requested pod ports")
            }
            Self::TooManyPods => formatter.write_str("Too many pods"),
            Self::Insufficient(resource) => write!(formatter, "Insufficient {resource}"),
        }
    }
}

/// Why a pod must wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// No node can run it.
    Nodes {
        /// How many nodes there are.
        nodes: usize,
        /// How many nodes each reason rules out.
        reasons: BTreeMap<Reason, usize>,
    },
    /// It asks for something this scheduler cannot grant.
    Unsupported(String),
    /// Its gates are not lifted.
    Gated(Vec<String>),
}

impl fmt::Display for Waiting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes { nodes: 0, .. } => {
                formatter.write_str("no nodes available to schedule pods")
            }
            Self::Nodes { nodes, reasons } => {
                let mut texts: Vec<String> =
                    reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
                texts.sort();
                write!(formatter, "0/{nodes} nodes are available: {}.", texts.join(", "))
            }
            Self::Unsupported(what) => {
                write!(formatter, "{what} is not supported by this scheduler")
            }
            Self::Gated(gates) => write!(
                formatter,
                "Scheduling is blocked due to non-empty scheduling gates: {}",
                gates.join(", ")
            ),
        }
    }
}

impl Waiting {
    /// Whether a pod that goes away could change the answer.
    pub fn wants_room(&self) -> bool {
        let room = |reason: &Reason| {
            matches!(reason, Reason::Ports | Reason::TooManyPods | Reason::Insufficient(_))
        };
        matches!(self, Self::Nodes { reasons, .. } if reasons.keys().any(room))
    }

    /// Whether a node that comes or changes could change the answer.
    pub fn wants_nodes(&self) -> bool {
        matches!(self, Self::Nodes { .. })
    }
}

/// The node for `pod`, by its slot.
pub fn decide(snapshot: &Snapshot, pod: &Pod) -> Result<usize, Waiting> {
    admissible(pod)?;
    let ports = HostPort::of_pod(pod);
    let mut feasible = Vec::new();
    let mut reasons = BTreeMap::new();
    let mut nodes = 0;
    for slot in snapshot.nodes() {
        nodes += 1;
        let before = reasons.len();
        if filter(snapshot, slot, pod, &ports, &mut reasons) {
            feasible.push(slot);
            debug_assert_eq!(before, reasons.len(), "a node that fits has no reason against it");
        }
    }
    best(snapshot, pod, &feasible).ok_or(Waiting::Nodes { nodes, reasons })
}

/// Refuses what the scheduler cannot honour: to ignore it would place the pod wrongly.
fn admissible(pod: &Pod) -> Result<(), Waiting> {
    if !pod.gates.is_empty() {
        return Err(Waiting::Gated(pod.gates.clone()));
    }
    if let Some(field) = pod.affinity.unsupported() {
        return Err(Waiting::Unsupported(field.to_owned()));
    }
    if let Some(key) = pod.hard_spread.first() {
        return Err(Waiting::Unsupported(format!(
            "spec.topologySpreadConstraints with whenUnsatisfiable DoNotSchedule (topologyKey {key})"
        )));
    }
    Ok(())
}

/// Whether a node can run the pod; counts why not.
fn filter(
    snapshot: &Snapshot,
    slot: usize,
    pod: &Pod,
    ports: &[HostPort],
    reasons: &mut BTreeMap<Reason, usize>,
) -> bool {
    let verdict = fits_traits(snapshot, slot, pod).or_else(|| {
        let taken = |port: &HostPort| snapshot.ports[slot].iter().any(|one| one.conflicts(port));
        ports.iter().any(taken).then_some(Reason::Ports)
    });
    let against: Vec<Reason> = match verdict {
        Some(reason) => vec![reason],
        None => lacking(snapshot, slot, pod),
    };
    let fits = against.is_empty();
    for reason in against {
        *reasons.entry(reason).or_insert(0) += 1;
    }
    fits
}

fn fits_traits(snapshot: &Snapshot, slot: usize, pod: &Pod) -> Option<Reason> {
    let traits = &snapshot.traits[slot];
    let tolerated = |taint: &Taint| pod.tolerations.iter().any(|one| one.tolerates(taint));
    if traits.unschedulable {
        let cordon = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: Effect::NoSchedule,
            ..Taint::default()
        };
        if !tolerated(&cordon) {
            return Some(Reason::Unschedulable);
        }
    }
    let hard = |taint: &&Taint| taint.effect != Effect::PreferNoSchedule;
    if let Some(taint) = traits.taints.iter().filter(hard).find(|taint| !tolerated(taint)) {
        return Some(Reason::Taint(taint.key.clone(), taint.value.clone()));
    }
    let selected =
        pod.node_selector.iter().all(|(name, value)| traits.labels.get(name) == Some(value));
    let required = pod.affinity.node_affinity.required.as_ref().is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| holds(term, snapshot, slot))
    });
    (!selected || !required).then_some(Reason::Affinity)
}

/// Whether a node satisfies a term. A term that asks nothing matches nothing, as in Kubernetes.
fn holds(term: &NodeTerm, snapshot: &Snapshot, slot: usize) -> bool {
    if term.match_expressions.is_empty() && term.match_fields.is_empty() {
        return false;
    }
    let labels = &snapshot.traits[slot].labels;
    term.match_expressions.iter().all(|one| one.matches(labels.get(&one.key).map(String::as_str)))
        && term
            .match_fields
            .iter()
            .all(|one| one.key == "metadata.name" && one.matches(Some(&snapshot.names[slot])))
}

/// The resources a node has too little of. A pod that asks for none of a resource fits even where
/// the node is overfull.
fn lacking(snapshot: &Snapshot, slot: usize, pod: &Pod) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if snapshot.pods.free(slot) < 1 {
        reasons.push(Reason::TooManyPods);
    }
    let requests = &pod.requests;
    for (name, wanted, free) in [
        ("cpu", requests.cpu_milli, snapshot.cpu.free(slot)),
        ("memory", requests.memory, snapshot.memory.free(slot)),
        ("ephemeral-storage", requests.ephemeral, snapshot.ephemeral.free(slot)),
    ] {
        if wanted > 0 && wanted > free {
            reasons.push(Reason::Insufficient(name.to_owned()));
        }
    }
    for (name, &wanted) in &requests.extended {
        let capacity = snapshot.traits[slot].extended.get(name).copied().unwrap_or(0);
        let used = snapshot.extended[slot].get(name).copied().unwrap_or(0);
        if wanted > 0 && wanted > capacity - used {
            reasons.push(Reason::Insufficient(name.clone()));
        }
    }
    reasons
}

/// The best of the nodes that can run the pod.
fn best(snapshot: &Snapshot, pod: &Pod, feasible: &[usize]) -> Option<usize> {
    if let [only] = feasible {
        return Some(*only);
    }
    let (cpu, memory) = scored(&pod.requests);
    let owner = pod.meta.controller().map(|owner| owner.uid.as_str());
    let siblings =
        |slot: usize| owner.and_then(|uid| snapshot.owners[slot].get(uid)).copied().unwrap_or(0);
    let most = |part: &dyn Fn(usize) -> i64| feasible.iter().map(|&slot| part(slot)).max();
    let taints_most = most(&|slot| soft_taints(snapshot, slot, pod)).unwrap_or(0);
    let liked_most = most(&|slot| liked(snapshot, slot, pod)).unwrap_or(0);
    let siblings_most = most(&siblings).unwrap_or(0);
    let total = |slot: usize| {
        let used = snapshot.scored[slot];
        let capacity = (snapshot.cpu.capacity[slot], snapshot.memory.capacity[slot]);
        least_allocated((used.0 + cpu, used.1 + memory), capacity)
            + balanced((used.0 + cpu, used.1 + memory), capacity)
            + WEIGHT_TAINTS * (FULL - share(soft_taints(snapshot, slot, pod), taints_most))
            + WEIGHT_AFFINITY * share(liked(snapshot, slot, pod), liked_most)
            + WEIGHT_SPREAD * (FULL - share(siblings(slot), siblings_most))
    };
    let rank = |slot: usize| (-total(slot), snapshot.pods.used[slot]);
    let ranked = feasible.iter().map(|&slot| (rank(slot), slot));
    ranked
        .min_by(|(one, a), (other, b)| {
            one.cmp(other).then_with(|| snapshot.names[*a].cmp(&snapshot.names[*b]))
        })
        .map(|(_, slot)| slot)
}

/// `part` of `whole` in hundredths.
fn share(part: i64, whole: i64) -> i64 {
    if whole == 0 { 0 } else { part * FULL / whole }
}

fn soft_taints(snapshot: &Snapshot, slot: usize, pod: &Pod) -> i64 {
    let soft = |taint: &&Taint| taint.effect == Effect::PreferNoSchedule;
    let open = |taint: &&Taint| !pod.tolerations.iter().any(|one| one.tolerates(taint));
    let count = snapshot.traits[slot].taints.iter().filter(soft).filter(open).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn liked(snapshot: &Snapshot, slot: usize, pod: &Pod) -> i64 {
    let terms = pod.affinity.node_affinity.preferred.iter();
    terms.filter(|term| holds(&term.preference, snapshot, slot)).map(|term| term.weight).sum()
}

/// What would stay free of cpu and memory, in hundredths, on average.
fn least_allocated(used: (i64, i64), capacity: (i64, i64)) -> i64 {
    let part = |used: i64, capacity: i64| {
        if capacity <= 0 || used > capacity { 0 } else { share(capacity - used, capacity) }
    };
    i64::midpoint(part(used.0, capacity.0), part(used.1, capacity.1))
}

/// How alike cpu and memory would be used, in hundredths.
fn balanced(used: (i64, i64), capacity: (i64, i64)) -> i64 {
    let part = |used: i64, capacity: i64| {
        if capacity <= 0 { FULL } else { share(used, capacity).min(FULL) }
    };
    let apart = (part(used.0, capacity.0) - part(used.1, capacity.1)).abs();
    FULL - apart / 2
}
