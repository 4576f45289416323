//! Empties a namespace that is being deleted, then lets it go.
//!
//! Pods go first, because they use the rest: only when the last is gone, everything else is deleted.
//! Whatever still holds on (a pod's grace, somebody's finalizer) is waited for; its removal wakes
//! the namespace. When nothing is left, the finalizer `kubernetes` is taken off `spec.finalizers`,
//! and the registry removes the namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::kinds::{EVENT, EVENT_V1, NAMESPACE, POD};
use crate::api::{Key, Kind, Object, kinds};
use crate::client::condition::{Say, say};
use crate::client::view::Namespace;
use crate::client::{AnyCache, Api, Cache, Context, Controller, Error, Next, Work};
use crate::registry::{DeleteOptions, ListOptions, Part, Propagation};

/// The finalizer that stands for the removal of the content.
const FINALIZER: &str = "kubernetes";

/// See the module's text.
pub(super) struct Namespaces {
    namespaces: Cache<Namespace>,
    content: Vec<(&'static Kind, Arc<dyn AnyCache>)>,
}

impl Namespaces {
    pub(super) fn new(context: &Context) -> (Self, Work<Key>) {
        let work = Work::default();
        let namespaces: Cache<Namespace> = context.caches.get();
        namespaces.subscribe(super::work_of(&work));
        let mut content = Vec::new();
        for kind in kinds::ALL.into_iter().filter(|kind| is_content(kind)) {
            let cache = context.caches.any(kind);
            let (queue, namespaces) = (work.clone(), namespaces.clone());
            cache.subscribe_meta(Box::new(move |old, new| {
                let Some(meta) = new.or(old) else { return };
                let key = Key::cluster(&meta.namespace);
                if namespaces.get(&key).is_some_and(|one| one.meta.is_deleting()) {
                    queue.add(key);
                }
            }));
            content.push((kind, cache));
        }
        (Self { namespaces, content }, work)
    }
}

/// Kinds whose objects are a namespace's content. Events are left to their own end: they are many
/// and nobody waits for them, so they are deleted at the end and not watched.
fn is_content(kind: &Kind) -> bool {
    kind.namespaced && *kind != EVENT && *kind != EVENT_V1
}

impl Controller for Namespaces {
    type Key = Key;
    const NAME: &'static str = "namespace-controller";

    fn keys(&self) -> Vec<Key> {
        self.namespaces.keys()
    }

    async fn reconcile(&self, key: &Key, api: &Api) -> Result<Next, Error> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Next::Await) };
        if !namespace.meta.is_deleting()
            || !namespace.spec.finalizers.iter().any(|one| one == FINALIZER)
        {
            return Ok(Next::Await);
        }
        // The registry admits nothing new to a namespace that ends, as a compare in the same
        // transaction. What was admitted before is in the caches once they reach its revision.
        for (_, cache) in &self.content {
            cache.wait_for(namespace.meta.revision).await;
        }
        let left = |(kind, cache): &(&'static Kind, Arc<dyn AnyCache>)| {
            (*kind, cache.keys_in(&key.name).len())
        };
        let remaining: Vec<(&'static Kind, usize)> =
            self.content.iter().map(left).filter(|(_, left)| *left > 0).collect();
        let pods_first = remaining.iter().any(|(kind, _)| **kind == POD);
        let mut failure = None;
        for (kind, _) in &remaining {
            if !pods_first || **kind == POD {
                failure = failure.or(self.delete_all(key, kind, api).await.err());
            }
        }
        if remaining.is_empty() {
            self.delete_all(key, &EVENT, api).await?;
            return self.finish(&namespace, api).await;
        }
        self.explain(&namespace, &remaining, failure.as_ref(), api).await?;
        failure.map_or(Ok(Next::Await), Err)
    }
}

impl Namespaces {
    /// Deletes every object of a kind that is not being deleted already.
    async fn delete_all(
        &self,
        namespace: &Key,
        kind: &'static Kind,
        api: &Api,
    ) -> Result<(), Error> {
        let options = DeleteOptions {
            propagation: Some(Propagation::Background),
            ..DeleteOptions::default()
        };
        let Some((_, cache)) = self.content.iter().find(|(one, _)| *one == kind) else {
            return api.delete_all(kind, &namespace.name, &options, &ListOptions::default()).await;
        };
        for key in cache.keys_in(&namespace.name) {
            if cache.meta(&key).is_some_and(|meta| !meta.is_deleting()) {
                api.delete(kind, &key, &options).await?;
            }
        }
        Ok(())
    }

    async fn finish(&self, namespace: &Namespace, api: &Api) -> Result<Next, Error> {
        let uid = &namespace.meta.uid;
        let release = |object: &mut Object| {
            if object.uid() == uid {
                let mut all = object.items("/spec/finalizers").to_vec();
                all.retain(|one| one != FINALIZER);
                object.set("/spec/finalizers", all);
            }
            Ok(())
        };
        match api.modify(&NAMESPACE, &namespace.meta.key(), Part::Finalize, release).await {
            Err(Error::Refused(status)) if status.is_not_found() => Ok(Next::Await),
            done => done.map(|_| Next::Await),
        }
    }

    /// Says on the namespace what still holds it.
    async fn explain(
        &self,
        namespace: &Namespace,
        remaining: &[(&'static Kind, usize)],
        failure: Option<&Error>,
        api: &Api,
    ) -> Result<(), Error> {
        let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
        for (kind, cache) in &self.content {
            if remaining.iter().any(|(one, _)| one == kind) {
                let metas = cache.keys_in(&namespace.meta.name);
                for meta in metas.iter().filter_map(|key| cache.meta(key)) {
                    for finalizer in meta.finalizers {
                        *finalizers.entry(finalizer).or_insert(0) += 1;
                    }
                }
            }
        }
        let texts = texts(remaining, &finalizers, failure);
        let (uid, now): (&str, Timestamp) = (&namespace.meta.uid, api.now());
        let change = |object: &mut Object| {
            if object.uid() == uid {
                for what in &texts {
                    let (kind, status, reason, message) = what;
                    say(object, Say { kind, status, reason, message }, now);
                }
            }
            Ok(())
        };
        match api.modify(&NAMESPACE, &namespace.meta.key(), Part::Status, change).await {
            Err(Error::Refused(status)) if status.is_not_found() => Ok(()),
            done => done.map(drop),
        }
    }
}

type Text = (&'static str, &'static str, &'static str, String);

/// The conditions in upstream's words.
fn texts(
    remaining: &[(&'static Kind, usize)],
    finalizers: &BTreeMap<String, usize>,
    failure: Option<&Error>,
) -> [Text; 3] {
    let list = |texts: Vec<String>| texts.join(", ");
    let content = list(
        remaining
            .iter()
            .map(|(kind, left)| format!("{} has {left} resource instances", kind.resource()))
            .collect(),
    );
    let holding = list(
        finalizers
            .iter()
            .map(|(name, left)| format!("{name} in {left} resource instances"))
            .collect(),
    );
    [
        match failure {
            Some(error) => (
                "NamespaceDeletionContentFailure",
                "True",
                "ContentDeletionFailed",
                format!("Failed to delete all resource types, 1 remaining: {error}"),
            ),
            None => (
                "NamespaceDeletionContentFailure",
                "False",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization".to_owned(),
            ),
        },
        (
            "NamespaceContentRemaining",
            "True",
            "SomeResourcesRemain",
            format!("Some resources are remaining: {content}"),
        ),
        if holding.is_empty() {
            (
                "NamespaceFinalizersRemaining",
                "False",
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".to_owned(),
            )
        } else {
            (
                "NamespaceFinalizersRemaining",
                "True",
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {holding}"),
            )
        },
    ]
}
