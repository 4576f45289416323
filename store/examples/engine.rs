//! Times the engine alone: puts, overwrites and ranges, without log, raft or gRPC.
//!
//! `cargo run --example engine [keys]`. CPU time is that of the whole process, so the checkpoint
//! thread's share is in it.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use store::{
    command::{Command, KeyRange, Put, RangeQuery, Revision},
    engine::{Engine, EngineConfig, Identity, Storage},
    fault::Fault,
};

const BATCH: usize = 64;
const VALUE_BYTES: usize = 256;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys: usize = std::env::args().nth(1).map_or(Ok(200_000), |keys| keys.parse())?;
    let directory = std::env::temp_dir().join(format!("engine-bench-{}", std::process::id()));
    let storage = Storage::Directory(directory.clone());
    let mut engine = Engine::open(EngineConfig::new(storage, Identity::default()))?;
    let mut index = 0;

    let ascending = (0..keys).collect::<Vec<_>>();
    put(&mut engine, &mut index, "put, new keys", &ascending)?;
    let scattered = (0..keys).map(|n| n.wrapping_mul(2_654_435_761) % keys).collect::<Vec<_>>();
    range(&engine, "range of 1000, memtables over database", keys)?;
    timed("checkpoint", 1, || engine.checkpoint())?;
    range(&engine, "range of 1000, database", keys)?;
    put(&mut engine, &mut index, "overwrite, scattered", &scattered)?;
    range(&engine, "range of 1000, memtables over database", keys)?;
    let single = scattered.iter().take(20_000).copied().collect::<Vec<_>>();
    timed("put alone", single.len(), || {
        single.iter().try_for_each(|n| apply(&mut engine, &mut index, &[*n]))
    })?;
    count(&engine, keys)?;
    timed("checkpoint", 1, || engine.checkpoint())?;
    drop(engine);
    Ok(std::fs::remove_dir_all(directory)?)
}

fn key(n: usize) -> Bytes {
    Bytes::from(format!("/registry/key/{n:09}"))
}

fn apply(engine: &mut Engine, index: &mut u64, keys: &[usize]) -> Result<(), Fault> {
    let put = |n: &usize| {
        let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
        Command::Put(Put { key: key(*n), value, ..Put::default() })
    };
    let commands: Vec<_> = keys.iter().map(put).collect();
    *index += 1;
    let applied = engine.apply(*index, None, &commands)?;
    assert_eq!(Arc::strong_count(&applied.events[0]), 2, "one here, one in the log");
    Ok(())
}

fn put(engine: &mut Engine, index: &mut u64, what: &str, keys: &[usize]) -> Result<(), Fault> {
    timed(what, keys.len(), || keys.chunks(BATCH).try_for_each(|keys| apply(engine, index, keys)))
}

fn range(engine: &Engine, what: &str, keys: usize) -> Result<(), Box<dyn std::error::Error>> {
    let reader = engine.reader();
    let starts: Vec<_> = (0..200).map(|n| n * 7_919 % (keys - 1_000)).collect();
    timed(what, starts.len() * 1_000, || {
        for start in &starts {
            let range = KeyRange::Span(key(*start), key(start + 1_000));
            let answer = reader.view().range(&RangeQuery::new(range))?;
            assert_eq!(answer.kvs.len(), 1_000);
        }
        Ok(())
    })
}

fn count(engine: &Engine, keys: usize) -> Result<(), Box<dyn std::error::Error>> {
    let view = engine.reader().view();
    let mut page = RangeQuery::new(KeyRange::all());
    page.limit = 500;
    timed("page of 500 with the count of all", 1, || view.range(&page).map(drop))?;
    page.revision = Revision(i64::try_from(keys)?);
    timed("the same at an old revision", 1, || view.range(&page).map(drop))?;
    Ok(())
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
