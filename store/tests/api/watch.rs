//! Watches through the whole node.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

struct Watch {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: tonic::Streaming<pb::WatchResponse>,
}

impl Watch {
    async fn open(world: &World) -> Self {
        let (requests, received) = mpsc::channel(16);
        let mut client = pb::watch_client::WatchClient::new(world.channel.clone());
        let answers = client.watch(ReceiverStream::new(received)).await.expect("a stream");
        Self { requests, answers: answers.into_inner() }
    }

    async fn ask(&self, request: pb::watch_request::RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.requests.send(request).await.expect("the stream is open");
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(pb::watch_request::RequestUnion::CreateRequest(create)).await;
        let answer = self.next().await;
        assert!(answer.created);
        answer
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), self.answers.message());
        next.await.expect("in time").expect("an answer").expect("the stream goes on")
    }
}

fn watch(key: &str, end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn changes_arrive_with_what_they_replaced() {
    let world = World::start().await;
    let mut stream = Watch::open(&world).await;
    stream.create(pb::WatchCreateRequest { prev_kv: true, ..watch("a", "c") }).await;
    world.put("a", "1").await;
    world.put("a", "2").await;
    world.put("c", "outside").await;
    let delete = delete("a", "");
    world.kv().delete_range(delete).await.expect("a delete");
    let mut events = Vec::new();
    while events.len() < 3 {
        let answer = stream.next().await;
        let revision = answer.header.expect("a header").revision;
        assert!(
            answer
                .events
                .iter()
                .all(|event| event.kv.as_ref().expect("a key").mod_revision <= revision)
        );
        events.extend(answer.events);
    }
    let previous: Vec<_> =
        events.iter().map(|event| event.prev_kv.as_ref().map(|kv| kv.value.clone())).collect();
    assert_eq!(previous, [None, Some("1".into()), Some("2".into())]);
    let gone = events[2].kv.as_ref().expect("a key");
    assert_eq!((events[2].r#type, gone.mod_revision, gone.create_revision), (1, 5, 0));
    world.stop().await;
}

#[tokio::test]
async fn refusals_leave_the_stream_alive() {
    let world = World::start().await;
    let mut stream = Watch::open(&world).await;
    world.put("a", "1").await;
    let negative =
        stream.create(pb::WatchCreateRequest { start_revision: -1, ..watch("a", "") }).await;
    assert!(negative.canceled);
    assert_eq!((negative.watch_id, negative.compact_revision), (-1, 0));
    assert_eq!(negative.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
    let empty = stream.create(watch("b", "a")).await;
    assert_eq!(
        (empty.watch_id, empty.cancel_reason.as_str()),
        (-1, "mvcc: watcher range is empty")
    );
    let fine = stream.create(pb::WatchCreateRequest { watch_id: 9, ..watch("a", "") }).await;
    assert_eq!((fine.watch_id, fine.canceled), (9, false));
    let taken = stream.create(pb::WatchCreateRequest { watch_id: 9, ..watch("a", "") }).await;
    assert_eq!(taken.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    use pb::watch_request::RequestUnion::{CancelRequest, ProgressRequest};
    stream.ask(CancelRequest(pb::WatchCancelRequest { watch_id: 1000 })).await;
    stream.ask(ProgressRequest(pb::WatchProgressRequest {})).await;
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0), "the unknown id said nothing");
    assert_eq!(progress.header.expect("a header").revision, 2);
    stream.ask(CancelRequest(pb::WatchCancelRequest { watch_id: 9 })).await;
    let canceled = stream.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled), (9, true));
    world.stop().await;
}

/// Goal: whoever waits for the future hears nothing of the present, however far off it is.
#[tokio::test]
async fn a_watch_of_the_future_hears_no_old_events() {
    let world = World::start().await;
    let mut stream = Watch::open(&world).await;
    for (watch_id, start_revision) in [(1, 5), (2, 1 << 40), (3, i64::MAX), (4, 0)] {
        let from = pb::WatchCreateRequest { watch_id, start_revision, ..watch("a", "") };
        assert!(!stream.create(from).await.canceled, "from {start_revision}");
    }
    let mut heard = Vec::new();
    for n in 0..5 {
        world.put("a", &n.to_string()).await;
    }
    // Two from revision 5, five from the present, and none that waits on.
    while heard.len() < 7 {
        let answer = stream.next().await;
        let id = answer.watch_id;
        heard.extend(
            answer.events.iter().map(|event| (id, event.kv.clone().expect("a key").mod_revision)),
        );
    }
    heard.sort_unstable();
    assert_eq!(heard, [(1, 5), (1, 6), (4, 2), (4, 3), (4, 4), (4, 5), (4, 6)]);
    world.stop().await;
}

#[tokio::test]
async fn compacted_history_ends_a_watch_without_a_reason() {
    let world = World::start().await;
    for n in 0..5 {
        world.put("a", &n.to_string()).await;
    }
    let upto = pb::CompactionRequest { revision: 5, physical: false };
    world.kv().compact(upto).await.expect("a compaction");
    let mut stream = Watch::open(&world).await;
    let created =
        stream.create(pb::WatchCreateRequest { start_revision: 2, ..watch("a", "") }).await;
    assert!(!created.canceled);
    let ended = stream.next().await;
    assert_eq!((ended.canceled, ended.compact_revision), (true, 5));
    assert_eq!((ended.cancel_reason.as_str(), ended.header.expect("a header").revision), ("", 0));
    // The compacted revision itself is still there.
    stream.create(pb::WatchCreateRequest { start_revision: 5, ..watch("a", "") }).await;
    let mut revisions = Vec::new();
    while revisions.len() < 2 {
        let events = stream.next().await.events;
        revisions.extend(events.into_iter().map(|event| event.kv.expect("a key").mod_revision));
    }
    assert_eq!(revisions, [5, 6]);
    world.stop().await;
}

#[tokio::test]
async fn a_slow_reader_loses_nothing_and_delays_nobody() {
    let world = World::start().await;
    let mut slow = Watch::open(&world).await;
    let mut quick = Watch::open(&world).await;
    slow.create(watch("a", "b")).await;
    quick.create(watch("a", "b")).await;
    const PUTS: i64 = 3000;
    let value = "x".repeat(8 << 10);
    let writer = async {
        for n in 0..PUTS {
            world.put(&format!("a{n}"), &value).await;
        }
    };
    let reader = async {
        let mut next = 2;
        while next < PUTS + 2 {
            for event in quick.next().await.events {
                assert_eq!(event.kv.expect("a key").mod_revision, next);
                next += 1;
            }
        }
    };
    tokio::join!(writer, reader);
    // Only now the slow one looks: most of it has to come from history.
    let mut next = 2;
    while next < PUTS + 2 {
        for event in slow.next().await.events {
            assert_eq!(event.kv.expect("a key").mod_revision, next);
            next += 1;
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn a_large_revision_is_sent_in_fragments_to_those_who_ask() {
    let world = World::start().await;
    let value = "x".repeat(40 << 10);
    let put = |n: u32| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(put(&format!("a{n:02}"), &value))),
    };
    let txn = || pb::TxnRequest { success: (0..37).map(put).collect(), ..Default::default() };
    world.kv().txn(txn()).await.expect("a transaction");
    let mut stream = Watch::open(&world).await;
    // With previous values the revision is larger than one message may be.
    let create = pb::WatchCreateRequest { fragment: true, prev_kv: true, ..watch("a", "b") };
    stream.create(create).await;
    world.kv().txn(txn()).await.expect("a transaction");
    let first = stream.next().await;
    assert!(first.fragment && first.events.len() < 37);
    let second = stream.next().await;
    assert!(!second.fragment);
    assert_eq!(first.events.len() + second.events.len(), 37);
    world.stop().await;
}

/// What very many are here.
const CROWD_STREAMS: usize = 1_500;
const CROWD_ON_ONE: usize = 3_000;
const CROWD_PUTS: i64 = 10;

/// Goal: very many watchers, one to a stream and all on one, each get every event once and in
/// order, and nothing waits for anybody afterwards.
#[tokio::test]
async fn thousands_of_watchers_get_every_event_once() {
    let world = World::start().await;
    let mut streams = Vec::new();
    for _ in 0..CROWD_STREAMS {
        let mut stream = Watch::open(&world).await;
        stream.create(watch("a", "b")).await;
        streams.push(stream);
    }
    let mut crowded = Watch::open(&world).await;
    for _ in 0..CROWD_ON_ONE {
        crowded.create(watch("a1", "")).await;
    }
    for n in 0..CROWD_PUTS {
        world.put("a1", &n.to_string()).await;
    }
    for stream in &mut streams {
        let mut next = 2;
        while next < CROWD_PUTS + 2 {
            for event in stream.next().await.events {
                assert_eq!(event.kv.expect("a key").mod_revision, next);
                next += 1;
            }
        }
    }
    let mut next = vec![2; CROWD_ON_ONE];
    let mut missing = CROWD_ON_ONE as i64 * CROWD_PUTS;
    while missing > 0 {
        let answer = crowded.next().await;
        let watcher = usize::try_from(answer.watch_id).expect("ids count from zero");
        for event in answer.events {
            assert_eq!(event.kv.expect("a key").mod_revision, next[watcher]);
            next[watcher] += 1;
            missing -= 1;
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn progress_comes_by_itself_to_those_who_are_up_to_date_and_asked() {
    let interval = std::time::Duration::from_millis(200);
    let world =
        World::start_with(|config| config.requests.watch_progress_interval = interval).await;
    let mut stream = Watch::open(&world).await;
    let asked = pb::WatchCreateRequest { progress_notify: true, ..watch("a", "") };
    // The third waits for a revision that is not there yet: it is told nothing before that.
    let early = pb::WatchCreateRequest { start_revision: 100, ..asked.clone() };
    for create in [asked, watch("a", ""), early] {
        stream.ask(pb::watch_request::RequestUnion::CreateRequest(create)).await;
    }
    let revision = world.put("other", "1").await;
    let mut told = Vec::new();
    while told.len() < 4 {
        let answer = stream.next().await;
        if !answer.created {
            assert_eq!((answer.watch_id, answer.events.len()), (0, 0), "the first, and only it");
            told.push(answer.header.expect("a header").revision);
        }
    }
    assert!(told.is_sorted());
    assert_eq!(told.last(), Some(&revision));
    world.stop().await;
}

/// Goal: a slow client whose history is compacted before it reads on is told so, having been given
/// a gapless beginning; a client beside it that was quick loses nothing.
#[tokio::test]
async fn a_slow_watcher_overtaken_by_compaction_is_ended() {
    let world = World::start().await;
    let mut slow = Watch::open(&world).await;
    slow.create(watch("a", "b")).await;
    const PUTS: i64 = 3_000;
    let value = "x".repeat(8 << 10);
    for n in 0..PUTS {
        world.put(&format!("a{n}"), &value).await;
    }
    let upto = pb::CompactionRequest { revision: PUTS + 1, physical: true };
    world.kv().compact(upto).await.expect("a compaction");
    let mut next = 2;
    let ended = loop {
        let answer = slow.next().await;
        if answer.canceled {
            break answer;
        }
        for event in answer.events {
            assert_eq!(event.kv.expect("a key").mod_revision, next);
            next += 1;
        }
    };
    assert!(next < PUTS + 1, "what was buffered is less than all");
    assert_eq!((ended.compact_revision, ended.cancel_reason.as_str()), (PUTS + 1, ""));
    // The stream lives on and the client starts again where history begins.
    slow.create(pb::WatchCreateRequest { start_revision: PUTS + 1, ..watch("a", "b") }).await;
    let first = slow.next().await.events.into_iter().next().expect("an event");
    assert_eq!(first.kv.expect("a key").mod_revision, PUTS + 1);
    world.stop().await;
}

/// Goal: watchers that start at different places of a long history while writes go on all reach the
/// present, each with every revision from its start on. History reaches from the database through
/// the memtables to what is applied meanwhile.
#[tokio::test]
async fn watchers_from_everywhere_in_history_reach_the_present() {
    let world = World::start().await;
    const BEFORE: i64 = 2_500;
    const DURING: i64 = 500;
    for n in 0..BEFORE {
        world.put(&format!("a{}", n % 50), "v").await;
    }
    let upto = pb::CompactionRequest { revision: 2, physical: true };
    world.kv().compact(upto).await.expect("a compaction, and with it a checkpoint");
    let mut stream = Watch::open(&world).await;
    let starts: Vec<i64> = (0..40).map(|n| 2 + n * BEFORE / 40).collect();
    for start in &starts {
        let create = pb::WatchCreateRequest { start_revision: *start, ..watch("a", "b") };
        stream.ask(pb::watch_request::RequestUnion::CreateRequest(create)).await;
    }
    let writer = async {
        for n in 0..DURING {
            world.put(&format!("a{}", n % 50), "w").await;
        }
    };
    let reader = async {
        let mut next = starts.clone();
        while next.iter().any(|next| *next < BEFORE + DURING + 2) {
            let answer = stream.next().await;
            let watcher = usize::try_from(answer.watch_id).expect("ids count from zero");
            for event in answer.events {
                assert_eq!(event.kv.expect("a key").mod_revision, next[watcher]);
                next[watcher] += 1;
            }
        }
    };
    tokio::join!(writer, reader);
    world.stop().await;
}
