//! Containers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::error::{Causes, Path, entries, items, text};
use super::{names, pod};
use crate::api::quantity::Quantity;

/// Largest user or group id.
const ID_MAX: i64 = i32::MAX as i64;

/// What is wrong with a container of a pod that has these volumes.
pub(super) fn check(
    container: &Value,
    path: &Path,
    volumes: &BTreeSet<&str>,
    init: bool,
    causes: &mut Causes,
) {
    let name = text(container, "name");
    if name.is_empty() {
        causes.required(&path.child("name"), "");
    } else {
        causes.invalid_all(&path.child("name"), name, names::dns_label(name));
    }
    let image = text(container, "image");
    if image.is_empty() {
        causes.required(&path.child("image"), "");
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        causes.invalid(&path.child("image"), image, why);
    }
    causes.supported(
        &path.child("imagePullPolicy"),
        container.get("imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
    causes.supported(
        &path.child("terminationMessagePolicy"),
        container.get("terminationMessagePolicy"),
        &["FallbackToLogsOnError", "File"],
    );
    if init {
        let policy = container.get("restartPolicy");
        causes.supported(&path.child("restartPolicy"), policy, &["Always"]);
    }
    ports(container, path, causes);
    environment(container, path, causes);
    mounts(container, path, volumes, causes);
    resources(container, path, causes);
    probes(container, path, init, causes);
    security(container, path, causes);
}

fn ports(container: &Value, path: &Path, causes: &mut Causes) {
    let mut seen = BTreeSet::new();
    for (path, port) in items(container, "ports", path) {
        let name = text(port, "name");
        if !name.is_empty() {
            causes.invalid_all(&path.child("name"), name, names::port_name(name));
            if !seen.insert(name) {
                causes.duplicate(&path.child("name"), name);
            }
        }
        match port.get("containerPort") {
            None => causes.required(&path.child("containerPort"), ""),
            number => causes.port(&path.child("containerPort"), number),
        }
        if port.get("hostPort").is_some_and(|number| *number != 0) {
            causes.port(&path.child("hostPort"), port.get("hostPort"));
        }
        let known = ["SCTP", "TCP", "UDP"];
        causes.supported(&path.child("protocol"), port.get("protocol"), &known);
    }
}

/// No two containers of a pod may use one port of the node.
pub(super) fn check_host_ports(
    container: &Value,
    path: &Path,
    seen: &mut BTreeSet<(String, String, i64)>,
    causes: &mut Causes,
) {
    for (path, port) in items(container, "ports", path) {
        let Some(number) = port.get("hostPort").and_then(Value::as_i64).filter(|n| *n != 0) else {
            continue;
        };
        let key = (text(port, "protocol").to_owned(), text(port, "hostIP").to_owned(), number);
        if !seen.insert(key) {
            let said = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            causes.duplicate(&path.child("hostPort"), said);
        }
    }
}

fn environment(container: &Value, path: &Path, causes: &mut Causes) {
    for (path, variable) in items(container, "env", path) {
        let name = text(variable, "name");
        if name.is_empty() {
            causes.required(&path.child("name"), "");
        } else {
            causes.invalid_all(&path.child("name"), name, names::env_name(name));
        }
        let Some(source) = variable.get("valueFrom") else { continue };
        let path = path.child("valueFrom");
        let sources = source.as_object().map_or(0, serde_json::Map::len);
        if sources == 0 {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                       `secretKeyRef` or `fileKeyRef`";
            causes.invalid(&path, "", why);
        } else if !text(variable, "value").is_empty() {
            causes.invalid(&path, "", "may not be specified when `value` is not empty");
        } else if sources > 1 {
            causes.invalid(&path, "", "may not have more than one field specified at a time");
        }
        for reference in ["configMapKeyRef", "secretKeyRef"] {
            let Some(reference_value) = source.get(reference) else { continue };
            if text(reference_value, "key").is_empty() {
                causes.required(&path.child(reference).child("key"), "");
            }
        }
        if let Some(field) = source.get("fieldRef") {
            field_path(field, &path.child("fieldRef"), causes);
        }
    }
}

fn field_path(field: &Value, path: &Path, causes: &mut Causes) {
    const KNOWN: [&str; 10] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
        "spec.hostname",
    ];
    let path = path.child("fieldPath");
    let said = text(field, "fieldPath");
    let subscript = ["metadata.annotations['", "metadata.labels['"]
        .iter()
        .any(|prefix| said.starts_with(prefix) && said.ends_with("']"));
    if said.is_empty() {
        causes.required(&path, "");
    } else if !subscript {
        causes.supported(&path, field.get("fieldPath"), &KNOWN);
    }
}

fn mounts(container: &Value, path: &Path, volumes: &BTreeSet<&str>, causes: &mut Causes) {
    let mut seen = BTreeSet::new();
    for (path, mount) in items(container, "volumeMounts", path) {
        let name = text(mount, "name");
        if name.is_empty() {
            causes.required(&path.child("name"), "");
        } else if !volumes.contains(name) {
            causes.not_found(&path.child("name"), name);
        }
        let at = text(mount, "mountPath");
        if at.is_empty() {
            causes.required(&path.child("mountPath"), "");
        } else if !seen.insert(at) {
            causes.invalid(&path.child("mountPath"), at, "must be unique");
        }
        let sub = text(mount, "subPath");
        if sub.starts_with('/') {
            causes.invalid(&path.child("subPath"), sub, "must be a relative path");
        } else if sub.split('/').any(|step| step == "..") {
            causes.invalid(&path.child("subPath"), sub, "must not contain '..'");
        }
    }
}

fn resources(container: &Value, path: &Path, causes: &mut Causes) {
    let Some(resources) = container.get("resources") else { return };
    let path = path.child("resources");
    for field in ["limits", "requests"] {
        pod::resource_names(resources, field, &path, causes);
        for (name, amount) in entries(resources, field) {
            if Quantity::from_json(amount).is_some_and(Quantity::is_negative) {
                let said = amount.clone();
                let why = "must be greater than or equal to 0";
                causes.invalid(&path.child(field).key(name), said, why);
            }
        }
    }
    for (name, request) in entries(resources, "requests") {
        let Some(limit) = resources.get("limits").and_then(|limits| limits.get(name)) else {
            continue;
        };
        if let (Some(asked), Some(most)) =
            (Quantity::from_json(request), Quantity::from_json(limit))
            && asked > most
        {
            let shown = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
            let why = format!("must be less than or equal to {name} limit of {shown}");
            causes.invalid(&path.child("requests"), request.clone(), &why);
        }
    }
}

fn probes(container: &Value, path: &Path, init: bool, causes: &mut Causes) {
    let sidecar = text(container, "restartPolicy") == "Always";
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(kind) else { continue };
        let path = path.child(kind);
        if init && !sidecar {
            let why = "may not be set for init containers without restartPolicy=Always";
            causes.forbidden(&path, why);
            continue;
        }
        handler(probe, &path, causes);
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            causes.not_negative(&path.child(field), probe.get(field));
        }
        let successes = probe.get("successThreshold").and_then(Value::as_i64).unwrap_or(1);
        if kind != "readinessProbe" && successes != 1 {
            causes.invalid(&path.child("successThreshold"), successes, "must be 1");
        }
    }
    if let Some(lifecycle) = container.get("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(action) = lifecycle.get(hook) {
                handler(action, &path.child("lifecycle").child(hook), causes);
            }
        }
    }
}

fn handler(action: &Value, path: &Path, causes: &mut Causes) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let set: Vec<&str> = kinds.into_iter().filter(|kind| action.get(*kind).is_some()).collect();
    match set.as_slice() {
        [] => causes.required(path, "must specify a handler type"),
        [_] => {}
        [_, more @ ..] => {
            for extra in more {
                causes.forbidden(&path.child(extra), "may not specify more than 1 handler type");
            }
        }
    }
    for kind in ["httpGet", "tcpSocket"] {
        if let Some(target) = action.get(kind) {
            target_port(target.get("port"), &path.child(kind).child("port"), causes);
        }
    }
    if let Some(request) = action.get("httpGet") {
        let scheme = request.get("scheme");
        causes.supported(&path.child("httpGet").child("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    if let Some(exec) = action.get("exec")
        && exec.get("command").and_then(Value::as_array).is_none_or(Vec::is_empty)
    {
        causes.required(&path.child("exec").child("command"), "");
    }
}

/// A port by number or by name.
pub(super) fn target_port(port: Option<&Value>, path: &Path, causes: &mut Causes) {
    match port {
        Some(Value::String(name)) => causes.invalid_all(path, name, names::port_name(name)),
        Some(number) => causes.port(path, Some(number)),
        None => causes.required(path, ""),
    }
}

fn security(container: &Value, path: &Path, causes: &mut Causes) {
    let Some(context) = container.get("securityContext") else { return };
    let path = path.child("securityContext");
    for field in ["runAsUser", "runAsGroup"] {
        if let Some(id) = context.get(field).and_then(Value::as_i64)
            && !(0..=ID_MAX).contains(&id)
        {
            let why = "must be between 0 and 2147483647, inclusive";
            causes.invalid(&path.child(field), id, why);
        }
    }
    let flag = |field: &str| context.get(field).and_then(Value::as_bool);
    if flag("privileged") == Some(true) && flag("allowPrivilegeEscalation") == Some(false) {
        let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        causes.invalid(&path, context.clone(), why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(container: &Value) -> Vec<String> {
        let mut causes = Causes::default();
        let path = Path::root("c");
        check(container, &path, &BTreeSet::from(["v"]), false, &mut causes);
        let causes = causes.into_vec();
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn with(field: &str, value: Value) -> Value {
        json!({"name": "a", "image": "i", field: value})
    }

    #[test]
    fn a_request_above_its_limit_is_refused() {
        let resources = json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}});
        assert_eq!(
            said(&with("resources", resources)),
            [
                "c.resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit \
              of 1"
            ]
        );
        let resources = json!({"requests": {"memory": "64Mi"}, "limits": {"memory": "1Gi"}});
        assert!(said(&with("resources", resources)).is_empty());
    }

    #[test]
    fn ports_are_in_range_and_distinct() {
        let ports = json!([
            {"containerPort": 0, "protocol": "TCP"},
            {"containerPort": 80, "name": "web", "protocol": "ICMP"},
            {"containerPort": 81, "name": "web"},
        ]);
        assert_eq!(
            said(&with("ports", ports)),
            [
                "c.ports[0].containerPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                "c.ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \
                 \"TCP\", \"UDP\"",
                "c.ports[2].name: Duplicate value: \"web\"",
            ]
        );
    }

    #[test]
    fn probes_have_one_handler() {
        assert_eq!(
            said(&with("readinessProbe", json!({}))),
            ["c.readinessProbe: Required value: must specify a handler type"]
        );
        let two = json!({"httpGet": {"port": 80}, "tcpSocket": {"port": "web"}});
        assert_eq!(
            said(&with("livenessProbe", two)),
            ["c.livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"]
        );
    }

    #[test]
    fn variables_have_one_source() {
        let env = json!([
            {"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.shoes"}}},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
            {"value": "x"},
        ]);
        let complaints = said(&with("env", env));
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        assert_eq!(complaints[2], "c.env[3].name: Required value");
    }
}
