//! Who asks, what for, and under which conditions.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::api::schema::FieldValidation;
use crate::api::{Object, Selector};

/// Who writes: a person, a program or a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// User name.
    pub user: String,
    /// Groups the user is in.
    pub groups: Vec<String>,
}

impl Actor {
    /// A component of ours, such as `system:kube-scheduler`.
    pub fn system(user: &str) -> Self {
        Self { user: user.to_owned(), groups: vec!["system:authenticated".into()] }
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }
}

/// Collects `Warning` headers for whoever asked. Clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds a warning unless it is there.
    pub fn add(&self, text: impl Into<String>) {
        let mut all = self.0.lock().expect("no code panics while it holds the list");
        let text = text.into();
        if !all.contains(&text) {
            all.push(text);
        }
    }

    /// Takes all warnings out.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no code panics while it holds the list"))
    }
}

/// How a create, update or patch is done.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Do everything but the write.
    pub dry_run: bool,
    /// Name of the program that manages the fields written. Carried for server-side apply, which
    /// records it; nothing else depends on it.
    pub field_manager: Option<String>,
    /// What becomes of fields the schema does not know.
    pub field_validation: FieldValidation,
    /// Where warnings for the writer go.
    pub warnings: Warnings,
}

impl WriteOptions {
    /// Hands warnings to the writer.
    pub(super) fn warn(&self, warnings: Vec<String>) {
        warnings.into_iter().for_each(|warning| self.warnings.add(warning));
    }

    /// For components: unknown fields are an error, because only we can have made them.
    pub fn strict() -> Self {
        Self { field_validation: FieldValidation::Strict, ..Self::default() }
    }
}

/// What a delete came to.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// The object is gone; this is its last state.
    Gone(Object),
    /// The object waits for a pod to stop or for finalizers.
    Waiting(Object),
}

impl Deleted {
    /// The object in either case.
    pub fn into_object(self) -> Object {
        match self {
            Self::Gone(object) | Self::Waiting(object) => object,
        }
    }
}

/// How the revision a reader names is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// This revision and no other.
    Exact,
    /// This revision or a later one.
    NotOlderThan,
}

/// How a list is read.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Which objects.
    pub selector: Selector,
    /// At most so many; 0: all.
    pub limit: usize,
    /// Where the last page ended.
    pub continue_token: Option<String>,
    /// Revision the reader names; empty and `0` mean the newest.
    pub resource_version: String,
    /// How it is meant.
    pub version_match: Option<Match>,
}

/// Objects of one kind at one revision.
#[derive(Debug, Clone)]
pub struct List {
    /// The objects in key order.
    pub items: Vec<Object>,
    /// Revision the list was read at.
    pub resource_version: i64,
    /// Where the next page begins.
    pub continue_token: Option<String>,
    /// Objects after this page, when they can be counted.
    pub remaining: Option<i64>,
}

/// How changes are followed.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// Which objects.
    pub selector: Selector,
    /// Changes after this revision; `None` begins with all present objects.
    pub since: Option<i64>,
    /// Tell the revision now and then when nothing happens.
    pub bookmarks: bool,
}

/// How the registry serves this cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses of services.
    pub service_cidr: crate::api::Cidr,
    /// Ports of services on nodes, first and last.
    pub node_ports: (u16, u16),
    /// How long events are kept.
    pub event_ttl: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            service_cidr: "10.96.0.0/12".parse().expect("a valid range"),
            node_ports: (30_000, 32_767),
            event_ttl: Duration::from_secs(3600),
        }
    }
}
