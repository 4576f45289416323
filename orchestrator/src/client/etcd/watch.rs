//! Watching a range of keys.
//!
//! Each watch has a stream of its own: a slow reader then holds up nobody but itself, and dropping
//! the [`WatchStream`] ends the watch. Batches come in revision order and never split a revision:
//! what the store had to send in fragments is put together here first. A batch without events is a
//! progress report: everything up to its revision has been delivered.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::event::EventType;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::error::Effect;
use super::{Entry, StoreError, entry};

/// Requests waiting to be sent on one watch: its creation and progress requests, which are worth
/// nothing when two already wait.
const REQUESTS_WAITING_MAX: usize = 2;

/// What to watch and from where.
#[derive(Debug, Clone, Default)]
pub struct WatchFrom {
    /// First key.
    pub key: Bytes,
    /// As in [`super::Range`].
    pub range_end: Bytes,
    /// First revision wanted; 0 means from now on.
    pub start_revision: i64,
    /// Deliver the value before each event too.
    pub prev_kv: bool,
    /// Ask for progress reports while nothing happens.
    pub progress: bool,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Written.
    Put,
    /// Removed.
    Delete,
}

/// One change of one key.
#[derive(Debug, Clone)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventKind,
    /// The pair after the change; of a delete, only key and revision.
    pub entry: Entry,
    /// The pair before it, if asked for and not compacted.
    pub prev: Option<Entry>,
}

/// Changes up to and including `revision`; without events, a progress report.
#[derive(Debug, Clone)]
pub struct WatchBatch {
    /// Everything up to here has been delivered.
    pub revision: i64,
    /// The changes in order.
    pub events: Vec<WatchEvent>,
}

/// A running watch.
pub struct WatchStream {
    answers: tonic::Streaming<pb::WatchResponse>,
    requests: mpsc::Sender<pb::WatchRequest>,
    /// Events of fragments whose last part has not come yet.
    fragments: Vec<WatchEvent>,
    ended: bool,
}

impl std::fmt::Debug for WatchStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WatchStream").field("ended", &self.ended).finish_non_exhaustive()
    }
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

impl WatchStream {
    pub(super) async fn start(
        mut client: super::WatchClient,
        from: WatchFrom,
    ) -> Result<Self, StoreError> {
        let (requests, waiting) = mpsc::channel(REQUESTS_WAITING_MAX);
        let create = pb::WatchCreateRequest {
            key: from.key,
            range_end: from.range_end,
            start_revision: from.start_revision,
            progress_notify: from.progress,
            prev_kv: from.prev_kv,
            fragment: true,
            ..pb::WatchCreateRequest::default()
        };
        requests
            .try_send(request(RequestUnion::CreateRequest(create)))
            .expect("a fresh channel has room and its receiver is alive");
        let mut call = tonic::Request::new(ReceiverStream::new(waiting));
        // A member that lost its leader ends the watch instead of keeping it silent.
        call.metadata_mut()
            .insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        let answers = client
            .watch(call)
            .await
            .map_err(|status| StoreError::from_status(&status, Effect::Read))?
            .into_inner();
        Ok(Self { answers, requests, fragments: Vec::new(), ended: false })
    }

    /// Asks for a progress report as soon as everything so far is delivered.
    pub fn request_progress(&self) {
        // A full queue means that a request already waits, a closed one that the watch ended: in
        // both cases there is nothing to add.
        let _ = self
            .requests
            .try_send(request(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})));
    }

    /// The next batch; `None` after the end. An error is the last item.
    pub async fn recv(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        self.next().await
    }

    /// Takes one answer in; gives a batch when one is complete.
    fn accept(&mut self, answer: pb::WatchResponse) -> Option<Result<WatchBatch, StoreError>> {
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        if answer.canceled {
            self.ended = true;
            return Some(Err(if answer.compact_revision > 0 {
                StoreError::Compacted { oldest: Some(answer.compact_revision) }
            } else {
                let status = tonic::Status::unavailable(answer.cancel_reason);
                StoreError::from_status(&status, Effect::Read)
            }));
        }
        if answer.created {
            return None;
        }
        self.fragments.extend(answer.events.into_iter().filter_map(event));
        if answer.fragment {
            return None;
        }
        let events = std::mem::take(&mut self.fragments);
        // The header tells the store's revision at sending, which may already be ahead of what a
        // watch that catches up has been given: only the last event vouches for the batch.
        let revision = events.last().map_or(revision, |last| last.entry.mod_revision);
        Some(Ok(WatchBatch { revision, events }))
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchBatch, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let item = match self.answers.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(answer))) => self.accept(answer),
                Poll::Ready(Some(Err(status))) => {
                    self.ended = true;
                    Some(Err(StoreError::from_status(&status, Effect::Read)))
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    Some(Err(StoreError::Unavailable("the watch stream ended".into())))
                }
            };
            if item.is_some() {
                return Poll::Ready(item);
            }
        }
    }
}

fn event(event: proto::mvccpb::Event) -> Option<WatchEvent> {
    let kind = match event.r#type() {
        EventType::Put => EventKind::Put,
        EventType::Delete => EventKind::Delete,
    };
    Some(WatchEvent { kind, entry: entry(event.kv?), prev: event.prev_kv.map(entry) })
}

/// Splits a queue of events into groups of one revision each, for consumers that must see a
/// revision whole.
pub fn by_revision(events: Vec<WatchEvent>) -> VecDeque<Vec<WatchEvent>> {
    let mut groups: VecDeque<Vec<WatchEvent>> = VecDeque::new();
    for event in events {
        match groups.back_mut() {
            Some(group) if group[0].entry.mod_revision == event.entry.mod_revision => {
                group.push(event);
            }
            _ => groups.push_back(vec![event]),
        }
    }
    groups
}
