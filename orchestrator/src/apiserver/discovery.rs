//! What the API holds, told in both forms clients ask for.
//!
//! Aggregated discovery (`apidiscovery.k8s.io/v2`) tells all of it in two answers; clients that
//! know only older forms get the legacy lists, one answer per group and version. Both are read
//! from the table of kinds and from the list of resources that answer without being stored, so
//! that discovery cannot promise what routing does not know. The documents never change while the
//! process runs: they are built once and carry an entity tag, with which a client that has them
//! is told so with an empty 304.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::api::kinds::{self, Kind};

/// A resource that is asked and answered, and never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Virtual {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
}

/// Every such resource; `review.rs` answers them.
pub(crate) const VIRTUAL: &[Virtual] = &[
    Virtual {
        group: "authentication.k8s.io",
        version: "v1",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
    },
    Virtual {
        group: "authorization.k8s.io",
        version: "v1",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
    },
];

/// A document with the tag that names its content.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) body: Bytes,
    pub(crate) etag: String,
}

impl Document {
    pub(crate) fn new(value: &Value) -> Self {
        let body = serde_json::to_vec(value).expect("a JSON value serialises");
        let etag = format!("\"{}\"", hex(&Sha256::digest(&body)).to_uppercase());
        Self { body: body.into(), etag }
    }
}

/// The media type that aggregated discovery is answered with; clients check it.
pub(crate) const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// All documents, by path; aggregated ones under `/api` and `/apis` of their own map.
pub(crate) struct Discovery {
    legacy: BTreeMap<String, Document>,
    aggregated: BTreeMap<&'static str, Document>,
}

pub(crate) static DISCOVERY: LazyLock<Discovery> = LazyLock::new(Discovery::build);

impl Discovery {
    /// The legacy list at a path.
    pub(crate) fn legacy(&self, path: &str) -> Option<&Document> {
        self.legacy.get(path)
    }

    /// The aggregated list at `/api` or `/apis`.
    pub(crate) fn aggregated(&self, path: &str) -> Option<&Document> {
        self.aggregated.get(path)
    }

    fn build() -> Self {
        let groups = groups();
        let mut legacy = BTreeMap::new();
        legacy.insert("/api".to_owned(), core_versions());
        legacy.insert("/apis".to_owned(), group_list(&groups));
        for (group, version) in &groups {
            let list = resource_list(group, version);
            if group.is_empty() {
                legacy.insert(format!("/api/{version}"), Document::new(&list));
            } else {
                let mut document = group_entry(group, &groups);
                document["kind"] = json!("APIGroup");
                document["apiVersion"] = json!("v1");
                legacy.insert(format!("/apis/{group}"), Document::new(&document));
                legacy.insert(format!("/apis/{group}/{version}"), Document::new(&list));
            }
        }
        let (core, rest): (Vec<_>, Vec<_>) =
            groups.iter().copied().partition(|(group, _)| group.is_empty());
        let aggregated =
            BTreeMap::from([("/api", aggregated_list(&core)), ("/apis", aggregated_list(&rest))]);
        Self { legacy, aggregated }
    }
}

/// Groups with their versions, stored kinds first, in the order clients should try them.
pub(crate) fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups = kinds::groups();
    for one in VIRTUAL {
        if !groups.contains(&(one.group, one.version)) {
            groups.push((one.group, one.version));
        }
    }
    groups
}

fn core_versions() -> Document {
    Document::new(&json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        // No client of this century dials by it, and the list may not be missing.
        "serverAddressByClientCIDRs": [],
    }))
}

fn group_list(groups: &[(&str, &str)]) -> Document {
    let mut names: Vec<&str> = Vec::new();
    for (group, _) in groups {
        if !group.is_empty() && !names.contains(group) {
            names.push(group);
        }
    }
    let entries: Vec<_> = names.iter().map(|name| group_entry(name, groups)).collect();
    Document::new(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": entries}))
}

fn group_entry(name: &str, groups: &[(&str, &str)]) -> Value {
    let versions: Vec<_> = groups
        .iter()
        .filter(|(group, _)| *group == name)
        .map(|(group, version)| {
            json!({"groupVersion": kinds::group_version(group, version), "version": version})
        })
        .collect();
    json!({"name": name, "preferredVersion": versions[0], "versions": versions})
}

/// The legacy list of one group and version.
fn resource_list(group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for kind in kinds::in_group(group, version) {
        resources.push(resource_entry(kind));
        for sub in kind.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", kind.plural, sub.name),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": sub.kind,
                "verbs": sub.verbs,
            });
            if (sub.group, sub.version) != (group, version) {
                entry["group"] = json!(sub.group);
                entry["version"] = json!(sub.version);
            }
            resources.push(entry);
        }
    }
    for one in VIRTUAL.iter().filter(|one| (one.group, one.version) == (group, version)) {
        resources.push(json!({
            "name": one.plural,
            "singularName": one.singular,
            "namespaced": false,
            "kind": one.kind,
            "verbs": ["create"],
        }));
    }
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds::group_version(group, version),
        "resources": resources,
    })
}

fn resource_entry(kind: &Kind) -> Value {
    let mut entry = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    entry
}

fn aggregated_list(groups: &[(&'static str, &'static str)]) -> Document {
    let mut items: Vec<Value> = Vec::new();
    for (group, version) in groups {
        let entry = json!({
            "version": version,
            "freshness": "Current",
            "resources": aggregated_resources(group, version),
        });
        match items.iter_mut().find(|item| item["metadata"]["name"] == *group) {
            Some(item) => {
                item["versions"].as_array_mut().expect("written below").push(entry);
            }
            None => items.push(json!({"metadata": {"name": group}, "versions": [entry]})),
        }
    }
    Document::new(&json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    }))
}

fn aggregated_resources(group: &str, version: &str) -> Vec<Value> {
    let mut resources = Vec::new();
    for kind in kinds::in_group(group, version) {
        let mut entry = json!({
            "resource": kind.plural,
            "responseKind": response_kind(kind.group, kind.version, kind.kind),
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": kind.singular,
            "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        if !kind.subresources.is_empty() {
            let subresources = kind.subresources.iter().map(|sub| {
                json!({
                    "subresource": sub.name,
                    "responseKind": response_kind(sub.group, sub.version, sub.kind),
                    "verbs": sub.verbs,
                })
            });
            entry["subresources"] = subresources.collect();
        }
        resources.push(entry);
    }
    for one in VIRTUAL.iter().filter(|one| (one.group, one.version) == (group, version)) {
        resources.push(json!({
            "resource": one.plural,
            "responseKind": response_kind(one.group, one.version, one.kind),
            "scope": "Cluster",
            "singularResource": one.singular,
            "verbs": ["create"],
        }));
    }
    resources
}

fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(document: Option<&Document>) -> Value {
        serde_json::from_slice(&document.expect("served").body).expect("JSON")
    }

    #[test]
    fn every_kind_is_told_in_both_forms() {
        for kind in kinds::ALL {
            let (path, root) = if kind.group.is_empty() {
                (format!("/api/{}", kind.version), "/api")
            } else {
                (format!("/apis/{}/{}", kind.group, kind.version), "/apis")
            };
            let legacy = parse(DISCOVERY.legacy(&path));
            let entry = |list: &Value, name: &str| {
                let list = list.as_array().expect("a list");
                list.iter()
                    .find(|entry| entry["name"] == name || entry["resource"] == name)
                    .cloned()
            };
            let told = entry(&legacy["resources"], kind.plural).expect("told in the legacy list");
            assert_eq!(told["kind"], kind.kind);
            for sub in kind.subresources {
                let name = format!("{}/{}", kind.plural, sub.name);
                assert!(entry(&legacy["resources"], &name).is_some(), "{name}");
            }
            let aggregated = parse(DISCOVERY.aggregated(root));
            let groups = aggregated["items"].as_array().expect("a list");
            let group = groups
                .iter()
                .find(|group| group["metadata"]["name"] == kind.group)
                .expect("the group is told");
            let told = entry(&group["versions"][0]["resources"], kind.plural).expect("told");
            assert_eq!(told["responseKind"]["kind"], kind.kind);
        }
    }

    #[test]
    fn groups_are_told_once() {
        let list = parse(DISCOVERY.legacy("/apis"));
        let names: Vec<_> =
            list["groups"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
        for (nth, name) in names.iter().enumerate() {
            assert!(!names[..nth].contains(name));
        }
        assert!(DISCOVERY.legacy("/apis/apps").is_some());
        assert!(DISCOVERY.legacy("/apis/nope").is_none());
    }
}
