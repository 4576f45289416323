//! A pod's volumes and the files every container gets, laid out in the pod's directory.
//!
//! ```text
//! pods/<uid>/volumes/<name>/     emptyDir; configMap and downwardAPI written out, mounted read-only
//! pods/<uid>/etc/hosts …         hosts, hostname, resolv.conf
//! pods/<uid>/messages/<id>       a container's termination message file
//! ```
//!
//! An emptyDir in memory is a tmpfs that the shim mounts in its own mount namespace, so that it
//! goes with the pod. Config maps are written out anew at each start of a container; a running one
//! does not see later changes.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, KeyToPath, Pod, PodSpec, Volume};

use super::pod::env::{ConfigError, Surroundings, field_value, resource_value};
use super::pod::oci::Bind;
use super::shim::Tmpfs;
use crate::api::quantity::Quantity;

/// Where a container's last words go unless its spec says otherwise.
pub(super) const DEFAULT_MESSAGE_PATH: &str = "/dev/termination-log";

/// Names of the config maps a pod refers to.
pub(super) fn config_maps(spec: &PodSpec) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let all =
            container.env_from.iter().flatten().filter_map(|from| from.config_map_ref.as_ref());
        names.extend(all.map(|reference| reference.name.clone()));
        let keys = container
            .env
            .iter()
            .flatten()
            .filter_map(|variable| variable.value_from.as_ref()?.config_map_key_ref.as_ref());
        names.extend(keys.map(|reference| reference.name.clone()));
    }
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.config_map.as_ref());
    names.extend(volumes.map(|source| source.name.clone()));
    names.remove("");
    names
}

/// The memory-backed volumes, for the shim to mount.
pub(super) fn tmpfs(spec: &PodSpec, pod_dir: &Path) -> Vec<Tmpfs> {
    spec.volumes
        .iter()
        .flatten()
        .filter_map(|volume| {
            let source = volume.empty_dir.as_ref()?;
            (source.medium.as_deref() == Some("Memory")).then(|| Tmpfs {
                path: directory(pod_dir, &volume.name),
                size: source
                    .size_limit
                    .as_ref()
                    .and_then(|limit| Quantity::parse(&limit.0))
                    .map(Quantity::units),
            })
        })
        .collect()
}

fn directory(pod_dir: &Path, name: &str) -> PathBuf {
    pod_dir.join("volumes").join(name)
}

/// Why volumes are not ready.
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumeError {
    /// Something they refer to is missing or wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The disk refused.
    #[error("{path}: {source}")]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Disk { path, source }
}

/// Makes every volume of the pod and fills those with content.
pub(super) fn prepare(pod: &Pod, pod_dir: &Path, around: &Surroundings) -> Result<(), VolumeError> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let group = spec.security_context.as_ref().and_then(|context| context.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    for volume in spec.volumes.iter().flatten() {
        let path = directory(pod_dir, &volume.name);
        std::fs::create_dir_all(&path).map_err(disk(&path))?;
        for (relative, content, mode) in content(pod, volume, around)? {
            let file = path.join(&relative);
            if let Some(parent) = file.parent() {
                std::fs::create_dir_all(parent).map_err(disk(parent))?;
            }
            std::fs::write(&file, content).map_err(disk(&file))?;
            own(&file, group, mode).map_err(disk(&file))?;
        }
        // Anybody may write to an emptyDir; the group of the pod owns it where there is one.
        let mode = match (volume.empty_dir.is_some(), group) {
            (true, None) => 0o777,
            (true, Some(_)) => 0o2777,
            (false, _) => 0o755,
        };
        own(&path, group, mode).map_err(disk(&path))?;
    }
    Ok(())
}

fn own(path: &Path, group: Option<u32>, mode: u32) -> io::Result<()> {
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

type Files = Vec<(PathBuf, Vec<u8>, u32)>;

fn content(pod: &Pod, volume: &Volume, around: &Surroundings) -> Result<Files, ConfigError> {
    if let Some(source) = &volume.config_map {
        let default = source.default_mode.unwrap_or(0o644);
        let Some(data) = around.config_maps.get(&source.name) else {
            return match source.optional {
                Some(true) => Ok(Vec::new()),
                _ => Err(ConfigError(format!("configmap \"{}\" not found", source.name))),
            };
        };
        let all: Vec<KeyToPath> = data
            .keys()
            .map(|key| KeyToPath { key: key.clone(), path: key.clone(), ..KeyToPath::default() })
            .collect();
        let items = source.items.as_ref().filter(|items| !items.is_empty()).unwrap_or(&all);
        let mut files = Vec::new();
        for item in items {
            match data.get(&item.key) {
                Some(text) => files.push((
                    relative(&item.path)?,
                    text.clone().into_bytes(),
                    mode(item.mode.unwrap_or(default))?,
                )),
                None if source.optional == Some(true) => {}
                None => {
                    return Err(ConfigError(format!(
                        "configmap \"{}\" has no key {}",
                        source.name, item.key
                    )));
                }
            }
        }
        return Ok(files);
    }
    if let Some(source) = &volume.downward_api {
        let default = source.default_mode.unwrap_or(0o644);
        let mut files = Vec::new();
        for item in source.items.iter().flatten() {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => field_value(pod, field, around)?,
                (None, Some(resource)) => {
                    let none = Container::default();
                    resource_value(pod, &none, resource, around)?
                }
                (None, None) => String::new(),
            };
            let mode = mode(item.mode.unwrap_or(default))?;
            files.push((relative(&item.path)?, text.into_bytes(), mode));
        }
        return Ok(files);
    }
    Ok(Vec::new())
}

fn mode(bits: i32) -> Result<u32, ConfigError> {
    u32::try_from(bits)
        .ok()
        .filter(|bits| *bits <= 0o777)
        .ok_or_else(|| ConfigError(format!("{bits} is no file mode")))
}

/// A path that stays in its volume.
fn relative(path: &str) -> Result<PathBuf, ConfigError> {
    let clean = Path::new(path);
    let inside = clean.components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !inside {
        return Err(ConfigError(format!("the path {path:?} leaves the volume")));
    }
    Ok(clean.to_owned())
}

/// What of the node a container sees: its volumes and the pod's own files.
pub(super) fn binds(
    spec: &PodSpec,
    container: &Container,
    pod_dir: &Path,
    id: &str,
) -> Result<Vec<Bind>, ConfigError> {
    let mut binds: Vec<Bind> = ["hosts", "hostname", "resolv.conf"]
        .into_iter()
        .map(|name| Bind {
            source: pod_dir.join("etc").join(name),
            target: format!("/etc/{name}"),
            read_only: false,
        })
        .collect();
    let message = container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    binds.push(Bind {
        source: message_file(pod_dir, id),
        target: message.unwrap_or(DEFAULT_MESSAGE_PATH).to_owned(),
        read_only: false,
    });
    for mount in container.volume_mounts.iter().flatten() {
        let volume = spec
            .volumes
            .iter()
            .flatten()
            .find(|volume| volume.name == mount.name)
            .ok_or_else(|| ConfigError(format!("no volume {}", mount.name)))?;
        // A mount of the pod's own wins over the files everybody gets.
        binds.retain(|bind| bind.target != mount.mount_path);
        binds.push(Bind {
            source: directory(pod_dir, &volume.name),
            target: mount.mount_path.clone(),
            read_only: mount.read_only == Some(true) || volume.empty_dir.is_none(),
        });
    }
    Ok(binds)
}

/// Where a container's last words are on the node.
pub(super) fn message_file(pod_dir: &Path, id: &str) -> PathBuf {
    pod_dir.join("messages").join(id)
}

/// Makes the file for a container's last words: anybody may write to it.
pub(super) fn make_message_file(pod_dir: &Path, id: &str) -> Result<(), VolumeError> {
    let file = message_file(pod_dir, id);
    let write = || {
        std::fs::create_dir_all(pod_dir.join("messages"))?;
        std::fs::write(&file, "")?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))
    };
    write().map_err(disk(&file))
}

/// How pods find names.
#[derive(Debug, Clone, Default)]
pub struct Dns {
    /// The cluster's name server, where it has one.
    pub server: Option<std::net::IpAddr>,
    /// The cluster's domain.
    pub domain: String,
}

/// Writes the files that every container of the pod gets.
pub(super) fn write_etc(
    pod: &Pod,
    pod_dir: &Path,
    hostname: &str,
    address: &str,
    dns: &Dns,
) -> Result<(), VolumeError> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let etc = pod_dir.join("etc");
    std::fs::create_dir_all(&etc).map_err(disk(&etc))?;
    let node_resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let files = [
        ("hostname", format!("{hostname}\n")),
        ("hosts", hosts(spec, namespace, hostname, address, dns)),
        ("resolv.conf", resolv_conf(spec, namespace, dns, &node_resolv)),
    ];
    for (name, text) in files {
        let path = etc.join(name);
        std::fs::write(&path, text).map_err(disk(&path))?;
    }
    Ok(())
}

fn hosts(spec: &PodSpec, namespace: &str, hostname: &str, address: &str, dns: &Dns) -> String {
    let mut text = String::from(
        "# Managed by the node.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    );
    let full = spec
        .subdomain
        .as_deref()
        .filter(|name| !name.is_empty())
        .map(|name| format!("{hostname}.{name}.{namespace}.svc.{}\t", dns.domain));
    text.push_str(&format!("{address}\t{}{hostname}\n", full.unwrap_or_default()));
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

/// `ClusterFirst` without a cluster name server yet, and `Default`, mean the node's own file.
fn resolv_conf(spec: &PodSpec, namespace: &str, dns: &Dns, node: &str) -> String {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let host_network = spec.host_network == Some(true);
    let cluster = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut servers: Vec<String> = Vec::new();
    let mut searches: Vec<String> = Vec::new();
    let mut options: Vec<String> = Vec::new();
    match (cluster, dns.server, policy) {
        (true, Some(server), _) => {
            servers.push(server.to_string());
            let domain = &dns.domain;
            searches.push(format!("{namespace}.svc.{domain}"));
            searches.push(format!("svc.{domain}"));
            searches.push(domain.clone());
            options.push("ndots:5".to_owned());
        }
        (_, _, "None") => {}
        _ => {
            for line in node.lines() {
                let mut words = line.split_whitespace();
                match words.next() {
                    Some("nameserver") => servers.extend(words.map(str::to_owned)),
                    Some("search" | "domain") => searches.extend(words.map(str::to_owned)),
                    Some("options") => options.extend(words.map(str::to_owned)),
                    _ => {}
                }
            }
        }
    }
    if let Some(own) = &spec.dns_config {
        servers.extend(own.nameservers.iter().flatten().cloned());
        searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).expect("a spec")
    }

    #[test]
    fn names_are_found_as_the_policy_says() {
        let dns = Dns { server: "10.96.0.10".parse().ok(), domain: "cluster.local".into() };
        let node = "nameserver 192.0.2.53\nsearch example.com\n";
        let file = |value, dns: &Dns| resolv_conf(&spec(value), "n", dns, node);
        assert_eq!(
            file(json!({"containers": []}), &dns),
            "nameserver 10.96.0.10\nsearch n.svc.cluster.local svc.cluster.local cluster.local\n\
             options ndots:5\n"
        );
        let plain = "nameserver 192.0.2.53\nsearch example.com\n";
        assert_eq!(file(json!({"containers": [], "dnsPolicy": "Default"}), &dns), plain);
        assert_eq!(file(json!({"containers": []}), &Dns::default()), plain);
        let own = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]}});
        assert_eq!(file(own, &dns), "nameserver 1.1.1.1\noptions ndots:2\n");
    }

    #[test]
    fn config_maps_become_files_and_paths_stay_inside() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let around = Surroundings {
            config_maps: BTreeMap::from([(
                "cm".to_owned(),
                BTreeMap::from([
                    ("a".to_owned(), "1".to_owned()),
                    ("b".to_owned(), "2".to_owned()),
                ]),
            )]),
            ..Surroundings::default()
        };
        let make = |items: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "volumes": [
                {"name": "v", "configMap": {"name": "cm", "items": items}}]}}))
            .expect("a pod");
            prepare(&pod, dir.path(), &around)
        };
        make(json!([])).expect("writes");
        let read =
            |name: &str| std::fs::read_to_string(dir.path().join("volumes/v").join(name)).ok();
        assert_eq!((read("a"), read("b")), (Some("1".into()), Some("2".into())));
        make(json!([{"key": "a", "path": "sub/x", "mode": 256}])).expect("writes");
        assert_eq!(read("sub/x"), Some("1".into()));
        assert!(make(json!([{"key": "a", "path": "../x"}])).is_err());
        assert!(make(json!([{"key": "no", "path": "x"}])).is_err());
    }

    #[test]
    fn every_reference_to_a_config_map_is_found() {
        let spec = spec(json!({
            "containers": [{"name": "c",
                "envFrom": [{"configMapRef": {"name": "a"}}],
                "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "b", "key": "k"}}}]}],
            "volumes": [{"name": "v", "configMap": {"name": "c"}}],
        }));
        assert_eq!(config_maps(&spec), ["a", "b", "c"].map(str::to_owned).into());
    }
}
