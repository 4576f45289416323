//! A node as scheduler and controllers see it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::workload::Condition;
use super::{Meta, Toleration, View, or_default, time};

/// A node.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Node {
    /// Metadata.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// What is asked of it.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: NodeSpec,
    /// What it reports.
    #[serde(default, deserialize_with = "or_default")]
    pub status: NodeStatus,
}

/// What is asked of a node.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NodeSpec {
    /// Takes no new pods.
    #[serde(default, deserialize_with = "or_default")]
    pub unschedulable: bool,
    /// Taints.
    #[serde(default, deserialize_with = "or_default")]
    pub taints: Vec<Taint>,
}

/// What a node reports.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NodeStatus {
    /// What pods may use.
    #[serde(default, deserialize_with = "or_default")]
    pub allocatable: BTreeMap<String, String>,
    /// What the machine has; stands in for what pods may use where that is not reported.
    #[serde(default, deserialize_with = "or_default")]
    pub capacity: BTreeMap<String, String>,
    /// Conditions.
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
}

/// A taint: pods that do not endure it stay away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    #[serde(default, deserialize_with = "or_default")]
    pub value: String,
    /// Its effect.
    pub effect: Effect,
    /// When it was set.
    #[serde(default, deserialize_with = "time")]
    pub time_added: Option<jiff::Timestamp>,
}

/// What a taint does to pods that do not endure it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Effect {
    /// Not placed there.
    #[default]
    NoSchedule,
    /// Rather placed elsewhere.
    PreferNoSchedule,
    /// Not placed there, and evicted if there.
    NoExecute,
}

impl Effect {
    /// The API's word.
    pub fn text(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

impl Taint {
    /// The taint as a node carries it, without its time.
    pub fn to_value(&self) -> Value {
        let mut value = json!({"key": self.key, "effect": self.effect.text()});
        if !self.value.is_empty() {
            value["value"] = self.value.as_str().into();
        }
        value
    }
}

impl Node {
    /// A condition by its type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|one| one.kind == kind)
    }
}

impl Toleration {
    /// Whether it endures `taint`.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect.text())
            && (self.key.is_empty() || self.key == taint.key)
            && match self.operator.as_str() {
                "Exists" => true,
                "" | "Equal" => !self.key.is_empty() && self.value == taint.value,
                _ => false,
            }
    }
}

impl View for Node {
    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }
}
