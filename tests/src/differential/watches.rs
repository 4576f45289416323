//! The watch streams of one server, and what its watchers must hear.
//!
//! How events are batched and when they come is the server's business, so what is compared is each
//! watcher's sequence of events. That leaves the question when a sequence is complete. It is
//! answered by one more watcher, which sees everything from the start: what any other one must hear
//! is its history, cut to the range, the revisions and the filters asked for. So each server is
//! held against itself first, and a lost event, a repeated one, or a revision handed out in two
//! parts is found even where both servers do it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::mvccpb::Event;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::answer::{Answer, Heard};
use super::release::Release;
use pb::watch_request::RequestUnion;

/// How long an event may take that a server owes.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a progress message is waited for before it is asked for again: etcd gives none while
/// a watcher reads history, which it does every 100 ms.
const PROGRESS_WAIT: Duration = Duration::from_millis(120);
const PROGRESS_TRIES: usize = 50;
/// The stream of watchers that start in the future.
const FUTURES: usize = super::STREAMS - 1;

/// One watcher: what it asked for, and how far it is.
struct Watcher {
    asked: pb::WatchCreateRequest,
    /// The first revision it is owed.
    start: i64,
    /// Where in the history its next event is looked for.
    history_at: usize,
    /// Heard and not told yet.
    heard: Vec<Event>,
    ended: Option<pb::WatchResponse>,
    told_end: bool,
    /// It starts before the history that is kept, so its end is owed and nothing else.
    doomed: bool,
}

impl Watcher {
    fn covers(&self, key: &Bytes) -> bool {
        let start = if self.asked.key.is_empty() { &[0][..] } else { &self.asked.key };
        match &self.asked.range_end[..] {
            [] => key == start,
            [0] => key >= start,
            end => key >= start && key < end,
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let Some(kv) = &event.kv else { return false };
        // A filter's number is that of the kind of event it keeps away.
        let filtered = self.asked.filters.contains(&event.r#type);
        kv.mod_revision >= self.start && self.covers(&kv.key) && !filtered
    }
}

/// One call of `Watch`.
pub(super) struct Stream {
    requests: mpsc::UnboundedSender<pb::WatchRequest>,
    responses: mpsc::UnboundedReceiver<Result<pb::WatchResponse, Status>>,
    watchers: Vec<Watcher>,
    /// Watch id → place in `watchers`.
    live: BTreeMap<i64, usize>,
    /// Ids of watches that a compaction ended, and whose cancellation may be answered once more.
    buried: BTreeSet<i64>,
    /// The answer to the create request under way.
    created: Option<pb::WatchResponse>,
    creating: Option<pb::WatchCreateRequest>,
    progress: Option<i64>,
    /// The watch whose message was a fragment: nothing else may come before its rest.
    fragment: Option<(i64, i64)>,
    /// A watcher of the past was created, and may still be reading history.
    catching_up: bool,
    broken: Vec<String>,
}

impl Stream {
    /// Opens the call. etcd answers it only when it has something to say, so that is awaited aside.
    pub(super) fn open(channel: Channel) -> Self {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let (sender, responses) = mpsc::unbounded_channel();
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        tokio::spawn(async move {
            let mut incoming = match client.watch(UnboundedReceiverStream::new(outgoing)).await {
                Ok(call) => call.into_inner(),
                Err(status) => {
                    let _ = sender.send(Err(status));
                    return;
                }
            };
            while let Some(next) = incoming.message().await.transpose() {
                let ended = next.is_err();
                if sender.send(next).is_err() || ended {
                    return;
                }
            }
        });
        Self {
            requests,
            responses,
            watchers: Vec::new(),
            live: BTreeMap::new(),
            buried: BTreeSet::new(),
            created: None,
            creating: None,
            progress: None,
            fragment: None,
            catching_up: false,
            broken: Vec::new(),
        }
    }

    fn ask(&self, union: RequestUnion) {
        // Fails only when the server has ended the stream, which the next wait tells.
        let _ = self.requests.send(request(union));
    }

    /// Waits for one message and takes it in; false when none comes.
    async fn hear(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, self.responses.recv()).await {
            Ok(Some(Ok(response))) => {
                self.take_in(response);
                true
            }
            Ok(Some(Err(status))) => {
                self.broken.push(format!("the stream ended: {status}"));
                false
            }
            Ok(None) | Err(_) => false,
        }
    }

    fn drain(&mut self) {
        while let Ok(response) = self.responses.try_recv() {
            match response {
                Ok(response) => self.take_in(response),
                Err(status) => self.broken.push(format!("the stream ended: {status}")),
            }
        }
    }

    fn take_in(&mut self, response: pb::WatchResponse) {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.created {
            if let (Some(asked), false) = (self.creating.take(), response.canceled) {
                self.begin(asked, response.watch_id, revision);
            }
            self.created = Some(response);
            return;
        }
        if response.watch_id == -1 && response.events.is_empty() && !response.canceled {
            self.progress = Some(revision);
            return;
        }
        let Some(place) = self.live.get(&response.watch_id).copied() else {
            if response.canceled && self.buried.remove(&response.watch_id) {
                return;
            }
            self.broken.push(format!("for a watch that is not there: {response:?}"));
            return;
        };
        self.check_batch(&response, revision);
        let watcher = &mut self.watchers[place];
        if response.canceled {
            self.live.remove(&response.watch_id);
            watcher.ended = Some(response);
        } else {
            watcher.heard.extend(response.events);
        }
    }

    fn begin(&mut self, asked: pb::WatchCreateRequest, id: i64, revision: i64) {
        let start = if asked.start_revision == 0 { revision + 1 } else { asked.start_revision };
        self.live.insert(id, self.watchers.len());
        self.watchers.push(Watcher {
            asked,
            start,
            history_at: 0,
            heard: Vec::new(),
            ended: None,
            told_end: false,
            doomed: false,
        });
    }

    /// Revisions ascend, and none is handed out in two messages unless the first is a fragment.
    fn check_batch(&mut self, response: &pb::WatchResponse, revision: i64) {
        let revisions =
            || response.events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision));
        if let Some((id, last)) = self.fragment.take()
            && (id != response.watch_id || revisions().next().is_some_and(|first| first < last))
        {
            self.broken.push(format!("between the fragments of watch {id}: {response:?}"));
        }
        let last = revisions().next_back().unwrap_or(0);
        if response.fragment {
            self.fragment = Some((response.watch_id, last));
        }
        if last > revision && !response.events.is_empty() {
            self.broken.push(format!("header at {revision}, event at {last}"));
        }
    }

    /// Creates a watcher and returns the server's answer to that.
    pub(super) async fn create(&mut self, asked: pb::WatchCreateRequest, compacted: i64) -> Answer {
        self.created = None;
        self.creating = Some(asked.clone());
        let before = self.watchers.len();
        self.ask(RequestUnion::CreateRequest(asked));
        let deadline = Instant::now() + PATIENCE;
        while self.created.is_none() && self.hear(deadline).await {}
        if let Some(watcher) = self.watchers.get_mut(before) {
            watcher.doomed = watcher.start < compacted;
            self.catching_up |= watcher.asked.start_revision > 0;
            if watcher.doomed {
                self.bury(before, deadline).await;
            }
        }
        Answer::Watch(self.created.take())
    }

    /// Waits for the end of a watcher that starts before the history that is kept. In etcd such a
    /// watch still has its id afterwards, and keeps its stream from telling progress; a
    /// cancellation makes the two servers equal again (differences.md).
    async fn bury(&mut self, place: usize, deadline: Instant) {
        while self.watchers[place].ended.is_none() && self.hear(deadline).await {}
        if let Some(ended) = &self.watchers[place].ended {
            let watch_id = ended.watch_id;
            self.buried.insert(watch_id);
            self.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
        }
    }

    /// Ends a watcher.
    pub(super) async fn cancel(&mut self, watch_id: i64) -> Answer {
        let place = self.live.get(&watch_id).copied();
        self.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }));
        // Nothing is said about an unknown one; a stray message is found later.
        let Some(place) = place else { return Answer::Nothing };
        let deadline = Instant::now() + PATIENCE;
        while self.watchers[place].ended.is_none() && self.hear(deadline).await {}
        self.watchers[place].told_end = true;
        Answer::Watch(self.watchers[place].ended.clone())
    }

    /// Asks for progress until it is told, for as long as it can be expected.
    pub(super) async fn progress(&mut self, now: i64) -> Answer {
        let future =
            self.live.values().any(|place| self.watchers[*place].asked.start_revision > now);
        let tries = if self.live.is_empty() || future { 1 } else { PROGRESS_TRIES };
        for _ in 0..tries {
            self.progress = None;
            self.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            let deadline = Instant::now() + PROGRESS_WAIT;
            while self.progress.is_none() && self.hear(deadline).await {}
            if self.progress.is_some() {
                break;
            }
        }
        Answer::Progress(self.progress.take())
    }

    /// Waits until no watcher reads history any more. Having nothing to be told, one may be unready
    /// without its events telling so, and a compaction would end it.
    async fn catch_up(&mut self, now: i64, release: Release) {
        if let Some(time) = release.catches_up_in().filter(|_| self.catching_up) {
            tokio::time::sleep(time).await;
        }
        if std::mem::take(&mut self.catching_up)
            && !self.live.is_empty()
            && self.progress(now).await == Answer::Progress(None)
        {
            let watchers: Vec<_> =
                self.live.iter().map(|(id, place)| (id, &self.watchers[*place].asked)).collect();
            self.broken.push(format!("no progress at {now} with {watchers:?}"));
        }
    }
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

/// All streams of one server.
pub(super) struct Watches {
    channel: Channel,
    streams: Vec<Option<Stream>>,
    /// The stream whose one watcher hears everything, and what it has heard.
    witness: Stream,
    history: Vec<Event>,
    /// How much of the history has been told.
    told: usize,
    release: Release,
}

impl Watches {
    /// Begins with the witness alone.
    pub(super) async fn new(channel: Channel, streams: usize, release: Release) -> Self {
        let mut witness = Stream::open(channel.clone());
        let everything = pb::WatchCreateRequest {
            key: Bytes::from_static(&[0]),
            range_end: Bytes::from_static(&[0]),
            start_revision: 1,
            prev_kv: true,
            ..Default::default()
        };
        witness.create(everything, -1).await;
        let streams = (0..streams).map(|_| None).collect();
        Self { channel, streams, witness, history: Vec::new(), told: 0, release }
    }

    /// The stream that a watcher goes to. A watcher of the future keeps its stream from telling
    /// progress, and progress is what tells that watchers of the past have caught up; so the two
    /// kinds do not share one.
    pub(super) fn route(&self, wanted: usize, start: i64, now: i64) -> usize {
        match start {
            start if start > now => FUTURES,
            start if start > 0 => wanted % FUTURES,
            _ => wanted,
        }
    }

    /// The stream, opened when it is not.
    pub(super) fn stream(&mut self, nth: usize) -> &mut Stream {
        self.streams[nth].get_or_insert_with(|| Stream::open(self.channel.clone()))
    }

    /// Ends the call.
    pub(super) fn close(&mut self, nth: usize) {
        self.streams[nth] = None;
    }

    /// Waits until every watcher has heard all that it is owed up to `revision`, and tells it.
    pub(super) async fn settle(&mut self, revision: i64) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.history.append(&mut self.witness.watchers[0].heard);
            if last_revision(&self.history) >= revision || !self.witness.hear(deadline).await {
                break;
            }
        }
        let news = self.history[self.told..].to_vec();
        self.told = self.history.len();
        let mut told = vec![Heard { watcher: (usize::MAX, 0), events: news, ended: None }];
        let mut broken = std::mem::take(&mut self.witness.broken);
        for (nth, stream) in self.streams.iter_mut().enumerate() {
            let Some(stream) = stream else { continue };
            if nth != FUTURES {
                stream.catch_up(revision, self.release).await;
            }
            for place in 0..stream.watchers.len() {
                match stream.settle(place, &self.history, deadline).await {
                    Ok((events, ended)) if events.is_empty() && ended.is_none() => {}
                    Ok((events, ended)) => {
                        told.push(Heard { watcher: (nth, place), events, ended });
                    }
                    Err(trouble) => {
                        let asked = &stream.watchers[place].asked;
                        broken.push(format!("stream {nth}, watcher {place}, {asked:?}: {trouble}"));
                    }
                }
            }
            broken.append(&mut stream.broken);
        }
        if last_revision(&self.history) < revision {
            broken.push(format!("the witness has not heard of revision {revision}"));
        }
        if broken.is_empty() { Answer::Heard(told) } else { Answer::Broken(broken.join("; ")) }
    }
}

/// Of a store that nobody has written to it is 1.
fn last_revision(history: &[Event]) -> i64 {
    history.last().and_then(|event| Some(event.kv.as_ref()?.mod_revision)).unwrap_or(1)
}

type Settled = (Vec<Event>, Option<pb::WatchResponse>);

impl Stream {
    async fn settle(
        &mut self,
        place: usize,
        history: &[Event],
        deadline: Instant,
    ) -> Result<Settled, String> {
        self.drain();
        let watcher = &mut self.watchers[place];
        if watcher.told_end {
            return Ok((Vec::new(), None));
        }
        if !watcher.doomed {
            let owed: Vec<&Event> =
                history[watcher.history_at..].iter().filter(|event| watcher.wants(event)).collect();
            watcher.history_at = history.len();
            while self.watchers[place].heard.len() < owed.len() && self.hear(deadline).await {}
            compare(&self.watchers[place], &owed)?;
        }
        let watcher = &mut self.watchers[place];
        watcher.told_end = watcher.ended.is_some();
        Ok((std::mem::take(&mut watcher.heard), watcher.ended.clone()))
    }
}

/// Holds what a watcher has heard against the history.
fn compare(watcher: &Watcher, owed: &[&Event]) -> Result<(), String> {
    let heard = &watcher.heard;
    for (nth, (heard, owed)) in heard.iter().zip(owed).enumerate() {
        // What was there before may have been compacted since.
        let prev_kv =
            heard.prev_kv.is_none() || (watcher.asked.prev_kv && heard.prev_kv == owed.prev_kv);
        if heard.kv != owed.kv || heard.r#type != owed.r#type || !prev_kv {
            return Err(format!("event {nth} is {heard:?}, not {owed:?}"));
        }
    }
    if heard.len() != owed.len() {
        let first = owed.get(heard.len());
        return Err(format!(
            "{} events instead of {}; the first missing one is {first:?}",
            heard.len(),
            owed.len()
        ));
    }
    Ok(())
}
