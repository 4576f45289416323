//! Disks that fail, directories in use, and databases that are not ours to read.

use std::time::Duration;

use bytes::Bytes;
use store::{
    command::{Command, DeleteRange, KeyRange, LeaseId, Put, RangeQuery, Revision},
    engine::{Engine, EngineConfig, Storage, inspect_image},
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
        assert!(matches!(fault, Some(Fault::Database(_) | Fault::Io { .. })), "{fault:?}");
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
fn a_volatile_engine_is_like_any_other_until_it_ends() {
    let open = || Engine::open(EngineConfig::new(Storage::Memory, IDENTITY)).unwrap();
    let mut engine = open();
    for index in 0..500 {
        engine.apply(index, None, &[put(index % 40)]).unwrap();
    }
    engine.checkpoint().unwrap();
    engine.reader().defragment_now().unwrap();
    engine.apply(500, None, &[put(40)]).unwrap();
    assert_eq!((count(&engine), engine.reader().view().revision()), (41, Revision(502)));
    engine.close().unwrap();
    assert_eq!((count(&open()), open().applied().0), (0, None));
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
    let aged = EngineConfig { idle: Duration::from_millis(20), ..config(&disk, 1 << 30) };
    let mut engine = Engine::open(aged).unwrap();
    let mut durable = engine.reader().durable();
    engine.apply(0, None, &[put(0)]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(durable.wait_for(|durable| durable.index == Some(0))).unwrap();
}

/// A database with all there can be in it.
fn image() -> Vec<u8> {
    let disk = healthy();
    let mut engine = open(&disk, 1 << 20);
    let lease = LeaseId(7);
    engine.apply(0, None, &[Command::LeaseGrant { id: lease, ttl: 60 }]).unwrap();
    for index in 1..400 {
        let value = Bytes::from(vec![b'v'; usize::try_from(index % 7 * 120).unwrap()]);
        let key = Bytes::from(format!("key{}", index % 90));
        let put = Command::Put(Put { key: key.clone(), value, lease, ..Put::default() });
        let delete = DeleteRange { range: KeyRange::Key(key), prev_kv: false };
        let command = if index % 9 == 0 { Command::Delete(delete) } else { put };
        engine.apply(index, None, &[command]).unwrap();
    }
    engine.apply(400, None, &[Command::Compact(Revision(50))]).unwrap();
    engine.close().unwrap();
    disk.bytes("state.redb")
}

/// Goal: a sound database is described; a damaged one gives an error or, where the damage is in no
/// page that counts, the same description. Nothing aborts and nothing runs away.
#[test]
fn damage_is_found_and_does_no_harm() {
    let image = image();
    let sound = inspect_image(&image).unwrap();
    assert_eq!((sound.applied, sound.identity), (Some(400), IDENTITY));
    assert!(sound.keys > 50 && sound.versions > 300, "{sound:?}");
    assert!(inspect_image(&[]).is_err() && inspect_image(&[7; 5_000]).is_err());
    let mut seed = 5_u64;
    let mut random = |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap() % bound
    };
    let used: Vec<usize> = (0..image.len()).filter(|at| image[*at] != 0).collect();
    let mut found = 0;
    for round in 0..200 {
        let mut damaged = image.clone();
        match round % 4 {
            0 => damaged.truncate(random(image.len())),
            1 => damaged[random(4_096)] ^= 1 << random(8),
            2 => damaged[used[random(used.len())]] ^= 1 << random(8),
            _ => {
                let at = random(image.len() / 512) * 512;
                damaged[at..at + 512].fill(0);
            }
        }
        match inspect_image(&damaged) {
            Ok(inspection) => assert_eq!(inspection, sound, "round {round}"),
            Err(_) => found += 1,
        }
    }
    assert!(found >= 50, "only {found} damages were noticed");
}
