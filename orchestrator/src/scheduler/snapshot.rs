//! The cluster as the scheduler sees it: one row per node, one column per quantity.
//!
//! ```text
//!  slot     cpu (capacity, used)   memory   ephemeral   pods   traits (labels, taints, …)
//!   0  n1       4000   1200         …          …        110       …
//!   1  n2       8000      0         …          …        110       …
//!   2  –  (n3 is unknown, but two pods say they are on it)
//! ```
//!
//! A pass over thousands of nodes then reads a few arrays of integers from end to end. The table is
//! kept up to date change by change and never rebuilt. Each placed pod is remembered by its uid
//! with what it takes, so that placing it again (first by assumption, then as the store confirms
//! it) or taking it away is exact, in whatever order the news of nodes and pods arrives.

use std::collections::BTreeMap;

use crate::client::view::{ContainerPort, Node, Pod, Requests, Taint, milli, whole};

/// What a pod without requests counts as when scores are made: nothing would make an empty
/// node and a node full of such pods look the same.
const SCORED_CPU_MILLI: i64 = 100;
const SCORED_MEMORY: i64 = 200 << 20;
/// Pods a node takes when it does not say.
const PODS_DEFAULT: i64 = 110;

/// A quantity of every node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Column {
    /// What pods may use.
    pub capacity: Vec<i64>,
    /// What pods have been promised.
    pub used: Vec<i64>,
}

impl Column {
    fn push(&mut self) {
        self.capacity.push(0);
        self.used.push(0);
    }

    /// What is left on a node.
    pub fn free(&self, slot: usize) -> i64 {
        self.capacity[slot] - self.used[slot]
    }
}

/// What of a node is not a number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traits {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Takes no new pods.
    pub unschedulable: bool,
    /// Capacity of resources without a column.
    pub extended: BTreeMap<String, i64>,
}

/// A port on a node's own addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port.
    pub port: i32,
    /// The address; empty means all.
    pub ip: String,
}

impl HostPort {
    fn of(port: &ContainerPort) -> Option<Self> {
        let every = matches!(port.host_ip.as_str(), "" | "0.0.0.0" | "::");
        (port.host_port > 0).then(|| Self {
            protocol: port.protocol.clone(),
            port: port.host_port,
            ip: if every { String::new() } else { port.host_ip.clone() },
        })
    }

    /// The host ports a pod asks for.
    pub fn of_pod(pod: &Pod) -> Vec<Self> {
        let ports = pod.containers.iter().flat_map(|container| &container.ports);
        ports.filter_map(Self::of).collect()
    }

    /// Whether both cannot be used on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip.is_empty() || other.ip.is_empty() || self.ip == other.ip)
    }
}

/// What a placed pod takes, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    slot: usize,
    requests: Requests,
    scored: (i64, i64),
    ports: Vec<HostPort>,
    owner: Option<String>,
}

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Names by slot.
    pub names: Vec<String>,
    /// Slots of nodes that exist; the others only hold pods whose node is unknown.
    pub alive: Vec<bool>,
    /// Thousandths of a core.
    pub cpu: Column,
    /// Bytes.
    pub memory: Column,
    /// Bytes.
    pub ephemeral: Column,
    /// Pods.
    pub pods: Column,
    /// Used cpu and memory for scores, where asking for nothing counts as something.
    pub scored: Vec<(i64, i64)>,
    /// Everything that is not a number.
    pub traits: Vec<Traits>,
    /// Used resources without a column.
    pub extended: Vec<BTreeMap<String, i64>>,
    /// Host ports in use; a port is in use once only, since a second pod is refused.
    pub ports: Vec<Vec<HostPort>>,
    /// Pods by the uid of their managing owner.
    pub owners: Vec<BTreeMap<String, i64>>,
    slots: BTreeMap<String, usize>,
    vacant: Vec<usize>,
    placed: BTreeMap<String, Placed>,
}

impl Snapshot {
    fn slot(&mut self, name: &str) -> usize {
        if let Some(&slot) = self.slots.get(name) {
            return slot;
        }
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.names.push(String::new());
            self.alive.push(false);
            for column in [&mut self.cpu, &mut self.memory, &mut self.ephemeral, &mut self.pods] {
                column.push();
            }
            self.scored.push((0, 0));
            self.traits.push(Traits::default());
            self.extended.push(BTreeMap::new());
            self.ports.push(Vec::new());
            self.owners.push(BTreeMap::new());
            self.names.len() - 1
        });
        name.clone_into(&mut self.names[slot]);
        self.slots.insert(name.to_owned(), slot);
        slot
    }

    /// Gives a slot back once neither a node nor a pod needs it.
    fn release(&mut self, slot: usize) {
        if self.alive[slot] || self.pods.used[slot] > 0 {
            return;
        }
        assert!(self.ports[slot].is_empty() && self.owners[slot].is_empty());
        let name = std::mem::take(&mut self.names[slot]);
        self.slots.remove(&name);
        self.vacant.push(slot);
    }

    /// Takes a node in, new or changed. Tells whether a waiting pod might now fit.
    pub fn set_node(&mut self, node: &Node) -> bool {
        let slot = self.slot(&node.meta.name);
        let amount = |name: &str, read: fn(&str) -> i64| {
            let status = &node.status;
            status
                .allocatable
                .get(name)
                .or_else(|| status.capacity.get(name))
                .map(|text| read(text))
        };
        let numbers = [
            amount("cpu", milli).unwrap_or(0),
            amount("memory", whole).unwrap_or(0),
            amount("ephemeral-storage", whole).unwrap_or(0),
            amount("pods", whole).unwrap_or(PODS_DEFAULT),
        ];
        let known = ["cpu", "memory", "ephemeral-storage", "pods"];
        let rest =
            node.status.allocatable.iter().filter(|(name, _)| !known.contains(&name.as_str()));
        let traits = Traits {
            labels: node.meta.labels.clone(),
            taints: node.spec.taints.clone(),
            unschedulable: node.spec.unschedulable,
            extended: rest.map(|(name, text)| (name.clone(), whole(text))).collect(),
        };
        let mut changed = !std::mem::replace(&mut self.alive[slot], true);
        for (column, number) in [
            &mut self.cpu.capacity,
            &mut self.memory.capacity,
            &mut self.ephemeral.capacity,
            &mut self.pods.capacity,
        ]
        .into_iter()
        .zip(numbers)
        {
            changed |= column[slot] != number;
            column[slot] = number;
        }
        changed |= self.traits[slot] != traits;
        self.traits[slot] = traits;
        changed
    }

    /// Forgets a node. Its pods stay counted, in case it comes back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(&slot) = self.slots.get(name) {
            self.alive[slot] = false;
            self.release(slot);
        }
    }

    /// Counts a pod on a node, by assumption or because the store says so.
    pub fn place(&mut self, pod: &Pod, node: &str) {
        self.remove_pod(&pod.meta.uid);
        let slot = self.slot(node);
        let requests = pod.requests.clone();
        let placed = Placed {
            slot,
            scored: scored(&requests),
            requests,
            ports: HostPort::of_pod(pod),
            owner: pod.meta.controller().map(|owner| owner.uid.clone()),
        };
        self.count(&placed, 1);
        self.ports[slot].extend(placed.ports.iter().cloned());
        self.placed.insert(pod.meta.uid.clone(), placed);
    }

    /// Takes a pod's share back. Tells whether it had one.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        self.count(&placed, -1);
        for port in &placed.ports {
            let ports = &mut self.ports[placed.slot];
            let at =
                ports.iter().position(|one| one == port).expect("a placed pod's ports are listed");
            ports.swap_remove(at);
        }
        self.release(placed.slot);
        true
    }

    fn count(&mut self, placed: &Placed, sign: i64) {
        let slot = placed.slot;
        self.cpu.used[slot] += sign * placed.requests.cpu_milli;
        self.memory.used[slot] += sign * placed.requests.memory;
        self.ephemeral.used[slot] += sign * placed.requests.ephemeral;
        self.pods.used[slot] += sign;
        self.scored[slot].0 += sign * placed.scored.0;
        self.scored[slot].1 += sign * placed.scored.1;
        let add = |counts: &mut BTreeMap<String, i64>, name: &String, amount: i64| {
            let sum = counts.entry(name.clone()).or_insert(0);
            *sum += amount;
            if *sum == 0 {
                counts.remove(name);
            }
        };
        for (name, amount) in &placed.requests.extended {
            add(&mut self.extended[slot], name, sign * amount);
        }
        if let Some(owner) = &placed.owner {
            add(&mut self.owners[slot], owner, sign);
        }
    }

    /// Slots of the nodes that exist.
    pub fn nodes(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.names.len()).filter(|&slot| self.alive[slot])
    }
}

/// What a pod without requests counts as when a node's score is made.
pub fn scored(requests: &Requests) -> (i64, i64) {
    let or = |amount: i64, least: i64| if amount > 0 { amount } else { least };
    (or(requests.cpu_milli, SCORED_CPU_MILLI), or(requests.memory, SCORED_MEMORY))
}
