//! Who may do what, until role objects exist.
//!
//! The rules are fixed and few. `system:masters` may do everything. The scheduler, the
//! controller manager and the service proxy may do what their work needs; a node may read what a node needs and write
//! what is its own. Everyone who proved who they are may look at the API's own description and at
//! themselves. All else is denied, in the words Kubernetes denies with.

use crate::api::Status;
use crate::registry::Actor;

/// What a request wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// `get list watch create update patch delete deletecollection`, or an HTTP method in lower
    /// case for a path that is no resource.
    pub(crate) verb: &'static str,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    /// The path, for requests that name no resource.
    pub(crate) path: Option<String>,
}

impl Attributes {
    /// `pods/log`, or the plain resource.
    fn full_resource(&self) -> String {
        match &self.subresource {
            Some(subresource) => format!("{}/{subresource}", self.resource),
            None => self.resource.clone(),
        }
    }

    /// The refusal.
    pub(crate) fn forbidden(&self, user: &Actor) -> Status {
        let name = self.name.as_deref().unwrap_or_default();
        Status::denied(self.denial(user), &self.group, &self.resource, name)
    }

    /// Why the request is refused, as kube-apiserver says it.
    fn denial(&self, user: &Actor) -> String {
        let name = &user.user;
        if let Some(path) = &self.path {
            return format!("forbidden: User {name:?} cannot {} path {path:?}", self.verb);
        }
        let subject = match &self.name {
            Some(object) => format!("{} {object:?}", qualified(&self.resource, &self.group)),
            None => qualified(&self.resource, &self.group),
        };
        let scope = match &self.namespace {
            Some(namespace) => format!("in the namespace {namespace:?}"),
            None => "at the cluster scope".to_owned(),
        };
        format!(
            "{subject} is forbidden: User {name:?} cannot {} resource {:?} in API group {:?} {scope}",
            self.verb,
            self.full_resource(),
            self.group,
        )
    }
}

/// `deployments.apps`, and plain `pods` for the core group.
pub(crate) fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

const MASTERS: &str = "system:masters";
const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// A rule: these verbs on these resources, each `group/resource[/subresource]`.
struct Rule {
    verbs: &'static [&'static str],
    resources: &'static [&'static str],
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch", "delete"];

const SCHEDULER: &[Rule] = &[
    Rule {
        verbs: READ,
        resources: &[
            "/pods",
            "/nodes",
            "/namespaces",
            "/services",
            "apps/replicasets",
            "coordination.k8s.io/leases",
        ],
    },
    Rule { verbs: &["create"], resources: &["/pods/binding", "/bindings"] },
    Rule { verbs: &["update", "patch"], resources: &["/pods/status"] },
    Rule { verbs: &["delete"], resources: &["/pods"] },
    Rule { verbs: &["create", "update", "patch"], resources: &["/events"] },
    Rule { verbs: &["create", "update"], resources: &["coordination.k8s.io/leases"] },
];

const CONTROLLER_MANAGER: &[Rule] = &[
    Rule { verbs: READ, resources: &["*"] },
    Rule {
        verbs: WRITE,
        resources: &[
            "/pods",
            "/configmaps",
            "/serviceaccounts",
            "/events",
            "/nodes",
            "/namespaces",
            "discovery.k8s.io/endpointslices",
            "apps/replicasets",
            "coordination.k8s.io/leases",
        ],
    },
    Rule {
        verbs: &["update", "patch"],
        resources: &[
            "/pods/status",
            "/nodes/status",
            "/namespaces/status",
            "/namespaces/finalize",
            "/services/status",
            "apps/deployments",
            "apps/deployments/status",
            "apps/deployments/scale",
            "apps/replicasets/status",
            "apps/replicasets/scale",
        ],
    },
    // The garbage collector deletes dependants of any kind.
    Rule { verbs: &["delete", "deletecollection", "patch", "update"], resources: &["*"] },
];

const PROXY: &[Rule] = &[
    Rule { verbs: READ, resources: &["/services", "discovery.k8s.io/endpointslices", "/nodes"] },
    Rule { verbs: &["create", "patch"], resources: &["/events"] },
];

const NODE: &[Rule] = &[
    Rule { verbs: READ, resources: &["/services", "discovery.k8s.io/endpointslices"] },
    Rule { verbs: &["create", "patch"], resources: &["/events"] },
];

/// What a node may do to the two objects that carry its name.
const OWN_NODE: &[Rule] = &[
    Rule { verbs: &["get", "watch", "create", "update", "patch"], resources: &["/nodes"] },
    Rule { verbs: &["update", "patch"], resources: &["/nodes/status"] },
];
const OWN_LEASE: &[Rule] = &[Rule {
    verbs: &["get", "create", "update", "patch"],
    resources: &["coordination.k8s.io/leases"],
}];

/// What every authenticated user may do to the resources that answer about the asker.
const SELF_REVIEWS: &[Rule] = &[Rule {
    verbs: &["create"],
    resources: &[
        "authorization.k8s.io/selfsubjectaccessreviews",
        "authorization.k8s.io/selfsubjectrulesreviews",
        "authentication.k8s.io/selfsubjectreviews",
    ],
}];

/// Whether the user may.
pub(crate) fn allowed(user: &Actor, wanted: &Attributes) -> bool {
    if user.is_in(MASTERS) {
        return true;
    }
    if let Some(path) = &wanted.path {
        return readable_by_all(path) && matches!(wanted.verb, "get" | "head");
    }
    if any(SELF_REVIEWS, wanted) {
        return true;
    }
    match user.user.as_str() {
        "system:kube-scheduler" => any(SCHEDULER, wanted),
        "system:kube-controller-manager" => any(CONTROLLER_MANAGER, wanted),
        "system:kube-proxy" => any(PROXY, wanted),
        name => match name.strip_prefix(NODE_PREFIX) {
            Some(node) if user.is_in(NODES) => node_allowed(node, wanted),
            _ => false,
        },
    }
}

fn node_allowed(node: &str, wanted: &Attributes) -> bool {
    let own = wanted.name.as_deref() == Some(node);
    let lease_namespace = wanted.namespace.as_deref() == Some("kube-node-lease");
    any(NODE, wanted)
        || (own && any(OWN_NODE, wanted))
        || (own && lease_namespace && any(OWN_LEASE, wanted))
}

/// Discovery, the schemas, version and health: the API describing itself.
fn readable_by_all(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    matches!(first, "api" | "apis" | "openapi" | "version" | "livez" | "readyz" | "healthz")
}

fn any(rules: &[Rule], wanted: &Attributes) -> bool {
    let resource = format!("{}/{}", wanted.group, wanted.full_resource());
    // `*` is every resource and no part of one: reading all pods is not running a command in them.
    let whole = wanted.subresource.is_none();
    rules.iter().any(|rule| {
        rule.verbs.contains(&wanted.verb)
            && rule
                .resources
                .iter()
                .any(|allowed| *allowed == resource || (*allowed == "*" && whole))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, groups: &[&str]) -> Actor {
        Actor { user: name.into(), groups: groups.iter().map(|group| (*group).into()).collect() }
    }

    fn ask(verb: &'static str, resource: &str, namespace: &str, name: &str) -> Attributes {
        let (group, resource) = resource.split_once('/').expect("group/resource");
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (resource, None),
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Attributes {
            verb,
            group: group.into(),
            resource: resource.into(),
            subresource,
            namespace: some(namespace),
            name: some(name),
            path: None,
        }
    }

    #[test]
    fn the_table() {
        let admin = user("admin", &["system:masters"]);
        let scheduler = user("system:kube-scheduler", &[]);
        let controllers = user("system:kube-controller-manager", &[]);
        let node = user("system:node:n1", &["system:nodes"]);
        let fake = user("system:node:n1", &[]);
        let nobody = user("jane", &["dev"]);
        let cases = [
            (&admin, ask("delete", "/secrets", "a", "s"), true),
            (&scheduler, ask("create", "/pods/binding", "a", "p"), true),
            (&scheduler, ask("list", "/secrets", "", ""), false),
            (&scheduler, ask("create", "/pods", "a", "p"), false),
            (&controllers, ask("create", "/pods", "a", ""), true),
            (&controllers, ask("update", "apps/deployments/status", "a", "d"), true),
            (&controllers, ask("create", "/pods/exec", "a", "p"), false),
            (&controllers, ask("get", "/pods/exec", "a", "p"), false),
            (&controllers, ask("get", "/secrets", "a", "s"), true),
            (&node, ask("patch", "/nodes/status", "", "n1"), true),
            (&node, ask("patch", "/nodes/status", "", "n2"), false),
            (&node, ask("delete", "/nodes", "", "n1"), false),
            (&node, ask("update", "coordination.k8s.io/leases", "kube-node-lease", "n1"), true),
            (&node, ask("update", "coordination.k8s.io/leases", "kube-system", "n1"), false),
            (&node, ask("get", "/secrets", "a", "s"), false),
            (&fake, ask("patch", "/nodes/status", "", "n1"), false),
            (&nobody, ask("list", "/pods", "default", ""), false),
            (&nobody, ask("create", "authorization.k8s.io/selfsubjectaccessreviews", "", ""), true),
        ];
        for (user, wanted, expected) in cases {
            assert_eq!(allowed(user, &wanted), expected, "{} {wanted:?}", user.user);
        }
    }

    #[test]
    fn paths_that_describe_the_api_are_readable() {
        let path = |verb, path: &str| Attributes {
            verb,
            path: Some(path.into()),
            ..Attributes::default()
        };
        let jane = user("jane", &[]);
        assert!(allowed(&jane, &path("get", "/apis/apps/v1")));
        assert!(!allowed(&jane, &path("get", "/metrics")));
        assert!(!allowed(&jane, &path("post", "/api")));
        assert_eq!(
            path("get", "/metrics").denial(&jane),
            r#"forbidden: User "jane" cannot get path "/metrics""#
        );
    }

    #[test]
    fn the_words_of_a_denial() {
        let jane = user("jane", &[]);
        assert_eq!(
            ask("list", "/pods", "default", "").denial(&jane),
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        assert_eq!(
            ask("update", "apps/deployments/scale", "a", "web").denial(&jane),
            r#"deployments.apps "web" is forbidden: User "jane" cannot update resource "deployments/scale" in API group "apps" in the namespace "a""#
        );
        assert_eq!(
            ask("get", "/nodes", "", "n1").denial(&jane),
            r#"nodes "n1" is forbidden: User "jane" cannot get resource "nodes" in API group "" at the cluster scope"#
        );
    }
}
