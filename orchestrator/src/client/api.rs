//! How a component writes.
//!
//! Every write goes through the [`Registry`](crate::registry::Registry), as everybody's does. What is added here is memory: an
//! [`Api`] remembers which revision of which kind its writes made, so that the controller loop can
//! wait until the caches show them (the revision barrier, see `controller.rs`).

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::Value;

use super::context::Context;
use super::etcd::Range;
use super::events::Severity;
use super::view::ObjectRef;
use crate::api::{Key, Kind, Object, Status};
use crate::registry::{Actor, DeleteOptions, Deleted, ListOptions, Part, WriteOptions};

/// Why a run of a controller failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry refused a read or a write.
    #[error("{0}")]
    Refused(#[from] Status),
    /// A stored object is not what it must be.
    #[error("{0}")]
    Malformed(String),
}

impl Error {
    /// True for what happens in any busy cluster and is gone with the next run.
    pub fn is_routine(&self) -> bool {
        match self {
            Self::Refused(status) => {
                status.is_conflict() || status.is_already_exists() || status.is_not_found()
            }
            Self::Malformed(_) => false,
        }
    }
}

/// What one run wrote.
#[derive(Default)]
struct Written {
    revisions: Vec<(&'static Kind, i64)>,
    /// Kinds of writes whose outcome nobody told.
    doubtful: Vec<&'static Kind>,
}

/// A component's writes; see the module's text.
pub struct Api {
    context: Context,
    component: &'static str,
    actor: Actor,
    written: Mutex<Written>,
}

impl Api {
    pub(super) fn new(context: Context, component: &'static str) -> Self {
        let actor = Actor::system(&format!("system:{component}"));
        Self { context, component, actor, written: Mutex::default() }
    }

    /// The same with nothing written yet.
    pub(super) fn fresh(&self) -> Self {
        Self::new(self.context.clone(), self.component)
    }

    /// What the component was started with.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Reports something that happened to an object.
    pub fn report(&self, about: &ObjectRef, severity: Severity, reason: &str, message: String) {
        self.context.events.report(self.component, about, severity, reason, message);
    }

    /// One object as the store has it now, if it is there.
    pub async fn get(&self, kind: &'static Kind, key: &Key) -> Result<Option<Object>, Error> {
        match self.context.registry.get(kind, key).await {
            Ok(object) => Ok(Some(object)),
            Err(status) if status.is_not_found() => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// Creates an object from its JSON.
    pub async fn create(&self, kind: &'static Kind, object: Value) -> Result<Object, Error> {
        let object = Object::from_value(object)
            .ok_or_else(|| Error::Malformed("an object to create is not a JSON object".into()))?;
        let options = WriteOptions::default();
        let made = self.context.registry.create(&self.actor, kind, object, &options).await;
        self.remember(kind, made)
    }

    /// Changes a part of an object. The change may be called several times; one that leaves the
    /// object as it is writes nothing.
    pub async fn modify(
        &self,
        kind: &'static Kind,
        key: &Key,
        part: Part,
        change: impl FnMut(&mut Object) -> Result<(), Status> + Send,
    ) -> Result<Object, Error> {
        let made = self.context.registry.modify(&self.actor, kind, key, part, change).await;
        self.remember(kind, made)
    }

    /// Deletes an object. One that is already gone is no error.
    pub async fn delete(
        &self,
        kind: &'static Kind,
        key: &Key,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let deleted = self.context.registry.delete(&self.actor, kind, key, options).await;
        match self.remember(kind, deleted.map(Deleted::into_object)) {
            Err(Error::Refused(status)) if status.is_not_found() => Ok(()),
            done => done.map(drop),
        }
    }

    /// Deletes every selected object of a kind in a namespace.
    pub async fn delete_all(
        &self,
        kind: &'static Kind,
        namespace: &str,
        options: &DeleteOptions,
        which: &ListOptions,
    ) -> Result<(), Error> {
        let registry = &self.context.registry;
        let done =
            registry.delete_collection(&self.actor, kind, Some(namespace), options, which).await;
        if done.is_err() {
            self.written().doubtful.push(kind);
        }
        Ok(done.map(drop)?)
    }

    /// Binds a pod to a node.
    pub async fn bind(&self, pod: &Key, uid: &str, node: &str) -> Result<Object, Error> {
        let options = WriteOptions::default();
        let bound = self.context.registry.bind(&self.actor, pod, Some(uid), node, &options).await;
        Ok(bound?)
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, kind: &'static Kind, made: Result<Object, Status>) -> Result<Object, Error> {
        match &made {
            Ok(object) => {
                let revision = object.resource_version().unwrap_or(0);
                self.written().revisions.push((kind, revision));
            }
            Err(status) if status.code >= 500 => self.written().doubtful.push(kind),
            Err(_) => {}
        }
        Ok(made?)
    }

    /// Returns once the caches of this process show everything written through this `Api`.
    pub(super) async fn settle(&self) {
        let Written { revisions, doubtful } = std::mem::take(&mut *self.written());
        let caches = &self.context.caches;
        for (kind, revision) in revisions {
            if let Some(cache) = caches.running(kind) {
                cache.wait_for(revision).await;
            }
        }
        if !doubtful.is_empty() {
            // Whatever became of those writes, it became so before this revision.
            let probe =
                Range { limit: 1, keys_only: true, ..Range::key(crate::registry::key::REGISTRY) };
            let Ok(answer) = self.context.registry.store().range(&probe).await else { return };
            for cache in doubtful.iter().filter_map(|kind| caches.running(kind)) {
                cache.wait_for(answer.revision).await;
            }
        }
    }
}

/// Deletion of exactly the object with `uid`, whatever has its name now.
pub fn exactly(uid: &str) -> DeleteOptions {
    let mut options = DeleteOptions::default();
    options.preconditions.uid = Some(uid.to_owned());
    options
}
