//! What runs on this node right now, for those who ask while workers work.
//!
//! Workers publish; the server and the shutdown read. Short sections under one lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::pod::plan::newest;
use super::shim::{ContainerPhase, State};
use crate::api::{Key, Object};

/// All pods of the node.
#[derive(Debug, Default)]
pub(super) struct Running {
    pods: Mutex<BTreeMap<Key, Entry>>,
}

#[derive(Debug)]
struct Entry {
    object: Arc<Object>,
    state: State,
}

/// Where a container stands, as a reader of logs needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    /// The pod's uid.
    pub(super) uid: String,
    /// The latest attempt that was started.
    pub(super) latest: Option<u32>,
    /// Why there is none.
    pub(super) waiting: String,
}

impl Running {
    /// Records what a worker knows of its pod.
    pub(super) fn publish(&self, object: &Arc<Object>, state: &State) {
        let entry = Entry { object: Arc::clone(object), state: state.clone() };
        self.lock().insert(object.key(), entry);
    }

    /// Forgets a pod, unless another of the same name took its place.
    pub(super) fn forget(&self, key: &Key, uid: &str) {
        let mut pods = self.lock();
        if pods.get(key).is_some_and(|entry| entry.object.uid() == uid) {
            pods.remove(key);
        }
    }

    /// The container's latest attempt; `None` if the pod or the container is unknown.
    pub(super) fn attempt(&self, key: &Key, container: &str) -> Option<Attempt> {
        let pods = self.lock();
        let entry = pods.get(key)?;
        let named = |list: &str| {
            entry
                .object
                .items(list)
                .iter()
                .any(|one| one.get("name").and_then(Value::as_str) == Some(container))
        };
        if !named("/spec/containers") && !named("/spec/initContainers") {
            return None;
        }
        let waiting = ["/status/containerStatuses", "/status/initContainerStatuses"]
            .iter()
            .flat_map(|list| entry.object.items(list))
            .find(|one| one.get("name").and_then(Value::as_str) == Some(container))
            .and_then(|one| one.pointer("/state/waiting/reason"))
            .and_then(Value::as_str)
            .unwrap_or("ContainerCreating");
        Some(Attempt {
            uid: entry.object.uid().to_owned(),
            latest: newest(&entry.state, container).map(|(_, one)| one.attempt),
            waiting: waiting.to_owned(),
        })
    }

    /// Whether that very attempt still runs.
    pub(super) fn is_running(&self, key: &Key, container: &str, attempt: u32) -> bool {
        let pods = self.lock();
        pods.get(key).and_then(|entry| newest(&entry.state, container)).is_some_and(|(_, one)| {
            one.attempt == attempt
                && matches!(one.phase, ContainerPhase::Running | ContainerPhase::Starting)
        })
    }

    /// Every pod's object.
    pub(super) fn objects(&self) -> Vec<Value> {
        self.lock().values().map(|entry| entry.object.as_value().clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
