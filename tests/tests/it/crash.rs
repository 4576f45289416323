//! Kill −9 under load, again and again: what was acknowledged stays, and revisions never fall.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{PutRequest, RangeRequest};
use tests::server::{Program, Server};
use tonic::transport::Channel;

const ROUNDS: u32 = 200;
const WRITERS: usize = 8;
/// A few keys each, so that most writes overwrite and every key is judged often.
const KEYS_PER_WRITER: u64 = 16;

/// What the writers know: per key, the newest acknowledged value and every later one whose fate is
/// unknown because the server died before it answered.
#[derive(Default)]
struct Ledger {
    keys: BTreeMap<String, Entry>,
    revision: i64,
    acknowledged: u64,
}

#[derive(Default)]
struct Entry {
    acknowledged: Option<(u64, i64)>,
    unknown: Vec<u64>,
}

#[test]
#[expect(clippy::print_stdout, reason = "the volume of the run is part of its result")]
fn acknowledged_writes_survive_kill_9_in_a_loop() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    // Small checkpoints happen by age; a low snapshot count makes the log purge often too.
    let mut server =
        Server::start(Program::Ours, &dir.path().join("data"), &["--snapshot-count=1000"]);
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    for round in 0..ROUNDS {
        runtime.block_on(one_round(&mut server, &ledger, round));
        server.restart();
        runtime.block_on(check(&server, &ledger));
    }
    let ledger = ledger.lock().expect("no writer panicked");
    println!(
        "{ROUNDS} kills, {} acknowledged writes, revision {}",
        ledger.acknowledged, ledger.revision
    );
    assert!(ledger.acknowledged > u64::from(ROUNDS) * 20, "too quiet to mean anything");
}

/// Writes until the server is killed at a moment that differs from round to round.
async fn one_round(server: &mut Server, ledger: &Arc<Mutex<Ledger>>, round: u32) {
    let stop = Arc::new(AtomicBool::new(false));
    let channel = connect(server).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            tokio::spawn(write(n, round, channel.clone(), Arc::clone(ledger), Arc::clone(&stop)))
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(20 + u64::from(round * 37 % 90))).await;
    server.process.kill();
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer does not panic");
    }
}

async fn write(
    n: usize,
    round: u32,
    channel: Channel,
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
) {
    let mut client = KvClient::new(channel);
    for count in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("{n}/{}", count % KEYS_PER_WRITER);
        let value = (u64::from(round) << 32) + count;
        let request = PutRequest {
            key: key.clone().into(),
            value: value.to_string().into(),
            ..PutRequest::default()
        };
        let answer = client.put(request).await;
        let mut ledger = ledger.lock().expect("no writer panicked");
        let entry = ledger.keys.entry(key).or_default();
        match answer {
            Ok(answer) => {
                let revision = answer.into_inner().header.expect("answers carry a header").revision;
                assert!(
                    entry.acknowledged.is_none_or(|(_, last)| last < revision),
                    "revision fell"
                );
                entry.acknowledged = Some((value, revision));
                entry.unknown.clear();
                ledger.revision = ledger.revision.max(revision);
                ledger.acknowledged += 1;
            }
            Err(_) => {
                entry.unknown.push(value);
                return;
            }
        }
    }
}

/// Every key holds its newest acknowledged value, or one whose fate was unknown.
async fn check(server: &Server, ledger: &Arc<Mutex<Ledger>>) {
    let mut client = KvClient::new(connect(server).await);
    let all =
        RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..RangeRequest::default() };
    let answer = client.range(all).await.expect("a restarted server answers").into_inner();
    let revision = answer.header.expect("answers carry a header").revision;
    let found: BTreeMap<String, (u64, i64)> = answer
        .kvs
        .iter()
        .map(|kv| {
            let key = String::from_utf8(kv.key.to_vec()).expect("keys are text");
            let value = std::str::from_utf8(&kv.value).expect("values are text");
            (key, (value.parse().expect("values are numbers"), kv.mod_revision))
        })
        .collect();
    let mut ledger = ledger.lock().expect("no writer panicked");
    assert!(revision >= ledger.revision, "revision fell from {} to {revision}", ledger.revision);
    ledger.revision = revision;
    for (key, entry) in &mut ledger.keys {
        let got = found.get(key).copied();
        let acceptable = got == entry.acknowledged
            || got.is_some_and(|(value, _)| entry.unknown.contains(&value));
        assert!(
            acceptable,
            "{key}: found {got:?}, acknowledged {:?}, unknown {:?}",
            entry.acknowledged, entry.unknown
        );
        // What was read is an obligation from now on.
        entry.acknowledged = got;
        entry.unknown.clear();
    }
}

async fn connect(server: &Server) -> Channel {
    let endpoint = Channel::from_shared(server.url()).expect("the URL is well formed");
    endpoint.connect().await.expect("the server accepts connections")
}
