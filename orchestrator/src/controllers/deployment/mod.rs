//! Rolls Deployments out: one ReplicaSet per pod template, pods moved from the old to the new.
//!
//! [`rollout`] holds the policy, [`status`] what a Deployment says of itself, [`template`] when two
//! templates are the same. This file reads the caches and carries the plan out.

mod rollout;
mod status;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Value, json};

use self::rollout::{NewSet, Plan, Set};
pub(super) use self::template::HASH_LABEL;
use super::{claim, set_counts, work_of};
use crate::api::kinds::{DEPLOYMENT, REPLICA_SET};
use crate::api::{Key, Object};
use crate::client::api::exactly;
use crate::client::view::{Deployment, DeploymentStatus, Index, ObjectRef, Pod, ReplicaSet};
use crate::client::{Api, Cache, Context, Controller, Error, Next, Severity, Work};
use crate::registry::Part;

/// See the module's text.
pub(super) struct Deployments {
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
}

impl Deployments {
    pub(super) fn new(context: &Context) -> (Self, Work<Key>) {
        let work = Work::default();
        let this = Self {
            deployments: context.caches.get(),
            sets: context.caches.get(),
            pods: context.caches.get(),
        };
        this.deployments.subscribe(work_of(&work));
        let (queue, deployments) = (work.clone(), this.deployments.clone());
        this.sets.subscribe(move |change| {
            for set in change.sides() {
                let namespace = &set.meta.namespace;
                match set.meta.controller() {
                    Some(owner) if owner.kind == DEPLOYMENT.kind => {
                        queue.add(Key::namespaced(namespace, &owner.name));
                    }
                    Some(_) => {}
                    None => {
                        let selects =
                            |one: &Arc<Deployment>| one.spec.selector.matches(&set.meta.labels);
                        let all = deployments.in_namespace(namespace);
                        all.into_iter().filter(selects).for_each(|one| queue.add(one.meta.key()));
                    }
                }
            }
        });
        // `Recreate` waits for the last old pod, which no ReplicaSet's status tells.
        let (queue, sets) = (work.clone(), this.sets.clone());
        this.pods.subscribe(move |change| {
            let Some(pod) = change.old.filter(|_| change.new.is_none()) else { return };
            let Some(owner) = pod.meta.controller().filter(|one| one.kind == REPLICA_SET.kind)
            else {
                return;
            };
            let set = sets.get(&Key::namespaced(&pod.meta.namespace, &owner.name));
            if let Some(owner) = set.as_ref().and_then(|set| set.meta.controller()) {
                queue.add(Key::namespaced(&pod.meta.namespace, &owner.name));
            }
        });
        (this, work)
    }

    /// Whether pods of other templates than the present still run or stop.
    fn old_pods(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
        let present =
            |set: &ReplicaSet| template::same(&set.spec.template, &deployment.spec.template);
        let old = sets.iter().filter(|set| !present(set));
        old.flat_map(|set| self.pods.by(Index::Owner, &set.meta.uid)).any(|pod| !pod.is_terminal())
    }
}

impl Controller for Deployments {
    type Key = Key;
    const NAME: &'static str = "deployment-controller";

    fn keys(&self) -> Vec<Key> {
        self.deployments.keys()
    }

    async fn reconcile(&self, key: &Key, api: &Api) -> Result<Next, Error> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Next::Await) };
        let owner = ObjectRef::to(&*deployment);
        if deployment.spec.selector.is_empty() {
            let message =
                "This deployment is selecting all pods. A non-empty selector is required.";
            api.report(&owner, Severity::Warning, "SelectingAll", message.to_owned());
            return Ok(Next::Await);
        }
        let all = claim::candidates(&self.sets, &deployment.meta);
        let claim = claim::sort(&deployment.meta, &deployment.spec.selector, all);
        let sets = claim::carry_out(claim, &owner, &REPLICA_SET, api).await?;
        let plan = rollout::plan(&deployment, &sets, self.old_pods(&deployment, &sets));
        let act = Act { deployment: &deployment, owner: &owner, api };
        act.sets(&plan).await?;
        let (status, wake) = status::status(&deployment, &plan, api.now());
        act.status(&status).await?;
        Ok(wake.map_or(Next::Await, Next::After))
    }
}

/// Carries a plan out.
struct Act<'a> {
    deployment: &'a Deployment,
    owner: &'a ObjectRef,
    api: &'a Api,
}

impl Act<'_> {
    async fn sets(&self, plan: &Plan) -> Result<(), Error> {
        if let Some(create) = &plan.create {
            self.create(create).await?;
        }
        for set in plan.new.iter().chain(&plan.old) {
            let newest = plan.new.as_ref().is_some_and(|new| std::ptr::eq(new, set));
            let patient = set.set.spec.min_ready_seconds != self.deployment.spec.min_ready_seconds;
            if set.is_changed() || (newest && patient) {
                self.change(set, newest).await?;
            }
        }
        for set in &plan.forget {
            let options = exactly(&set.meta.uid);
            self.api.delete(&REPLICA_SET, &set.meta.key(), &options).await?;
        }
        let revision = plan.revision.as_deref();
        if revision.is_some() && self.deployment.meta.annotation(rollout::REVISION) != revision {
            let note = |object: &mut Object| {
                if let Some(revision) = revision.filter(|_| object.uid() == self.owner.uid) {
                    object.set_annotation(rollout::REVISION, revision);
                }
                Ok(())
            };
            self.api.modify(&DEPLOYMENT, &self.owner.key, Part::Main, note).await?;
        }
        Ok(())
    }

    async fn create(&self, new: &NewSet) -> Result<(), Error> {
        let set = set_for(self.deployment, self.owner, new);
        let name = set["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match self.api.create(&REPLICA_SET, set).await {
            Ok(_) => {
                if new.replicas > 0 {
                    self.say_scaled(&name, 0, new.replicas);
                }
                Ok(())
            }
            Err(Error::Refused(status)) if status.is_already_exists() => {
                self.step_aside(&name).await?;
                Err(status.into())
            }
            Err(error) => {
                let message = format!("Failed to create new replica set \"{name}\": {error}");
                self.api.report(self.owner, Severity::Warning, "ReplicaSetCreateError", message);
                Err(error)
            }
        }
    }

    /// Someone has our name. If it is another template's set, the hash must change; if it is our
    /// own, the cache was late and the next run sees it.
    async fn step_aside(&self, name: &str) -> Result<(), Error> {
        let key = Key::namespaced(&self.deployment.meta.namespace, name);
        let Some(taken) = self.api.get(&REPLICA_SET, &key).await? else { return Ok(()) };
        let ours = taken.controller().is_some_and(|owner| owner.uid == self.owner.uid);
        let template = taken.get("/spec/template").unwrap_or(&Value::Null);
        if ours && template::same(template, &self.deployment.spec.template) {
            return Ok(());
        }
        let seen = self.deployment.status.collision_count.unwrap_or(0);
        let count = |object: &mut Object| {
            if object.int("/status/collisionCount").unwrap_or(0) == seen {
                object.set("/status/collisionCount", seen + 1);
            }
            Ok(())
        };
        self.api.modify(&DEPLOYMENT, &self.owner.key, Part::Status, count).await.map(drop)
    }

    async fn change(&self, set: &Set, newest: bool) -> Result<(), Error> {
        let meta = &set.set.meta;
        let change = |object: &mut Object| {
            if object.uid() != meta.uid {
                return Ok(());
            }
            if set.is_scaled() {
                object.set("/spec/replicas", set.replicas);
            }
            if newest {
                object.set("/spec/minReadySeconds", self.deployment.spec.min_ready_seconds);
            }
            for (name, text) in &set.annotations {
                object.set_annotation(name, text);
            }
            Ok(())
        };
        self.api.modify(&REPLICA_SET, &meta.key(), Part::Main, change).await?;
        if set.is_scaled() {
            self.say_scaled(&meta.name, set.set.spec.replicas, set.replicas);
        }
        Ok(())
    }

    fn say_scaled(&self, name: &str, from: i64, to: i64) {
        let way = if to > from { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {name} from {from} to {to}");
        self.api.report(self.owner, Severity::Normal, "ScalingReplicaSet", message);
    }

    async fn status(&self, status: &DeploymentStatus) -> Result<(), Error> {
        if *status == self.deployment.status {
            return Ok(());
        }
        let change = |object: &mut Object| {
            if object.uid() != self.owner.uid {
                return Ok(());
            }
            set_counts(
                object,
                &[
                    ("replicas", status.replicas),
                    ("updatedReplicas", status.updated_replicas),
                    ("readyReplicas", status.ready_replicas),
                    ("availableReplicas", status.available_replicas),
                    ("unavailableReplicas", status.unavailable_replicas),
                    ("terminatingReplicas", status.terminating_replicas),
                ],
            );
            object.set("/status/observedGeneration", status.observed_generation);
            let conditions: Vec<Value> = status.conditions.iter().map(status::to_value).collect();
            object.set("/status/conditions", conditions);
            Ok(())
        };
        match self.api.modify(&DEPLOYMENT, &self.owner.key, Part::Status, change).await {
            Err(Error::Refused(status)) if status.is_not_found() => Ok(()),
            done => done.map(drop),
        }
    }
}

/// The ReplicaSet of the present template.
fn set_for(deployment: &Deployment, owner: &ObjectRef, new: &NewSet) -> Value {
    let mut template = deployment.spec.template.clone();
    crate::api::object::set(
        &mut template,
        &format!("/metadata/labels/{HASH_LABEL}"),
        new.hash.as_str().into(),
    );
    let mut selector = deployment.spec.selector.clone();
    selector.match_labels.insert(HASH_LABEL.to_owned(), new.hash.clone());
    json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{}", deployment.meta.name, new.hash),
            "namespace": deployment.meta.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": new.annotations,
            "ownerReferences": [owner.controller_reference()],
        },
        "spec": {
            "replicas": new.replicas,
            "minReadySeconds": deployment.spec.min_ready_seconds,
            "selector": selector.to_value(),
            "template": template,
        },
    })
}
