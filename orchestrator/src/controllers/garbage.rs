//! Removes objects whose owners are gone, and sees owners' deletions through.
//!
//! Ownership is by uid: an owner is *absent* when no object has its uid, even if another took its
//! name. Nothing is removed on the word of a cache alone: an owner that no cache knows is read once
//! more from the store.
//!
//! ```text
//! an object with owners          all absent                 → delete it
//!                                some absent, some there    → drop the absent references
//!                                rest waits in foreground   → delete it in foreground
//! being deleted, orphan          → drop its reference from all it owns, take the finalizer off
//! being deleted, foreground      → delete what it owns; when nothing that blocks is left, take
//!                                  the finalizer off
//! ```

use std::sync::Arc;

use serde_json::Value;

use crate::api::kinds::{EVENT, EVENT_V1};
use crate::api::{Key, Kind, Object, kinds};
use crate::client::api::exactly;
use crate::client::view::{Meta, Owner};
use crate::client::{AnyCache, Api, Context, Controller, Error, Next, Work};
use crate::registry::{Part, Propagation};

/// Finalizers by which a deletion asks for something to be done about what the object owns.
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// See the module's text.
pub(super) struct Garbage {
    kinds: Vec<(&'static Kind, Arc<dyn AnyCache>)>,
}

/// An object by the place of its kind in [`Garbage::kinds`], and its name.
type Node = (usize, Key);

impl Garbage {
    pub(super) fn new(context: &Context) -> (Self, Work<Node>) {
        let work: Work<Node> = Work::default();
        // Events own nothing, are owned by nothing and end by themselves.
        let kinds = kinds::ALL.into_iter().filter(|kind| **kind != EVENT && **kind != EVENT_V1);
        let kinds: Vec<_> = kinds.map(|kind| (kind, context.caches.any(kind))).collect();
        for (nth, (_, cache)) in kinds.iter().enumerate() {
            let (queue, all) = (work.clone(), kinds.clone());
            cache.subscribe_meta(Box::new(move |old, new| {
                if let Some(meta) = new
                    && (!meta.owners.is_empty() || asks_for_work(meta))
                {
                    queue.add((nth, meta.key()));
                }
                // Whatever the gone object owned, and whatever waited for it to go.
                let Some(old) = old else { return };
                if new.is_none_or(|new| new.uid != old.uid) {
                    for (nth, meta) in dependents(&all, &old.uid) {
                        queue.add((nth, meta.key()));
                    }
                }
                if new.is_none_or(|new| new.uid != old.uid || new.owners != old.owners) {
                    for owner in old.owners.iter().filter(|owner| owner.block_owner_deletion) {
                        if let Some(nth) = place_of(&all, owner) {
                            queue.add((nth, key_of(all[nth].0, owner, old)));
                        }
                    }
                }
            }));
        }
        (Self { kinds }, work)
    }
}

/// Its deletion waits for this controller.
fn asks_for_work(meta: &Meta) -> bool {
    meta.is_deleting() && (meta.has_finalizer(FOREGROUND) || meta.has_finalizer(ORPHAN))
}

fn dependents(kinds: &[(&'static Kind, Arc<dyn AnyCache>)], uid: &str) -> Vec<(usize, Meta)> {
    let all = kinds.iter().enumerate();
    all.flat_map(|(nth, (_, cache))| cache.owned_by(uid).into_iter().map(move |meta| (nth, meta)))
        .collect()
}

/// The kind of an owner, whatever version its reference names.
fn place_of(kinds: &[(&'static Kind, Arc<dyn AnyCache>)], owner: &Owner) -> Option<usize> {
    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    kinds.iter().position(|(kind, _)| kind.kind == owner.kind && kind.group == group)
}

/// The name of an owner of `meta`: in its own namespace, or cluster-wide.
fn key_of(kind: &Kind, owner: &Owner, meta: &Meta) -> Key {
    if kind.namespaced {
        Key::namespaced(&meta.namespace, &owner.name)
    } else {
        Key::cluster(&owner.name)
    }
}

impl Controller for Garbage {
    type Key = Node;
    const NAME: &'static str = "generic-garbage-collector";

    fn keys(&self) -> Vec<Node> {
        let mut nodes = Vec::new();
        for (nth, (_, cache)) in self.kinds.iter().enumerate() {
            let concerned = |key: &Key| {
                cache.meta(key).is_some_and(|meta| !meta.owners.is_empty() || asks_for_work(&meta))
            };
            nodes.extend(cache.keys().into_iter().filter(concerned).map(|key| (nth, key)));
        }
        nodes
    }

    async fn reconcile(&self, (nth, key): &Node, api: &Api) -> Result<Next, Error> {
        let (kind, cache) = &self.kinds[*nth];
        let Some(meta) = cache.meta(key) else { return Ok(Next::Await) };
        if meta.is_deleting() {
            if meta.has_finalizer(ORPHAN) {
                self.orphan(kind, &meta, api).await?;
            } else if meta.has_finalizer(FOREGROUND) {
                self.foreground(kind, &meta, api).await?;
            }
            return Ok(Next::Await);
        }
        if !meta.owners.is_empty() {
            self.collect(kind, &meta, api).await?;
        }
        Ok(Next::Await)
    }
}

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is there.
    Present,
    /// It is there, being deleted in foreground, and waits for this object.
    Waiting,
    /// It is gone.
    Absent,
}

/// What becomes of an object with owners.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Drop the references to these uids.
    Drop(Vec<String>),
    Delete(Option<Propagation>),
}

/// The policy. `has_dependents` is whether the object itself owns something.
fn judge(meta: &Meta, owners: &[(String, State)], has_dependents: bool) -> Verdict {
    let with = |state: State| {
        let those = owners.iter().filter(move |(_, one)| *one == state);
        those.map(|(uid, _)| uid.clone()).collect::<Vec<_>>()
    };
    let (present, waiting, absent) =
        (with(State::Present), with(State::Waiting), with(State::Absent));
    if !present.is_empty() {
        let lost: Vec<String> = absent.into_iter().chain(waiting).collect();
        return if lost.is_empty() { Verdict::Keep } else { Verdict::Drop(lost) };
    }
    if !waiting.is_empty() && has_dependents {
        // The owner waits for the whole tree below it.
        return Verdict::Delete(Some(Propagation::Foreground));
    }
    Verdict::Delete(if meta.has_finalizer(ORPHAN) {
        Some(Propagation::Orphan)
    } else if meta.has_finalizer(FOREGROUND) {
        Some(Propagation::Foreground)
    } else {
        Some(Propagation::Background)
    })
}

impl Garbage {
    /// Removes an object without owners, or its references to absent ones.
    async fn collect(&self, kind: &'static Kind, meta: &Meta, api: &Api) -> Result<(), Error> {
        let mut owners = Vec::new();
        for owner in &meta.owners {
            owners.push((owner.uid.clone(), self.state(owner, meta, api).await?));
        }
        let has_dependents = !dependents(&self.kinds, &meta.uid).is_empty();
        match judge(meta, &owners, has_dependents) {
            Verdict::Keep => Ok(()),
            Verdict::Drop(lost) => drop_owners(kind, meta, &lost, api).await,
            Verdict::Delete(propagation) => {
                let mut options = exactly(&meta.uid);
                options.propagation = propagation;
                // If anybody changed it since, its owners may have changed.
                options.preconditions.resource_version = Some(meta.revision.to_string());
                api.delete(kind, &meta.key(), &options).await
            }
        }
    }

    async fn state(&self, owner: &Owner, meta: &Meta, api: &Api) -> Result<State, Error> {
        // Kinds that are not served here are somebody else's to collect.
        let Some(nth) = place_of(&self.kinds, owner) else { return Ok(State::Present) };
        let (kind, cache) = &self.kinds[nth];
        if kind.namespaced && meta.namespace.is_empty() {
            // A reference that Kubernetes' rules do not allow; acting on it could only do harm.
            return Ok(State::Present);
        }
        let key = key_of(kind, owner, meta);
        let waits = |deleting: bool, foreground: bool| {
            if deleting && foreground && owner.block_owner_deletion {
                State::Waiting
            } else {
                State::Present
            }
        };
        if let Some(known) = cache.meta(&key).filter(|known| known.uid == owner.uid) {
            return Ok(waits(known.is_deleting(), known.has_finalizer(FOREGROUND)));
        }
        let live = api.get(kind, &key).await?;
        Ok(match live.filter(|live| live.uid() == owner.uid) {
            Some(live) => waits(live.is_deleting(), live.has_finalizer(FOREGROUND)),
            None => State::Absent,
        })
    }

    /// Frees what the object owns, then the object.
    async fn orphan(&self, kind: &'static Kind, meta: &Meta, api: &Api) -> Result<(), Error> {
        for (nth, owned) in dependents(&self.kinds, &meta.uid) {
            drop_owners(self.kinds[nth].0, &owned, std::slice::from_ref(&meta.uid), api).await?;
        }
        take_off(kind, meta, ORPHAN, api).await
    }

    /// Deletes what the object owns; lets the object go when nothing that blocks it is left.
    async fn foreground(&self, kind: &'static Kind, meta: &Meta, api: &Api) -> Result<(), Error> {
        let owned = dependents(&self.kinds, &meta.uid);
        let blocks = |(_, one): &(usize, Meta)| {
            one.owners.iter().any(|owner| owner.uid == meta.uid && owner.block_owner_deletion)
        };
        if !owned.iter().any(blocks) {
            return take_off(kind, meta, FOREGROUND, api).await;
        }
        for (nth, one) in owned.iter().filter(|(_, one)| !one.is_deleting()) {
            self.collect(self.kinds[*nth].0, one, api).await?;
        }
        Ok(())
    }
}

async fn drop_owners(
    kind: &'static Kind,
    meta: &Meta,
    uids: &[String],
    api: &Api,
) -> Result<(), Error> {
    let change = |object: &mut Object| {
        if object.uid() == meta.uid {
            let mut owners = object.items("/metadata/ownerReferences").to_vec();
            owners.retain(|one| {
                let uid = one.get("uid").and_then(Value::as_str).unwrap_or_default();
                !uids.iter().any(|lost| lost == uid)
            });
            if owners.is_empty() {
                object.remove("/metadata/ownerReferences");
            } else {
                object.set("/metadata/ownerReferences", owners);
            }
        }
        Ok(())
    };
    tolerant(api.modify(kind, &meta.key(), Part::Main, change).await)
}

async fn take_off(
    kind: &'static Kind,
    meta: &Meta,
    finalizer: &str,
    api: &Api,
) -> Result<(), Error> {
    let change = |object: &mut Object| {
        if object.uid() == meta.uid {
            object.remove_finalizer(finalizer);
        }
        Ok(())
    };
    tolerant(api.modify(kind, &meta.key(), Part::Main, change).await)
}

/// An object that went meanwhile needs nothing any more.
fn tolerant(done: Result<Object, Error>) -> Result<(), Error> {
    match done {
        Err(Error::Refused(status)) if status.is_not_found() => Ok(()),
        done => done.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(owners: &[(&str, State)], finalizers: &[&str], has_dependents: bool) -> Verdict {
        let meta = Meta {
            finalizers: finalizers.iter().map(|&one| one.to_owned()).collect(),
            ..Meta::default()
        };
        let owners: Vec<_> =
            owners.iter().map(|(uid, state)| ((*uid).to_owned(), *state)).collect();
        judge(&meta, &owners, has_dependents)
    }

    #[test]
    fn one_present_owner_keeps_an_object() {
        use State::{Absent, Present, Waiting};
        assert_eq!(verdict(&[("a", Present)], &[], true), Verdict::Keep);
        assert_eq!(
            verdict(&[("a", Present), ("b", Absent), ("c", Waiting)], &[], false),
            Verdict::Drop(vec!["b".into(), "c".into()]),
        );
    }

    #[test]
    fn without_owners_it_goes_the_way_it_was_asked_to() {
        use Propagation::{Background, Foreground, Orphan};
        use State::{Absent, Waiting};
        let deletes = |how| Verdict::Delete(Some(how));
        assert_eq!(verdict(&[("a", Absent)], &[], true), deletes(Background));
        assert_eq!(verdict(&[("a", Absent)], &[ORPHAN], false), deletes(Orphan));
        assert_eq!(verdict(&[("a", Absent)], &[FOREGROUND], false), deletes(Foreground));
        assert_eq!(verdict(&[("a", Waiting)], &[], false), deletes(Background));
        assert_eq!(verdict(&[("a", Waiting), ("b", Absent)], &[], true), deletes(Foreground));
    }
}
