//! Which objects belong to an owner that finds its own by a label selector.
//!
//! An object with a managing owner belongs to that owner alone. The owner *adopts* what it selects
//! and nobody manages, and *releases* what it manages but no longer selects, so that a person can
//! take a pod out of a set by changing a label. Nothing that is being deleted changes hands.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::api::{Kind, Object, Status};
use crate::client::view::{Index, Meta, ObjectRef, Selector, View};
use crate::client::{Api, Cache, Error};
use crate::registry::Part;

/// The objects around an owner, sorted by what is to be done with them.
#[derive(Debug)]
pub(super) struct Claim<T> {
    /// Its own.
    pub(super) owned: Vec<Arc<T>>,
    /// To become its own.
    pub(super) adopt: Vec<Arc<T>>,
    /// No longer its own.
    pub(super) release: Vec<Arc<T>>,
}

/// What may belong to an owner: what it manages, and what nobody does in its namespace.
pub(super) fn candidates<T: View>(cache: &Cache<T>, owner: &Meta) -> Vec<Arc<T>> {
    let mut all = cache.by(Index::Owner, &owner.uid);
    all.extend(cache.by(Index::Unmanaged, &owner.namespace));
    // An object may name the owner without being managed by it, and so be in both.
    let mut seen = BTreeSet::new();
    all.retain(|object| seen.insert(object.meta().uid.clone()));
    all
}

/// Sorts the objects around an owner. Pure.
pub(super) fn sort<T: View>(owner: &Meta, selector: &Selector, all: Vec<Arc<T>>) -> Claim<T> {
    let mut claim = Claim { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for object in all {
        let meta = object.meta();
        let selected = selector.matches(&meta.labels);
        let stays = owner.is_deleting() || meta.is_deleting();
        match meta.controller() {
            Some(manager) if manager.uid != owner.uid => {}
            Some(_) if selected || stays => claim.owned.push(object),
            Some(_) => claim.release.push(object),
            None if selected && !stays => claim.adopt.push(object),
            None => {}
        }
    }
    claim
}

/// Carries adoption and release out; answers the owner's objects. The owner itself is read once
/// more before it adopts: one that is deleted meanwhile must not gain what its deletion would then
/// take along.
pub(super) async fn carry_out<T: View>(
    claim: Claim<T>,
    owner: &ObjectRef,
    kind: &'static Kind,
    api: &Api,
) -> Result<Vec<Arc<T>>, Error> {
    let Claim { mut owned, mut adopt, release } = claim;
    if !adopt.is_empty() {
        let live = api.get(owner.kind, &owner.key).await?;
        if live.is_none_or(|live| live.uid() != owner.uid || live.is_deleting()) {
            adopt.clear();
        }
    }
    for object in &adopt {
        change_owner(object.meta(), owner, kind, api, true).await?;
    }
    for object in &release {
        change_owner(object.meta(), owner, kind, api, false).await?;
    }
    owned.extend(adopt);
    Ok(owned)
}

async fn change_owner(
    meta: &Meta,
    owner: &ObjectRef,
    kind: &'static Kind,
    api: &Api,
    adopt: bool,
) -> Result<(), Error> {
    let change = |object: &mut Object| {
        if object.uid() != meta.uid || object.is_deleting() {
            return Ok(());
        }
        if adopt && object.controller().is_some() {
            return Err(Status::conflict(kind, &meta.name, "somebody else manages it now"));
        }
        let uid = |one: &Value| one.get("uid").and_then(Value::as_str).map(str::to_owned);
        let mut owners = object.items("/metadata/ownerReferences").to_vec();
        owners.retain(|one| uid(one).as_deref() != Some(&owner.uid));
        if adopt {
            owners.push(owner.controller_reference());
        }
        if owners.is_empty() {
            object.remove("/metadata/ownerReferences");
        } else {
            object.set("/metadata/ownerReferences", owners);
        }
        Ok(())
    };
    match api.modify(kind, &meta.key(), Part::Main, change).await {
        Err(Error::Refused(status)) if status.is_not_found() => Ok(()),
        done => done.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::view::Object as Bare;
    use serde_json::json;

    fn object(name: &str, app: &str, owner: Option<&str>, deleting: bool) -> Arc<Bare> {
        let owners = owner.map(|uid| json!([{"uid": uid, "controller": true}]));
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        let value = json!({"metadata": {
            "name": name, "labels": {"app": app},
            "ownerReferences": owners, "deletionTimestamp": deleted,
        }});
        Arc::new(serde_json::from_value(value).expect("a valid object"))
    }

    #[test]
    fn labels_decide_over_what_nobody_else_manages() {
        let owner = Meta { uid: "me".into(), ..Meta::default() };
        let selector: Selector =
            serde_json::from_value(json!({"matchLabels": {"app": "web"}})).expect("valid");
        let all = vec![
            object("mine", "web", Some("me"), false),
            object("orphan", "web", None, false),
            object("dying-orphan", "web", None, true),
            object("relabelled", "debug", Some("me"), false),
            object("dying-relabelled", "debug", Some("me"), true),
            object("theirs", "web", Some("them"), false),
            object("stranger", "db", None, false),
        ];
        let claim = sort(&owner, &selector, all);
        let names =
            |list: &[Arc<Bare>]| list.iter().map(|one| one.meta.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&claim.owned), ["mine", "dying-relabelled"]);
        assert_eq!(names(&claim.adopt), ["orphan"]);
        assert_eq!(names(&claim.release), ["relabelled"]);
    }
}
