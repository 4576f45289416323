//! Defaults of services.

use serde_json::{Value, json};

use super::{each, fill, inner, made};
use crate::api::object::Object;

/// How long a client keeps its endpoint when it is to keep one: three hours.
const AFFINITY_S: i64 = 10_800;

pub(super) fn apply(service: &mut Object) {
    let Some(spec) = inner(service.fields_mut(), "spec") else { return };
    fill(spec, "type", "ClusterIP");
    fill(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        let client = made(made(spec, "sessionAffinityConfig"), "clientIP");
        fill(client, "timeoutSeconds", AFFINITY_S);
    }
    let kind = spec["type"].as_str().unwrap_or("").to_owned();
    for port in each(spec, "ports") {
        fill(port, "protocol", "TCP");
        let number = port.get("port").cloned();
        if port.get("targetPort") == Some(&Value::from(0)) {
            port.remove("targetPort");
        }
        if let Some(number) = number {
            fill(port, "targetPort", number);
        }
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
    if kind != "ExternalName" {
        fill(spec, "internalTrafficPolicy", "Cluster");
        fill(spec, "ipFamilies", json!(["IPv4"]));
        fill(spec, "ipFamilyPolicy", "SingleStack");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_service_is_filled_in_as_kubernetes_does() {
        let value = json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "web"}]}});
        let mut service = Object::from_value(value).expect("an object");
        apply(&mut service);
        let wanted = json!({"spec": {
            "ports": [
                {"port": 80, "protocol": "TCP", "targetPort": 80},
                {"port": 81, "protocol": "TCP", "targetPort": "web"},
            ],
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        }});
        assert_eq!(service.as_value(), &wanted);
    }
}
