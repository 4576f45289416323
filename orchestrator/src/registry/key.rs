//! Where objects live in the store. No other file builds or reads such a path.
//!
//! Objects stand at kube-apiserver's own paths, `/registry/<kind>/<namespace>/<name>`, so that
//! either server can open what the other wrote. What is only ours stands below `/orchestrator/`:
//!
//! | key | what |
//! |---|---|
//! | `/orchestrator/format` | names the format of the store; see `claim.rs` |
//! | `/orchestrator/index/pods-by-node/<node>/<namespace>/<name>` | a copy of each bound pod, so that a node watches only its own |
//! | `/orchestrator/allocated/…` | service addresses and node ports in use, one key each |
//! | `/orchestrator/elections/<component>/<lease>` | a candidate of a leader election |

use crate::api::{Key, Kind};

/// Root of all objects.
pub const REGISTRY: &str = "/registry/";
/// Names the format of the store.
pub const FORMAT: &str = "/orchestrator/format";
/// The key by which API servers agree who compacts: upstream's own.
pub const COMPACT: &str = "compact_rev_key";
const PODS_BY_NODE: &str = "/orchestrator/index/pods-by-node/";
const ELECTIONS: &str = "/orchestrator/elections/";
const SERVICE_IPS: &str = "/orchestrator/allocated/service-ips/";
const NODE_PORTS: &str = "/orchestrator/allocated/node-ports/";

/// Prefix of all objects of a kind, in one namespace or in all.
pub fn prefix(kind: &'static Kind, namespace: Option<&str>) -> String {
    let storage = kind.stored().storage;
    match namespace.filter(|_| kind.namespaced) {
        Some(namespace) => format!("{REGISTRY}{storage}/{namespace}/"),
        None => format!("{REGISTRY}{storage}/"),
    }
}

/// Key of one object.
pub fn object(kind: &'static Kind, key: &Key) -> String {
    format!("{}{}", prefix(kind, key.namespace.as_deref()), key.name)
}

/// Reads a key of a kind back. `None` when it is no key of that kind.
pub fn parse(kind: &'static Kind, key: &[u8]) -> Option<Key> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(&prefix(kind, None))?;
    split(rest, kind.namespaced)
}

fn split(rest: &str, namespaced: bool) -> Option<Key> {
    let key = match (namespaced, rest.split_once('/')) {
        (true, Some((namespace, name))) if !namespace.is_empty() => {
            Key::namespaced(namespace, name)
        }
        (false, None) => Key::cluster(rest),
        _ => return None,
    };
    (!key.name.is_empty() && !key.name.contains('/')).then_some(key)
}

/// Prefix of the copies of one node's pods.
pub fn pods_by_node(node: &str) -> String {
    format!("{PODS_BY_NODE}{node}/")
}

/// Prefix of the copies of all nodes' pods.
pub fn pods_by_node_all() -> &'static str {
    PODS_BY_NODE
}

/// Key of the copy of a pod that is bound to a node.
pub fn pod_by_node(node: &str, key: &Key) -> String {
    format!("{PODS_BY_NODE}{node}/{key}")
}

/// Reads the key of such a copy back: its node and its pod.
pub fn parse_pod_by_node(key: &[u8]) -> Option<(String, Key)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(PODS_BY_NODE)?;
    let (node, rest) = rest.split_once('/')?;
    Some((node.to_owned(), split(rest, true)?))
}

/// Prefix of the candidates for leading a component.
pub fn election(component: &str) -> String {
    format!("{ELECTIONS}{component}/")
}

/// Key that marks a service address as taken.
pub fn service_ip(address: std::net::Ipv4Addr) -> String {
    format!("{SERVICE_IPS}{address}")
}

/// Prefix of all taken service addresses.
pub fn service_ips() -> &'static str {
    SERVICE_IPS
}

/// Key that marks a port of all nodes as taken. TCP and UDP are apart.
pub fn node_port(protocol: &str, port: u16) -> String {
    format!("{NODE_PORTS}{protocol}/{port}")
}

/// Prefix of all taken node ports.
pub fn node_ports() -> &'static str {
    NODE_PORTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    #[test]
    fn paths_are_those_of_kubernetes() {
        let key = Key::namespaced("default", "web");
        assert_eq!(object(&kinds::POD, &key), "/registry/pods/default/web");
        assert_eq!(object(&kinds::SERVICE, &key), "/registry/services/specs/default/web");
        assert_eq!(object(&kinds::EVENT_V1, &key), "/registry/events/default/web");
        assert_eq!(object(&kinds::NODE, &Key::cluster("n1")), "/registry/minions/n1");
        assert_eq!(prefix(&kinds::POD, Some("a")), "/registry/pods/a/");
        assert_eq!(prefix(&kinds::NODE, Some("a")), "/registry/minions/");
    }

    #[test]
    fn keys_survive_the_trip() {
        for kind in kinds::ALL {
            let key = if kind.namespaced { Key::namespaced("a", "b") } else { Key::cluster("b") };
            assert_eq!(parse(kind, object(kind, &key).as_bytes()), Some(key));
        }
        let key = Key::namespaced("a", "b");
        let copy = pod_by_node("n1", &key);
        assert_eq!(parse_pod_by_node(copy.as_bytes()), Some(("n1".into(), key)));
    }

    #[test]
    fn foreign_keys_are_none_of_ours() {
        for bad in ["/registry/pods/a", "/registry/pods/a/b/c", "/registry/pods//b", "/x/a/b"] {
            assert_eq!(parse(&kinds::POD, bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse(&kinds::NODE, b"/registry/minions/a/b"), None);
    }
}
