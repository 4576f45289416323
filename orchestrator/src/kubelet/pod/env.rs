//! A container's environment: `env`, `envFrom`, the downward API, and `$(NAME)` expansion.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, ObjectFieldSelector, Pod, ResourceFieldSelector,
};

use crate::api::quantity::Quantity;

/// What the outside world adds to a pod's spec.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The pod's address.
    pub pod_ip: String,
    /// The node's address.
    pub host_ip: String,
    /// The node's name.
    pub node_name: String,
    /// Config maps of the pod's namespace that exist, by name.
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Variables that lead to the API server and other services.
    pub services: Vec<(String, String)>,
    /// What the node has, where a container sets no limit: milli CPU and bytes.
    pub node_cpu_milli: i64,
    /// See `node_cpu_milli`.
    pub node_memory: i64,
}

/// Why a container cannot be configured; becomes `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The variables of `container`, each name once, in the order they were first named.
pub fn environment(
    pod: &Pod,
    container: &Container,
    around: &Surroundings,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut all = Variables::default();
    for (name, value) in &around.services {
        all.set(name, value.clone());
    }
    for source in container.env_from.iter().flatten() {
        let Some(reference) = &source.config_map_ref else { continue };
        let prefix = source.prefix.as_deref().unwrap_or("");
        match around.config_maps.get(&reference.name) {
            Some(data) => {
                for (key, value) in data {
                    all.set(&format!("{prefix}{key}"), value.clone());
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(ConfigError(format!("configmap \"{}\" not found", reference.name))),
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, container, variable, around, &all)? {
            all.set(&variable.name, value);
        }
    }
    Ok(all.in_order)
}

/// Replaces `$(NAME)` by the variable's value; unknown names stay, `$$(NAME)` escapes.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('(')
            && let Some(end) = inner.find(')')
        {
            match lookup(&inner[..end]) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({})", &inner[..end])),
            }
            rest = &inner[end + 1..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Looks a variable up in the answer of [`environment`].
pub fn find(variables: &[(String, String)], name: &str) -> Option<String> {
    variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

#[derive(Default)]
struct Variables {
    in_order: Vec<(String, String)>,
}

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        match self.in_order.iter_mut().find(|(known, _)| known == name) {
            Some((_, present)) => *present = value,
            None => self.in_order.push((name.to_owned(), value)),
        }
    }
}

fn value_of(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    around: &Surroundings,
    so_far: &Variables,
) -> Result<Option<String>, ConfigError> {
    let Some(source) = &variable.value_from else {
        let text = variable.value.as_deref().unwrap_or("");
        return Ok(Some(expand(text, |name| find(&so_far.in_order, name))));
    };
    if let Some(field) = &source.field_ref {
        return field_value(pod, field, around).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, container, resource, around).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let map = around.config_maps.get(&reference.name);
        return match map.and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None if map.is_none() => {
                Err(ConfigError(format!("configmap \"{}\" not found", reference.name)))
            }
            None => Err(ConfigError(format!(
                "couldn't find key {} in ConfigMap {}",
                reference.key, reference.name
            ))),
        };
    }
    Err(ConfigError(format!("variable {} has no source", variable.name)))
}

/// A field of the pod, for variables and downward API volumes.
pub fn field_value(
    pod: &Pod,
    field: &ObjectFieldSelector,
    around: &Surroundings,
) -> Result<String, ConfigError> {
    let path = field.field_path.as_str();
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let owned = |text: Option<&String>| text.cloned().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(ConfigError(format!("unsupported fieldPath {path}"))),
        };
        return Ok(owned(map.as_ref().and_then(|map| map.get(key))));
    }
    Ok(match path {
        "metadata.name" => owned(meta.name.as_ref()),
        "metadata.namespace" => owned(meta.namespace.as_ref()),
        "metadata.uid" => owned(meta.uid.as_ref()),
        "metadata.labels" => listing(meta.labels.as_ref()),
        "metadata.annotations" => listing(meta.annotations.as_ref()),
        "spec.nodeName" => around.node_name.clone(),
        "spec.serviceAccountName" => owned(spec.and_then(|s| s.service_account_name.as_ref())),
        "status.hostIP" | "status.hostIPs" => around.host_ip.clone(),
        "status.podIP" | "status.podIPs" => around.pod_ip.clone(),
        _ => return Err(ConfigError(format!("unsupported fieldPath {path}"))),
    })
}

/// `a['b']` as (a, b).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once('[')?;
    let key = rest.strip_suffix(']')?.trim_matches(|mark| mark == '\'' || mark == '"');
    Some((map, key))
}

/// A map as the downward API writes it: `key="value"` a line.
fn listing(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}\n")).collect()
}

/// A limit or request, in units of the divisor, rounded up.
pub fn resource_value(
    pod: &Pod,
    container: &Container,
    resource: &ResourceFieldSelector,
    around: &Surroundings,
) -> Result<String, ConfigError> {
    let other = resource.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match other {
        None => container,
        Some(name) => pod
            .spec
            .iter()
            .flat_map(|spec| spec.containers.iter())
            .find(|container| container.name == name)
            .ok_or_else(|| ConfigError(format!("no container {name}")))?,
    };
    let unsupported = || ConfigError(format!("unsupported resource {}", resource.resource));
    let (kind, name) = resource.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let map = match kind {
        "limits" => resources.and_then(|all| all.limits.as_ref()),
        "requests" => resources.and_then(|all| all.requests.as_ref()),
        _ => return Err(unsupported()),
    };
    let present = map.and_then(|map| map.get(name)).and_then(|text| Quantity::parse(&text.0));
    let node = match (kind, name) {
        ("limits", "cpu") => Quantity::from_milli(around.node_cpu_milli),
        ("limits", "memory") => Quantity::from_units(around.node_memory),
        ("requests", "cpu" | "memory") => Quantity::ZERO,
        _ => return Err(unsupported()),
    };
    let amount = i128::from(present.unwrap_or(node).milli());
    let divisor = resource
        .divisor
        .as_ref()
        .and_then(|text| Quantity::parse(&text.0))
        .map(|quantity| i128::from(quantity.milli()))
        .filter(|divisor| *divisor > 0)
        .unwrap_or(1000);
    Ok(((amount + divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(container: serde_json::Value) -> Result<Vec<(String, String)>, ConfigError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "x"}},
            "spec": {"containers": [], "serviceAccountName": "sa"},
        }))
        .expect("a pod");
        let container: Container = serde_json::from_value(container).expect("a container");
        let around = Surroundings {
            pod_ip: "10.0.0.2".into(),
            host_ip: "192.0.2.1".into(),
            node_name: "node".into(),
            config_maps: BTreeMap::from([(
                "cm".to_owned(),
                BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            )]),
            node_cpu_milli: 2000,
            ..Surroundings::default()
        };
        environment(&pod, &container, &around)
    }

    #[test]
    fn values_come_from_everywhere() {
        let got = run(json!({
            "name": "c",
            "resources": {"limits": {"memory": "64Mi"}},
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}],
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "value": "$(A)-$(P_k)-$(NO)-$$(A)"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k", "optional": true}}},
                {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "A", "value": "2"},
            ],
        }))
        .expect("all sources exist");
        let text: Vec<String> = got.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text,
            ["P_k=v", "A=2", "B=1-v-$(NO)-$(A)", "IP=10.0.0.2", "L=x", "K=v", "M=64", "C=2"]
        );
    }

    #[test]
    fn missing_sources_are_named() {
        let missing =
            |source| run(json!({"name": "c", "env": [{"name": "A", "valueFrom": source}]}));
        assert_eq!(
            missing(json!({"configMapKeyRef": {"name": "no", "key": "k"}})),
            Err(ConfigError("configmap \"no\" not found".into()))
        );
        assert_eq!(
            missing(json!({"configMapKeyRef": {"name": "cm", "key": "x"}})),
            Err(ConfigError("couldn't find key x in ConfigMap cm".into()))
        );
        assert!(missing(json!({"fieldRef": {"fieldPath": "spec.x"}})).is_err());
    }
}
