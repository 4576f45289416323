//! The one transaction by which an object changes.
//!
//! It compares the object's revision, and whatever else must hold at that moment; it writes the
//! object, and whatever must change with it. A lost answer is settled by reading the object back:
//! only we can have written exactly these bytes.

use bytes::Bytes;

use super::{Registry, codec, key};
use crate::api::{Key, Kind, Object, Status, kinds};
use crate::client::etcd::{Entry, Range, StoreError, Txn};

/// A change of one object.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub kind: &'static Kind,
    pub key: &'a Key,
    /// The object as it is, `None` when it is to be created.
    pub before: Option<&'a Object>,
    /// The object as it shall be, `None` when it is to go.
    pub after: Option<&'a Object>,
    /// Lease on which the object hangs; 0 for none.
    pub lease: i64,
    /// Keys that must be as the writer saw them.
    pub unchanged: Vec<(String, i64)>,
    /// Keys to take, which must be free.
    pub take: Vec<String>,
    /// Keys to give back.
    pub give_back: Vec<String>,
}

/// How a change ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is done, at this revision.
    Done(i64),
    /// Nothing is done: the object is not as it was seen. This is how it is.
    Changed(Option<Entry>),
    /// Nothing is done, though the object is as it was seen: another compare failed.
    Refused,
}

impl<'a> Change<'a> {
    pub(super) fn new(
        kind: &'static Kind,
        key: &'a Key,
        before: Option<&'a Object>,
        after: Option<&'a Object>,
    ) -> Self {
        let (unchanged, take, give_back) = (Vec::new(), Vec::new(), Vec::new());
        Self { kind: kind.stored(), key, before, after, lease: 0, unchanged, take, give_back }
    }

    fn revision(&self) -> i64 {
        self.before.and_then(Object::resource_version).unwrap_or(0)
    }

    fn txn(&self, path: &str, value: Option<&Bytes>) -> Txn {
        let mut txn = Txn::new().when_modified_at(path.to_owned(), self.revision());
        for (key, revision) in &self.unchanged {
            txn = txn.when_modified_at(key.clone(), *revision);
        }
        for taken in &self.take {
            txn = txn.when_absent(taken.clone()).put(taken.clone(), self.key.to_string());
        }
        for given in &self.give_back {
            txn = txn.delete(given.clone());
        }
        txn = match value {
            Some(value) => txn.put_with_lease(path.to_owned(), value.clone(), self.lease),
            None => txn.delete(path.to_owned()),
        };
        if *self.kind == kinds::POD {
            txn = self.index(txn, value);
        }
        txn.else_read(&Range::key(path.to_owned()))
    }

    /// The copy that the pod's node watches goes and changes with the pod.
    fn index(&self, mut txn: Txn, value: Option<&Bytes>) -> Txn {
        let node = |object: Option<&'a Object>| {
            object.and_then(|pod| pod.text("/spec/nodeName")).filter(|node| !node.is_empty())
        };
        let (old, new) = (node(self.before), node(self.after));
        if let Some(old) = old.filter(|old| Some(*old) != new) {
            txn = txn.delete(key::pod_by_node(old, self.key));
        }
        match (new, value) {
            (Some(new), Some(value)) => txn.put(key::pod_by_node(new, self.key), value.clone()),
            _ => txn,
        }
    }
}

impl Registry {
    /// Carries a change out. A change that would write what is there already is done without a
    /// write.
    pub(super) async fn commit(&self, change: &Change<'_>) -> Result<Outcome, Status> {
        assert!(change.before.is_some() || change.after.is_some(), "a change changes something");
        let path = key::object(change.kind, change.key);
        let value = change.after.map(codec::encode);
        if let (Some(before), Some(value)) = (change.before, &value)
            && codec::encode(before) == *value
        {
            return Ok(Outcome::Done(change.revision()));
        }
        match self.store().txn(change.txn(&path, value.as_ref())).await {
            Ok(answer) if answer.succeeded => Ok(Outcome::Done(answer.revision)),
            Ok(answer) => {
                let found = answer.entry(0).cloned();
                let revision = found.as_ref().map_or(0, |entry| entry.mod_revision);
                if revision == change.revision() {
                    Ok(Outcome::Refused)
                } else {
                    Ok(Outcome::Changed(found))
                }
            }
            Err(StoreError::Unknown(why)) => self.settle(change, path, value, &why).await,
            Err(error) => Err(codec::store_error(&error)),
        }
    }

    /// Finds out what became of a change whose answer was lost.
    async fn settle(
        &self,
        change: &Change<'_>,
        path: String,
        value: Option<Bytes>,
        why: &str,
    ) -> Result<Outcome, Status> {
        let lost = || codec::store_error(&StoreError::Unknown(why.to_owned()));
        let found = self.store().get(path).await.map_err(|_| lost())?;
        let found_value = found.as_ref().map(|entry| &entry.value);
        let revision = found.as_ref().map_or(0, |entry| entry.mod_revision);
        if revision != change.revision() && found_value == value.as_ref() {
            return Ok(Outcome::Done(revision));
        }
        // Still as before, the change may be on its way; otherwise it may have been overwritten.
        Err(lost())
    }
}
