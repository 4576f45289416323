//! Services and the endpoints behind them.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::error::{Causes, Path, items, text};
use super::{Limits, container, meta, names};
use crate::api::object::Object;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// Endpoints, addresses of each, and ports of one slice.
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const SLICE_PORTS_MAX: usize = 20_000;
const SERVICE_TIMEOUT_MAX_S: i64 = 86_400;

/// What is wrong with a service.
pub(super) fn service(object: &Object, limits: Limits, causes: &mut Causes) {
    let path = Path::root("spec");
    let empty = json!({});
    let spec = object.get("/spec").unwrap_or(&empty);
    let kind = text(spec, "type");
    let known = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    causes.supported(&path.child("type"), spec.get("type"), &known);
    let headless = text(spec, "clusterIP") == "None";
    match kind {
        "ExternalName" => external_name(spec, &path, causes),
        _ => address(spec, &path, limits, causes),
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let why = format!("may not be set to 'None' for {kind} services");
        causes.invalid(&path.child("clusterIPs").item(0), "None", &why);
    }
    let no_ports = spec.get("ports").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if no_ports && !headless && kind != "ExternalName" {
        causes.required(&path.child("ports"), "");
    }
    ports(spec, kind, &path, limits, causes);
    meta::labels(spec, "selector", &path, causes);
    let affinity = ["ClientIP", "None"];
    causes.supported(&path.child("sessionAffinity"), spec.get("sessionAffinity"), &affinity);
    affinity_time(spec, &path, causes);
    for (path, family) in items(spec, "ipFamilies", &path) {
        // IPv6 needs routes and addresses that the node does not have yet.
        causes.supported(&path, Some(family), &["IPv4"]);
    }
    for field in ["externalTrafficPolicy", "internalTrafficPolicy"] {
        causes.supported(&path.child(field), spec.get(field), &["Cluster", "Local"]);
    }
    if spec.get("externalTrafficPolicy").is_some() && !matches!(kind, "NodePort" | "LoadBalancer") {
        let field = path.child("externalTrafficPolicy");
        let said = text(spec, "externalTrafficPolicy");
        causes.invalid(&field, said, "may only be set for externally-accessible services");
    }
}

fn affinity_time(spec: &Value, path: &Path, causes: &mut Causes) {
    let seconds = spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds");
    if let Some(seconds) = seconds.and_then(Value::as_i64)
        && !(1..=SERVICE_TIMEOUT_MAX_S).contains(&seconds)
    {
        let path = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
        let why = format!("must be between 1 and {SERVICE_TIMEOUT_MAX_S}, inclusive");
        causes.invalid(&path, seconds, &why);
    }
}

fn external_name(spec: &Value, path: &Path, causes: &mut Causes) {
    let name = text(spec, "externalName");
    let field = path.child("externalName");
    if name.is_empty() {
        causes.required(&field, "");
    } else {
        let bare = name.strip_suffix('.').unwrap_or(name);
        causes.invalid_all(&field, name, names::dns_subdomain(bare));
    }
    if !text(spec, "clusterIP").is_empty() {
        let why = "may not be set for ExternalName services";
        causes.forbidden(&path.child("clusterIPs").item(0), why);
    }
}

fn address(spec: &Value, path: &Path, limits: Limits, causes: &mut Causes) {
    let said = text(spec, "clusterIP");
    let field = path.child("clusterIPs");
    if matches!(said, "" | "None") {
        return;
    }
    match said.parse::<Ipv4Addr>() {
        Err(_) => {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.invalid(&field.item(0), said, why);
        }
        Ok(address) if !limits.service_cidr.contains(address) => {
            let why = format!(
                "failed to allocate IP {said}: the provided IP ({said}) is not in the valid range. \
                 The range of valid IPs is {}",
                limits.service_cidr
            );
            causes.invalid(&field, json!([said]), &why);
        }
        Ok(_) => {}
    }
    if let Some(all) = spec.get("clusterIPs").and_then(Value::as_array)
        && all.first().is_some_and(|first| first != said)
    {
        let why = "first value must match `clusterIP`";
        causes.invalid(&field, Value::Array(all.clone()), why);
    }
}

fn ports(spec: &Value, kind: &str, path: &Path, limits: Limits, causes: &mut Causes) {
    let count = spec.get("ports").and_then(Value::as_array).map_or(0, Vec::len);
    let (mut names_seen, mut seen, mut nodes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (path, port) in items(spec, "ports", path) {
        let (name, protocol) = (text(port, "name"), text(port, "protocol"));
        if name.is_empty() {
            if count > 1 {
                causes.required(&path.child("name"), "");
            }
        } else {
            causes.invalid_all(&path.child("name"), name, names::dns_label(name));
            if !names_seen.insert(name) {
                causes.duplicate(&path.child("name"), name);
            }
        }
        match port.get("port") {
            None => causes.required(&path.child("port"), ""),
            number => causes.port(&path.child("port"), number),
        }
        causes.supported(&path.child("protocol"), port.get("protocol"), &PROTOCOLS);
        if port.get("targetPort").is_some() {
            container::target_port(port.get("targetPort"), &path.child("targetPort"), causes);
        }
        if !seen.insert((protocol, port.get("port").and_then(Value::as_i64))) {
            causes.duplicate(&path, json!({"port": port.get("port"), "protocol": protocol}));
        }
        let node = port.get("nodePort").and_then(Value::as_i64).filter(|number| *number != 0);
        if let Some(number) = node {
            node_port(number, kind, &path, limits, causes);
            if !nodes.insert((protocol, number)) {
                causes.duplicate(&path.child("nodePort"), number);
            }
        }
    }
}

fn node_port(number: i64, kind: &str, path: &Path, limits: Limits, causes: &mut Causes) {
    let (first, last) = limits.node_ports;
    let field = path.child("nodePort");
    if !matches!(kind, "NodePort" | "LoadBalancer") {
        causes.forbidden(&field, &format!("may not be used when `type` is '{kind}'"));
    } else if !(i64::from(first)..=i64::from(last)).contains(&number) {
        let why = format!(
            "provided port is not in the valid range. The range of valid ports is {first}-{last}"
        );
        causes.invalid(&field, number, &why);
    }
}

/// What a change of a service may not do.
pub(super) fn service_change(before: &Object, after: &Object, causes: &mut Causes) {
    let external = |service: &Object| service.text("/spec/type") == Some("ExternalName");
    if external(before) || external(after) {
        return;
    }
    let address = |service: &Object| service.text("/spec/clusterIP").unwrap_or("").to_owned();
    let (old, new) = (address(before), address(after));
    if !old.is_empty() && old != new {
        let path = Path::root("spec.clusterIPs").item(0);
        causes.invalid(&path, json!([new]), "may not change once set");
    }
}

/// What is wrong with an endpoint slice.
pub(super) fn endpoint_slice(object: &Object, causes: &mut Causes) {
    let slice = object.as_value();
    let kind = text(slice, "addressType");
    let field = Path::root("addressType");
    if kind.is_empty() {
        causes.required(&field, "");
    } else {
        causes.supported(&field, slice.get("addressType"), &["FQDN", "IPv4", "IPv6"]);
    }
    let length = |field: &str| slice.get(field).and_then(Value::as_array).map_or(0, Vec::len);
    for (field, max) in [("endpoints", ENDPOINTS_MAX), ("ports", SLICE_PORTS_MAX)] {
        if length(field) > max {
            causes.too_many(&Path::root(field), length(field), max);
        }
    }
    let endpoints = slice.get("endpoints").and_then(Value::as_array).into_iter().flatten();
    for (nth, endpoint) in endpoints.enumerate() {
        endpoint_addresses(endpoint, kind, &Path::root("endpoints").item(nth), causes);
    }
    let mut seen = BTreeSet::new();
    let ports = slice.get("ports").and_then(Value::as_array).into_iter().flatten();
    for (nth, port) in ports.enumerate() {
        let path = Path::root("ports").item(nth);
        let name = text(port, "name");
        if !seen.insert(name) {
            causes.duplicate(&path.child("name"), name);
        }
        if !name.is_empty() {
            causes.invalid_all(&path.child("name"), name, names::dns_label(name));
        }
        causes.supported(&path.child("protocol"), port.get("protocol"), &PROTOCOLS);
        causes.port(&path.child("port"), port.get("port"));
    }
}

fn endpoint_addresses(endpoint: &Value, kind: &str, path: &Path, causes: &mut Causes) {
    let field = path.child("addresses");
    let count = endpoint.get("addresses").and_then(Value::as_array).map_or(0, Vec::len);
    if count == 0 {
        causes.required(&field, "must contain at least 1 address");
    } else if count > ADDRESSES_MAX {
        causes.too_many(&field, count, ADDRESSES_MAX);
    }
    for (path, address) in items(endpoint, "addresses", path) {
        let address = address.as_str().unwrap_or("");
        let why = match kind {
            "IPv4" => address.parse::<Ipv4Addr>().is_err().then_some("must be an IPv4 address"),
            "IPv6" => address.parse::<Ipv6Addr>().is_err().then_some("must be an IPv6 address"),
            _ => None,
        };
        if let Some(why) = why {
            causes.invalid(&path, address, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let service_cidr = "10.96.0.0/12".parse().expect("valid");
        Limits { service_cidr, node_ports: (30_000, 32_767) }
    }

    fn said(spec: Value) -> Vec<String> {
        let mut causes = Causes::default();
        let object = Object::from_value(json!({"spec": spec})).expect("an object");
        service(&object, limits(), &mut causes);
        let causes = causes.into_vec();
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn services_need_ports_of_distinct_names() {
        assert_eq!(said(json!({"type": "ClusterIP"})), ["spec.ports: Required value"]);
        assert!(said(json!({"type": "ClusterIP", "clusterIP": "None"})).is_empty());
        let two = json!({"type": "ClusterIP", "ports": [
            {"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "TCP", "name": "b"},
        ]});
        assert_eq!(
            said(two),
            [
                "spec.ports[0].name: Required value",
                "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
            ]
        );
    }

    #[test]
    fn addresses_and_node_ports_are_in_range() {
        let outside = json!({
            "type": "ClusterIP", "clusterIP": "1.2.3.4", "ports": [{"port": 80, "nodePort": 30000}],
        });
        assert_eq!(
            said(outside),
            [
                "spec.clusterIPs: Invalid value: [\"1.2.3.4\"]: failed to allocate IP 1.2.3.4: the \
                 provided IP (1.2.3.4) is not in the valid range. The range of valid IPs is \
                 10.96.0.0/12",
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ]
        );
        let low = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
        assert_eq!(said(low).len(), 1);
    }

    #[test]
    fn an_address_is_for_life() {
        let with = |ip: &str| {
            Object::from_value(json!({"spec": {"type": "ClusterIP", "clusterIP": ip}}))
                .expect("an object")
        };
        let mut causes = Causes::default();
        service_change(&with("10.96.0.1"), &with("10.96.0.2"), &mut causes);
        let causes = causes.into_vec();
        assert_eq!(causes[0].field, "spec.clusterIPs[0]");
        assert_eq!(causes[0].message, "Invalid value: [\"10.96.0.2\"]: may not change once set");
    }
}
