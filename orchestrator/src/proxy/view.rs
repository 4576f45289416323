//! From stored Services and slices to what the plan takes. Anything that cannot be read counts as not
//! there: one odd slice must not take the others of its Service down.

use std::net::Ipv4Addr;

use serde_json::Value;

use super::plan::{Endpoint, Protocol, Service, ServicePort, Slice};
use crate::api::Key;
use crate::client::view as stored_view;

/// The key of a Service known by `namespace/name`.
pub(super) fn key(name: &str) -> Key {
    let (namespace, name) = name.split_once('/').unwrap_or_default();
    Key::namespaced(namespace, name)
}

pub(super) fn service(stored: &stored_view::Service) -> Service {
    let spec = &stored.spec;
    // Headless Services have no address (`None`), external ones none that is ours to translate.
    let external = spec.kind == "ExternalName";
    let address = spec.cluster_ip.parse::<Ipv4Addr>().ok().filter(|_| !external);
    let ports = spec.ports.iter().filter_map(|port| {
        let protocol = Some(port.protocol.as_str()).filter(|text| !text.is_empty());
        Some(ServicePort {
            name: port.name.clone(),
            protocol: Protocol::parse(protocol)?,
            port: u16::try_from(port.port).ok()?,
            node_port: u16::try_from(port.node_port).ok().filter(|number| *number != 0),
        })
    });
    Service {
        addresses: address.into_iter().collect(),
        ports: ports.collect(),
        local_only: spec.internal_traffic_policy == "Local",
    }
}

/// `None` for slices of other address families.
pub(super) fn slice(stored: &stored_view::EndpointSlice, node_name: &str) -> Option<Slice> {
    if stored.address_type != "IPv4" {
        return None;
    }
    let endpoints = stored.endpoints.iter().filter_map(|endpoint| one(endpoint, node_name));
    Some(Slice {
        ports: stored.ports.iter().filter_map(port).collect(),
        endpoints: endpoints.collect(),
    })
}

fn port(port: &Value) -> Option<ServicePort> {
    Some(ServicePort {
        name: port["name"].as_str().unwrap_or_default().to_owned(),
        protocol: Protocol::parse(port["protocol"].as_str())?,
        port: u16::try_from(port["port"].as_u64()?).ok()?,
        node_port: None,
    })
}

/// An endpoint has one address of use: the further ones are for other clients by convention.
fn one(endpoint: &Value, node_name: &str) -> Option<Endpoint> {
    let conditions = &endpoint["conditions"];
    let condition = |name: &str| conditions[name].as_bool();
    let ready = condition("ready").unwrap_or(true);
    Some(Endpoint {
        address: endpoint["addresses"][0].as_str()?.parse().ok()?,
        ready,
        serving: condition("serving").unwrap_or(ready),
        terminating: condition("terminating").unwrap_or(false),
        local: endpoint["nodeName"].as_str() == Some(node_name),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_conditions_mean_what_kubernetes_says() {
        let read = |conditions: Value| {
            let endpoint =
                json!({"addresses": ["10.244.0.5"], "nodeName": "a", "conditions": conditions});
            let endpoint = one(&endpoint, "a").expect("readable");
            (endpoint.ready, endpoint.serving, endpoint.terminating)
        };
        assert_eq!(read(json!(null)), (true, true, false));
        assert_eq!(read(json!({"ready": false})), (false, false, false));
        let stopping = json!({"ready": false, "serving": true, "terminating": true});
        assert_eq!(read(stopping), (false, true, true));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        for endpoint in [json!({}), json!({"addresses": ["fd00::1"]}), json!({"addresses": []})] {
            assert_eq!(one(&endpoint, "a"), None, "{endpoint}");
        }
        assert_eq!(port(&json!({"port": 70000})), None);
        assert_eq!(port(&json!({"port": 80, "protocol": "QUIC"})), None);
        assert_eq!(key("a/b"), Key::namespaced("a", "b"));
    }
}
