//! Disks that fail, directories in use, and databases that are not ours to read.

use std::time::Duration;

use bytes::Bytes;
use store::{
    command::{Command, KeyRange, Put, RangeQuery},
    engine::{Engine, EngineConfig, Storage},
    fault::Fault,
};

use crate::{
    disk::{DiskFault, healthy, with_database},
    world::{IDENTITY, config, open},
};

fn put(n: u64) -> Command {
    let key = Bytes::from(format!("key{n}"));
    Command::Put(Put { key, value: Bytes::from_static(b"value"), ..Put::default() })
}

fn count(engine: &Engine) -> i64 {
    engine.reader().view().range(&RangeQuery::new(KeyRange::all())).unwrap().count
}

/// However early the disk breaks, `apply` says so in the end rather than going on in memory, and
/// what is on the disk afterwards is a whole checkpoint.
#[test]
fn a_broken_disk_stops_the_engine_and_tears_nothing() {
    for operations in 0..60 {
        let disk = healthy();
        let mut engine = open(&disk, 20_000);
        disk.fail_after(operations, DiskFault::Io);
        let fault = (0..10_000).find_map(|index| engine.apply(index, None, &[put(index)]).err());
        assert!(matches!(fault, Some(Fault::Database(_))), "{fault:?}");
        assert!(engine.reader().fault().borrow().is_some());
        assert!(engine.checkpoint().is_err());
        drop(engine);

        let engine = open(&disk.killed(), 20_000);
        let entries = engine.applied().0.map_or(0, |index| index + 1);
        assert_eq!(count(&engine), i64::try_from(entries).unwrap());
    }
}

#[test]
fn a_directory_serves_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine");
    let open = || Engine::open(EngineConfig::new(Storage::Directory(path.clone()), IDENTITY));
    let mut engine = open().unwrap();
    engine.apply(0, None, &[put(0)]).unwrap();
    assert!(matches!(open(), Err(Fault::Locked { .. })));
    engine.close().unwrap();
    let engine = open().unwrap();
    assert_eq!((engine.applied().0, count(&engine)), (Some(0), 1));
}

#[test]
fn a_newer_format_is_refused() {
    let disk = healthy();
    drop(open(&disk, 1));
    with_database(&disk, |database| {
        let transaction = database.begin_write().unwrap();
        let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
        let mut table = transaction.open_table(meta).unwrap();
        table.insert("format", &3_u32.to_le_bytes()[..]).unwrap();
        drop(table);
        transaction.commit().unwrap();
    });
    let refused = Engine::open(config(&disk, 1));
    assert!(matches!(refused, Err(Fault::NewerFormat { found: 3, known: 2, .. })));
}

/// What the version before wrote has no counts; they are made when it is opened.
#[test]
fn a_database_of_format_1_is_brought_up_to_date() {
    let disk = healthy();
    let mut engine = open(&disk, 1 << 20);
    (0..1_000).for_each(|index| drop(engine.apply(index, None, &[put(index)]).unwrap()));
    engine.close().unwrap();
    with_database(&disk, |database| {
        let transaction = database.begin_write().unwrap();
        let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
        let one = 1_u32.to_le_bytes();
        transaction.open_table(meta).unwrap().insert("format", &one[..]).unwrap();
        let counts = redb::TableDefinition::<&[u8], u32>::new("count");
        assert!(transaction.delete_table(counts).unwrap());
        transaction.commit().unwrap();
    });
    for _ in 0..2 {
        let mut engine = open(&disk, 1 << 20);
        let view = engine.reader().view();
        let range = KeyRange::Span(Bytes::from("key1"), Bytes::from("key4"));
        let query = RangeQuery { count_only: true, ..RangeQuery::new(range) };
        assert_eq!((view.sizes().keys, view.range(&query).unwrap().count), (1_000, 333));
        let again = engine.applied().0.unwrap() + 1;
        engine.apply(again, None, &[put(7)]).unwrap();
        engine.close().unwrap();
    }
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("state.redb"), vec![7; 100_000]).unwrap();
    let storage = Storage::Directory(directory.path().into());
    assert!(matches!(Engine::open(EngineConfig::new(storage, IDENTITY)), Err(Fault::Database(_))));
}

/// An idle engine writes what it has by itself, soon.
#[test]
fn a_checkpoint_comes_with_age() {
    let disk = healthy();
    let aged = EngineConfig { memtable_age: Duration::from_millis(20), ..config(&disk, 1 << 30) };
    let mut engine = Engine::open(aged).unwrap();
    let mut durable = engine.reader().durable();
    engine.apply(0, None, &[put(0)]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(durable.wait_for(|durable| durable.index == Some(0))).unwrap();
}
