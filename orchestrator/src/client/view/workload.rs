//! ReplicaSets and Deployments as their controllers see them.
//!
//! The pod template stays JSON: controllers copy it whole and compare it whole, and only the
//! kubelet reads what is inside.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::{Meta, Selector, View, or_default, time};

/// A condition of any kind of object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which condition it is.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// One word why.
    #[serde(default, deserialize_with = "or_default")]
    pub reason: String,
    /// A sentence why.
    #[serde(default, deserialize_with = "or_default")]
    pub message: String,
    /// When `status` last changed.
    #[serde(rename = "lastTransitionTime", default, deserialize_with = "time")]
    pub transition: Option<Timestamp>,
    /// When anything of it last changed; only some kinds have it.
    #[serde(rename = "lastUpdateTime", default, deserialize_with = "time")]
    pub update: Option<Timestamp>,
}

impl Condition {
    /// Its status is `True`.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// A ReplicaSet.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ReplicaSet {
    /// Metadata.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// What is asked.
    #[serde(default)]
    pub spec: ReplicaSetSpec,
    /// What is.
    #[serde(default, deserialize_with = "or_default")]
    pub status: ReplicaSetStatus,
}

/// What is asked of a ReplicaSet.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetSpec {
    /// Pods wanted.
    pub replicas: i64,
    /// A pod counts as available when it has been ready for so long.
    #[serde(deserialize_with = "or_default")]
    pub min_ready_seconds: i64,
    /// Which pods are its own.
    pub selector: Selector,
    /// What a pod of it looks like.
    pub template: Value,
}

impl Default for ReplicaSetSpec {
    fn default() -> Self {
        Self {
            replicas: 1,
            min_ready_seconds: 0,
            selector: Selector::default(),
            template: Value::Null,
        }
    }
}

/// What a ReplicaSet has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetStatus {
    /// Pods.
    #[serde(deserialize_with = "or_default")]
    pub replicas: i64,
    /// Pods with all labels of the template.
    #[serde(deserialize_with = "or_default")]
    pub fully_labeled_replicas: i64,
    /// Ready pods.
    #[serde(deserialize_with = "or_default")]
    pub ready_replicas: i64,
    /// Pods ready for long enough.
    #[serde(deserialize_with = "or_default")]
    pub available_replicas: i64,
    /// Pods on their way out.
    #[serde(deserialize_with = "or_default")]
    pub terminating_replicas: i64,
    /// The generation this status is about.
    #[serde(deserialize_with = "or_default")]
    pub observed_generation: i64,
    /// Conditions.
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
}

impl View for ReplicaSet {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }
}

/// A Deployment.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Deployment {
    /// Metadata.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// What is asked.
    #[serde(default)]
    pub spec: DeploymentSpec,
    /// What is.
    #[serde(default, deserialize_with = "or_default")]
    pub status: DeploymentStatus,
}

/// What is asked of a Deployment.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSpec {
    /// Pods wanted.
    pub replicas: i64,
    /// As for a ReplicaSet.
    #[serde(deserialize_with = "or_default")]
    pub min_ready_seconds: i64,
    /// Which pods and ReplicaSets are its own.
    pub selector: Selector,
    /// What a pod of it looks like.
    pub template: Value,
    /// How pods are replaced.
    #[serde(deserialize_with = "or_default")]
    pub strategy: Strategy,
    /// Old ReplicaSets to keep for a rollback.
    pub revision_history_limit: Option<usize>,
    /// No roll-out while set.
    #[serde(deserialize_with = "or_default")]
    pub paused: bool,
    /// After so many seconds without progress it is said to have failed.
    pub progress_deadline_seconds: Option<i64>,
}

impl Default for DeploymentSpec {
    fn default() -> Self {
        Self {
            replicas: 1,
            min_ready_seconds: 0,
            selector: Selector::default(),
            template: Value::Null,
            strategy: Strategy::default(),
            revision_history_limit: None,
            paused: false,
            progress_deadline_seconds: None,
        }
    }
}

/// How a Deployment replaces pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    /// `RollingUpdate` or `Recreate`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// Bounds of a rolling update.
    #[serde(deserialize_with = "or_default")]
    pub rolling_update: RollingUpdate,
}

/// Bounds of a rolling update; 25 % each where absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// Pods above the wanted number.
    pub max_surge: Option<Share>,
    /// Pods below the wanted number.
    pub max_unavailable: Option<Share>,
}

/// A number, or a percentage as text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Share {
    /// So many.
    Count(i64),
    /// `25%`.
    Percent(String),
}

/// What a Deployment has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    /// Pods.
    #[serde(deserialize_with = "or_default")]
    pub replicas: i64,
    /// Pods of the newest template.
    #[serde(deserialize_with = "or_default")]
    pub updated_replicas: i64,
    /// Ready pods.
    #[serde(deserialize_with = "or_default")]
    pub ready_replicas: i64,
    /// Pods ready for long enough.
    #[serde(deserialize_with = "or_default")]
    pub available_replicas: i64,
    /// Pods missing.
    #[serde(deserialize_with = "or_default")]
    pub unavailable_replicas: i64,
    /// Pods on their way out.
    #[serde(deserialize_with = "or_default")]
    pub terminating_replicas: i64,
    /// The generation this status is about.
    #[serde(deserialize_with = "or_default")]
    pub observed_generation: i64,
    /// Raised when two templates hash to one name.
    pub collision_count: Option<i64>,
    /// Conditions.
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
}

impl View for Deployment {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }
}
