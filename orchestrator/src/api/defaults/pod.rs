//! Defaults of pods and of the pods in templates.

use serde_json::{Value, json};

use super::{Fields, each, fill, inner, made};
use crate::api::object::Object;

/// Mode of files in volumes made from objects: 0644.
const FILE_MODE: i64 = 0o644;
const GRACE_S: i64 = 30;
const TOKEN_LIFE_S: i64 = 3600;

/// Of a pod.
pub(super) fn apply(pod: &mut Object) {
    if let Some(spec) = inner(pod.fields_mut(), "spec") {
        requests_from_limits(spec);
        apply_spec(spec);
    }
}

/// Of the spec of a pod, in a pod or in a template.
pub(super) fn apply_spec(spec: &mut Fields) {
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        host_ports(spec);
    }
    fill(spec, "enableServiceLinks", true);
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "restartPolicy", "Always");
    fill(spec, "schedulerName", "default-scheduler");
    fill(spec, "terminationGracePeriodSeconds", GRACE_S);
    fill(spec, "securityContext", json!({}));
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in each(spec, list) {
            apply_container(container);
        }
    }
    for volume in each(spec, "volumes") {
        apply_volume(volume);
    }
    // The old name of the field is kept for old readers.
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        fill(spec, "serviceAccount", account);
    } else if let Some(account) = spec.get("serviceAccount").cloned() {
        spec.insert("serviceAccountName".into(), account);
    }
}

fn requests_from_limits(spec: &mut Fields) {
    for list in ["initContainers", "containers"] {
        for container in each(spec, list) {
            let Some(resources) = inner(container, "resources") else { continue };
            let Some(limits) = inner(resources, "limits").cloned() else { continue };
            let requests = made(resources, "requests");
            for (name, amount) in limits {
                fill(requests, &name, amount);
            }
        }
    }
}

fn host_ports(spec: &mut Fields) {
    for list in ["initContainers", "containers"] {
        for container in each(spec, list) {
            for port in each(container, "ports") {
                if let Some(number) = port.get("containerPort").cloned() {
                    fill(port, "hostPort", number);
                }
            }
        }
    }
}

fn apply_container(container: &mut Fields) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or("");
    let policy = if tag(image) == Some("latest") { "Always" } else { "IfNotPresent" };
    fill(container, "imagePullPolicy", policy);
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    fill(container, "resources", json!({}));
    for port in each(container, "ports") {
        fill(port, "protocol", "TCP");
    }
    for variable in each(container, "env") {
        if let Some(source) = inner(variable, "valueFrom") {
            field_reference(source);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = inner(container, probe) {
            apply_probe(probe);
        }
    }
    if let Some(lifecycle) = inner(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = inner(lifecycle, hook) {
                http_get(hook);
            }
        }
    }
}

/// The tag of an image reference: `latest` when it names neither tag nor digest, none when only a
/// digest.
fn tag(image: &str) -> Option<&str> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match (last.split_once(':'), digest) {
        (Some((_, tag)), _) => Some(tag),
        (None, Some(_)) => None,
        (None, None) => Some("latest"),
    }
}

fn apply_probe(probe: &mut Fields) {
    fill(probe, "timeoutSeconds", 1);
    fill(probe, "periodSeconds", 10);
    fill(probe, "successThreshold", 1);
    fill(probe, "failureThreshold", 3);
    http_get(probe);
    if let Some(grpc) = inner(probe, "grpc") {
        fill(grpc, "service", "");
    }
}

fn http_get(handler: &mut Fields) {
    if let Some(request) = inner(handler, "httpGet") {
        fill(request, "path", "/");
        fill(request, "scheme", "HTTP");
    }
}

fn field_reference(source: &mut Fields) {
    if let Some(field) = inner(source, "fieldRef") {
        fill(field, "apiVersion", "v1");
    }
}

fn apply_volume(volume: &mut Fields) {
    if volume.keys().all(|name| name == "name") {
        volume.insert("emptyDir".into(), json!({}));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = inner(volume, source) {
            fill(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(path) = inner(volume, "hostPath") {
        fill(path, "type", "");
    }
    if let Some(downward) = inner(volume, "downwardAPI") {
        each(downward, "items").for_each(field_reference);
    }
    if let Some(projected) = inner(volume, "projected") {
        for source in each(projected, "sources") {
            if let Some(downward) = inner(source, "downwardAPI") {
                each(downward, "items").for_each(field_reference);
            }
            if let Some(token) = inner(source, "serviceAccountToken") {
                fill(token, "expirationSeconds", TOKEN_LIFE_S);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_pod_is_filled_in_as_kubernetes_does() {
        let value = json!({"spec": {
            "containers": [{
                "name": "a", "image": "web",
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1"}},
                "readinessProbe": {"httpGet": {"port": 80}},
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            }],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "c"}}],
        }});
        let mut pod = Object::from_value(value).expect("an object");
        apply(&mut pod);
        let wanted = json!({"spec": {
            "containers": [{
                "name": "a", "image": "web", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "readinessProbe": {
                    "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                },
                "env": [{"name": "N", "valueFrom": {
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"},
                }}],
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "volumes": [
                {"name": "v", "emptyDir": {}},
                {"name": "c", "configMap": {"name": "c", "defaultMode": 420}},
            ],
            "enableServiceLinks": true, "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "terminationGracePeriodSeconds": 30,
            "securityContext": {},
        }});
        assert_eq!(pod.as_value(), &wanted);
        apply(&mut pod);
        assert_eq!(pod.as_value(), &wanted);
    }

    #[test]
    fn the_tag_decides_when_to_pull() {
        for (image, wanted) in [
            ("web", Some("latest")),
            ("web:1", Some("1")),
            ("host:5000/web", Some("latest")),
            ("host:5000/web:2", Some("2")),
            ("web@sha256:0", None),
            ("web:3@sha256:0", Some("3")),
        ] {
            assert_eq!(tag(image), wanted, "{image}");
        }
    }
}
