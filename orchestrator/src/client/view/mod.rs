//! Typed views of stored objects: what controllers read.
//!
//! A view is a small struct with just the fields some component decides by, parsed once from the
//! stored JSON and shared by `Arc`. Views are read only. A write never goes through one: it edits
//! the stored JSON in the registry, so that a field nobody here knows is never lost.
//!
//! Parsing is lenient where Kubernetes is: unknown fields are skipped and `null` means absent. A
//! type error fails the one object only.

mod core;
mod meta;
mod node;
mod pod;
mod quantity;
mod selector;
mod workload;

pub use self::core::{
    EndpointSlice, Lease, Namespace, Object, SERVICE_NAME_LABEL, Service, ServicePort, TargetPort,
};
pub use self::meta::{Meta, ObjectRef, Owner};
pub use self::node::{Effect, Node, Taint};
pub use self::pod::{
    Affinity, Container, ContainerPort, NodeAffinity, NodeTerm, Pod, PreferredTerm, Requests,
    Toleration,
};
pub use self::quantity::{milli, whole};
pub use self::selector::{Requirement, Selector};
pub use self::workload::{
    Condition, Deployment, DeploymentStatus, ReplicaSet, ReplicaSetStatus, Share, Strategy,
};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::api::kinds::{self, Kind};

/// A secondary way to find objects in a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Index {
    /// By the uid of any owner.
    Owner,
    /// Objects without a managing owner, by their namespace.
    Unmanaged,
    /// By their own uid.
    Uid,
    /// Pods by the node they are bound to.
    Node,
    /// Endpoint slices by the Service they belong to.
    Service,
}

/// An object as a component reads it.
pub trait View: DeserializeOwned + Send + Sync + 'static {
    /// What all objects have.
    fn meta(&self) -> &Meta;

    /// To set what is not part of the stored text.
    fn meta_mut(&mut self) -> &mut Meta;

    /// Values this object is found by, beyond its uid and its owners'.
    fn index(&self, _add: &mut dyn FnMut(Index, &str)) {}
}

/// The view of one particular kind.
pub trait Typed: View {
    /// The kind's row in the table of kinds.
    fn kind() -> &'static Kind;
}

macro_rules! typed {
    ($($view:ty => $kind:ident),* $(,)?) => {
        $(impl Typed for $view {
            fn kind() -> &'static Kind {
                &kinds::$kind
            }
        })*
    };
}

typed! {
    Pod => POD,
    Node => NODE,
    Namespace => NAMESPACE,
    Service => SERVICE,
    EndpointSlice => ENDPOINT_SLICE,
    Lease => LEASE,
    ReplicaSet => REPLICA_SET,
    Deployment => DEPLOYMENT,
}

/// Reads `null` as the default: Go clients write it for empty lists and maps.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a time of the API: RFC 3339, to the second or finer.
pub(super) fn time<'de, D>(deserializer: D) -> Result<Option<jiff::Timestamp>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}
