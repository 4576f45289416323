//! A component's picture of one kind of object.
//!
//! A reflector lists the kind at a revision, then follows the watch from the next one. The cache is
//! therefore always *the state of the store at exactly one revision*, only maybe not the newest:
//!
//! ```text
//! store     … 41   42   43   44   45          44 is a write of this component
//! cache     … 41 ───────▶ 43                  revision() = 43
//!                          wait_for(44) ────▶ returns once event 44, or a progress report that
//!                                             vouches for 44, has been applied
//! ```
//!
//! Readers get `Arc`s and never hold a lock while they work. Subscribers are called in the order of
//! changes with the object before and after; by convention they only put keys into a work queue or
//! keep a counter, and neither block nor wait. A new subscriber is first told every object present,
//! so there is no moment from which changes can be missed.
//!
//! A relist (only needed when the wanted history is compacted) is applied as the difference to what
//! was there, so that subscribers see an ordinary series of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::view::{Index, Meta, View};
use crate::api::Key;

/// How long a waiter trusts one request for a progress report before it asks again: a report asked
/// for while the watch is being set up is lost.
const PROGRESS_RETRY: Duration = Duration::from_millis(100);

/// One change of one object. At least one side is there.
#[derive(Debug)]
pub struct Change<'a, T> {
    /// The object's name.
    pub key: &'a Key,
    /// Before; absent when it is new.
    pub old: Option<&'a Arc<T>>,
    /// After; absent when it is gone.
    pub new: Option<&'a Arc<T>>,
}

impl<T> Change<'_, T> {
    /// The object after the change, or before it if it is gone.
    pub fn latest(&self) -> &Arc<T> {
        self.new.or(self.old).expect("a change has an object on one side")
    }

    /// The objects on both sides.
    pub fn sides(&self) -> impl Iterator<Item = &Arc<T>> {
        self.old.into_iter().chain(self.new)
    }
}

type Subscriber<T> = Box<dyn Fn(&Change<'_, T>) + Send + Sync>;

/// A shared handle on the picture; see the module's text.
pub struct Cache<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<T> {
    objects: RwLock<Objects<T>>,
    /// Held while changes are applied, so that a subscriber starts between two of them.
    subscribers: Mutex<Vec<Subscriber<T>>>,
    /// The revision the picture is of; 0 before the first list.
    revision: watch::Sender<i64>,
    /// Somebody waits for a revision that no event may ever bring.
    behind: Notify,
}

/// The objects and the indexes over them.
struct Objects<T> {
    by_key: BTreeMap<Key, Arc<T>>,
    indexes: BTreeMap<(Index, String), BTreeSet<Key>>,
}

impl<T: View> Objects<T> {
    fn index(object: &T, mut each: impl FnMut((Index, String))) {
        let meta = object.meta();
        each((Index::Uid, meta.uid.clone()));
        for owner in &meta.owners {
            each((Index::Owner, owner.uid.clone()));
        }
        if meta.controller().is_none() {
            each((Index::Unmanaged, meta.namespace.clone()));
        }
        object.index(&mut |index, value| each((index, value.to_owned())));
    }

    fn insert(&mut self, key: &Key, object: &Arc<T>) -> Option<Arc<T>> {
        let old = self.remove(key);
        Self::index(object, |entry| {
            self.indexes.entry(entry).or_default().insert(key.clone());
        });
        self.by_key.insert(key.clone(), Arc::clone(object));
        old
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<T>> {
        let old = self.by_key.remove(key)?;
        Self::index(&old, |entry| {
            if let Some(keys) = self.indexes.get_mut(&entry) {
                keys.remove(key);
                if keys.is_empty() {
                    self.indexes.remove(&entry);
                }
            }
        });
        Some(old)
    }
}

/// One event for [`Cache::apply`].
pub(super) enum Event<T> {
    Put(Key, Arc<T>),
    Delete(Key),
}

fn lock<S>(mutex: &Mutex<S>) -> MutexGuard<'_, S> {
    // A panic of a subscriber leaves the list of subscribers itself intact.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: View> Default for Cache<T> {
    fn default() -> Self {
        let objects = Objects { by_key: BTreeMap::new(), indexes: BTreeMap::new() };
        Self {
            inner: Arc::new(Inner {
                objects: RwLock::new(objects),
                subscribers: Mutex::default(),
                revision: watch::Sender::new(0),
                behind: Notify::new(),
            }),
        }
    }
}

impl<T: View> Cache<T> {
    fn read<R>(&self, look: impl FnOnce(&Objects<T>) -> R) -> R {
        look(&self.inner.objects.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<R>(&self, change: impl FnOnce(&mut Objects<T>) -> R) -> R {
        change(&mut self.inner.objects.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The object of this name.
    pub fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.read(|objects| objects.by_key.get(key).cloned())
    }

    /// Every object, by name.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.read(|objects| objects.by_key.values().cloned().collect())
    }

    /// Every object's name.
    pub fn keys(&self) -> Vec<Key> {
        self.read(|objects| objects.by_key.keys().cloned().collect())
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read(|objects| objects.by_key.len())
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every object of a namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        let first = Key::namespaced(namespace, "");
        self.read(|objects| {
            objects
                .by_key
                .range((Bound::Included(first), Bound::Unbounded))
                .take_while(|(key, _)| key.namespace.as_deref() == Some(namespace))
                .map(|(_, object)| Arc::clone(object))
                .collect()
        })
    }

    /// Every object found by a secondary index, by name.
    pub fn by(&self, index: Index, value: &str) -> Vec<Arc<T>> {
        self.read(|objects| {
            let keys = objects.indexes.get(&(index, value.to_owned()));
            let found = keys.into_iter().flatten();
            found.filter_map(|key| objects.by_key.get(key).cloned()).collect()
        })
    }

    /// The revision the picture is of; 0 before the first list.
    pub fn revision(&self) -> i64 {
        *self.inner.revision.borrow()
    }

    /// Returns once the picture shows `revision` or a later one.
    pub async fn wait_for(&self, revision: i64) {
        let mut seen = self.inner.revision.subscribe();
        while *seen.borrow_and_update() < revision {
            self.inner.behind.notify_one();
            // An error would mean that the sender is gone, but `self` holds it; a time-out means
            // that the request was lost: both ask again.
            let _ = tokio::time::timeout(PROGRESS_RETRY, seen.changed()).await;
        }
    }

    /// Returns once the first list has been read.
    pub async fn synced(&self) {
        let mut seen = self.inner.revision.subscribe();
        seen.wait_for(|revision| *revision > 0).await.expect("the cache holds the sender");
    }

    /// Calls `subscriber` for every object there is and then for every change, in order. It must be
    /// quick and must not subscribe itself.
    pub fn subscribe(&self, subscriber: impl Fn(&Change<'_, T>) + Send + Sync + 'static) {
        let mut subscribers = lock(&self.inner.subscribers);
        let present = self.read(|objects| {
            let pairs = objects.by_key.iter();
            pairs.map(|(key, object)| (key.clone(), Arc::clone(object))).collect::<Vec<_>>()
        });
        for (key, object) in &present {
            subscriber(&Change { key, old: None, new: Some(object) });
        }
        subscribers.push(Box::new(subscriber));
    }

    /// Waits until somebody is waiting for a revision beyond the picture's.
    pub(super) async fn behind(&self) {
        self.inner.behind.notified().await;
    }

    /// Applies events that bring the picture to `revision`.
    pub(super) fn apply(&self, events: Vec<Event<T>>, revision: i64) {
        let subscribers = lock(&self.inner.subscribers);
        for event in events {
            match event {
                Event::Put(key, object) => {
                    let old = self.write(|objects| objects.insert(&key, &object));
                    let change = Change { key: &key, old: old.as_ref(), new: Some(&object) };
                    subscribers.iter().for_each(|subscriber| subscriber(&change));
                }
                Event::Delete(key) => {
                    let Some(old) = self.write(|objects| objects.remove(&key)) else { continue };
                    let change = Change { key: &key, old: Some(&old), new: None };
                    subscribers.iter().for_each(|subscriber| subscriber(&change));
                }
            }
        }
        drop(subscribers);
        self.inner.revision.send_if_modified(|seen| {
            let moved = revision > *seen;
            *seen = revision.max(*seen);
            moved
        });
    }

    /// Makes the picture what a list at `revision` showed, by the changes that lead there. Objects
    /// in `unreadable` keep the last form that could be read.
    pub(super) fn replace(
        &self,
        listed: Vec<(Key, Arc<T>)>,
        unreadable: &BTreeSet<Key>,
        revision: i64,
    ) {
        let mut events = Vec::new();
        self.read(|objects| {
            let present: BTreeSet<&Key> = listed.iter().map(|(key, _)| key).collect();
            for key in objects.by_key.keys() {
                if !present.contains(key) && !unreadable.contains(key) {
                    events.push(Event::Delete(key.clone()));
                }
            }
            for (key, object) in &listed {
                let known = objects.by_key.get(key);
                if known.is_none_or(|known| known.meta().revision != object.meta().revision) {
                    events.push(Event::Put(key.clone(), Arc::clone(object)));
                }
            }
        });
        self.apply(events, revision);
    }
}

/// A cache of whatever kind, for components that care only for metadata.
pub trait AnyCache: Send + Sync {
    /// Metadata of the object of this name.
    fn meta(&self, key: &Key) -> Option<Meta>;
    /// Metadata of the objects that name `uid` as an owner.
    fn owned_by(&self, uid: &str) -> Vec<Meta>;
    /// True when an object with this uid exists.
    fn has_uid(&self, uid: &str) -> bool;
    /// Names of all objects.
    fn keys(&self) -> Vec<Key>;
    /// Names of the objects of a namespace.
    fn keys_in(&self, namespace: &str) -> Vec<Key>;
    /// Calls `subscriber` with the metadata before and after each change.
    fn subscribe_meta(&self, subscriber: MetaSubscriber);
    /// See [`Cache::wait_for`].
    fn wait_for(&self, revision: i64) -> BoxFuture<'_>;
    /// See [`Cache::synced`].
    fn synced(&self) -> BoxFuture<'_>;
}

/// What [`AnyCache::subscribe_meta`] calls.
pub type MetaSubscriber = Box<dyn Fn(Option<&Meta>, Option<&Meta>) + Send + Sync>;

type BoxFuture<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

impl<T: View> AnyCache for Cache<T> {
    fn meta(&self, key: &Key) -> Option<Meta> {
        self.get(key).map(|object| object.meta().clone())
    }

    fn owned_by(&self, uid: &str) -> Vec<Meta> {
        self.by(Index::Owner, uid).iter().map(|object| object.meta().clone()).collect()
    }

    fn has_uid(&self, uid: &str) -> bool {
        self.read(|objects| objects.indexes.contains_key(&(Index::Uid, uid.to_owned())))
    }

    fn keys(&self) -> Vec<Key> {
        Self::keys(self)
    }

    fn keys_in(&self, namespace: &str) -> Vec<Key> {
        self.in_namespace(namespace).iter().map(|object| object.meta().key()).collect()
    }

    fn subscribe_meta(&self, subscriber: MetaSubscriber) {
        self.subscribe(move |change| {
            subscriber(change.old.map(|old| old.meta()), change.new.map(|new| new.meta()));
        });
    }

    fn wait_for(&self, revision: i64) -> BoxFuture<'_> {
        Box::pin(Self::wait_for(self, revision))
    }

    fn synced(&self) -> BoxFuture<'_> {
        Box::pin(Self::synced(self))
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::Object;
    use super::*;

    fn object(name: &str, revision: i64, owner: Option<&str>) -> (Key, Arc<Object>) {
        let owners = owner.map(|uid| serde_json::json!([{"uid": uid}]));
        let mut object: Object = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "ns", "name": name, "uid": format!("uid-{name}"),
                         "ownerReferences": owners},
        }))
        .expect("a valid object");
        object.meta.revision = revision;
        (Key::namespaced("ns", name), Arc::new(object))
    }

    fn recorded(cache: &Cache<Object>) -> Arc<Mutex<Vec<String>>> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&log);
        cache.subscribe(move |change| {
            let side = |object: Option<&Arc<Object>>| object.map_or(0, |one| one.meta.revision);
            let line = format!("{} {}→{}", change.key.name, side(change.old), side(change.new));
            sink.lock().expect("not poisoned").push(line);
        });
        log
    }

    #[test]
    fn a_relist_is_seen_as_the_changes_that_lead_there() {
        let cache = Cache::default();
        let (a, b, c) = (object("a", 1, None), object("b", 2, None), object("c", 3, None));
        cache.replace(vec![a, b, c], &BTreeSet::new(), 3);
        let log = recorded(&cache);
        let broken = BTreeSet::from([Key::namespaced("ns", "c")]);
        cache.replace(vec![object("b", 5, None), object("d", 6, None)], &broken, 7);
        assert_eq!(
            *log.lock().expect("not poisoned"),
            ["a 0→1", "b 0→2", "c 0→3", "a 1→0", "b 2→5", "d 0→6"],
        );
        assert_eq!(cache.revision(), 7);
        assert_eq!(cache.len(), 3, "what cannot be read keeps its last form");
    }

    #[test]
    fn indexes_follow_every_change() {
        let cache = Cache::default();
        let (key, one) = object("a", 1, Some("x"));
        cache.apply(vec![Event::Put(key.clone(), one)], 1);
        assert_eq!(cache.by(Index::Owner, "x").len(), 1);
        let (_, two) = object("a", 2, Some("y"));
        cache.apply(vec![Event::Put(key.clone(), two)], 2);
        assert!(cache.by(Index::Owner, "x").is_empty());
        assert_eq!(cache.by(Index::Owner, "y").len(), 1);
        assert_eq!(cache.by(Index::Uid, "uid-a").len(), 1);
        cache.apply(vec![Event::Delete(key)], 3);
        assert!(cache.by(Index::Owner, "y").is_empty());
        assert!(cache.read(|objects| objects.indexes.is_empty()), "no empty set stays behind");
    }

    #[tokio::test]
    async fn a_waiter_asks_for_progress_and_is_woken_by_it() {
        let cache: Cache<Object> = Cache::default();
        cache.apply(Vec::new(), 5);
        let reflector = async {
            cache.behind().await;
            cache.apply(Vec::new(), 9);
        };
        tokio::join!(cache.wait_for(9), reflector);
        assert_eq!(cache.revision(), 9);
    }
}
