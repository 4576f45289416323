//! The adapters under openraft's own conformance suite, and a single member through its life.

use super::leadership::Progress;
use super::log_store::LogStore;
use super::machine::{Builder, Machine};
use super::types::{LogId, StoredMembership, Types};
use super::*;
use crate::command::{Command, Outcome, Put, PutAnswer, Response, Revision};
use crate::engine::{Applied, Engine, EngineConfig, Identity, Storage};
use crate::wal::disk::{Disk, RealDisk};
use crate::wal::memory::{Fault as DiskFault, MemoryDisk};
use crate::wal::{self, Wal};
use bytes::Bytes;
use futures_util::Stream;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, StorageError};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const ID: u64 = 7;

/// A state machine that remembers what it was told, and is durable when the test says so.
#[derive(Clone)]
struct Recorder {
    told: Arc<Mutex<Told>>,
    durable: watch::Sender<u64>,
    seen: watch::Receiver<u64>,
}

#[derive(Default)]
struct Told {
    applied: Option<Checkpoint>,
    durable: Option<Checkpoint>,
    commands: Vec<Command>,
    entries: u64,
}

impl Recorder {
    fn new() -> Self {
        let (durable, seen) = watch::channel(0);
        Self { told: Arc::default(), durable, seen }
    }

    fn at(checkpoint: Checkpoint) -> Self {
        let recorder = Self::new();
        recorder.told.lock().unwrap().applied = Some(checkpoint.clone());
        recorder.told.lock().unwrap().durable = Some(checkpoint);
        recorder
    }

    fn checkpoint(&self) -> u64 {
        let mut told = self.told.lock().unwrap();
        told.durable = told.applied.clone();
        let index = told.durable.as_ref().map_or(0, |durable| durable.index);
        self.durable.send_replace(index);
        index
    }

    fn commands(&self) -> Vec<Command> {
        self.told.lock().unwrap().commands.clone()
    }
}

impl StateMachine for Recorder {
    type Checkpoints = Self;

    fn applied(&self) -> Option<Checkpoint> {
        self.told.lock().unwrap().applied.clone()
    }

    fn apply(
        &mut self,
        index: u64,
        raft_state: Option<Bytes>,
        commands: &[Command],
    ) -> Result<Vec<Outcome>, Failure> {
        let mut told = self.told.lock().unwrap();
        let before = told.applied.take().map(|applied| applied.raft_state);
        let raft_state = raft_state.or(before).expect("the first entry brings a state");
        told.applied = Some(Checkpoint { index, raft_state });
        told.entries += 1;
        let outcomes = commands.iter().map(|command| {
            told.commands.push(command.clone());
            let revision = Revision(i64::try_from(told.commands.len()).unwrap());
            Outcome { revision, result: Ok(Response::Put(PutAnswer { revision, prev: None })) }
        });
        Ok(outcomes.collect())
    }

    fn checkpoints(&self) -> Self {
        self.clone()
    }
}

impl Checkpoints for Recorder {
    fn durable(&self) -> Option<Checkpoint> {
        self.told.lock().unwrap().durable.clone()
    }

    async fn next(&mut self) -> Result<(), Failure> {
        Ok(self.seen.changed().await?)
    }

    async fn force(&self) -> Result<(), Failure> {
        self.checkpoint();
        Ok(())
    }
}

/// The adapter as it is, but with snapshots installed, which production refuses so far and the
/// suite insists on.
struct Installing(Machine<Recorder>);

impl RaftStateMachine<Types> for Installing {
    type SnapshotData = Checkpoint;
    type SnapshotBuilder = Builder<Recorder>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.0.applied_state().await
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        self.0.apply(entries).await
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Self::SnapshotBuilder> {
        self.0.try_create_snapshot_builder(force).await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.0.get_snapshot_builder().await
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<Types>,
        snapshot: Checkpoint,
    ) -> Result<(), io::Error> {
        self.0 = Machine::new(Recorder::at(snapshot), Arc::new(Progress::new(ID)))?;
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, Checkpoint>>, io::Error> {
        self.0.get_current_snapshot().await
    }
}

struct Stores;

impl StoreBuilder<Types, LogStore, Installing> for Stores {
    async fn build(&self) -> Result<((), LogStore, Installing), StorageError<Types>> {
        let progress = Arc::new(Progress::new(ID));
        let log = LogStore::new(open(&MemoryDisk::new(1)), progress.clone());
        let machine = Machine::new(Recorder::new(), progress).expect("an empty machine");
        Ok(((), log, Installing(machine)))
    }
}

#[tokio::test]
async fn openraft_conformance_suite() {
    Suite::test_all(Stores).await.expect("the adapters keep openraft's contract");
}

const SEGMENT_BYTES: u64 = 256 << 10;

fn wal_config() -> wal::Config {
    wal::Config { segment_bytes: SEGMENT_BYTES, cluster: 1, node: ID, salt: 3 }
}

fn open(disk: &MemoryDisk) -> Wal {
    Wal::open(Arc::new(disk.clone()), wal_config()).expect("the log opens")
}

fn config() -> RaftConfig {
    RaftConfig {
        id: ID,
        members: BTreeMap::from([(ID, Peer::default())]),
        heartbeat: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(7),
        segment_bytes: SEGMENT_BYTES,
    }
}

fn put(number: usize) -> Command {
    let key = Bytes::from(format!("key-{number:06}"));
    Command::Put(Put { key, value: Bytes::from(vec![b'v'; 256]), ..Put::default() })
}

async fn serve(disk: &MemoryDisk, recorder: &Recorder) -> Handle {
    let handle = start(config(), open(disk), recorder.clone()).await.expect("the member starts");
    handle.ready().await.expect("a single voter leads");
    handle
}

/// Goal: a single member serves within moments of its start, fresh or restarted, and a restart
/// applies again whatever the state machine had not made durable.
#[tokio::test]
async fn a_single_member_serves_at_once_and_comes_back() {
    let mut disk = MemoryDisk::new(1);
    let mut expected = Vec::new();
    for life in 0..5 {
        let recorder = Recorder::new();
        let began = Instant::now();
        let handle = serve(&disk, &recorder).await;
        assert!(began.elapsed() < Duration::from_millis(900), "waited for an election timeout");
        assert_eq!(recorder.commands(), expected, "life {life}");
        for number in 0..20 {
            let outcome = handle.propose(put(number)).await.expect("a healthy member");
            expected.push(put(number));
            let revision = i64::try_from(expected.len()).unwrap();
            assert_eq!(outcome.revision, Revision(revision));
        }
        handle.read_index().await.expect("it leads");
        assert!(handle.progress.may_read(), "life {life}: a lone voter reads without asking");
        let status = handle.status();
        assert!(status.is_leader && status.leader == Some(ID) && status.term == life + 1);
        assert_eq!((status.applied, status.committed), (status.last, status.last));
        // Half of the time the power goes instead of a proper stop.
        if life % 2 == 0 {
            assert_eq!(handle.shutdown().await, Stop::Asked);
            assert_eq!(handle.propose(put(0)).await, Err(Unavailable::Stopped));
            disk = disk.power_cut();
        } else {
            disk = disk.power_cut();
            drop(handle);
        }
    }
}

/// Goal: commands that wait together share entries, and each caller gets its own outcomes.
#[tokio::test]
async fn proposals_share_entries() {
    let (disk, recorder) = (MemoryDisk::new(1), Recorder::new());
    let handle = serve(&disk, &recorder).await;
    let before = recorder.told.lock().unwrap().entries;
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let handle = handle.clone();
        callers.spawn(async move {
            let commands = vec![put(number), put(number)];
            let outcomes = handle.propose_many(commands).await.expect("a healthy member");
            assert_eq!(outcomes[0].revision.next(), outcomes[1].revision);
            outcomes[0].revision
        });
    }
    let mut revisions: Vec<_> = callers.join_all().await;
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 1_000);
    let entries = recorder.told.lock().unwrap().entries - before;
    assert!(entries < 100, "{entries} entries for 2,000 commands");
    handle.shutdown().await;
}

/// Goal: after the disk refuses a write nothing is acknowledged any more, and the reason is told.
#[tokio::test]
async fn a_failing_disk_stops_the_member() {
    let (disk, recorder) = (MemoryDisk::new(1), Recorder::new());
    let handle = serve(&disk, &recorder).await;
    handle.propose(put(1)).await.expect("a healthy member");
    let mut acknowledged = 1;
    let refused = loop {
        // A spare that cannot be filled is borne, and may have met the fault; the log's own write
        // meets the next one.
        if acknowledged % 50 == 1 {
            disk.fail_after(3, DiskFault::Io);
        }
        assert!(acknowledged < 10_000, "the disk fails and nothing stops");
        match handle.propose(put(2)).await {
            Ok(_) => acknowledged += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Unavailable::Unknown | Unavailable::Stopped), "{refused}");
    let Stop::Failed(reason) = handle.stopped().await else { panic!("it was not asked to stop") };
    assert!(reason.contains("injected device error"), "{reason}");
    assert!(handle.propose(put(3)).await.is_err());
    let recorder = Recorder::new();
    let handle = serve(&disk.power_cut(), &recorder).await;
    assert!(recorder.commands().len() >= acknowledged);
    handle.shutdown().await;
}

/// Goal: the log is purged behind durable checkpoints only, and then keeps a bounded tail.
#[tokio::test]
async fn checkpoints_let_the_log_go() {
    let (disk, recorder) = (MemoryDisk::new(1), Recorder::new());
    let handle = serve(&disk, &recorder).await;
    for number in 0..1_500 {
        handle.propose(put(number)).await.expect("a healthy member");
    }
    let segments = || disk.list().unwrap().iter().filter(|name| name.ends_with(".wal")).count();
    let full = segments();
    assert!(full >= 2, "{full} segments");
    recorder.checkpoint();
    // The purge follows in the background; each further write lets the log thread see it.
    let deadline = Instant::now() + Duration::from_secs(10);
    while segments() >= full {
        assert!(Instant::now() < deadline, "the log was not purged");
        handle.propose(put(0)).await.expect("a healthy member");
    }
    handle.shutdown().await;
    // A restart needs the checkpoint now: without it the member says so, with it it serves.
    let error = start(config(), open(&disk), Recorder::new()).await.err();
    assert!(matches!(error, Some(StartError::DataBehind { .. })), "{error:?}");
    let applied = recorder.told.lock().unwrap().durable.clone().expect("was made");
    let restarted = Recorder::at(applied);
    let handle = serve(&disk, &restarted).await;
    handle.propose(put(1)).await.expect("a healthy member");
    handle.shutdown().await;
}

#[tokio::test]
async fn data_ahead_of_the_log_are_refused() {
    let (disk, recorder) = (MemoryDisk::new(1), Recorder::new());
    let handle = serve(&disk, &recorder).await;
    handle.propose(put(1)).await.expect("a healthy member");
    handle.shutdown().await;
    let error = start(config(), open(&MemoryDisk::new(2)), recorder).await.err();
    assert!(matches!(error, Some(StartError::LogBehind { .. })), "{error:?}");
}

#[tokio::test]
async fn who_is_not_a_member_cannot_form_a_cluster() {
    let config = RaftConfig { members: BTreeMap::from([(9, Peer::default())]), ..config() };
    let error = start(config, open(&MemoryDisk::new(1)), Recorder::new()).await.err();
    assert!(matches!(error, Some(StartError::NotMember { id: ID })), "{error:?}");
}

#[tokio::test]
async fn a_command_larger_than_an_entry_is_refused() {
    let (disk, recorder) = (MemoryDisk::new(1), Recorder::new());
    let handle = serve(&disk, &recorder).await;
    let value = Bytes::from(vec![0; 200 << 10]);
    let large = Command::Put(Put { key: Bytes::from_static(b"k"), value, ..Put::default() });
    let refused = handle.propose(large).await;
    assert!(matches!(refused, Err(Unavailable::TooLarge { .. })), "{refused:?}");
    handle.propose(put(1)).await.expect("others go on");
    handle.shutdown().await;
}

/// Goal: the whole path with the real engine: what is proposed is applied, told, and read back, and
/// the engine's own checkpoints let the log go.
#[tokio::test]
async fn the_engine_applies_what_is_proposed() {
    let disk = MemoryDisk::new(1);
    let identity = Identity::default();
    let engine = Engine::open(EngineConfig::new(Storage::memory(), identity)).expect("opens");
    let reader = engine.reader();
    let (told, mut events) = tokio::sync::mpsc::channel(2_000);
    let applier = Applier::new(engine, move |_: &[Command], applied: &mut Applied, _| {
        applied.events.iter().for_each(|revised| told.try_send(revised.revision).unwrap());
    });
    let handle = start(config(), open(&disk), applier).await.expect("the member starts");
    handle.ready().await.expect("a single voter leads");
    for number in 0..1_200 {
        let outcome = handle.propose(put(number)).await.expect("a healthy member");
        assert!(outcome.result.is_ok());
        assert_eq!(events.try_recv(), Ok(outcome.revision), "told before it is answered");
    }
    assert_eq!(reader.view().revision(), Revision(1_201));
    let segments = || disk.list().unwrap().iter().filter(|name| name.ends_with(".wal")).count();
    let full = segments();
    reader.request_checkpoint();
    let deadline = Instant::now() + Duration::from_secs(10);
    while segments() >= full {
        assert!(Instant::now() < deadline, "the log was not purged");
        handle.propose(put(0)).await.expect("a healthy member");
    }
    handle.shutdown().await;
}

/// Prints what the path of a write costs without gRPC and engine:
/// `cargo test -p store --lib raft::tests::measure -- --ignored --nocapture`.
#[test]
#[ignore = "measures, proves nothing"]
fn measure() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let callers = std::env::var("MEASURE_CALLERS").unwrap_or_else(|_| "1,8,64,512".into());
    for callers in callers.split(',').map(|callers| callers.parse().unwrap()) {
        let dir =
            tempfile::tempdir_in(std::env::var("MEASURE_DIR").unwrap_or_else(|_| "/tmp".into()))
                .unwrap();
        runtime.block_on(measure_one(dir.path(), callers));
    }
}

#[expect(clippy::print_stdout, reason = "it is what the measurement is for")]
async fn measure_one(dir: &std::path::Path, callers: usize) {
    let config_wal = wal::Config { segment_bytes: wal::SEGMENT_BYTES, ..wal_config() };
    let disk = Arc::new(RealDisk::open(dir).unwrap());
    let wal = Wal::open(disk, config_wal).unwrap();
    let config = RaftConfig { segment_bytes: wal::SEGMENT_BYTES, ..config() };
    let handle = start(config, wal.clone(), Recorder::new()).await.unwrap();
    handle.ready().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = wal.counters();
    let (cpu, began) = (cpu_nanos(), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let handle = handle.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < Duration::from_secs(3) {
                let asked = Instant::now();
                handle.propose(put(caller)).await.unwrap();
                latencies.push(asked.elapsed());
            }
            latencies
        });
    }
    let mut latencies: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let (elapsed, cpu_after) = (began.elapsed(), cpu_nanos());
    latencies.sort_unstable();
    let after = wal.counters();
    let puts = latencies.len();
    let syncs = after.syncs - before.syncs;
    let per_put = |thread: &str| {
        let nanos = |cpu: &BTreeMap<String, u64>| cpu.get(thread).copied().unwrap_or_default();
        (nanos(&cpu_after) - nanos(&cpu)) as f64 / 1e3 / puts as f64
    };
    println!(
        "{callers:>4} callers: {:>7.0} puts/s, p50 {:?}, p99 {:?}; CPU per put: raft {:.1} µs, wal \
         {:.1} µs; {:.1} puts per sync, {:.0} µs per write and sync",
        puts as f64 / elapsed.as_secs_f64(),
        latencies[puts / 2],
        latencies[puts * 99 / 100],
        per_put("raft"),
        per_put("wal"),
        puts as f64 / syncs as f64,
        (after.busy_nanos - before.busy_nanos) as f64 / 1e3 / syncs as f64,
    );
    handle.shutdown().await;
}

/// Processor time of each thread of this process, by name.
fn cpu_nanos() -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let Ok(name) = std::fs::read_to_string(path.join("comm")) else { continue };
        let Ok(stat) = std::fs::read_to_string(path.join("schedstat")) else { continue };
        let nanos: u64 = stat.split_whitespace().next().unwrap().parse().unwrap();
        *sums.entry(name.trim().to_owned()).or_default() += nanos;
    }
    sums
}
