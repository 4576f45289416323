//! Keeps a [`Cache`] equal to a range of the store: list, then watch, for as long as it runs.
//!
//! ```text
//!            ┌────────── compacted ───────────┐
//!            ▼                                │
//!  list at revision R ──▶ watch from R+1 ──▶ apply batches
//!                             ▲               │
//!                             └─ lost, pause ─┘  resumes behind the last applied revision
//! ```
//!
//! Failures of the store are waited out here and never reach readers of the cache: they go on with
//! an older picture, and the compare-and-swap of every write protects them from what they missed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::cache::{Cache, Event};
use super::etcd::{EventKind, Range, Store, StoreError, WatchBatch, WatchFrom, prefix_end};
use super::view::View;
use crate::api::Key;
use crate::api::kinds::Kind;
use crate::registry::key;

/// Objects per page of a list.
const PAGE: i64 = 1000;
/// Pauses after failures in a row: from the first to the last and no longer.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// One kind of object in the store, and the cache that shows it.
pub(super) struct Reflector<T> {
    pub(super) store: Store,
    pub(super) kind: &'static Kind,
    pub(super) cache: Cache<T>,
}

impl<T: View> Reflector<T> {
    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), StoreError> {
        stop.run_until_cancelled(self.follow()).await.unwrap_or(Ok(()))
    }

    async fn follow(&self) -> Result<(), StoreError> {
        let mut pause = PAUSE_MIN;
        let mut listed = false;
        loop {
            let before = self.cache.revision();
            let ended = if listed { self.watch().await } else { self.list().await };
            match ended {
                Ok(()) => listed = true,
                Err(StoreError::Compacted { .. }) => {
                    tracing::info!(kind = self.kind.kind, "history is compacted, listing again");
                    listed = false;
                }
                Err(error @ (StoreError::Denied(_) | StoreError::Config(_))) => return Err(error),
                Err(error) => {
                    if self.cache.revision() > before {
                        pause = PAUSE_MIN;
                    }
                    tracing::warn!(kind = self.kind.kind, %error, "the watch is lost, resuming");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Reads every object at one revision.
    async fn list(&self) -> Result<(), StoreError> {
        let mut range = Range { limit: PAGE, ..Range::prefix(key::prefix(self.kind, None)) };
        let mut objects = Vec::new();
        let mut unreadable = BTreeSet::new();
        loop {
            let page = self.store.range(&range).await?;
            if range.revision == 0 {
                range.revision = page.revision;
            }
            let last = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                let Some(name) = key::parse(self.kind, &entry.key) else {
                    tracing::warn!(key = ?entry.key, "a key that names no object is skipped");
                    continue;
                };
                match self.parse(&name, &entry.value, entry.mod_revision) {
                    Some(object) => objects.push((name, object)),
                    None => {
                        unreadable.insert(name);
                    }
                }
            }
            match last {
                Some(last) if page.more => range.key = successor(&last),
                _ => break,
            }
        }
        self.cache.replace(objects, &unreadable, range.revision);
        Ok(())
    }

    /// Follows changes until the watch ends, which is always an error.
    async fn watch(&self) -> Result<(), StoreError> {
        let prefix = key::prefix(self.kind, None);
        let from = WatchFrom {
            range_end: prefix_end(prefix.as_bytes()),
            key: prefix.into(),
            start_revision: self.cache.revision() + 1,
            // The cache itself knows what was there before.
            prev_kv: false,
            progress: true,
        };
        let mut changes = self.store.watch(from).await?;
        loop {
            tokio::select! {
                () = self.cache.behind() => changes.request_progress(),
                batch = changes.recv() => match batch {
                    Some(batch) => self.take(batch?),
                    None => return Err(StoreError::Unavailable("the watch ended".to_owned())),
                },
            }
        }
    }

    fn take(&self, batch: WatchBatch) {
        let mut events = Vec::with_capacity(batch.events.len());
        for event in batch.events {
            let entry = event.entry;
            let Some(name) = key::parse(self.kind, &entry.key) else { continue };
            match event.kind {
                EventKind::Delete => events.push(Event::Delete(name)),
                EventKind::Put => {
                    if let Some(object) = self.parse(&name, &entry.value, entry.mod_revision) {
                        events.push(Event::Put(name, object));
                    }
                }
            }
        }
        self.cache.apply(events, batch.revision);
    }

    /// Parses one stored object. One that cannot be read keeps its last form in the cache: to take
    /// it for deleted would be the worse mistake.
    fn parse(&self, name: &Key, value: &Bytes, revision: i64) -> Option<Arc<T>> {
        match serde_json::from_slice::<T>(value) {
            Ok(mut object) => {
                let meta = object.meta_mut();
                meta.revision = revision;
                // The path decides where an object is, whatever its text says.
                meta.name.clone_from(&name.name);
                meta.namespace = name.namespace.clone().unwrap_or_default();
                Some(Arc::new(object))
            }
            Err(error) => {
                let kind = self.kind.kind;
                tracing::error!(kind, %name, %error, "a stored object cannot be read");
                None
            }
        }
    }
}

/// The smallest key after `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}
