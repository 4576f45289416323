//! Keeps as many live pods as each ReplicaSet asks for.
//!
//! A pod counts while it is neither ended nor on its way out. Too few: the missing ones are created,
//! in growing batches (1, 2, 4 …) so that a template no pod can be made from fails once and not five
//! hundred times. Too many: those go whose loss is least, see [`rank`]. A run looks at the picture
//! after its own last writes (the revision barrier), so it never makes up for the same gap twice.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{claim, count, work_of};
use crate::api::kinds::{POD, REPLICA_SET};
use crate::api::{Key, Object, time};
use crate::client::api::exactly;
use crate::client::view::{ObjectRef, Pod, ReplicaSet, ReplicaSetStatus};
use crate::client::{Api, Cache, Context, Controller, Error, Next, Severity, Work};
use crate::registry::Part;

/// Pods made or removed in one run.
const BURST: usize = 500;
/// Annotation by which a user says which pods are dear.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// See the module's text.
pub(super) struct ReplicaSets {
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
}

impl ReplicaSets {
    pub(super) fn new(context: &Context) -> (Self, Work<Key>) {
        let work = Work::default();
        let this = Self { sets: context.caches.get(), pods: context.caches.get() };
        this.sets.subscribe(work_of(&work));
        let (queue, sets) = (work.clone(), this.sets.clone());
        this.pods.subscribe(move |change| {
            for pod in change.sides() {
                let namespace = &pod.meta.namespace;
                match pod.meta.controller() {
                    Some(owner) if owner.kind == REPLICA_SET.kind => {
                        queue.add(Key::namespaced(namespace, &owner.name));
                    }
                    Some(_) => {}
                    None => {
                        let selects =
                            |set: &Arc<ReplicaSet>| set.spec.selector.matches(&pod.meta.labels);
                        let sets = sets.in_namespace(namespace);
                        sets.into_iter().filter(selects).for_each(|set| queue.add(set.meta.key()));
                    }
                }
            }
        });
        (this, work)
    }
}

impl Controller for ReplicaSets {
    type Key = Key;
    const NAME: &'static str = "replicaset-controller";

    fn keys(&self) -> Vec<Key> {
        self.sets.keys()
    }

    async fn reconcile(&self, key: &Key, api: &Api) -> Result<Next, Error> {
        let Some(set) = self.sets.get(key) else { return Ok(Next::Await) };
        let all = claim::candidates(&self.pods, &set.meta);
        let owner = ObjectRef::to(&*set);
        let claim = claim::sort(&set.meta, &set.spec.selector, all);
        let owned = claim::carry_out(claim, &owner, &POD, api).await?;
        let plan = plan(&set, &owned, api.now());
        let mut trouble = create(&set, &owner, plan.create, api).await.err();
        for failed in join_all(plan.delete.iter().map(|pod| delete(pod, &owner, api))).await {
            trouble = trouble.or_else(|| failed.err());
        }
        write_status(&set, plan.status, trouble.as_ref(), api).await?;
        match trouble {
            Some(Trouble { error, .. }) => Err(error),
            None => Ok(plan.next.map_or(Next::Await, Next::After)),
        }
    }
}

/// What one run does.
#[derive(Debug)]
struct Plan {
    create: usize,
    delete: Vec<Arc<Pod>>,
    status: ReplicaSetStatus,
    /// When a ready pod will have been ready for long enough.
    next: Option<Duration>,
}

/// The policy. `pods` are the set's own.
fn plan(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let live: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pod.is_active()).collect();
    let wanted = usize::try_from(set.spec.replicas).unwrap_or(0);
    let (missing, surplus) = (wanted.saturating_sub(live.len()), live.len().saturating_sub(wanted));
    let ending = pods.iter().filter(|pod| pod.meta.is_deleting() && !pod.is_terminal());
    let mut status = ReplicaSetStatus {
        replicas: count(live.len()),
        terminating_replicas: count(ending.count()),
        observed_generation: set.meta.generation,
        conditions: set.status.conditions.clone(),
        ..ReplicaSetStatus::default()
    };
    let labels = set.spec.template.pointer("/metadata/labels").and_then(Value::as_object);
    let mut next: Option<Duration> = None;
    for pod in &live {
        let has = |(name, value): (&String, &Value)| {
            pod.meta.labels.get(name).map(String::as_str) == value.as_str()
        };
        status.fully_labeled_replicas += i64::from(labels.is_none_or(|all| all.iter().all(has)));
        if pod.is_ready() {
            status.ready_replicas += 1;
            match available_in(pod, set.spec.min_ready_seconds, now) {
                None => status.available_replicas += 1,
                Some(wait) => next = Some(next.map_or(wait, |next| next.min(wait))),
            }
        }
    }
    let busy = set.meta.is_deleting();
    Plan {
        create: if busy { 0 } else { missing.min(BURST) },
        delete: if busy { Vec::new() } else { doomed(&live, surplus.min(BURST)) },
        status,
        next,
    }
}

/// How long until a ready pod counts as available; `None` when it does.
fn available_in(pod: &Pod, min_ready_seconds: i64, now: Timestamp) -> Option<Duration> {
    if min_ready_seconds <= 0 {
        return None;
    }
    let since = pod.ready_since().unwrap_or(now);
    let left = since.as_second() + min_ready_seconds - now.as_second();
    u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_secs)
}

/// The pods to remove: those of least rank.
fn doomed(live: &[&Arc<Pod>], surplus: usize) -> Vec<Arc<Pod>> {
    let mut per_node: BTreeMap<&str, i64> = BTreeMap::new();
    for pod in live {
        *per_node.entry(&pod.node).or_insert(0) += 1;
    }
    let mut order: Vec<&Arc<Pod>> = live.to_vec();
    order.sort_by_cached_key(|pod| rank(pod, per_node[pod.node.as_str()]));
    order.into_iter().take(surplus).cloned().collect()
}

/// What is lost with a pod, from least to most. In turn: a place on a node, progress towards
/// running, readiness, the user's own word, spread over nodes, time being ready, calm (few
/// restarts), age, and the name so that the order is total.
fn rank(pod: &Pod, on_its_node: i64) -> impl Ord + use<> {
    let phase = match pod.phase.as_str() {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost: i64 =
        pod.meta.annotation(DELETION_COST).and_then(|text| text.parse().ok()).unwrap_or(0);
    let placed = !pod.node.is_empty();
    let crowded = Reverse(if placed { on_its_node } else { 0 });
    (
        (placed, phase, pod.is_ready(), cost, crowded),
        (Reverse(pod.ready_since()), Reverse(pod.restarts), Reverse(pod.meta.created)),
        Reverse(pod.meta.name.clone()),
    )
}

/// A pod of the set, as JSON.
fn pod_for(set: &ReplicaSet, owner: &ObjectRef) -> Value {
    let template = &set.spec.template;
    let mut metadata = json!({
        "generateName": format!("{}-", set.meta.name),
        "namespace": set.meta.namespace,
        "ownerReferences": [owner.controller_reference()],
    });
    for field in ["labels", "annotations", "finalizers"] {
        match template.pointer(&format!("/metadata/{field}")) {
            None | Some(Value::Null) => {}
            Some(value) => metadata[field] = value.clone(),
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// A write that failed, and under which word it is shown.
struct Trouble {
    reason: &'static str,
    error: Error,
}

/// Creates pods in batches of 1, 2, 4 … and stops behind the first batch with a failure.
async fn create(
    set: &ReplicaSet,
    owner: &ObjectRef,
    mut missing: usize,
    api: &Api,
) -> Result<(), Trouble> {
    let mut batch = 1;
    while missing > 0 {
        let size = batch.min(missing);
        let made = join_all((0..size).map(|_| api.create(&POD, pod_for(set, owner)))).await;
        let mut failure = None;
        for one in made {
            match one {
                Ok(pod) => {
                    let message = format!("Created pod: {}", pod.name());
                    api.report(owner, Severity::Normal, "SuccessfulCreate", message);
                }
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            let message = format!("Error creating: {error}");
            api.report(owner, Severity::Warning, "FailedCreate", message);
            return Err(Trouble { reason: "FailedCreate", error });
        }
        missing -= size;
        batch *= 2;
    }
    Ok(())
}

async fn delete(pod: &Pod, owner: &ObjectRef, api: &Api) -> Result<(), Trouble> {
    match api.delete(&POD, &pod.meta.key(), &exactly(&pod.meta.uid)).await {
        Ok(()) => {
            let message = format!("Deleted pod: {}", pod.meta.name);
            api.report(owner, Severity::Normal, "SuccessfulDelete", message);
            Ok(())
        }
        Err(error) => {
            let message = format!("Error deleting: {error}");
            api.report(owner, Severity::Warning, "FailedDelete", message);
            Err(Trouble { reason: "FailedDelete", error })
        }
    }
}

async fn write_status(
    set: &ReplicaSet,
    status: ReplicaSetStatus,
    trouble: Option<&Trouble>,
    api: &Api,
) -> Result<(), Error> {
    let failing = status.conditions.iter().any(|one| one.kind == "ReplicaFailure");
    if status == set.status && failing == trouble.is_some() {
        return Ok(());
    }
    let now = time::seconds(api.now());
    let change = |object: &mut Object| {
        if object.uid() != set.meta.uid {
            return Ok(());
        }
        super::set_counts(
            object,
            &[
                ("replicas", status.replicas),
                ("fullyLabeledReplicas", status.fully_labeled_replicas),
                ("readyReplicas", status.ready_replicas),
                ("availableReplicas", status.available_replicas),
                ("terminatingReplicas", status.terminating_replicas),
            ],
        );
        object.set("/status/replicas", status.replicas);
        object.set("/status/observedGeneration", status.observed_generation);
        match trouble {
            Some(Trouble { reason, error }) if !failing => object.set_condition(json!({
                "type": "ReplicaFailure", "status": "True", "lastTransitionTime": now,
                "reason": reason, "message": error.to_string(),
            })),
            None if failing => {
                let mut all = object.items("/status/conditions").to_vec();
                all.retain(|one| one["type"] != "ReplicaFailure");
                object.set("/status/conditions", all);
            }
            _ => {}
        }
        Ok(())
    };
    match api.modify(&REPLICA_SET, &set.meta.key(), Part::Status, change).await {
        Err(Error::Refused(status)) if status.is_not_found() => Ok(()),
        done => done.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, facts: Value) -> Arc<Pod> {
        let mut value = json!({"metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        json_patch::merge(&mut value, &facts);
        Arc::new(serde_json::from_value(value).expect("a valid pod"))
    }

    fn ready(since: &str) -> Value {
        json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": since}]}})
    }

    fn set(replicas: i64) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u", "generation": 3},
            "spec": {"replicas": replicas, "minReadySeconds": 10,
                     "selector": {"matchLabels": {"app": "web"}},
                     "template": {"metadata": {"labels": {"app": "web", "tier": "front"}},
                                  "spec": {"containers": []}}},
        }))
        .expect("a valid set")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a valid time")
    }

    #[test]
    fn the_ended_and_the_ending_do_not_count() {
        let pods = [
            pod("ok", ready("2026-01-01T00:00:00Z")),
            pod("failed", json!({"status": {"phase": "Failed"}})),
            pod("ending", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        ];
        let plan = plan(&set(3), &pods, at("2026-01-01T00:00:04Z"));
        assert_eq!((plan.create, plan.delete.len()), (2, 0));
        let status = &plan.status;
        assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (1, 1, 0));
        assert_eq!((status.terminating_replicas, status.fully_labeled_replicas), (1, 0));
        assert_eq!(plan.next, Some(Duration::from_secs(6)), "ready for 4 s of 10");
    }

    #[test]
    fn the_least_loss_goes_first() {
        let created = |second: u32| json!({"metadata": {"creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")}});
        let with = |mut one: Value, other: Value| {
            json_patch::merge(&mut one, &other);
            one
        };
        let early = ready("2026-01-01T00:00:00Z");
        let pods = [
            pod(
                "dear",
                with(early.clone(), json!({"metadata": {"annotations": {DELETION_COST: "5"}}})),
            ),
            pod("old", with(early.clone(), created(1))),
            pod("young", with(early.clone(), created(9))),
            pod("late", with(ready("2026-01-01T00:00:30Z"), created(1))),
            pod(
                "crashy",
                with(
                    early.clone(),
                    json!({"status": {"containerStatuses": [{"restartCount": 4}]}}),
                ),
            ),
            pod("unready", json!({})),
            pod("starting", json!({"status": {"phase": "Pending"}})),
            pod("unplaced", json!({"spec": {"nodeName": null}, "status": {"phase": "Pending"}})),
            pod("crowded", with(early, created(1))),
        ];
        let doomed: Vec<String> = plan(&set(0), &pods, at("2026-01-01T00:02:00Z"))
            .delete
            .iter()
            .map(|pod| pod.meta.name.clone())
            .collect();
        assert_eq!(
            doomed,
            [
                "unplaced", "starting", "unready", "late", "crashy", "young", "old", "crowded",
                "dear"
            ],
        );
    }

    #[test]
    fn a_set_that_is_deleted_touches_no_pod() {
        let mut ending = set(5);
        ending.meta.deleted = Some(at("2026-01-01T00:00:00Z"));
        let plan = plan(&ending, &[], at("2026-01-01T00:00:00Z"));
        assert_eq!((plan.create, plan.delete.len()), (0, 0));
    }

    #[test]
    fn a_pod_is_the_template_with_an_owner() {
        let set = set(1);
        let pod = pod_for(&set, &ObjectRef::to(&set));
        assert_eq!(pod["metadata"]["generateName"], "web-");
        assert_eq!(pod["metadata"]["labels"]["tier"], "front");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["apiVersion"], "apps/v1");
        assert_eq!(pod["spec"]["containers"], json!([]));
    }
}
