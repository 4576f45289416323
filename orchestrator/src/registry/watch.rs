//! Watching: the changes of a kind as a stream.
//!
//! The store tells of keys that were put or deleted; a watcher wants to know of objects that came
//! into its sight, changed in it or left it. With a selector these differ, and the value before
//! each change, which the store sends along, decides: an object that stops matching is *deleted*
//! for this watcher, in its last matching state but with the revision of the change.

use std::collections::VecDeque;
use std::time::Duration;

use super::options::{ListOptions, WatchOptions};
use super::{Registry, codec, key};
use crate::api::{Key, Kind, Object, Selector, Status};
use crate::client::etcd::{self, EventKind, Store, StoreError, WatchEvent, WatchFrom, WatchStream};

/// How often a watcher that asked for bookmarks gets one while nothing happens.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

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

/// A running watch. An error is its last item.
#[derive(Debug)]
pub struct Watch {
    kind: &'static Kind,
    selector: Selector,
    bookmarks: bool,
    stream: WatchStream,
    waiting: VecDeque<Event>,
    ended: bool,
}

impl Registry {
    /// Follows the changes of a kind, in one namespace or in all.
    pub async fn watch(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        options: WatchOptions,
    ) -> Result<Watch, Status> {
        let mut waiting = VecDeque::new();
        let since = match options.since {
            Some(revision) => revision,
            None => {
                let all = ListOptions { selector: options.selector.clone(), ..Default::default() };
                let list = self.list(kind, namespace, &all).await?;
                waiting.extend(list.items.into_iter().map(Event::Added));
                list.resource_version
            }
        };
        let (from, to) = range(kind, namespace, &options.selector);
        let stream = start(self.store(), from, to, since).await?;
        let WatchOptions { selector, bookmarks, .. } = options;
        Ok(Watch { kind, selector, bookmarks, stream, waiting, ended: false })
    }
}

async fn start(
    store: &Store,
    key: String,
    range_end: bytes::Bytes,
    since: i64,
) -> Result<WatchStream, Status> {
    let from = WatchFrom {
        key: key.into(),
        range_end,
        start_revision: since + 1,
        prev_kv: true,
        progress: false,
    };
    store.watch(from).await.map_err(|error| watch_error(&error))
}

/// The keys to watch: one when the selector names one object, else all of the kind.
fn range(
    kind: &'static Kind,
    namespace: Option<&str>,
    selector: &Selector,
) -> (String, bytes::Bytes) {
    let name = selector.fields.required("metadata.name").filter(|name| !name.contains('/'));
    let one = match (name, namespace) {
        (Some(name), Some(namespace)) if kind.namespaced => Some(Key::namespaced(namespace, name)),
        (Some(name), _) if !kind.namespaced => Some(Key::cluster(name)),
        _ => None,
    };
    match one {
        Some(one) => (key::object(kind, &one), bytes::Bytes::new()),
        None => {
            let prefix = key::prefix(kind, namespace);
            let end = etcd::prefix_end(prefix.as_bytes());
            (prefix, end)
        }
    }
}

fn watch_error(error: &StoreError) -> Status {
    match error {
        StoreError::Compacted { oldest: Some(oldest) } => {
            Status::expired(format!("too old resource version: the oldest is {oldest}"))
        }
        StoreError::Compacted { oldest: None } => {
            Status::expired("The resourceVersion for the provided watch is too old.")
        }
        other => codec::store_error(other),
    }
}

impl Watch {
    /// The next change. `None` after the end; an error is the last item. Safe to drop while it
    /// waits: nothing is lost.
    pub async fn recv(&mut self) -> Option<Result<Event, Status>> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            let batch = tokio::select! {
                batch = self.stream.recv() => batch,
                () = tokio::time::sleep(BOOKMARK_INTERVAL), if self.bookmarks => {
                    self.stream.request_progress();
                    continue;
                }
            };
            match batch {
                Some(Ok(batch)) if batch.events.is_empty() => {
                    if self.bookmarks {
                        self.waiting.push_back(Event::Bookmark(batch.revision));
                    }
                }
                Some(Ok(batch)) => {
                    for event in &batch.events {
                        match see(self.kind, &self.selector, event) {
                            Ok(seen) => self.waiting.extend(seen),
                            Err(status) => return Some(Err(self.end(status))),
                        }
                    }
                }
                Some(Err(error)) => return Some(Err(self.end(watch_error(&error)))),
                None => self.ended = true,
            }
        }
    }

    fn end(&mut self, status: Status) -> Status {
        self.ended = true;
        status
    }
}

/// What a change of a key is to a watcher with this selector.
fn see(
    kind: &'static Kind,
    selector: &Selector,
    event: &WatchEvent,
) -> Result<Option<Event>, Status> {
    let revision = event.entry.mod_revision;
    if key::parse(kind, &event.entry.key).is_none() {
        return Ok(None);
    }
    let decode = |value: &[u8]| -> Result<Object, Status> {
        Ok(codec::present(kind, codec::decode_bytes(value, revision)?))
    };
    let before = event.prev.as_ref().map(|entry| decode(&entry.value)).transpose()?;
    let before = before.filter(|object| selector.matches(object));
    if event.kind == EventKind::Delete {
        return Ok(before.map(Event::Deleted));
    }
    let after = decode(&event.entry.value)?;
    Ok(match (before, selector.matches(&after)) {
        (Some(_), true) => Some(Event::Modified(after)),
        (Some(before), false) => Some(Event::Deleted(before)),
        (None, true) if event.entry.version > 1 && event.prev.is_none() => {
            // The value before is compacted: telling of a change is safe in both cases.
            Some(Event::Modified(after))
        }
        (None, true) => Some(Event::Added(after)),
        (None, false) => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::{LabelSelector, kinds};
    use crate::client::etcd::Entry;

    fn entry(value: &Value, version: i64) -> Entry {
        Entry {
            key: "/registry/pods/a/p".into(),
            value: value.to_string().into(),
            create_revision: 1,
            mod_revision: 9,
            version,
            lease: 0,
        }
    }

    fn seen(before: Option<Value>, after: Option<Value>) -> String {
        let labels = LabelSelector::parse("app=web").expect("valid");
        let selector = Selector { labels, ..Selector::default() };
        let event = WatchEvent {
            kind: if after.is_some() { EventKind::Put } else { EventKind::Delete },
            entry: entry(&after.unwrap_or_default(), if before.is_some() { 2 } else { 1 }),
            prev: before.as_ref().map(|value| entry(value, 1)),
        };
        match see(&kinds::POD, &selector, &event).expect("valid JSON") {
            Some(Event::Added(o)) => format!("added {:?}", o.resource_version()),
            Some(Event::Modified(o)) => format!("modified {:?}", o.resource_version()),
            Some(Event::Deleted(o)) => {
                format!("deleted {:?} {:?}", o.resource_version(), o.label("app"))
            }
            Some(Event::Bookmark(_)) | None => "nothing".into(),
        }
    }

    #[test]
    fn a_selector_turns_changes_into_coming_and_going() {
        let web = || Some(json!({"metadata": {"labels": {"app": "web"}}}));
        let db = || Some(json!({"metadata": {"labels": {"app": "db"}}}));
        assert_eq!(seen(None, web()), "added Some(9)");
        assert_eq!(seen(web(), web()), "modified Some(9)");
        assert_eq!(seen(db(), web()), "added Some(9)");
        assert_eq!(seen(web(), db()), "deleted Some(9) Some(\"web\")");
        assert_eq!(seen(web(), None), "deleted Some(9) Some(\"web\")");
        assert_eq!(seen(db(), db()), "nothing");
        assert_eq!(seen(db(), None), "nothing");
        assert_eq!(seen(None, db()), "nothing");
    }

    #[test]
    fn one_name_is_one_key() {
        let fields = crate::api::FieldSelector::name("web");
        let selector = Selector { fields, ..Selector::default() };
        let (key, end) = range(&kinds::POD, Some("a"), &selector);
        assert_eq!((key.as_str(), end.len()), ("/registry/pods/a/web", 0));
        let (key, end) = range(&kinds::POD, None, &selector);
        assert_eq!((key.as_str(), &end[..]), ("/registry/pods/", &b"/registry/pods0"[..]));
    }
}
