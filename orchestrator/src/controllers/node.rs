//! Knows which nodes are alive, and says so by conditions and taints.
//!
//! A kubelet renews a Lease every few seconds. A node whose Lease stands still for 40 s is *silent*:
//! its conditions become Unknown and its pods not ready, since nobody vouches for them. Silence is
//! measured from when this process saw the last renewal, never by comparing two machines' clocks,
//! and nobody is silent before this process has watched for 40 s.
//!
//! Conditions are repeated as taints, by which the scheduler keeps away and `eviction.rs` removes
//! pods: `not-ready` and `unreachable` (`NoSchedule` and `NoExecute`), pressure, cordon
//! (`NoSchedule`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::kinds::{NODE, POD};
use crate::api::{Key, Object, time};
use crate::client::condition::{Say, say};
use crate::client::view::{Effect, Index, Lease, Node, ObjectRef, Pod, Taint};
use crate::client::{Api, Cache, Context, Controller, Error, Next, Severity, Work};
use crate::registry::Part;

/// Namespace of the nodes' Leases.
const LEASES: &str = "kube-node-lease";
/// Conditions that only a kubelet can vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const CORDON: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new pods away while true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// When each node was last heard of, by this process's clock.
type Heard = Arc<Mutex<BTreeMap<String, Instant>>>;

/// See the module's text.
pub(super) struct Nodes {
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    heard: Heard,
    /// Silence after which a node counts as unreachable.
    grace: Duration,
}

impl Nodes {
    pub(super) fn new(context: &Context, grace: Duration) -> (Self, Work<Key>) {
        let work = Work::default();
        let this = Self {
            nodes: context.caches.get(),
            pods: context.caches.get(),
            heard: Heard::default(),
            grace,
        };
        let (queue, heard) = (work.clone(), Arc::clone(&this.heard));
        this.nodes.subscribe(move |change| {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            match change.new {
                Some(_) => {
                    heard.entry(change.key.name.clone()).or_insert_with(Instant::now);
                }
                None => {
                    heard.remove(&change.key.name);
                }
            }
            queue.add(change.key.clone());
        });
        let (queue, heard, nodes) = (work.clone(), Arc::clone(&this.heard), this.nodes.clone());
        let leases: Cache<Lease> = context.caches.get();
        leases.subscribe(move |change| {
            let Some(lease) = change.new.filter(|lease| lease.meta.namespace == LEASES) else {
                return;
            };
            let renewed = change.old.is_none_or(|old| old.spec.renew_time != lease.spec.renew_time);
            if !renewed {
                return;
            }
            let name = lease.meta.name.clone();
            heard.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Instant::now());
            // A renewal is only news about a node that was thought dead.
            let key = Key::cluster(&lease.meta.name);
            if nodes.get(&key).is_some_and(|node| readiness(&node) == Readiness::Unknown) {
                queue.add(key);
            }
        });
        (this, work)
    }
}

impl Controller for Nodes {
    type Key = Key;
    const NAME: &'static str = "node-controller";

    fn keys(&self) -> Vec<Key> {
        self.nodes.keys()
    }

    async fn reconcile(&self, key: &Key, api: &Api) -> Result<Next, Error> {
        let Some(node) = self.nodes.get(key) else { return Ok(Next::Await) };
        let heard = {
            let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.get(&key.name).copied()
        };
        let left = heard.map_or(self.grace, |at| self.grace.saturating_sub(at.elapsed()));
        if left.is_zero() && readiness(&node) != Readiness::Unknown {
            self.declare_silent(&node, api).await?;
            // The write comes back as a change of the node, which then gets its taints.
            return Ok(Next::Await);
        }
        // A kubelet that is alive vouches for its pods itself, ready node or not.
        if readiness(&node) == Readiness::Unknown {
            self.mark_pods(&node, api).await?;
        }
        let now = time::seconds(api.now());
        // Taints are written only when they differ from what the cache shows; the write itself then
        // decides by the stored object.
        let seen: Vec<Value> = node.spec.taints.iter().map(Taint::to_value).collect();
        if taints(&node, &seen, &now).is_none() {
            return Ok(next(left));
        }
        let change = |object: &mut Object| {
            if object.uid() == node.meta.uid
                && let Some(new) = taints(&node, object.items("/spec/taints"), &now)
            {
                if new.is_empty() {
                    object.remove("/spec/taints");
                } else {
                    object.set("/spec/taints", new);
                }
            }
            Ok(())
        };
        api.modify(&NODE, key, Part::Main, change).await?;
        Ok(next(left))
    }
}

/// The next look at a node that may fall silent.
fn next(left: Duration) -> Next {
    if left.is_zero() { Next::Await } else { Next::After(left + Duration::from_millis(1)) }
}

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readiness {
    Yes,
    No,
    Unknown,
    /// It has not said anything yet.
    Unsaid,
}

fn readiness(node: &Node) -> Readiness {
    match node.condition("Ready").map(|one| one.status.as_str()) {
        Some("True") => Readiness::Yes,
        Some("False") => Readiness::No,
        Some(_) => Readiness::Unknown,
        None => Readiness::Unsaid,
    }
}

/// The taints a node is to have, if they are not those it has. Taints that are not ours to set stay.
fn taints(node: &Node, present: &[Value], now: &str) -> Option<Vec<Value>> {
    use Effect::{NoExecute, NoSchedule};
    let mut wanted: Vec<(&str, Effect)> = Vec::new();
    match readiness(node) {
        Readiness::Yes => {}
        Readiness::No => wanted.extend([(NOT_READY, NoSchedule), (NOT_READY, NoExecute)]),
        Readiness::Unknown => wanted.extend([(UNREACHABLE, NoSchedule), (UNREACHABLE, NoExecute)]),
        Readiness::Unsaid => wanted.push((NOT_READY, NoSchedule)),
    }
    for (condition, key) in PRESSURES {
        if node.condition(condition).is_some_and(|one| one.status == "True") {
            wanted.push((key, NoSchedule));
        }
    }
    if node.spec.unschedulable {
        wanted.push((CORDON, NoSchedule));
    }
    let text = |taint: &Value, field: &str| taint[field].as_str().unwrap_or_default().to_owned();
    let mut new: Vec<Value> = Vec::new();
    for taint in present {
        let key = text(taint, "key");
        let ours = [NOT_READY, UNREACHABLE, CORDON].contains(&key.as_str())
            || PRESSURES.iter().any(|(_, one)| *one == key);
        let effect = text(taint, "effect");
        let at = wanted.iter().position(|(one, how)| *one == key && how.text() == effect);
        match at {
            // It keeps its own time.
            Some(at) => {
                wanted.remove(at);
                new.push(taint.clone());
            }
            None if ours => {}
            None => new.push(taint.clone()),
        }
    }
    let kept_all = new.len() == present.len();
    if kept_all && wanted.is_empty() {
        return None;
    }
    new.extend(
        wanted
            .into_iter()
            .map(|(key, effect)| json!({"key": key, "effect": effect.text(), "timeAdded": now})),
    );
    Some(new)
}

impl Nodes {
    async fn declare_silent(&self, node: &Node, api: &Api) -> Result<(), Error> {
        let now = api.now();
        let change = |object: &mut Object| {
            if object.uid() != node.meta.uid {
                return Ok(());
            }
            for kind in VOUCHED {
                let (reason, message) = if object.condition(kind).is_some() {
                    ("NodeStatusUnknown", "Kubelet stopped posting node status.")
                } else {
                    ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
                };
                say(object, Say { kind, status: "Unknown", reason, message }, now);
            }
            Ok(())
        };
        api.modify(&NODE, &node.meta.key(), Part::Status, change).await?;
        let message = format!("Node {} status is now: NodeNotReady", node.meta.name);
        api.report(&ObjectRef::to(node), Severity::Normal, "NodeNotReady", message);
        Ok(())
    }

    /// Takes the pods of a silent node out of service.
    async fn mark_pods(&self, node: &Node, api: &Api) -> Result<(), Error> {
        let pods = self.pods.by(Index::Node, &node.meta.name);
        let ready = pods.iter().filter(|pod| pod.is_ready());
        let now = api.now();
        let marks = ready.map(|pod| async move {
            let what = Say { kind: "Ready", status: "False", reason: "NodeNotReady", message: "" };
            let change = |object: &mut Object| {
                if object.uid() == pod.meta.uid {
                    say(object, what, now);
                }
                Ok(())
            };
            match api.modify(&POD, &pod.meta.key(), Part::Status, change).await {
                Err(Error::Refused(status)) if status.is_not_found() => Ok(()),
                done => done.map(drop),
            }
        });
        join_all(marks).await.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: Option<&str>, cordoned: bool) -> Node {
        let conditions: Vec<Value> =
            ready.iter().map(|status| json!({"type": "Ready", "status": status})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "n1"},
            "spec": {"unschedulable": cordoned},
            "status": {"conditions": conditions},
        }))
        .expect("a valid node")
    }

    fn told(node: &Node, present: &[Value]) -> Option<Vec<String>> {
        let line = |one: &Value| {
            format!("{} {} {}", one["key"], one["effect"], one["timeAdded"]).replace('"', "")
        };
        taints(node, present, "now").map(|all| all.iter().map(line).collect())
    }

    #[test]
    fn conditions_become_taints_and_go_with_them() {
        let own = json!({"key": "team", "effect": "NoSchedule"});
        let lost = told(&node(Some("Unknown"), false), std::slice::from_ref(&own));
        assert_eq!(
            lost.expect("a silent node is tainted"),
            [
                "team NoSchedule null",
                "node.kubernetes.io/unreachable NoSchedule now",
                "node.kubernetes.io/unreachable NoExecute now",
            ],
        );
        let tainted = [
            own,
            json!({"key": UNREACHABLE, "effect": "NoSchedule", "timeAdded": "before"}),
            json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "before"}),
        ];
        assert_eq!(told(&node(Some("Unknown"), false), &tainted), None, "no second write");
        assert_eq!(
            told(&node(Some("True"), false), &tainted),
            Some(vec!["team NoSchedule null".into()])
        );
        assert_eq!(told(&node(Some("True"), false), &tainted[..1]), None);
    }

    #[test]
    fn a_new_node_and_a_cordoned_one_take_no_pods() {
        assert_eq!(
            told(&node(None, false), &[]).expect("a new node is tainted"),
            ["node.kubernetes.io/not-ready NoSchedule now"],
        );
        assert_eq!(
            told(&node(Some("True"), true), &[]).expect("a cordoned node is tainted"),
            ["node.kubernetes.io/unschedulable NoSchedule now"],
        );
    }
}
