//! Watchers that ask for a lot: one that is very far behind, and very many on one stream.
//!
//! Goal: what a client does not read costs the server no memory that grows with it, others notice
//! nothing, and when it does read it gets every event once and in order. A stream bears as many
//! watchers as the limit says, and closing it takes all of them away.

use std::time::{Duration, Instant};

use pb::kv_client::KvClient;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use proto::etcdserverpb as pb;
use tests::http;
use tests::process::PATIENCE;
use tests::server::{Program, Server};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Nearly 400 megabytes, in transactions of several puts.
const TXNS: i64 = 3_000;
const PUTS: i64 = 32;
const VALUE_BYTES: usize = 4_000;
/// What the server may take while all of that is not read: its memtables, its cache and what it keeps
/// of recent history.
const MEMORY_KB_MAX: u64 = 300 << 10;
/// Watchers on one stream.
const CROWD: i64 = 100_000;

type Requests = mpsc::Sender<pb::WatchRequest>;

async fn connect(server: &Server) -> Channel {
    let endpoint = Channel::from_shared(server.url()).expect("the URL is well formed");
    endpoint.connect().await.expect("the server accepts connections")
}

async fn open(server: &Server) -> (Requests, Streaming<pb::WatchResponse>) {
    let (requests, received) = mpsc::channel(64);
    let mut client = WatchClient::new(connect(server).await);
    let answers = client.watch(ReceiverStream::new(received)).await.expect("a stream");
    (requests, answers.into_inner())
}

fn ask(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

fn everything() -> pb::WatchRequest {
    ask(RequestUnion::CreateRequest(pb::WatchCreateRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..Default::default()
    }))
}

/// Kilobytes of memory in use.
fn resident(server: &Server) -> u64 {
    let path = format!("/proc/{}/status", server.process.pid());
    let status = std::fs::read_to_string(path).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Reads until the last revision; every revision must be whole, and follow the one before.
async fn read_all(answers: &mut Streaming<pb::WatchResponse>, last: i64) {
    let (mut revision, mut left) = (1, 0);
    while revision < last || left > 0 {
        let next = tokio::time::timeout(Duration::from_secs(60), answers.message());
        let answer = next.await.expect("in time").expect("an answer").expect("the stream goes on");
        for event in answer.events {
            let at = event.kv.expect("a key").mod_revision;
            if left == 0 {
                (revision, left) = (revision + 1, PUTS);
            }
            assert_eq!(at, revision, "{left} events of it are missing");
            left -= 1;
        }
    }
}

fn txn(nth: i64) -> pb::TxnRequest {
    let put = |key: i64| pb::PutRequest {
        key: format!("key/{key:03}").into(),
        value: format!("{nth:0>VALUE_BYTES$}").into(),
        ..Default::default()
    };
    let op = |key| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put(key))) };
    pb::TxnRequest { success: (0..PUTS).map(op).collect(), ..Default::default() }
}

#[tokio::test]
async fn who_is_hundreds_of_megabytes_behind_loses_nothing_and_costs_little() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let server = Server::start(Program::Ours, &dir.path().join("data"), &[]);
    let (slow_requests, mut slow) = open(&server).await;
    let (quick_requests, mut quick) = open(&server).await;
    for (requests, answers) in [(&slow_requests, &mut slow), (&quick_requests, &mut quick)] {
        requests.send(everything()).await.expect("the stream is open");
        assert!(answers.message().await.expect("an answer").expect("one").created);
    }
    let reader = tokio::spawn(async move {
        read_all(&mut quick, TXNS + 1).await;
        drop(quick_requests);
    });
    let mut kv = KvClient::new(connect(&server).await);
    let (mut longest, mut most) = (Duration::ZERO, 0);
    for nth in 0..TXNS {
        let begun = Instant::now();
        kv.txn(txn(nth)).await.expect("a transaction");
        longest = longest.max(begun.elapsed());
        if nth % 100 == 99 {
            most = most.max(resident(&server));
        }
    }
    reader.await.expect("the quick one hears everything");
    assert!(most < MEMORY_KB_MAX, "{most} kB for events that nobody reads");
    assert!(longest < Duration::from_secs(5), "a writer waited {longest:?}");
    read_all(&mut slow, TXNS + 1).await;
    let most = resident(&server);
    assert!(most < MEMORY_KB_MAX, "{most} kB to catch up");
}

/// The number of watchers, as the server counts them.
fn watchers(server: &Server) -> f64 {
    let (_, page) = http::get(&server.endpoint, "/metrics");
    let line =
        page.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total "));
    line.and_then(|number| number.parse().ok()).expect("watchers are counted")
}

#[tokio::test]
async fn a_stream_bears_a_hundred_thousand_watchers() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let server = Server::start(Program::Ours, &dir.path().join("data"), &[]);
    let before = resident(&server);
    let (requests, mut answers) = open(&server).await;
    let asking = tokio::spawn(async move {
        for nth in 0..CROWD {
            let key = format!("key/{nth}").into();
            let create = pb::WatchCreateRequest { key, ..Default::default() };
            requests.send(ask(RequestUnion::CreateRequest(create))).await.expect("it is open");
        }
        // One that does not exist is nothing to be said about.
        let unknown = pb::WatchCancelRequest { watch_id: -7 };
        requests.send(ask(RequestUnion::CancelRequest(unknown))).await.expect("it is open");
        requests
    });
    for nth in 0..CROWD {
        let answer = answers.message().await.expect("an answer").expect("the stream goes on");
        assert!(answer.created && !answer.canceled && answer.watch_id == nth, "{nth}: {answer:?}");
    }
    let requests = asking.await.expect("all are asked for");
    let each = (resident(&server) - before) * 1024 / CROWD.unsigned_abs();
    assert!(each < 4096, "{each} bytes for a watcher");
    assert!(watchers(&server) >= 100_000.0, "{} watchers", watchers(&server));

    // The last of them hears what it asked for, and nobody else does.
    let mut kv = KvClient::new(connect(&server).await);
    let key = format!("key/{}", CROWD - 1);
    let put = pb::PutRequest { key: key.clone().into(), ..Default::default() };
    kv.put(put).await.expect("a put");
    let answer = answers.message().await.expect("an answer").expect("the stream goes on");
    assert_eq!((answer.watch_id, answer.events.len()), (CROWD - 1, 1));
    drop((requests, answers));
    let deadline = Instant::now() + PATIENCE;
    while watchers(&server) > 0.0 {
        assert!(Instant::now() < deadline, "{} watchers are still there", watchers(&server));
        // Not by blocking: the connection's end is sent by this very thread.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
