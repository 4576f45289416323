//! Namespaces, Services, endpoint slices, leases, and any object by its metadata alone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{Index, Meta, View, or_default, time};

/// Any object, by its metadata alone.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Object {
    /// Metadata.
    #[serde(rename = "metadata")]
    pub meta: Meta,
}

impl View for Object {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }
}

/// A Namespace.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Namespace {
    /// Metadata.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// Its own finalizers.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: NamespaceSpec,
}

/// What a namespace waits for before it goes.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NamespaceSpec {
    /// `kubernetes` stands for the removal of its content.
    #[serde(default, deserialize_with = "or_default")]
    pub finalizers: Vec<String>,
}

impl View for Namespace {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }
}

/// A Service.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Service {
    /// Metadata.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// What is asked.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: ServiceSpec,
}

/// What is asked of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Labels of the pods behind it; without any, somebody else keeps its endpoints.
    #[serde(deserialize_with = "or_default")]
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// Its address; `None` for a headless Service.
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    pub cluster_ip: String,
    /// `IPv4` or `IPv6`, or both.
    #[serde(deserialize_with = "or_default")]
    pub ip_families: Vec<String>,
    /// Send to pods that are not ready too.
    #[serde(deserialize_with = "or_default")]
    pub publish_not_ready_addresses: bool,
    /// `ClientIP` to send one client always to the same pod.
    #[serde(deserialize_with = "or_default")]
    pub session_affinity: String,
    /// `Local` to send only to pods of the sender's node.
    #[serde(deserialize_with = "or_default")]
    pub internal_traffic_policy: String,
}

/// A port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name, which the slice repeats.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The Service's own port.
    pub port: i64,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
    /// Port of the pods; the Service's own where absent.
    pub target_port: Option<TargetPort>,
    /// What is spoken there.
    pub app_protocol: Option<String>,
    /// The port every node forwards; 0 for none.
    #[serde(deserialize_with = "or_default")]
    pub node_port: i64,
}

/// A port of the pods, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// The number.
    Number(i64),
    /// A container port's name.
    Name(String),
}

impl View for Service {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }
}

/// An EndpointSlice. Its lists stay JSON: they are compared whole and written whole.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Metadata.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(default, deserialize_with = "or_default")]
    pub address_type: String,
    /// The endpoints.
    #[serde(default, deserialize_with = "or_default")]
    pub endpoints: Vec<Value>,
    /// The ports all of them have.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<Value>,
}

/// The label that names the Service a slice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

impl View for EndpointSlice {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self, add: &mut dyn FnMut(Index, &str)) {
        if let Some(service) = self.meta.labels.get(SERVICE_NAME_LABEL) {
            add(Index::Service, &format!("{}/{service}", self.meta.namespace));
        }
    }
}

/// A Lease: somebody's sign of life.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Lease {
    /// Metadata.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// Its holder and times.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: LeaseSpec,
}

/// Holder and times of a lease.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseSpec {
    /// Who holds it.
    #[serde(deserialize_with = "or_default")]
    pub holder_identity: String,
    /// When it was last renewed, by the holder's clock.
    #[serde(deserialize_with = "time")]
    pub renew_time: Option<Timestamp>,
}

impl View for Lease {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }
}
