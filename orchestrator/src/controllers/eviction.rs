//! Takes pods off nodes that they do not endure, and forgets pods of nodes that are gone.
//!
//! A `NoExecute` taint removes the pods that do not tolerate it: at once, or when the shortest
//! `tolerationSeconds` of the matching tolerations is over, counted from when the taint was set.
//! A taint that goes before that takes the threat with it.
//!
//! A pod bound to a node that does not exist will never be stopped by a kubelet. After 40 s in which
//! the node may come (back), the pod is deleted without grace.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::work_of;
use crate::api::kinds::{NODE, POD};
use crate::api::{Key, Object};
use crate::client::api::exactly;
use crate::client::condition::{Say, say};
use crate::client::view::{Effect, Index, Node, ObjectRef, Pod, Taint};
use crate::client::{Api, Cache, Context, Controller, Error, Next, Severity, Work};
use crate::registry::Part;

/// See the module's text.
pub(super) struct Evictions {
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    /// Since when a node with pods is missing.
    missing: Arc<Mutex<BTreeMap<String, Instant>>>,
    /// How long it may take to come before its pods are forgotten.
    quarantine: Duration,
}

impl Evictions {
    pub(super) fn new(context: &Context, quarantine: Duration) -> (Self, Work<Key>) {
        let work = Work::default();
        let this = Self {
            pods: context.caches.get(),
            nodes: context.caches.get(),
            missing: Arc::default(),
            quarantine,
        };
        this.pods.subscribe(work_of(&work));
        let (queue, pods, missing) = (work.clone(), this.pods.clone(), Arc::clone(&this.missing));
        this.nodes.subscribe(move |change| {
            if change.new.is_some() {
                missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&change.key.name);
            }
            let threats = |node: &Arc<Node>| {
                node.spec.taints.iter().filter(hard).cloned().collect::<Vec<_>>()
            };
            let (old, new) = (change.old.map(threats), change.new.map(threats));
            if old != new {
                let pods = pods.by(Index::Node, &change.key.name);
                pods.iter().for_each(|pod| queue.add(pod.meta.key()));
            }
        });
        (this, work)
    }

    fn missing_for(&self, node: &str) -> Duration {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.entry(node.to_owned()).or_insert_with(Instant::now).elapsed()
    }
}

fn hard(taint: &&Taint) -> bool {
    taint.effect == Effect::NoExecute
}

impl Controller for Evictions {
    type Key = Key;
    const NAME: &'static str = "taint-eviction-controller";

    fn keys(&self) -> Vec<Key> {
        self.pods.keys()
    }

    async fn reconcile(&self, key: &Key, api: &Api) -> Result<Next, Error> {
        let Some(pod) = self.pods.get(key).filter(|pod| !pod.node.is_empty()) else {
            return Ok(Next::Await);
        };
        let Some(node) = self.nodes.get(&Key::cluster(&pod.node)) else {
            return self.forget(&pod, api).await;
        };
        if pod.meta.is_deleting() || pod.is_terminal() {
            return Ok(Next::Await);
        }
        let now = api.now();
        match endures_until(&pod, &node.spec.taints, now) {
            None => Ok(Next::Await),
            Some(until) if until > now => {
                let left = u64::try_from(until.as_second() - now.as_second()).unwrap_or(0);
                Ok(Next::After(Duration::from_secs(left.max(1))))
            }
            Some(_) => {
                let about = ObjectRef::to(&*pod);
                let message = format!("Marking for deletion Pod {key}");
                api.report(&about, Severity::Normal, "TaintManagerEviction", message);
                let why = Say {
                    kind: "DisruptionTarget",
                    status: "True",
                    reason: "DeletionByTaintManager",
                    message: "Taint manager: deleting due to NoExecute taint",
                };
                remove(&pod, why, None, api).await?;
                Ok(Next::Await)
            }
        }
    }
}

/// Until when a pod endures a node's taints; `None` is for ever.
fn endures_until(pod: &Pod, taints: &[Taint], now: Timestamp) -> Option<Timestamp> {
    let until = |taint: &Taint| {
        let since = taint.time_added.unwrap_or(now);
        let matching = pod.tolerations.iter().filter(|one| one.tolerates(taint));
        let all: Vec<Option<i64>> = matching.map(|one| one.toleration_seconds).collect();
        if all.is_empty() {
            return Some(Timestamp::MIN);
        }
        // A toleration without an end does not lengthen one that has an end, as in Kubernetes.
        let seconds = all.into_iter().flatten().min()?.max(0);
        Some(
            Timestamp::from_second(since.as_second().saturating_add(seconds))
                .unwrap_or(Timestamp::MAX),
        )
    };
    taints.iter().filter(hard).filter_map(until).min()
}

impl Evictions {
    /// Deletes a pod whose node does not exist, once that is sure.
    async fn forget(&self, pod: &Pod, api: &Api) -> Result<Next, Error> {
        let left = self.quarantine.saturating_sub(self.missing_for(&pod.node));
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        if api.get(&NODE, &Key::cluster(&pod.node)).await?.is_some() {
            return Ok(Next::After(self.quarantine));
        }
        let why = Say {
            kind: "DisruptionTarget",
            status: "True",
            reason: "DeletionByPodGC",
            message: "PodGC: node no longer exists",
        };
        remove(pod, why, Some(0), api).await?;
        if self.pods.by(Index::Node, &pod.node).len() <= 1 {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(&pod.node);
        }
        Ok(Next::Await)
    }
}

/// Says why on the pod, then deletes it.
async fn remove(pod: &Pod, why: Say<'_>, grace: Option<i64>, api: &Api) -> Result<(), Error> {
    let (key, now) = (pod.meta.key(), api.now());
    let change = |object: &mut Object| {
        if object.uid() == pod.meta.uid {
            say(object, why, now);
        }
        Ok(())
    };
    match api.modify(&POD, &key, Part::Status, change).await {
        Err(Error::Refused(status)) if status.is_not_found() => return Ok(()),
        done => done?,
    };
    let mut options = exactly(&pod.meta.uid);
    options.grace_period_seconds = grace;
    api.delete(&POD, &key, &options).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn until(tolerations: serde_json::Value) -> Option<i64> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"}, "spec": {"tolerations": tolerations},
        }))
        .expect("a valid pod");
        let taints: Vec<Taint> = serde_json::from_value(json!([
            {"key": "gone", "effect": "NoExecute", "timeAdded": "1970-01-01T00:01:40Z"},
            {"key": "full", "effect": "NoSchedule"},
        ]))
        .expect("valid taints");
        let now = Timestamp::from_second(150).expect("a valid time");
        endures_until(&pod, &taints, now).map(Timestamp::as_second)
    }

    #[test]
    fn the_shortest_matching_toleration_counts_from_when_the_taint_was_set() {
        let exists = |seconds: Option<i64>| {
            json!({"key": "gone", "operator": "Exists", "effect": "NoExecute",
                   "tolerationSeconds": seconds})
        };
        assert_eq!(until(json!([exists(None)])), None);
        assert_eq!(until(json!([exists(Some(300))])), Some(400));
        assert_eq!(until(json!([exists(Some(300)), exists(Some(60)), exists(None)])), Some(160));
        assert_eq!(until(json!([exists(Some(-5))])), Some(100));
        assert_eq!(until(json!([])), Some(Timestamp::MIN.as_second()));
    }
}
