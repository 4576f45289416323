//! Validation: what an object must be beyond its schema.
//!
//! Every complaint names a field and says what is wrong with it in Kubernetes' words; all of them
//! are told at once. An update is judged twice: the new object by the rules of any object, and the
//! change by what may not change.

mod config;
mod container;
pub mod error;
mod meta;
pub mod names;
mod network;
mod pod;
mod workload;

use self::error::{Causes, Path};
pub use self::error::{invalid_value, required};
use super::cidr::Cidr;
use super::kinds::Kind;
use super::lifecycle::Part;
use super::object::Object;
use super::status::Cause;

/// What validation must know of the cluster.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Addresses of services.
    pub service_cidr: Cidr,
    /// Ports of services on nodes, first and last.
    pub node_ports: (u16, u16),
}

/// What is wrong with a new object.
pub fn create(kind: &Kind, object: &Object, limits: Limits) -> Vec<Cause> {
    let mut causes = Causes::default();
    meta::check(kind, object, &mut causes);
    whole(kind, object, limits, &mut causes);
    causes.into_vec()
}

/// What is wrong with a change of a part of an object.
pub fn update(
    kind: &Kind,
    part: Part,
    before: &Object,
    after: &Object,
    limits: Limits,
) -> Vec<Cause> {
    let mut causes = Causes::default();
    meta::check(kind, after, &mut causes);
    meta::check_change(before, after, &mut causes);
    match part {
        Part::Main | Part::Scale => {
            whole(kind, after, limits, &mut causes);
            change(kind, before, after, &mut causes);
        }
        Part::Status | Part::Finalize => {}
    }
    causes.into_vec()
}

fn whole(kind: &Kind, object: &Object, limits: Limits, causes: &mut Causes) {
    let spec = Path::root("spec");
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::check_spec(object.get("/spec"), &spec, causes),
        ("", "Service") => network::service(object, limits, causes),
        ("", "ConfigMap") => config::config_map(object, causes),
        ("", "Secret") => config::secret(object, causes),
        ("", "Event") => config::event(object, "involvedObject", causes),
        ("events.k8s.io", "Event") => config::event(object, "regarding", causes),
        ("", "Node") => config::node(object, causes),
        ("coordination.k8s.io", "Lease") => config::lease(object, causes),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(object, causes),
        ("apps", "Deployment") => workload::deployment(object, causes),
        ("apps", "ReplicaSet") => workload::replica_set(object, causes),
        _ => {}
    }
}

fn change(kind: &Kind, before: &Object, after: &Object, causes: &mut Causes) {
    match (kind.group, kind.kind) {
        ("", "Pod") => pod::check_change(before, after, causes),
        ("", "Service") => network::service_change(before, after, causes),
        ("", "ConfigMap" | "Secret") => config::immutable(before, after, causes),
        ("discovery.k8s.io", "EndpointSlice") => {
            causes.unchanged(before, after, "/addressType");
        }
        ("apps", "Deployment" | "ReplicaSet") => {
            causes.unchanged(before, after, "/spec/selector");
        }
        _ => {}
    }
}
