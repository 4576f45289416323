//! Every kind the API has, in one table.
//!
//! A row says all that is particular to a kind outside its schema, defaults, validation and
//! columns: what it is called, whether it lives in a namespace, which verbs and sub-resources it
//! answers, and where kube-apiserver keeps it. Discovery, routing, storage keys and watches read
//! the table, so that a kind is added by adding a row.
//!
//! `events.k8s.io/v1` Event is a second door to the events of `v1`: see [`Kind::stored`].

/// A part of an object with a path of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    /// Last step of its path.
    pub name: &'static str,
    /// Group of what it takes and gives.
    pub group: &'static str,
    /// Version of what it takes and gives.
    pub version: &'static str,
    /// Kind of what it takes and gives.
    pub kind: &'static str,
    /// What may be done with it.
    pub verbs: &'static [&'static str],
}

/// One kind of object.
#[derive(Debug)]
pub struct Kind {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// Name of the kind, as in `kind: Pod`.
    pub kind: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// Singular name that clients accept.
    pub singular: &'static str,
    /// Abbreviations that clients accept.
    pub short_names: &'static [&'static str],
    /// Groups of kinds that clients accept, such as `all`.
    pub categories: &'static [&'static str],
    /// Objects live in a namespace.
    pub namespaced: bool,
    /// What may be done with it.
    pub verbs: &'static [&'static str],
    /// Parts with paths of their own.
    pub subresources: &'static [Subresource],
    /// Path below `/registry/`.
    pub storage: &'static str,
    /// Name of its definition in the schema.
    pub definition: &'static str,
    /// The status is written only through the `status` sub-resource.
    pub has_status: bool,
    /// `metadata.generation` counts the changes of the wished-for state.
    pub has_generation: bool,
    /// Kind in whose form the objects are stored, when that is not this one.
    stored: Option<&'static Self>,
}

impl Kind {
    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        group_version(self.group, self.version)
    }

    /// Its name in error messages: `deployments.apps`, `pods`.
    pub fn resource(&self) -> String {
        qualified(self.plural, self.group)
    }

    /// Its name in validation messages: `Deployment.apps`, `Pod`.
    pub fn qualified_kind(&self) -> String {
        qualified(self.kind, self.group)
    }

    /// The kind in whose form its objects are stored: itself, but for second doors.
    pub fn stored(&'static self) -> &'static Self {
        self.stored.unwrap_or(self)
    }

    /// A sub-resource by name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// `kind` of a list of its objects.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        (self.group, self.version, self.kind) == (other.group, other.version, other.kind)
    }
}

impl Eq for Kind {}

/// `apps/v1`, or `v1` for the core group.
pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

/// All verbs of a stored kind, in the order discovery lists them.
const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Deleting all at once is not offered for these, as in Kubernetes.
const ONE_BY_ONE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const GET_PATCH_UPDATE: &[&str] = &["get", "patch", "update"];

const fn status_of(group: &'static str, kind: &'static str) -> Subresource {
    Subresource { name: "status", group, version: "v1", kind, verbs: GET_PATCH_UPDATE }
}

const SCALE: Subresource = Subresource {
    name: "scale",
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    verbs: GET_PATCH_UPDATE,
};

/// What a row is unless it says otherwise.
const ROW: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "",
    definition: "",
    has_status: false,
    has_generation: false,
    stored: None,
};

/// A space for names.
pub static NAMESPACE: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    verbs: ONE_BY_ONE,
    subresources: &[
        Subresource {
            name: "finalize",
            group: "",
            version: "v1",
            kind: "Namespace",
            verbs: &["update"],
        },
        status_of("", "Namespace"),
    ],
    storage: "namespaces",
    definition: "io.k8s.api.core.v1.Namespace",
    has_status: true,
    ..ROW
};

/// A machine that runs pods.
pub static NODE: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    subresources: &[status_of("", "Node")],
    storage: "minions",
    definition: "io.k8s.api.core.v1.Node",
    has_status: true,
    ..ROW
};

/// Containers that run together on one node.
pub static POD: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        Subresource {
            name: "binding",
            group: "",
            version: "v1",
            kind: "Binding",
            verbs: &["create"],
        },
        Subresource { name: "log", group: "", version: "v1", kind: "Pod", verbs: &["get"] },
        status_of("", "Pod"),
    ],
    storage: "pods",
    definition: "io.k8s.api.core.v1.Pod",
    has_status: true,
    has_generation: true,
    ..ROW
};

/// Configuration that is not secret.
pub static CONFIG_MAP: Kind = Kind {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    storage: "configmaps",
    definition: "io.k8s.api.core.v1.ConfigMap",
    ..ROW
};

/// Configuration that is secret.
pub static SECRET: Kind = Kind {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    storage: "secrets",
    definition: "io.k8s.api.core.v1.Secret",
    ..ROW
};

/// A stable address for a set of pods.
pub static SERVICE: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: &[status_of("", "Service")],
    storage: "services/specs",
    definition: "io.k8s.api.core.v1.Service",
    has_status: true,
    ..ROW
};

/// An identity for the processes of pods.
pub static SERVICE_ACCOUNT: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    storage: "serviceaccounts",
    definition: "io.k8s.api.core.v1.ServiceAccount",
    ..ROW
};

/// A report of something that happened; gone after an hour.
pub static EVENT: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    storage: "events",
    definition: "io.k8s.api.core.v1.Event",
    ..ROW
};

/// The same reports under the names of their own group.
pub static EVENT_V1: Kind = Kind {
    group: "events.k8s.io",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    storage: "events",
    definition: "io.k8s.api.events.v1.Event",
    stored: Some(&EVENT),
    ..ROW
};

/// The addresses behind a service.
pub static ENDPOINT_SLICE: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    storage: "endpointslices",
    definition: "io.k8s.api.discovery.v1.EndpointSlice",
    has_generation: true,
    ..ROW
};

/// A claim that must be renewed: heartbeats and leadership.
pub static LEASE: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    storage: "leases",
    definition: "io.k8s.api.coordination.v1.Lease",
    ..ROW
};

/// Replicated pods with rolling updates.
pub static DEPLOYMENT: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &[SCALE, status_of("apps", "Deployment")],
    storage: "deployments",
    definition: "io.k8s.api.apps.v1.Deployment",
    has_status: true,
    has_generation: true,
    ..ROW
};

/// So many pods of one template.
pub static REPLICA_SET: Kind = Kind {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    subresources: &[SCALE, status_of("apps", "ReplicaSet")],
    storage: "replicasets",
    definition: "io.k8s.api.apps.v1.ReplicaSet",
    has_status: true,
    has_generation: true,
    ..ROW
};

/// Every kind. Groups stand in the order in which clients should try them.
pub static ALL: [&Kind; 13] = [
    &CONFIG_MAP,
    &EVENT,
    &NAMESPACE,
    &NODE,
    &POD,
    &SECRET,
    &SERVICE_ACCOUNT,
    &SERVICE,
    &DEPLOYMENT,
    &REPLICA_SET,
    &EVENT_V1,
    &LEASE,
    &ENDPOINT_SLICE,
];

/// A kind by its place in paths.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    ALL.into_iter().find(|kind| (kind.group, kind.version, kind.plural) == (group, version, plural))
}

/// A kind by what its objects say of themselves.
pub fn of(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ALL.into_iter().find(|one| (one.group, one.version, one.kind) == (group, version, kind))
}

/// The kinds of a group and version.
pub fn in_group(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    ALL.into_iter().filter(move |kind| kind.group == group && kind.version == version)
}

/// The groups with their versions, each once, in order of priority.
pub fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups = Vec::new();
    for kind in ALL {
        if !groups.contains(&(kind.group, kind.version)) {
            groups.push((kind.group, kind.version));
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_and_distinct() {
        for (nth, kind) in ALL.into_iter().enumerate() {
            for text in [kind.kind, kind.plural, kind.singular, kind.storage, kind.definition] {
                assert!(!text.is_empty(), "{kind:?}");
            }
            assert_eq!(kind.has_status, kind.subresource("status").is_some(), "{kind:?}");
            assert!(ALL[..nth].iter().all(|other| *other != kind));
            assert_eq!(find(kind.group, kind.version, kind.plural), Some(kind));
            assert_eq!(of(&kind.api_version(), kind.kind), Some(kind));
        }
    }

    #[test]
    fn names_are_qualified_by_group() {
        assert_eq!(DEPLOYMENT.resource(), "deployments.apps");
        assert_eq!(POD.qualified_kind(), "Pod");
        assert_eq!(EVENT_V1.stored(), &EVENT);
    }
}
