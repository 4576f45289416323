//! The one way to read and write objects.
//!
//! Whoever writes, over HTTP or from inside, takes the same path: check against the schema →
//! default → admit → validate → one compare-and-swap transaction. The transaction carries all that
//! must hold at that moment (the revision the writer saw, the namespace that is not ending) and
//! all that must change with the object (the pods-by-node copy). It changes at most one object, so
//! that a revision names one change.
//!
//! A [`Registry`] is a cheap handle; every component holds one.

pub mod codec;
pub mod key;
mod options;

use std::sync::Arc;

pub use self::options::{
    Actor, Config, DeleteOptions, Deleted, List, ListOptions, Match, Part, Preconditions,
    Propagation, Warnings, WatchOptions, WriteOptions,
};
use crate::api::patch::Patch;
use crate::api::{Key, Kind, Object, Status};
use crate::client::etcd::Store;

/// A handle on all objects.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    config: Config,
}

/// One change of one object, as a watcher sees it.
#[derive(Debug, Clone)]
pub enum Event {
    /// The object came into sight.
    Added(Object),
    /// The object changed.
    Modified(Object),
    /// The object went out of sight; its last state in sight.
    Deleted(Object),
    /// Everything up to this revision has been told.
    Bookmark(i64),
}

/// A running watch. Ends after an error.
#[derive(Debug)]
pub struct Watch {}

impl Watch {
    /// The next change. `None` after the end.
    pub async fn recv(&mut self) -> Option<Result<Event, Status>> {
        None
    }
}

fn soon<T>() -> Result<T, Status> {
    Err(Status::not_implemented("not yet"))
}

impl Registry {
    /// A registry over a store.
    pub fn new(store: Store, config: Config) -> Self {
        Self { shared: Arc::new(Shared { store, config }) }
    }

    /// The store below.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// How this cluster is served.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// One object.
    pub async fn get(&self, _kind: &'static Kind, _key: &Key) -> Result<Object, Status> {
        soon()
    }

    /// One part of one object: its Scale for [`Part::Scale`], the object otherwise.
    pub async fn get_part(
        &self,
        _kind: &'static Kind,
        _key: &Key,
        _part: Part,
    ) -> Result<Object, Status> {
        soon()
    }

    /// The objects of a kind, in one namespace or in all.
    pub async fn list(
        &self,
        _kind: &'static Kind,
        _namespace: Option<&str>,
        _options: &ListOptions,
    ) -> Result<List, Status> {
        soon()
    }

    /// Follows the changes of a kind, in one namespace or in all.
    pub async fn watch(
        &self,
        _kind: &'static Kind,
        _namespace: Option<&str>,
        _options: WatchOptions,
    ) -> Result<Watch, Status> {
        soon()
    }

    /// Creates an object. Its namespace must be set for kinds that have one.
    pub async fn create(
        &self,
        _actor: &Actor,
        _kind: &'static Kind,
        _object: Object,
        _options: &WriteOptions,
    ) -> Result<Object, Status> {
        soon()
    }

    /// Replaces a part of an object. With a `resourceVersion` only if nobody wrote in between.
    pub async fn update(
        &self,
        _actor: &Actor,
        _kind: &'static Kind,
        _key: &Key,
        _part: Part,
        _object: Object,
        _options: &WriteOptions,
    ) -> Result<Object, Status> {
        soon()
    }

    /// Changes a part of an object by a patch.
    pub async fn patch(
        &self,
        _actor: &Actor,
        _kind: &'static Kind,
        _key: &Key,
        _part: Part,
        _patch: &Patch,
        _options: &WriteOptions,
    ) -> Result<Object, Status> {
        soon()
    }

    /// Changes a part of an object by a function, again and again until nobody wrote in between.
    /// The function sees the whole object; what it changes outside the part is ignored. An object
    /// that comes out unchanged is not written.
    pub async fn modify(
        &self,
        _actor: &Actor,
        _kind: &'static Kind,
        _key: &Key,
        _part: Part,
        _change: impl FnMut(&mut Object) -> Result<(), Status> + Send,
    ) -> Result<Object, Status> {
        soon()
    }

    /// Deletes an object, or marks it as being deleted.
    pub async fn delete(
        &self,
        _actor: &Actor,
        _kind: &'static Kind,
        _key: &Key,
        _options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        soon()
    }

    /// Deletes all selected objects of a kind in a namespace, one by one.
    pub async fn delete_collection(
        &self,
        _actor: &Actor,
        _kind: &'static Kind,
        _namespace: Option<&str>,
        _options: &DeleteOptions,
        _which: &ListOptions,
    ) -> Result<List, Status> {
        soon()
    }

    /// Binds a pod to a node, once. A `uid` makes sure that it is still the same pod.
    pub async fn bind(
        &self,
        _actor: &Actor,
        _pod: &Key,
        _uid: Option<&str>,
        _node: &str,
        _options: &WriteOptions,
    ) -> Result<Object, Status> {
        soon()
    }
}

/// Makes sure that the store is ours: marks an empty one, refuses one that holds another server's
/// objects.
pub async fn claim(_store: &Store) -> Result<(), Status> {
    soon()
}
