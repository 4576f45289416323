//! Times the engine alone: puts, overwrites, ranges and house-keeping, without log, raft or gRPC.
//!
//! `cargo run --release --example engine [keys]`. CPU time is that of the whole process, so the
//! checkpoint thread's share is in it. Of writes the longest single `apply` is told too: what a
//! checkpoint, a compaction or a defragmentation beside them makes a client wait.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use store::{
    command::{Command, KeyRange, Put, RangeQuery, Revision},
    engine::{Engine, EngineConfig, Identity, Storage},
    fault::Fault,
    machine::{
        range::RowSink,
        rows::{Meta, Piece},
    },
};

const BATCH: usize = 64;
const VALUE_BYTES: usize = 256;

struct Bench {
    engine: Engine,
    index: u64,
    keys: usize,
    longest: Duration,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys: usize = std::env::args().nth(1).map_or(Ok(200_000), |keys| keys.parse())?;
    let directory = std::env::temp_dir().join(format!("engine-bench-{}", std::process::id()));
    let open = || {
        let storage = Storage::Directory(directory.clone());
        Engine::open(EngineConfig::new(storage, Identity::default()))
    };
    let mut bench = Bench { engine: open()?, index: 0, keys, longest: Duration::ZERO };

    let ascending = (0..keys).collect::<Vec<_>>();
    let scattered = (0..keys).map(|n| n.wrapping_mul(2_654_435_761) % keys).collect::<Vec<_>>();
    bench.put("put, new keys", &ascending)?;
    bench.range("range of 1000, memtables over database")?;
    timed("checkpoint", 1, || bench.engine.checkpoint())?;
    bench.range("range of 1000, database")?;
    bench.range("range of 1000 again")?;
    bench.put("overwrite, scattered", &scattered)?;
    bench.range("range of 1000, memtables over database")?;
    bench.questions()?;
    let single = &scattered[..scattered.len().min(20_000)];
    bench.put_alone(single)?;

    let now = bench.engine.reader().view().revision();
    bench.index += 1;
    bench.engine.apply(bench.index, None, &[Command::Compact(now)])?;
    bench.put("overwrite beside removal of history", &scattered)?;
    let reader = bench.engine.reader();
    let defragment = std::thread::spawn(move || {
        let started = Instant::now();
        reader.defragment_now().map(|()| started.elapsed())
    });
    bench.put("overwrite beside defragment", &scattered)?;
    let took = defragment.join().expect("does not panic")?;
    eprintln!("defragment took {took:?}; {}", memory());

    let Bench { engine, .. } = bench;
    timed("checkpoint", 1, || engine.checkpoint())?;
    drop(engine);
    timed("open", 1, || open().map(drop))?;
    Ok(std::fs::remove_dir_all(directory)?)
}

fn key(n: usize) -> Bytes {
    Bytes::from(format!("/registry/key/{n:09}"))
}

impl Bench {
    fn apply(&mut self, keys: &[usize]) -> Result<(), Fault> {
        let put = |n: &usize| {
            let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
            Command::Put(Put { key: key(*n), value, ..Put::default() })
        };
        let commands: Vec<_> = keys.iter().map(put).collect();
        self.index += 1;
        let started = Instant::now();
        let applied = self.engine.apply(self.index, None, &commands)?;
        self.longest = self.longest.max(started.elapsed());
        assert_eq!(Arc::strong_count(&applied.events[0]), 2, "one here, one in the log");
        Ok(())
    }

    fn put(&mut self, what: &str, keys: &[usize]) -> Result<(), Fault> {
        self.longest = Duration::ZERO;
        timed(what, keys.len(), || keys.chunks(BATCH).try_for_each(|keys| self.apply(keys)))?;
        eprintln!("    longest apply {:?}; {}", self.longest, memory());
        Ok(())
    }

    fn put_alone(&mut self, keys: &[usize]) -> Result<(), Fault> {
        timed("put alone", keys.len(), || keys.iter().try_for_each(|key| self.apply(&[*key])))
    }

    fn range(&self, what: &str) -> Result<(), Box<dyn std::error::Error>> {
        let reader = self.engine.reader();
        let starts: Vec<_> = (0..200).map(|n| n * 7_919 % (self.keys - 1_000)).collect();
        timed(what, starts.len() * 1_000, || {
            for start in &starts {
                let range = KeyRange::Span(key(*start), key(start + 1_000));
                let mut buffer = Encoded(Vec::with_capacity(400_000), 0);
                let summary = reader.view().range_into(&RangeQuery::new(range), &mut buffer)?;
                assert_eq!((buffer.1, summary.count), (1_000, 1_000));
            }
            Ok(())
        })
    }

    fn questions(&self) -> Result<(), Box<dyn std::error::Error>> {
        let view = self.engine.reader().view();
        let mut page = RangeQuery::new(KeyRange::all());
        page.limit = 500;
        let ask = |what: &str, query: &RangeQuery| {
            timed(what, 20, || (0..20).try_for_each(|_| view.range(query).map(drop)))
        };
        ask("page of 500 with the count of all", &page)?;
        let back = |revisions: i64| Revision(view.revision().0 - revisions);
        ask("the same 1000 revisions ago", &RangeQuery { revision: back(1_000), ..page.clone() })?;
        let half = i64::try_from(self.keys / 2)?;
        ask("the same half the keys ago", &RangeQuery { revision: back(half), ..page.clone() })?;
        ask("count of all", &RangeQuery { count_only: true, ..page.clone() })?;
        ask("keys only, page of 500", &RangeQuery { keys_only: true, ..page })?;
        let reader = self.engine.reader();
        timed("get", 20_000, || {
            (0..20_000).try_for_each(|n| {
                let query = RangeQuery::new(KeyRange::Key(key(n * 7_919 % self.keys)));
                reader.view().range(&query).map(drop)
            })
        })?;
        Ok(())
    }
}

/// Rows copied one after another, as an encoder does.
struct Encoded(Vec<u8>, usize);

impl RowSink for Encoded {
    fn row(&mut self, key: Piece<'_>, _: &Meta, value: Piece<'_>) {
        self.0.extend_from_slice(key.as_slice());
        self.0.extend_from_slice(value.as_slice());
        self.1 += 1;
    }
}

fn timed<E>(what: &str, count: usize, run: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    let (start, cpu) = (Instant::now(), cpu_seconds());
    run()?;
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let count = count as f64;
    eprintln!(
        "{what:<42} {:>10.0}/s {:>9.3} us wall {:>9.3} us CPU",
        count / wall,
        wall / count * 1e6,
        cpu / count * 1e6
    );
    Ok(())
}

/// What the kernel has counted for this process, in its hundredths of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux has it");
    let (_, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    ticks.map(|ticks| ticks.expect("user and system time are numbers")).sum::<f64>() / 100.0
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.expect("it says so").split_whitespace().collect::<Vec<_>>().join(" ")
}
