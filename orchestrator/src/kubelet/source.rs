//! The pods bound to this node, followed through the index that is kept for it.
//!
//! List, then watch from there; when the watch is lost, list again. What comes out is whole
//! pictures of single pods: the latest object, or that it is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::{Key, Object};
use crate::client::etcd::{EventKind, Range, Store, StoreError, WatchFrom, prefix_end};
use crate::registry::{codec, key};

/// Pods per page of a list.
const PAGE: i64 = 500;
/// Pauses after failures in a row: from the first to the last and no longer.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A change of what this node should run.
#[derive(Debug)]
pub(super) enum Change {
    /// The pod as it is now.
    Now(Arc<Object>),
    /// No pod of that name is bound here any more.
    Gone(Key),
    /// Everything there is has been told once.
    Synced,
}

/// Follows the index until `stop`; failures are waited out.
pub(super) async fn follow(
    store: Store,
    node: String,
    changes: mpsc::Sender<Change>,
    stop: CancellationToken,
) {
    let mut source = Source { store, prefix: key::pods_by_node(&node), known: BTreeMap::new() };
    let mut pause = PAUSE_MIN;
    let run = async {
        loop {
            match source.turn(&changes, &mut pause).await {
                // Nobody listens any more.
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "the watch of this node's pods is lost, listing again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    };
    stop.run_until_cancelled(run).await;
}

struct Source {
    store: Store,
    prefix: String,
    /// What was told, so that a new list tells only what is new.
    known: BTreeMap<Key, i64>,
}

impl Source {
    async fn turn(
        &mut self,
        changes: &mpsc::Sender<Change>,
        pause: &mut Duration,
    ) -> Result<(), StoreError> {
        let revision = self.list(changes).await?;
        if changes.send(Change::Synced).await.is_err() {
            return Ok(());
        }
        let from = WatchFrom {
            range_end: prefix_end(self.prefix.as_bytes()),
            key: self.prefix.clone().into(),
            start_revision: revision + 1,
            prev_kv: false,
            progress: false,
        };
        let mut watch = self.store.watch(from).await?;
        while let Some(batch) = watch.recv().await {
            for event in batch?.events {
                *pause = PAUSE_MIN;
                let Some((_, pod)) = key::parse_pod_by_node(&event.entry.key) else { continue };
                let change = match event.kind {
                    EventKind::Put => match codec::decode(&event.entry) {
                        Ok(object) => {
                            self.known.insert(pod, event.entry.mod_revision);
                            Change::Now(Arc::new(object))
                        }
                        Err(error) => {
                            tracing::error!(%error, "an unreadable pod is left as it was");
                            continue;
                        }
                    },
                    EventKind::Delete => {
                        self.known.remove(&pod);
                        Change::Gone(pod)
                    }
                };
                if changes.send(change).await.is_err() {
                    return Ok(());
                }
            }
        }
        Err(StoreError::Unavailable("the watch ended".to_owned()))
    }

    /// Tells the differences between what is there and what was told; returns the list's revision.
    async fn list(&mut self, changes: &mpsc::Sender<Change>) -> Result<i64, StoreError> {
        let mut range = Range { limit: PAGE, ..Range::prefix(self.prefix.clone()) };
        let mut there = BTreeMap::new();
        loop {
            let page = self.store.range(&range).await?;
            if range.revision == 0 {
                range.revision = page.revision;
            }
            let last = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                let Some((_, pod)) = key::parse_pod_by_node(&entry.key) else { continue };
                there.insert(pod.clone(), entry.mod_revision);
                if self.known.get(&pod) == Some(&entry.mod_revision) {
                    continue;
                }
                match codec::decode(&entry) {
                    Ok(object) => {
                        let _ = changes.send(Change::Now(Arc::new(object))).await;
                    }
                    Err(error) => tracing::error!(%error, "an unreadable pod is left as it was"),
                }
            }
            match last {
                Some(last) if page.more => {
                    // The smallest key behind the last one.
                    range.key = [&last[..], &[0]].concat().into();
                }
                _ => break,
            }
        }
        for gone in self.known.keys().filter(|pod| !there.contains_key(*pod)) {
            let _ = changes.send(Change::Gone(gone.clone())).await;
        }
        self.known = there;
        Ok(range.revision)
    }
}
