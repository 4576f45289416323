//! What a component is started with, and the caches that all components of a process share.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::cache::{AnyCache, Cache};
use super::election::Election;
use super::etcd::Store;
use super::events::Recorder;
use super::reflector::Reflector;
use super::view::{
    Deployment, EndpointSlice, Lease, Namespace, Node, Object, Pod, ReplicaSet, Service, Typed,
    View,
};
use crate::api::Kind;
use crate::registry::Registry;
use crate::tasks::Tasks;

/// The surroundings of a component. Cheap to clone; clones share the caches.
#[derive(Clone)]
pub struct Context {
    /// The one way to read and write objects.
    pub registry: Registry,
    /// One cache per kind and process.
    pub caches: Caches,
    /// Where components report what they did.
    pub events: Recorder,
    tasks: Tasks,
    identity: Option<Arc<str>>,
}

impl Context {
    /// Surroundings whose background tasks run in `tasks`, and stop `root` if one fails.
    pub fn new(registry: Registry, tasks: &Tasks, root: &Tasks) -> Self {
        let events = Recorder::start(registry.clone(), tasks, root);
        let store = registry.store().clone();
        let caches = Caches {
            inner: Arc::new(Inner {
                store,
                tasks: tasks.clone(),
                root: root.clone(),
                slots: Mutex::default(),
            }),
        };
        Self { registry, caches, events, tasks: tasks.clone(), identity: None }
    }

    /// The same for one of several processes with the same components: each component then works
    /// only while it leads. Without an identity the process is taken to be alone.
    #[must_use]
    pub fn among_others(mut self, identity: &str) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// Runs a component while this process leads it. The token ends with the lead.
    pub async fn lead<E, F>(
        &self,
        component: &str,
        mut work: impl FnMut(CancellationToken) -> F,
    ) -> Result<(), E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let stop = self.token();
        match &self.identity {
            None => work(stop).await,
            Some(identity) => {
                let store = self.registry.store().clone();
                Election::new(store, component, identity).run(&stop, work).await
            }
        }
    }

    /// The token that tells components to stop.
    pub fn token(&self) -> CancellationToken {
        self.tasks.token()
    }

    /// How `component` writes.
    pub fn api(&self, component: &'static str) -> Api {
        Api::new(self.clone(), component)
    }
}

/// The caches of a process. A kind is listed and watched from the first time somebody asks for it.
#[derive(Clone)]
pub struct Caches {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    tasks: Tasks,
    root: Tasks,
    slots: Mutex<BTreeMap<&'static str, Slot>>,
}

/// Starts the cache of a kind, or finds it.
type Start = fn(&Caches, &'static Kind) -> Arc<dyn AnyCache>;

/// One cache under both of its faces.
struct Slot {
    typed: Arc<dyn Any + Send + Sync>,
    any: Arc<dyn AnyCache>,
}

impl Caches {
    /// The cache of a kind that has a view.
    pub fn get<T: Typed>(&self) -> Cache<T> {
        self.with_slot::<T, _>(T::kind(), |slot| {
            let cache = slot.typed.downcast_ref::<Cache<T>>();
            cache.expect("a kind's cache always has the kind's own view").clone()
        })
    }

    /// The cache of any kind, by metadata alone.
    pub fn any(&self, kind: &'static Kind) -> Arc<dyn AnyCache> {
        let starts: [(&Kind, Start); 8] = [
            (Pod::kind(), Self::any_of::<Pod>),
            (Node::kind(), Self::any_of::<Node>),
            (Namespace::kind(), Self::any_of::<Namespace>),
            (Service::kind(), Self::any_of::<Service>),
            (EndpointSlice::kind(), Self::any_of::<EndpointSlice>),
            (Lease::kind(), Self::any_of::<Lease>),
            (ReplicaSet::kind(), Self::any_of::<ReplicaSet>),
            (Deployment::kind(), Self::any_of::<Deployment>),
        ];
        // A kind with a view has one cache for both faces, whoever asks first.
        let kind = kind.stored();
        let typed = starts.iter().find(|(one, _)| *one == kind);
        typed.map_or(Self::any_of::<Object> as Start, |(_, start)| *start)(self, kind)
    }

    /// Returns once every kind asked for so far has been listed.
    pub async fn all_synced(&self) {
        let all: Vec<Arc<dyn AnyCache>> = {
            let slots = self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.values().map(|slot| Arc::clone(&slot.any)).collect()
        };
        for cache in all {
            cache.synced().await;
        }
    }

    /// The cache of a kind, if anybody in this process has asked for it.
    pub(super) fn running(&self, kind: &'static Kind) -> Option<Arc<dyn AnyCache>> {
        let slots = self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(kind.storage).map(|slot| Arc::clone(&slot.any))
    }

    fn any_of<T: View>(&self, kind: &'static Kind) -> Arc<dyn AnyCache> {
        self.with_slot::<T, _>(kind, |slot| Arc::clone(&slot.any))
    }

    fn with_slot<T: View, R>(&self, kind: &'static Kind, look: impl FnOnce(&Slot) -> R) -> R {
        let mut slots = self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner);
        look(slots.entry(kind.storage).or_insert_with(|| self.start::<T>(kind)))
    }

    fn start<T: View>(&self, kind: &'static Kind) -> Slot {
        let Inner { store, tasks, root, .. } = &*self.inner;
        let cache = Cache::<T>::default();
        let reflector = Reflector { store: store.clone(), kind, cache: cache.clone() };
        tasks.spawn("reflector", root, reflector.run(tasks.token()));
        Slot { typed: Arc::new(cache.clone()), any: Arc::new(cache) }
    }
}
