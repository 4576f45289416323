//! The rows of all kinds but pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Layout, age, column, joined, name, number, or_none, wide};
use crate::api::object::Object;
use crate::api::{LabelSelector, time};

/// Endpoints and ports of a slice that a row names before it only counts.
const NAMED_MAX: usize = 3;

/// What any object has.
pub(super) const PLAIN: Layout = Layout {
    columns: &[column("Name"), column("Age")],
    cells: |object, now| vec![name(object), age(object, now)],
};

pub(super) const NAMESPACE: Layout = Layout {
    columns: &[column("Name"), column("Status"), column("Age")],
    cells: |object, now| {
        vec![name(object), object.text("/status/phase").unwrap_or("").into(), age(object, now)]
    },
};

fn count(object: &Object, fields: &[&str]) -> Value {
    let length = |field: &&str| object.get(field).and_then(Value::as_object).map_or(0, |m| m.len());
    fields.iter().map(length).sum::<usize>().into()
}

pub(super) const CONFIG_MAP: Layout = Layout {
    columns: &[column("Name"), column("Data"), column("Age")],
    cells: |object, now| {
        vec![name(object), count(object, &["/data", "/binaryData"]), age(object, now)]
    },
};

pub(super) const SECRET: Layout = Layout {
    columns: &[column("Name"), column("Type"), column("Data"), column("Age")],
    cells: |object, now| {
        let kind = object.text("/type").unwrap_or("");
        vec![name(object), kind.into(), count(object, &["/data"]), age(object, now)]
    },
};

pub(super) const LEASE: Layout = Layout {
    columns: &[column("Name"), column("Holder"), column("Age")],
    cells: |object, now| {
        let holder = object.text("/spec/holderIdentity").unwrap_or("");
        vec![name(object), holder.into(), age(object, now)]
    },
};

// ---- workloads ----

fn int(object: &Object, pointer: &str) -> i64 {
    object.int(pointer).unwrap_or(0)
}

fn containers(object: &Object, field: &str) -> Value {
    let all = object.items("/spec/template/spec/containers").iter();
    let parts: Vec<String> =
        all.filter_map(|container| Some(container.get(field)?.as_str()?.to_owned())).collect();
    parts.join(",").into()
}

fn selector(object: &Object) -> Value {
    let selector = object.get("/spec/selector").and_then(LabelSelector::from_json);
    or_none(selector.map(|selector| selector.to_text()).as_deref())
}

pub(super) const DEPLOYMENT: Layout = Layout {
    columns: &[
        column("Name"),
        column("Ready"),
        number("Up-to-date"),
        number("Available"),
        column("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |object, now| {
        let ready = int(object, "/status/readyReplicas");
        let wanted = int(object, "/spec/replicas");
        vec![
            name(object),
            format!("{ready}/{wanted}").into(),
            int(object, "/status/updatedReplicas").into(),
            int(object, "/status/availableReplicas").into(),
            age(object, now),
            containers(object, "name"),
            containers(object, "image"),
            selector(object),
        ]
    },
};

pub(super) const REPLICA_SET: Layout = Layout {
    columns: &[
        column("Name"),
        number("Desired"),
        number("Current"),
        number("Ready"),
        column("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |object, now| {
        vec![
            name(object),
            int(object, "/spec/replicas").into(),
            int(object, "/status/replicas").into(),
            int(object, "/status/readyReplicas").into(),
            age(object, now),
            containers(object, "name"),
            containers(object, "image"),
            selector(object),
        ]
    },
};

// ---- network ----

pub(super) const SERVICE: Layout = Layout {
    columns: &[
        column("Name"),
        column("Type"),
        column("Cluster-IP"),
        column("External-IP"),
        column("Port(s)"),
        column("Age"),
        wide("Selector"),
    ],
    cells: |object, now| {
        let selector = object.get("/spec/selector").map(LabelSelector::from_map);
        vec![
            name(object),
            object.text("/spec/type").unwrap_or("").into(),
            or_none(object.text("/spec/clusterIP")),
            external_ip(object),
            service_ports(object),
            age(object, now),
            or_none(selector.map(|selector| selector.to_text()).as_deref()),
        ]
    },
};

fn texts(items: &[Value]) -> Vec<String> {
    items.iter().filter_map(|item| Some(item.as_str()?.to_owned())).collect()
}

fn external_ip(service: &Object) -> Value {
    let mut addresses = texts(service.items("/spec/externalIPs"));
    match service.text("/spec/type") {
        Some("ExternalName") => or_none(service.text("/spec/externalName")),
        Some("LoadBalancer") => {
            let given = service.items("/status/loadBalancer/ingress").iter().filter_map(|one| {
                one.get("ip").or_else(|| one.get("hostname"))?.as_str().map(str::to_owned)
            });
            let mut all: Vec<String> = given.collect();
            all.append(&mut addresses);
            joined(&all, "<pending>")
        }
        _ => joined(&addresses, "<none>"),
    }
}

fn service_ports(service: &Object) -> Value {
    let port = |port: &Value| {
        let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
        let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
        match port.get("nodePort").and_then(Value::as_i64).filter(|node| *node > 0) {
            Some(node) => format!("{number}:{node}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    };
    let ports: Vec<String> = service.items("/spec/ports").iter().map(port).collect();
    joined(&ports, "<none>")
}

pub(super) const ENDPOINT_SLICE: Layout = Layout {
    columns: &[
        column("Name"),
        column("AddressType"),
        column("Ports"),
        column("Endpoints"),
        column("Age"),
    ],
    cells: |object, now| {
        let port = |port: &Value| match (port.get("port"), port.get("name")) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.as_str().unwrap_or("*").to_owned(),
            (None, None) => "*".into(),
        };
        let ports: Vec<String> = object.items("/ports").iter().map(port).collect();
        let endpoints = object.items("/endpoints").iter();
        let addresses: Vec<String> = endpoints
            .flat_map(|endpoint| endpoint.get("addresses").and_then(Value::as_array))
            .flat_map(|addresses| texts(addresses))
            .collect();
        vec![
            name(object),
            object.text("/addressType").unwrap_or("").into(),
            some_of(&ports),
            some_of(&addresses),
            age(object, now),
        ]
    },
};

fn some_of(all: &[String]) -> Value {
    if all.len() <= NAMED_MAX {
        return joined(all, "<unset>");
    }
    let more = all.len() - NAMED_MAX;
    format!("{} + {more} more...", all[..NAMED_MAX].join(",")).into()
}

// ---- nodes ----

pub(super) const NODE: Layout = Layout {
    columns: &[
        column("Name"),
        column("Status"),
        column("Roles"),
        column("Age"),
        column("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells: |object, now| {
        let info = |field: &str| object.text(&format!("/status/nodeInfo/{field}"));
        let unknown = |text: Option<&str>| -> Value {
            text.filter(|text| !text.is_empty()).unwrap_or("<unknown>").into()
        };
        vec![
            name(object),
            node_status(object).into(),
            joined(&roles(object), "<none>"),
            age(object, now),
            info("kubeletVersion").unwrap_or("").into(),
            or_none(node_address(object, "InternalIP")),
            or_none(node_address(object, "ExternalIP")),
            unknown(info("osImage")),
            unknown(info("kernelVersion")),
            unknown(info("containerRuntimeVersion")),
        ]
    },
};

fn node_status(node: &Object) -> String {
    let ready = node.condition("Ready").map(|condition| condition["status"] == "True");
    let word = match ready {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    };
    let closed = node.flag("/spec/unschedulable");
    if closed { format!("{word},SchedulingDisabled") } else { word.into() }
}

fn roles(node: &Object) -> Vec<String> {
    let role = |(key, value): (&str, &str)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) if !role.is_empty() => Some(role.to_owned()),
        None if key == "kubernetes.io/role" && !value.is_empty() => Some(value.to_owned()),
        _ => None,
    };
    let mut roles: Vec<String> = node.labels().filter_map(role).collect();
    roles.sort();
    roles.dedup();
    roles
}

fn node_address<'a>(node: &'a Object, kind: &str) -> Option<&'a str> {
    let all = node.items("/status/addresses").iter();
    let mut found = all.filter(|address| address["type"] == kind);
    found.next()?.get("address")?.as_str()
}

// ---- events ----

pub(super) const EVENT: Layout = Layout {
    columns: &[
        column("Last Seen"),
        column("Type"),
        column("Reason"),
        column("Object"),
        wide("Subobject"),
        wide("Source"),
        column("Message"),
        wide("First Seen"),
        wide("Count"),
        wide("Name"),
    ],
    cells: event,
};

/// The same for both forms of an event, whose fields have two names each.
fn event(event: &Object, now: Timestamp) -> Vec<Value> {
    let text = |older: &str, newer: &str| {
        let said = |pointer| event.text(pointer).filter(|text| !text.is_empty());
        said(older).or_else(|| said(newer)).unwrap_or("").to_owned()
    };
    let involved =
        |field: &str| text(&format!("/involvedObject/{field}"), &format!("/regarding/{field}"));
    let since = |at: &str| time::parse(at).map(|at| time::age(at, now));
    let unknown = || "<unknown>".to_owned();
    let first = since(&text("/firstTimestamp", "/deprecatedFirstTimestamp"))
        .or_else(|| since(&text("/eventTime", "/eventTime")))
        .unwrap_or_else(unknown);
    let last = since(&text("/series/lastObservedTime", "/lastTimestamp"))
        .or_else(|| since(&text("/lastTimestamp", "/deprecatedLastTimestamp")))
        .unwrap_or_else(|| first.clone());
    let count = ["/series/count", "/count", "/deprecatedCount"]
        .into_iter()
        .find_map(|pointer| event.int(pointer).filter(|count| *count > 0));
    let source = [
        text("/source/component", "/deprecatedSource/component"),
        text("/source/host", "/deprecatedSource/host"),
    ];
    let reporter = text("/reportingComponent", "/reportingController");
    let source: Vec<String> = match source {
        [component, _] if component.is_empty() => vec![reporter],
        [component, host] if host.is_empty() => vec![component],
        both => both.to_vec(),
    };
    vec![
        last.into(),
        text("/type", "/type").into(),
        text("/reason", "/reason").into(),
        format!("{}/{}", involved("kind").to_lowercase(), involved("name")).into(),
        involved("fieldPath").into(),
        source.join(", ").into(),
        text("/message", "/note").trim().into(),
        first.into(),
        json!(count.unwrap_or(1)),
        name(event),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::{self, Kind};
    use crate::api::table::{Include, render};

    fn shown(kind: &'static Kind, mut value: Value) -> Value {
        value["metadata"]["name"] = json!("x");
        value["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        let object = Object::from_value(value).expect("an object");
        let now = time::parse("2026-01-01T00:05:00Z").expect("a time");
        render(kind, &[object], Include::None, false, now)["rows"][0]["cells"].clone()
    }

    #[test]
    fn workloads_count_replicas() {
        let deployment = json!({
            "spec": {
                "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                "template": {"spec": {"containers": [{"name": "a", "image": "i:1"}]}},
            },
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2},
        });
        assert_eq!(
            shown(&kinds::DEPLOYMENT, deployment),
            json!(["x", "2/3", 3, 2, "5m", "a", "i:1", "app=web"])
        );
    }

    #[test]
    fn services_tell_where_they_listen() {
        let node_port = json!({"spec": {
            "type": "NodePort", "clusterIP": "10.96.0.9", "selector": {"app": "web"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
        }});
        assert_eq!(
            shown(&kinds::SERVICE, node_port),
            json!(["x", "NodePort", "10.96.0.9", "<none>", "80:30080/TCP,53/UDP", "5m", "app=web"])
        );
        let balanced = json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9"}});
        assert_eq!(shown(&kinds::SERVICE, balanced)[3], "<pending>");
        let external = json!({"spec": {"type": "ExternalName", "externalName": "a.b"}});
        assert_eq!(
            shown(&kinds::SERVICE, external),
            json!(["x", "ExternalName", "<none>", "a.b", "<none>", "5m", "<none>"])
        );
    }

    #[test]
    fn nodes_tell_state_roles_and_address() {
        let node = json!({
            "metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1", "osImage": "Debian", "kernelVersion": "6",
                    "containerRuntimeVersion": "r"},
            },
        });
        assert_eq!(
            shown(&kinds::NODE, node),
            json!([
                "x",
                "Ready,SchedulingDisabled",
                "control-plane",
                "5m",
                "v1",
                "10.0.0.1",
                "<none>",
                "Debian",
                "6",
                "r"
            ])
        );
    }

    #[test]
    fn slices_name_some_endpoints() {
        let slice = json!({
            "addressType": "IPv4", "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["1"]}, {"addresses": ["2"]}, {"addresses": ["3"]},
                {"addresses": ["4"]}],
        });
        assert_eq!(
            shown(&kinds::ENDPOINT_SLICE, slice),
            json!(["x", "IPv4", "80", "1,2,3 + 1 more...", "5m"])
        );
        let empty = shown(&kinds::ENDPOINT_SLICE, json!({"addressType": "IPv4"}));
        assert_eq!(empty, json!(["x", "IPv4", "<unset>", "<unset>", "5m"]));
    }

    #[test]
    fn events_read_alike_in_both_forms() {
        let older = json!({
            "type": "Normal", "reason": "Started", "message": " up ",
            "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"},
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:04:30Z",
            "count": 4, "source": {"component": "kubelet", "host": "n1"},
        });
        assert_eq!(
            shown(&kinds::EVENT, older),
            json!([
                "30s",
                "Normal",
                "Started",
                "pod/p",
                "spec.containers{a}",
                "kubelet, n1",
                "up",
                "5m",
                4,
                "x"
            ])
        );
        let newer = json!({
            "type": "Normal", "reason": "Started", "note": "up",
            "regarding": {"kind": "Pod", "name": "p"},
            "eventTime": "2026-01-01T00:04:00.000000Z", "reportingController": "scheduler",
        });
        assert_eq!(
            shown(&kinds::EVENT_V1, newer),
            json!(["60s", "Normal", "Started", "pod/p", "", "scheduler", "up", "60s", 1, "x"])
        );
    }
}
