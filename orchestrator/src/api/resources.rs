//! Resources of pods: what they request, may use, and the class of service that follows.

use std::collections::BTreeMap;

use serde_json::Value;

use super::object::Object;
use super::quantity::Quantity;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// The amounts in a JSON map such as `resources.requests`. What cannot be read is left out:
/// validation has refused it.
pub fn amounts(map: Option<&Value>) -> Amounts {
    let fields = map.and_then(Value::as_object).into_iter().flatten();
    fields.filter_map(|(name, value)| Some((name.clone(), Quantity::from_json(value)?))).collect()
}

fn container_amounts(container: &Value, which: &str) -> Amounts {
    amounts(container.get("resources").and_then(|resources| resources.get(which)))
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_default();
        *entry = entry.plus(*amount);
    }
}

fn raise(sum: &mut Amounts, floor: &Amounts) {
    for (name, amount) in floor {
        let entry = sum.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

/// What a pod requests of its node: the larger of what its containers request together and what
/// any init container requests while it runs beside the sidecars before it, plus overhead.
pub fn pod_requests(pod: &Object) -> Amounts {
    let mut running = Amounts::new();
    let mut starting = Amounts::new();
    let mut sidecars = Amounts::new();
    for container in pod.items("/spec/initContainers") {
        let mut own = container_amounts(container, "requests");
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            add(&mut sidecars, &own);
            raise(&mut starting, &sidecars.clone());
        } else {
            add(&mut own, &sidecars);
            raise(&mut starting, &own);
        }
    }
    for container in pod.items("/spec/containers") {
        add(&mut running, &container_amounts(container, "requests"));
    }
    add(&mut running, &sidecars);
    raise(&mut running, &starting);
    add(&mut running, &amounts(pod.get("/spec/overhead")));
    running
}

/// `Guaranteed`, `Burstable` or `BestEffort`: who is killed last, later and first when a node runs
/// out of memory.
pub fn qos_class(pod: &Object) -> &'static str {
    const COUNTED: [&str; 2] = ["cpu", "memory"];
    let containers: Vec<&Value> =
        pod.items("/spec/containers").iter().chain(pod.items("/spec/initContainers")).collect();
    let named = |container: &Value, which: &str| {
        let mut all = container_amounts(container, which);
        all.retain(|name, amount| COUNTED.contains(&name.as_str()) && !amount.is_zero());
        all
    };
    let any = |container: &&Value| {
        !named(container, "requests").is_empty() || !named(container, "limits").is_empty()
    };
    if !containers.iter().any(any) {
        return "BestEffort";
    }
    let guaranteed = containers.iter().all(|container| {
        let limits = named(container, "limits");
        limits.len() == COUNTED.len() && named(container, "requests") == limits
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Object {
        Object::from_value(json!({"spec": spec})).expect("an object")
    }

    #[test]
    fn requests_add_up() {
        let pod = pod(json!({
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"resources": {"requests": {"cpu": "2"}}},
            ],
            "containers": [
                {"resources": {"requests": {"cpu": "500m", "memory": "1Mi"}}},
                {"resources": {"requests": {"cpu": "500m"}}},
            ],
        }));
        let requests = pod_requests(&pod);
        assert_eq!(requests["cpu"], Quantity::from_milli(2100));
        assert_eq!(requests["memory"], Quantity::from_units(1 << 20));
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        let with = |resources: Value| pod(json!({"containers": [{"resources": resources}]}));
        assert_eq!(qos_class(&with(json!({}))), "BestEffort");
        assert_eq!(qos_class(&with(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let full = json!({"cpu": "1", "memory": "1Gi"});
        let guaranteed = json!({"requests": full.clone(), "limits": full});
        assert_eq!(qos_class(&with(guaranteed)), "Guaranteed");
    }
}
