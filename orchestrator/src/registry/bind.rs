//! Binding: a pod is given its node, once and for all.

use serde_json::json;

use super::commit::{Change, Outcome};
use super::options::{Actor, WriteOptions};
use super::{Registry, codec};
use crate::api::{Key, Object, Status, kinds, time};

/// Writers that race for one pod; the kubelet does not touch it before it is bound.
const ATTEMPTS_MAX: usize = 16;

impl Registry {
    /// Binds a pod to a node, once. A `uid` makes sure that it is still the same pod.
    pub async fn bind(
        &self,
        actor: &Actor,
        pod: &Key,
        uid: Option<&str>,
        node: &str,
        options: &WriteOptions,
    ) -> Result<Object, Status> {
        let mut entry = self.entry(&kinds::POD, pod).await?;
        for _ in 0..ATTEMPTS_MAX {
            let current = codec::decode(&entry)?;
            check(&current, uid, node)?;
            let mut bound = current.clone();
            bound.set("/spec/nodeName", node);
            bound.set_condition(json!({
                "type": "PodScheduled", "status": "True",
                "lastProbeTime": null, "lastTransitionTime": time::seconds(super::now()),
                "observedGeneration": current.generation(),
            }));
            if options.dry_run {
                return Ok(bound);
            }
            let change = Change::new(&kinds::POD, pod, Some(&current), Some(&bound));
            match self.commit(&change).await? {
                Outcome::Done(revision) => {
                    tracing::debug!(%pod, node, user = actor.user, "bound");
                    bound.set_resource_version(revision);
                    return Ok(bound);
                }
                Outcome::Changed(Some(newer)) => entry = newer,
                Outcome::Changed(None) => return Err(Status::not_found(&kinds::POD, &pod.name)),
                Outcome::Refused => entry = self.entry(&kinds::POD, pod).await?,
            }
        }
        Err(Status::modified(&kinds::POD, &pod.name))
    }
}

fn check(pod: &Object, uid: Option<&str>, node: &str) -> Result<(), Status> {
    let name = pod.name();
    let refuse = |why: String| {
        let mut status = Status::conflict(&kinds::POD, name, &why);
        status.message = format!("Operation cannot be fulfilled on pods/binding {name:?}: {why}");
        Err(status)
    };
    if node.is_empty() {
        let cause = crate::api::validate::required("target.name", "");
        return Err(Status::invalid(&kinds::POD, name, vec![cause]));
    }
    if let Some(uid) = uid.filter(|uid| !uid.is_empty() && *uid != pod.uid()) {
        return refuse(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            pod.uid()
        ));
    }
    if pod.is_deleting() {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(held) = pod.text("/spec/nodeName").filter(|held| !held.is_empty()) {
        return refuse(format!("pod {name} is already assigned to node {held:?}"));
    }
    if !pod.items("/spec/schedulingGates").is_empty() {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    Ok(())
}
