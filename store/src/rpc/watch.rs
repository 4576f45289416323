//! The Watch service: the shell around [`Hub`].
//!
//! One call is one [`Session`], driven by its client's demand: tonic asks for the next message only
//! when HTTP/2 flow control has room for it. Then the session takes what its outbox holds, reads
//! history for watchers that lag, serves the client's requests, or sleeps until one of these has
//! something. A client that does not read therefore costs a full outbox and nothing more.
//!
//! Messages are encoded by a codec of our own: the events of a revision are encoded once and the
//! bytes are copied into the answers of all watchers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use prost::Message as _;
use proto::etcdserverpb as pb;
use tokio::sync::Notify;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::{Status, Streaming};

use super::{Credentials, Member, convert, read_error, status};
use crate::command::{KeyRange, Refusal, Revised, Revision};
use crate::engine::Budget;
use crate::fault::Error;
use crate::limits::{CATCH_UP_BYTES, CATCH_UP_REVISIONS, REQUEST_BYTES_SLACK, WATCH_ANSWER_BYTES};
use crate::machine::auth::needs::{Act, Need};
use crate::raft::Unavailable;
use crate::watch::{Create, Filters, Form, Group, Hub, Message, Picks, StreamId};

/// The hub and whom to wake. Locked for moments only, never across an await.
#[derive(Debug)]
pub(crate) struct Watching {
    inner: Mutex<Inner>,
    /// Events sent, for the metrics.
    sent: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) hub: Hub,
    /// By stream.
    wake: Vec<Option<Arc<Notify>>>,
}

impl Watching {
    pub(crate) fn new(revision: Revision) -> Self {
        let inner = Inner { hub: Hub::new(revision), wake: Vec::new() };
        Self { inner: Mutex::new(inner), sent: AtomicU64::new(0) }
    }

    /// Hands applied revisions to all watchers; called in log order, before the writers hear of
    /// their success. Streams are woken when the lock is free again, or they would wait for it.
    pub(crate) fn publish(&self, changes: Vec<Arc<Revised>>) {
        let Some(last) = changes.last().map(|revised| revised.revision) else { return };
        {
            let hub = &mut self.lock().hub;
            if hub.counts().0 == 0 {
                // Nobody to tell: what comes later and wants the past reads history.
                return hub.advance(last);
            }
        }
        let groups: Vec<_> =
            changes.into_iter().map(|revised| Arc::new(Group::new(revised))).collect();
        let mut streams = Vec::new();
        let wake: Vec<Arc<Notify>> = {
            let mut inner = self.lock();
            inner.hub.publish(&groups, &mut streams);
            streams.iter().filter_map(|stream| inner.wake.get(stream.0)?.clone()).collect()
        };
        wake.iter().for_each(|notify| notify.notify_one());
    }

    /// Watchers and streams.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.lock().hub.counts()
    }

    /// Watchers that are behind, and events that wait to be sent.
    pub(crate) fn backlog(&self) -> (usize, usize) {
        self.lock().hub.backlog()
    }

    /// Events sent since the start.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a panic under this lock ends the process")
    }

    pub(super) fn open(&self) -> (StreamId, Arc<Notify>) {
        let mut inner = self.lock();
        let stream = inner.hub.open();
        let notify = Arc::new(Notify::new());
        if inner.wake.len() <= stream.0 {
            inner.wake.resize(stream.0 + 1, None);
        }
        inner.wake[stream.0] = Some(Arc::clone(&notify));
        (stream, notify)
    }

    pub(super) fn close(&self, stream: StreamId) {
        let mut inner = self.lock();
        inner.hub.close(stream);
        inner.wake[stream.0] = None;
    }
}

/// Starts a session for each Watch call.
pub(super) struct WatchCall(pub(super) Arc<Member>);

impl tonic::server::StreamingService<pb::WatchRequest> for WatchCall {
    type Response = Frame;
    type ResponseStream = BoxStream<'static, Result<Frame, Status>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<pb::WatchRequest>>) -> Self::Future {
        let credentials = Credentials::of(&request);
        let session = Session::new(Arc::clone(&self.0), credentials, request.into_inner());
        // On the heap: it is moved for every message.
        let session = Box::new(session);
        let frames = futures_util::stream::unfold(Some(session), |session| async move {
            let mut session = session?;
            match session.next().await {
                Ok(frame) => Some((Ok(frame), Some(session))),
                Err(status) => Some((Err(status), None)),
            }
        });
        std::future::ready(Ok(tonic::Response::new(frames.boxed())))
    }
}

/// Messages taken from the outbox at a time: one lock for many.
const TAKE: usize = 64;

/// Frames sent before the client's requests get a look, when there is always something to send.
const FRAMES_PER_LOOK: usize = 16;

/// What one catch-up step reads.
const CATCH_UP: Budget = Budget { revisions: CATCH_UP_REVISIONS, bytes: CATCH_UP_BYTES };

/// One client's Watch call.
struct Session {
    member: Arc<Member>,
    stream: StreamId,
    wake: Arc<Notify>,
    requests: Streaming<pb::WatchRequest>,
    /// The client may still send requests.
    open: bool,
    taken: VecDeque<Message>,
    /// Who watches: asked for each watch anew.
    credentials: Credentials,
    /// The rest of a revision that is sent in fragments, and watches that may not be.
    fragments: VecDeque<Frame>,
    sent_since_look: usize,
    /// The outbox was found empty and nobody lagging, and nothing has happened since.
    idle: bool,
    progress: tokio::time::Interval,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.member.watching.close(self.stream);
    }
}

impl Session {
    fn new(
        member: Arc<Member>,
        credentials: Credentials,
        requests: Streaming<pb::WatchRequest>,
    ) -> Self {
        let (stream, wake) = member.watching.open();
        let period = jittered(member.requests.watch_progress_interval, member.chance.fraction());
        let start = tokio::time::Instant::now() + period;
        let mut progress = tokio::time::interval_at(start, period);
        progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self {
            member,
            stream,
            wake,
            requests,
            open: true,
            credentials,
            taken: VecDeque::new(),
            fragments: VecDeque::new(),
            sent_since_look: 0,
            idle: false,
            progress,
        }
    }

    /// The next message for the client.
    async fn next(&mut self) -> Result<Frame, Status> {
        loop {
            if self.sent_since_look >= FRAMES_PER_LOOK {
                self.look_at_requests()?;
            }
            if let Some(frame) = self.frame() {
                self.sent_since_look += 1;
                return Ok(frame);
            }
            if !self.idle && catch_up(&self.member, self.stream).await? {
                continue;
            }
            tokio::select! {
                request = self.requests.message(), if self.open => self.serve(request)?,
                () = self.wake.notified() => self.idle = false,
                _ = self.progress.tick() => {
                    self.idle = false;
                    self.member.watching.lock().hub.progress_tick(self.stream);
                }
                () = self.member.stopping.cancelled() => {
                    return Err(status::unavailable(Unavailable::Stopped));
                }
            }
        }
    }

    /// Serves the requests that are here already, without waiting.
    fn look_at_requests(&mut self) -> Result<(), Status> {
        self.sent_since_look = 0;
        for _ in 0..FRAMES_PER_LOOK {
            if !self.open {
                break;
            }
            let Some(request) = self.requests.message().now_or_never() else { break };
            self.serve(request)?;
        }
        Ok(())
    }

    fn serve(&mut self, request: Result<Option<pb::WatchRequest>, Status>) -> Result<(), Status> {
        use pb::watch_request::RequestUnion;
        let Some(request) = request? else {
            // The client has said all it wants to say and goes on listening.
            self.open = false;
            return Ok(());
        };
        self.idle = false;
        let lock = || self.member.watching.lock();
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => {
                let create = create(request);
                match self.allow(&create) {
                    Ok(()) => lock().hub.create(self.stream, create),
                    Err(status) => self.refuse(&status),
                }
            }
            Some(RequestUnion::CancelRequest(request)) => {
                lock().hub.cancel(self.stream, request.watch_id);
            }
            Some(RequestUnion::ProgressRequest(_)) => lock().hub.progress_asked(self.stream),
            // A request of a later version: etcd ignores it, and so the stream lives on.
            None => {}
        }
        Ok(())
    }

    /// Whether the client may watch these keys, as things are now; not asked again later, as in
    /// etcd.
    fn allow(&self, create: &Create) -> Result<(), Status> {
        let caller = self.member.recognise(&self.credentials)?;
        self.member.allow(&caller, &Need::Keys(Act::Read, &create.range))
    }

    /// Answers a watch that may not be; the stream lives on.
    fn refuse(&mut self, status: &Status) {
        let response = pb::WatchResponse {
            header: Some(self.member.header_now()),
            watch_id: -1,
            created: true,
            canceled: true,
            cancel_reason: status::go_text(status),
            ..Default::default()
        };
        self.fragments.push_back(Frame { response, parts: Vec::new() });
    }

    /// Turns waiting messages into the next frame.
    fn frame(&mut self) -> Option<Frame> {
        if let Some(fragment) = self.fragments.pop_front() {
            return Some(fragment);
        }
        if self.taken.is_empty() && !self.idle {
            let hub = &mut self.member.watching.lock().hub;
            self.idle = hub.take(self.stream, TAKE, &mut self.taken).idle;
        }
        let header = |revision| self.member.header(revision);
        let response = match self.taken.pop_front()? {
            Message::Events { id, group, picks, form, fragment, now } => {
                return Some(self.events(id, Part { group, picks, form, now }, fragment));
            }
            Message::Created { id, revision } => pb::WatchResponse {
                header: Some(header(revision)),
                watch_id: id,
                created: true,
                ..Default::default()
            },
            Message::Refused { reason, revision } => pb::WatchResponse {
                header: Some(header(revision)),
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason: status::watch_refusal(reason).to_owned(),
                ..Default::default()
            },
            Message::Canceled { id, revision } => pb::WatchResponse {
                header: Some(header(revision)),
                watch_id: id,
                canceled: true,
                ..Default::default()
            },
            Message::Compacted { id, compacted } => pb::WatchResponse {
                header: Some(header(Revision(0))),
                watch_id: id,
                canceled: true,
                compact_revision: compacted.0,
                ..Default::default()
            },
            Message::Progress { id, revision } => pb::WatchResponse {
                header: Some(header(revision)),
                watch_id: id.unwrap_or(-1),
                ..Default::default()
            },
        };
        Some(Frame { response, parts: Vec::new() })
    }

    /// One frame of events: all that waits in a row for the same watcher, or the first fragment of
    /// a revision that is larger than one message may be.
    fn events(&mut self, id: i64, first: Part, fragment: bool) -> Frame {
        let bound = self.member.requests.max_bytes + REQUEST_BYTES_SLACK;
        let mut bytes = first.bytes();
        if fragment && bytes >= bound {
            let mut pieces = first.cut(bound).into_iter().peekable();
            while let Some(piece) = pieces.next() {
                let mut frame = self.events_frame(id, vec![piece]);
                frame.response.fragment = pieces.peek().is_some();
                self.fragments.push_back(frame);
            }
            return self.fragments.pop_front().expect("cut gives at least one piece");
        }
        let mut parts = vec![first];
        while bytes < WATCH_ANSWER_BYTES {
            let fits = |message: &mut Message| match message {
                Message::Events { id: next, group, picks, form, .. } if *next == id => {
                    bytes += wire(group, picks, *form).map(Bytes::len).sum::<usize>();
                    !fragment || bytes < bound
                }
                _ => false,
            };
            let Some(Message::Events { group, picks, form, now, .. }) =
                self.taken.pop_front_if(fits)
            else {
                break;
            };
            parts.push(Part { group, picks, form, now });
        }
        self.events_frame(id, parts)
    }

    fn events_frame(&self, id: i64, parts: Vec<Part>) -> Frame {
        let last = parts.last().expect("a frame of events has some");
        let response = pb::WatchResponse {
            header: Some(self.member.header(last.now)),
            watch_id: id,
            ..Default::default()
        };
        let events: usize = parts.iter().map(|part| part.picks.count(&part.group)).sum();
        self.member.watching.sent.fetch_add(events as u64, Ordering::Relaxed);
        Frame { response, parts }
    }
}

/// Reads one piece of history for a stream's lagging watchers, if there are any.
pub(super) async fn catch_up(member: &Member, stream: StreamId) -> Result<bool, Status> {
    let Some(wanted) = member.watching.lock().hub.lagging(stream) else {
        return Ok(false);
    };
    let reader = member.reader.clone();
    let history = member.slow_read(move || reader.view().history(wanted.from, CATCH_UP)).await?;
    let hub = &mut member.watching.lock().hub;
    match history {
        Ok(history) => {
            let groups: Vec<_> =
                history.revised.into_iter().map(|revised| Arc::new(Group::new(revised))).collect();
            hub.caught_up(stream, &groups, Revision(history.next.0 - 1));
        }
        Err(Error::Refused(Refusal::Compacted { compacted })) => {
            hub.compacted(stream, compacted);
        }
        Err(error) => return Err(read_error(error)),
    }
    Ok(true)
}

/// What a frame carries of one revision.
struct Part {
    group: Arc<Group>,
    picks: Picks,
    form: Form,
    /// What the header says.
    now: Revision,
}

impl Part {
    fn bytes(&self) -> usize {
        wire(&self.group, &self.picks, self.form).map(Bytes::len).sum()
    }

    /// Splits it so that each piece stays below the bound, or holds one event.
    fn cut(&self, bound: usize) -> Vec<Self> {
        let mut pieces: Vec<Vec<u32>> = vec![Vec::new()];
        let mut bytes = 0;
        let places = self.picks.places(&self.group);
        for (place, event) in places.zip(wire(&self.group, &self.picks, self.form)) {
            let place = u32::try_from(place).expect("a revision has fewer events");
            let piece = pieces.last_mut().expect("never empty");
            if !piece.is_empty() && bytes + event.len() >= bound {
                bytes = event.len();
                pieces.push(vec![place]);
            } else {
                bytes += event.len();
                piece.push(place);
            }
        }
        let piece = |places: Vec<u32>| Self {
            group: Arc::clone(&self.group),
            picks: Picks::Some(places.into()),
            form: self.form,
            now: self.now,
        };
        pieces.into_iter().map(piece).collect()
    }
}

/// The interval plus up to a tenth, so that watches opened together do not report together.
fn jittered(interval: Duration, fraction: f64) -> Duration {
    interval + interval.mul_f64(fraction / 10.0)
}

fn create(request: pb::WatchCreateRequest) -> Create {
    // An empty key means the smallest one.
    let key = if request.key.is_empty() { Bytes::from_static(&[0]) } else { request.key };
    let has =
        |filter: pb::watch_create_request::FilterType| request.filters.contains(&i32::from(filter));
    Create {
        range: KeyRange::new(key, request.range_end),
        start: Revision(request.start_revision),
        id: request.watch_id,
        filters: Filters {
            no_put: has(pb::watch_create_request::FilterType::Noput),
            no_delete: has(pb::watch_create_request::FilterType::Nodelete),
        },
        form: if request.prev_kv { Form::WithPrevious } else { Form::Plain },
        fragment: request.fragment,
        progress: request.progress_notify,
    }
}

/// The encoded events that are picked of a revision.
fn wire<'a>(group: &'a Group, picks: &'a Picks, form: Form) -> impl Iterator<Item = &'a Bytes> {
    let one = move |at| group.wire(at, form, |event| encode_event(event, form));
    picks.places(group).map(one)
}

/// An event as an entry of `WatchResponse.events`: tag 11, length-delimited.
fn encode_event(event: &crate::command::Event, form: Form) -> Bytes {
    let event = convert::event(event, form == Form::WithPrevious);
    let mut wire = Vec::with_capacity(event.encoded_len() + 8);
    prost::encoding::message::encode(11, &event, &mut wire);
    Bytes::from(wire)
}

/// A watch answer: a message without events, and the events in wire form.
pub(super) struct Frame {
    response: pb::WatchResponse,
    parts: Vec<Part>,
}

/// Decodes requests as usual and encodes [`Frame`]s.
#[derive(Default)]
pub(super) struct WatchCodec;

type Usual = proto::Codec<pb::WatchResponse, pb::WatchRequest>;

impl Codec for WatchCodec {
    type Encode = Frame;
    type Decode = pb::WatchRequest;
    type Encoder = Self;
    type Decoder = <Usual as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        Usual::default().decoder()
    }
}

impl Encoder for WatchCodec {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let events: usize = frame.parts.iter().map(Part::bytes).sum();
        out.reserve(frame.response.encoded_len() + events);
        frame.response.encode(out).expect("the buffer grows");
        for part in &frame.parts {
            for event in wire(&part.group, &part.picks, part.form) {
                out.put_slice(event);
            }
        }
        Ok(())
    }
}
