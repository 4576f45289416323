//! What the cluster adds to objects and asks of their surroundings before it takes them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Registry, codec, key};
use crate::api::status::{Cause, Details};
use crate::api::{Key, Kind, Object, Status, kinds};

/// How long a pod stays on a node that does not answer, unless it says otherwise.
const UNREACHABLE_TOLERATION_S: i64 = 300;
/// Priorities of the two classes every cluster has.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
/// Namespaces remembered as taking new objects.
const NAMESPACES_MAX: usize = 4096;

/// Fills in what a new object needs from the cluster.
pub(super) fn admit_create(kind: &Kind, object: &mut Object) -> Result<(), Status> {
    if *kind == kinds::POD {
        service_account(object);
        priority(object)?;
        tolerations(object);
    }
    Ok(())
}

fn service_account(pod: &mut Object) {
    if pod.text("/spec/serviceAccountName").is_none_or(str::is_empty) {
        pod.set("/spec/serviceAccountName", "default");
    }
    let name = pod.text("/spec/serviceAccountName").unwrap_or("default").to_owned();
    pod.set("/spec/serviceAccount", name);
}

fn priority(pod: &mut Object) -> Result<(), Status> {
    let class = pod.text("/spec/priorityClassName").unwrap_or("");
    let value = match SYSTEM_CLASSES.iter().find(|(name, _)| *name == class) {
        Some((_, value)) => *value,
        None if class.is_empty() => 0,
        None => {
            let why = format!("no PriorityClass with name {class} was found");
            return Err(Status::forbidden(&kinds::POD, pod.name(), &why));
        }
    };
    match pod.int("/spec/priority") {
        Some(own) if own != value => {
            let why = format!(
                "the integer value of priority ({own}) must not be provided in pod spec; priority \
                 admission controller computed {value} from the given PriorityClass name"
            );
            Err(Status::forbidden(&kinds::POD, pod.name(), &why))
        }
        _ => {
            pod.set("/spec/priority", value);
            if pod.get("/spec/preemptionPolicy").is_none() {
                pod.set("/spec/preemptionPolicy", "PreemptLowerPriority");
            }
            Ok(())
        }
    }
}

fn tolerations(pod: &mut Object) {
    let mut all = pod.items("/spec/tolerations").to_vec();
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !all.iter().any(|toleration| tolerates(toleration, taint)) {
            all.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": UNREACHABLE_TOLERATION_S,
            }));
        }
    }
    pod.set("/spec/tolerations", all);
}

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let text = |field| toleration.get(field).and_then(Value::as_str).unwrap_or("");
    (text("key") == taint || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
}

/// Namespaces known to take new objects, each with the revision at which they did. A write compares
/// the revision, so what is remembered wrongly costs a second try and nothing else.
pub(super) type ActiveNamespaces = BTreeMap<String, i64>;

impl Registry {
    /// What must stay true of the namespace for a new object in it. Refuses when the namespace
    /// takes none.
    pub(super) async fn active_namespace(
        &self,
        kind: &'static Kind,
        object: &Object,
    ) -> Result<Option<(String, i64)>, Status> {
        let Some(name) = object.namespace().filter(|_| kind.namespaced) else { return Ok(None) };
        let path = key::object(&kinds::NAMESPACE, &Key::cluster(name));
        if let Some(revision) = self.namespaces().get(name) {
            return Ok(Some((path, *revision)));
        }
        let entry = self.entry(&kinds::NAMESPACE, &Key::cluster(name)).await?;
        let namespace = codec::decode(&entry)?;
        if namespace.is_deleting() || namespace.text("/status/phase") == Some("Terminating") {
            return Err(terminating(kind, object, name));
        }
        let mut known = self.namespaces();
        if known.len() >= NAMESPACES_MAX {
            known.clear();
        }
        known.insert(name.to_owned(), entry.mod_revision);
        Ok(Some((path, entry.mod_revision)))
    }

    pub(super) fn forget_namespace(&self, object: &Object) {
        if let Some(name) = object.namespace() {
            self.namespaces().remove(name);
        }
    }
}

fn terminating(kind: &Kind, object: &Object, namespace: &str) -> Status {
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let mut status = Status::forbidden(kind, object.name(), &why);
    let cause = Cause {
        reason: "NamespaceTerminating",
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".into(),
    };
    let details = status.details.get_or_insert_with(|| Box::new(Details::default()));
    details.causes.push(cause);
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("an object")
    }

    #[test]
    fn a_pod_gets_account_priority_and_tolerations() {
        let mut plain = pod(json!({}));
        admit_create(&kinds::POD, &mut plain).expect("allowed");
        assert_eq!(plain.text("/spec/serviceAccountName"), Some("default"));
        assert_eq!(plain.int("/spec/priority"), Some(0));
        assert_eq!(plain.items("/spec/tolerations").len(), 2);
        assert_eq!(plain.int("/spec/tolerations/1/tolerationSeconds"), Some(300));
    }

    #[test]
    fn own_tolerations_are_kept() {
        let own = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists"});
        let mut careful = pod(json!({"tolerations": [own]}));
        admit_create(&kinds::POD, &mut careful).expect("allowed");
        assert_eq!(careful.items("/spec/tolerations").len(), 2);
        let mut all = pod(json!({"tolerations": [{"operator": "Exists"}]}));
        admit_create(&kinds::POD, &mut all).expect("allowed");
        assert_eq!(all.items("/spec/tolerations").len(), 1);
    }

    #[test]
    fn unknown_priorities_are_refused() {
        let mut critical = pod(json!({"priorityClassName": "system-node-critical"}));
        admit_create(&kinds::POD, &mut critical).expect("allowed");
        assert_eq!(critical.int("/spec/priority"), Some(2_000_001_000));
        let mut other = pod(json!({"priorityClassName": "gold"}));
        let refused = admit_create(&kinds::POD, &mut other).expect_err("unknown");
        assert_eq!(
            refused.message,
            "pods \"p\" is forbidden: no PriorityClass with name gold was found"
        );
    }
}
