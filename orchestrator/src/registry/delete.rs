//! Deleting: one object or all that are selected.

use futures_util::StreamExt;

use super::commit::{Change, Outcome};
use super::options::{Actor, Deleted, List, ListOptions};
use super::{Registry, codec, service};
use crate::api::lifecycle::{self, DeleteOptions, Deletion};
use crate::api::{Key, Kind, Status};

/// Writers that race for one object: the loser of so many rounds is told of the conflict.
const ATTEMPTS_MAX: usize = 64;
/// Objects of a collection that are deleted at once.
const AT_ONCE: usize = 16;

impl Registry {
    /// Deletes an object, or marks it as being deleted.
    pub async fn delete(
        &self,
        actor: &Actor,
        kind: &'static Kind,
        key: &Key,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let mut entry = self.entry(kind, key).await?;
        for _ in 0..ATTEMPTS_MAX {
            let current = codec::decode(&entry)?;
            let deletion = lifecycle::decide(kind, &current, options, super::now())?;
            let after = match &deletion {
                Deletion::Wait => return Ok(Deleted::Waiting(codec::present(kind, current))),
                Deletion::Mark(marked) => Some(marked),
                Deletion::Remove => None,
            };
            let mut change = Change::new(kind, key, Some(&current), after);
            match after {
                // An event keeps its end when it is marked.
                Some(_) => change.lease = entry.lease,
                None => change.give_back = service::held(kind, &current),
            }
            let done = if options.dry_run {
                Outcome::Done(entry.mod_revision)
            } else {
                self.commit(&change).await?
            };
            match done {
                Outcome::Done(revision) => {
                    tracing::debug!(kind = kind.kind, %key, user = actor.user, "deleted");
                    let mut object = after.unwrap_or(&current).clone();
                    object.set_resource_version(revision);
                    let object = codec::present(kind, object);
                    return Ok(match after {
                        Some(_) => Deleted::Waiting(object),
                        None => Deleted::Gone(object),
                    });
                }
                Outcome::Changed(Some(newer)) => entry = newer,
                Outcome::Changed(None) => return Err(Status::not_found(kind, &key.name)),
                Outcome::Refused => entry = self.entry(kind, key).await?,
            }
        }
        Err(Status::modified(kind, &key.name))
    }

    /// Deletes all selected objects of a kind in a namespace, one by one.
    pub async fn delete_collection(
        &self,
        actor: &Actor,
        kind: &'static Kind,
        namespace: Option<&str>,
        options: &DeleteOptions,
        which: &ListOptions,
    ) -> Result<List, Status> {
        let mut list = self.list(kind, namespace, which).await?;
        let keys: Vec<Key> = list.items.iter().map(Key::of).collect();
        let mut deletions = futures_util::stream::iter(keys)
            .map(|key| async move { self.delete(actor, kind, &key, options).await })
            .buffered(AT_ONCE);
        let mut gone = Vec::new();
        while let Some(deleted) = deletions.next().await {
            match deleted {
                Ok(deleted) => gone.push(deleted.into_object()),
                Err(status) if status.is_not_found() => {}
                Err(status) => return Err(status),
            }
        }
        list.items = gone;
        Ok(list)
    }
}
