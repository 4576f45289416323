//! What of a pod's spec this node honours. Everything else is named, never ignored.
//!
//! The table below mirrors the shape of a PodSpec. A field that is set and not in the table keeps
//! the pod Pending, with an event that lists it: better a pod that waits than one that runs without
//! what its author asked for. Fields that are empty, null or `false` ask for nothing.

use serde_json::Value;

/// What is honoured at one place of the spec.
enum Honoured {
    /// Anything, or somebody else's business (the scheduler's, the apiserver's).
    All,
    /// These values only.
    Values(&'static [&'static str]),
    /// An object with these fields.
    Fields(&'static [(&'static str, Self)]),
    /// A list of such elements.
    Each(&'static Self),
}

use Honoured::{All, Each, Fields, Values};

const POD: Honoured = Fields(&[
    ("activeDeadlineSeconds", All),
    ("affinity", All),
    ("automountServiceAccountToken", All),
    ("containers", Each(&CONTAINER)),
    ("dnsConfig", Fields(&[("nameservers", All), ("searches", All), ("options", All)])),
    ("dnsPolicy", All),
    ("enableServiceLinks", All),
    ("hostAliases", All),
    ("hostNetwork", All),
    ("hostUsers", All),
    ("hostname", All),
    ("imagePullSecrets", All),
    ("initContainers", Each(&INIT_CONTAINER)),
    ("nodeName", All),
    ("nodeSelector", All),
    ("os", Fields(&[("name", Values(&["linux"]))])),
    ("preemptionPolicy", All),
    ("priority", All),
    ("priorityClassName", All),
    ("restartPolicy", All),
    ("schedulerName", All),
    ("securityContext", POD_SECURITY),
    ("serviceAccount", All),
    ("serviceAccountName", All),
    ("subdomain", All),
    ("terminationGracePeriodSeconds", All),
    ("tolerations", All),
    ("topologySpreadConstraints", All),
    ("volumes", Each(&VOLUME)),
]);

const POD_SECURITY: Honoured = Fields(&[
    ("fsGroup", All),
    ("fsGroupChangePolicy", All),
    ("runAsGroup", All),
    ("runAsNonRoot", All),
    ("runAsUser", All),
    ("seccompProfile", SECCOMP),
    ("supplementalGroups", All),
    ("supplementalGroupsPolicy", Values(&["Merge"])),
]);

const SECCOMP: Honoured = Fields(&[("type", Values(&["RuntimeDefault", "Unconfined"]))]);

const VOLUME: Honoured = Fields(&[
    ("name", All),
    (
        "configMap",
        Fields(&[
            ("defaultMode", All),
            ("items", Each(&Fields(&[("key", All), ("mode", All), ("path", All)]))),
            ("name", All),
            ("optional", All),
        ]),
    ),
    ("downwardAPI", Fields(&[("defaultMode", All), ("items", Each(&DOWNWARD_FILE))])),
    ("emptyDir", Fields(&[("medium", Values(&["", "Memory"])), ("sizeLimit", All)])),
]);

const DOWNWARD_FILE: Honoured =
    Fields(&[("fieldRef", All), ("mode", All), ("path", All), ("resourceFieldRef", All)]);

const CONTAINER: Honoured = Fields(&[
    ("args", All),
    ("command", All),
    ("env", Each(&ENV)),
    ("envFrom", Each(&Fields(&[("prefix", All), ("configMapRef", All)]))),
    ("image", All),
    ("imagePullPolicy", All),
    ("livenessProbe", PROBE),
    ("name", All),
    ("ports", Each(&PORT)),
    ("readinessProbe", PROBE),
    ("resources", RESOURCES),
    ("securityContext", CONTAINER_SECURITY),
    ("startupProbe", PROBE),
    ("terminationMessagePath", All),
    ("terminationMessagePolicy", All),
    ("volumeMounts", Each(&MOUNT)),
    ("workingDir", All),
]);

const INIT_CONTAINER: Honoured = Fields(&[
    ("args", All),
    ("command", All),
    ("env", Each(&ENV)),
    ("envFrom", Each(&Fields(&[("prefix", All), ("configMapRef", All)]))),
    ("image", All),
    ("imagePullPolicy", All),
    ("name", All),
    ("ports", Each(&PORT)),
    ("resources", RESOURCES),
    ("securityContext", CONTAINER_SECURITY),
    ("terminationMessagePath", All),
    ("terminationMessagePolicy", All),
    ("volumeMounts", Each(&MOUNT)),
    ("workingDir", All),
]);

const ENV: Honoured = Fields(&[
    ("name", All),
    ("value", All),
    (
        "valueFrom",
        Fields(&[("configMapKeyRef", All), ("fieldRef", All), ("resourceFieldRef", All)]),
    ),
]);

const PORT: Honoured = Fields(&[("containerPort", All), ("name", All), ("protocol", All)]);

const MOUNT: Honoured = Fields(&[
    ("mountPath", All),
    ("mountPropagation", Values(&["None"])),
    ("name", All),
    ("readOnly", All),
    ("recursiveReadOnly", Values(&["Disabled"])),
]);

const RESOURCES: Honoured = Fields(&[
    ("limits", Fields(&[("cpu", All), ("memory", All)])),
    ("requests", Fields(&[("cpu", All), ("memory", All), ("ephemeral-storage", All)])),
]);

const PROBE: Honoured = Fields(&[
    ("failureThreshold", All),
    (
        "httpGet",
        Fields(&[
            ("host", All),
            ("httpHeaders", All),
            ("path", All),
            ("port", All),
            ("scheme", Values(&["HTTP"])),
        ]),
    ),
    ("initialDelaySeconds", All),
    ("periodSeconds", All),
    ("successThreshold", All),
    ("tcpSocket", All),
    ("timeoutSeconds", All),
]);

const CONTAINER_SECURITY: Honoured = Fields(&[
    ("allowPrivilegeEscalation", All),
    ("capabilities", Fields(&[("add", All), ("drop", All)])),
    ("procMount", Values(&["Default"])),
    ("readOnlyRootFilesystem", All),
    ("runAsGroup", All),
    ("runAsNonRoot", All),
    ("runAsUser", All),
    ("seccompProfile", SECCOMP),
]);

/// The fields of a pod's spec that are set and not honoured, as dotted paths; empty if all are.
pub fn unsupported(spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(&POD, spec, "spec", &mut found);
    // In the node's own network every container port is a host port, and the defaults say so.
    if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        found.retain(|path| !path.ends_with(".hostPort"));
    }
    found
}

fn walk(honoured: &Honoured, value: &Value, path: &str, found: &mut Vec<String>) {
    if asks_nothing(value) {
        return;
    }
    match (honoured, value) {
        (All, _) => {}
        (Fields(known), Value::Object(fields)) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match known.iter().find(|(known, _)| known == name) {
                    Some((_, honoured)) => walk(honoured, value, &path, found),
                    None if asks_nothing(value) => {}
                    None => found.push(path),
                }
            }
        }
        (Each(honoured), Value::Array(elements)) => {
            for (index, element) in elements.iter().enumerate() {
                walk(honoured, element, &format!("{path}[{index}]"), found);
            }
        }
        (Values(known), Value::String(text)) if known.contains(&text.as_str()) => {}
        (Values(_), value) => found.push(format!("{path}={value}")),
        // A shape the schema does not allow; the apiserver lets none through.
        _ => found.push(path.to_owned()),
    }
}

fn asks_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(elements) => elements.is_empty(),
        // An empty object can mean something (`emptyDir: {}`), and is walked as it is.
        Value::Object(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_ordinary_pod_is_honoured() {
        let spec = json!({
            "containers": [{
                "name": "a", "image": "testbox:v1", "stdin": false, "env": [],
                "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080, "scheme": "HTTP"}},
                "resources": {"limits": {"cpu": "1", "memory": "64Mi"}},
                "securityContext": {"privileged": false},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "hostPID": false, "securityContext": {}, "dnsPolicy": "ClusterFirst",
        });
        assert_eq!(unsupported(&spec), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_honoured_is_named() {
        let spec = json!({
            "containers": [{
                "name": "a", "tty": true, "lifecycle": {"preStop": {}},
                "ports": [{"containerPort": 80, "hostPort": 80}],
                "livenessProbe": {"exec": {"command": ["x"]}},
                "securityContext": {"privileged": true, "seccompProfile": {"type": "Localhost"}},
            }],
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "m", "emptyDir": {"medium": "HugePages"}}],
            "hostPID": true,
        });
        let mut found = unsupported(&spec);
        found.sort();
        assert_eq!(
            found,
            [
                "spec.containers[0].lifecycle",
                "spec.containers[0].livenessProbe.exec",
                "spec.containers[0].ports[0].hostPort",
                "spec.containers[0].securityContext.privileged",
                "spec.containers[0].securityContext.seccompProfile.type=\"Localhost\"",
                "spec.containers[0].tty",
                "spec.hostPID",
                "spec.volumes[0].hostPath",
                "spec.volumes[1].emptyDir.medium=\"HugePages\"",
            ]
        );
    }

    #[test]
    fn host_network_makes_container_ports_host_ports() {
        let spec = json!({
            "hostNetwork": true,
            "containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}],
        });
        assert!(unsupported(&spec).is_empty());
    }
}
