//! Runs against the memtables they were spilled from.

use std::collections::BTreeSet;

use super::*;
use crate::{
    command::{Event, EventKind, KeyValue, LeaseId, Revised},
    machine::{
        rows::{Links, Meta},
        size::Trace,
    },
    wal::{Disk as _, VolatileDisk},
};

const LIMITS: RunLimits = RunLimits { versions: 100, key_bytes: 10_000, bytes: 100_000 };

fn create() -> Result<Arc<dyn File>, Fault> {
    Ok(VolatileDisk::default().create("run").expect("memory does not fail"))
}

/// Makes a revision in all tables given: `changes` are keys with a value, or none for a tombstone.
fn revise(tables: &[&Memtable], main: i64, changes: &[(String, Option<String>)]) {
    let mut revised = Revised { revision: Revision(main), events: Vec::new() };
    let mut traces = Vec::new();
    for (sub, (key, value)) in (0..).zip(changes) {
        let (at, prev) =
            (Version { main: Revision(main), sub }, Version { main: Revision(main - 1), sub: 0 });
        let links = Links { depth: 2, prev, jump: prev };
        let (create, version) = value.as_ref().map_or((0, 0), |_| (main - 1, 2));
        let lease = LeaseId(if value.is_some() { main % 3 } else { 0 });
        let meta = Meta { at, create: Revision(create), version, lease, links };
        let key = Bytes::copy_from_slice(key.as_bytes());
        let value = Bytes::from(value.clone().unwrap_or_default());
        for table in tables {
            table.insert(key.clone(), meta, value.clone());
        }
        let kind = if meta.is_tombstone() { EventKind::Delete } else { EventKind::Put };
        let kv = KeyValue { modified: at.main, ..meta.with(key, value) };
        revised.events.push(Event { kind, kv, prev: None });
        traces.push(Trace { links, dead: u64::from(sub) + main.unsigned_abs() });
    }
    let revised = Arc::new(revised);
    tables.iter().for_each(|table| table.push(revised.clone(), traces.clone()));
}

/// The same history as one memtable, and as a run of four spills.
fn both() -> (Memtable, Run) {
    let (whole, mut run, mut main) = (Memtable::default(), Run::new(LIMITS), 2);
    for spill in 0..4_i64 {
        let part = Memtable::default();
        for _ in 0..40 {
            // Few keys, so that most have versions in several spills, and one that is hot.
            let changes: Vec<_> = (0..=main % 3)
                .map(|nth| (main * 7 + nth * 5) % 23)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .map(|n| {
                    let value = (n % 4 != 0 || main % 2 == 0).then(|| format!("{n} at {main}"));
                    (if n < 9 { "hot".into() } else { format!("key{n:02}") }, value)
                })
                .collect();
            let mut once = BTreeSet::new();
            let changes: Vec<_> =
                changes.into_iter().filter(|(key, _)| once.insert(key.clone())).collect();
            revise(&[&whole, &part], main, &changes);
            main += 1;
        }
        run = run.with(&part, Revision(main - 1), &create).unwrap();
        assert_eq!(run.is_full(LIMITS), run.by_key.len() >= 100, "after spill {spill}");
    }
    (whole, run)
}

fn ranges() -> Vec<KeyRange> {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    vec![
        KeyRange::From(Bytes::new()),
        KeyRange::Key(bytes("hot")),
        KeyRange::Key(bytes("nothing")),
        KeyRange::Span(bytes("hot"), bytes("key15")),
        KeyRange::Span(bytes("key15"), bytes("hot")),
        KeyRange::From(bytes("key20")),
    ]
}

#[test]
fn a_run_reads_as_its_memtables_did() {
    let (whole, run) = both();
    for at in (0..170).map(Revision) {
        for key in ["hot", "key10", "key22", "key99", ""] {
            let expected = whole.get(&Bytes::from(key), at);
            let found = run.get(key.as_bytes(), at).unwrap();
            assert_eq!(found.map(|found| (found.meta, found.value)), expected, "{key} at {at}");
        }
        for range in ranges() {
            let (mut expected, mut cursor) = (whole.cursor(&range, at), run.cursor(&range, at));
            let mut buffer = Vec::new();
            while let Some(key) = expected.key() {
                assert_eq!(cursor.key(), Some(&key[..]), "{range:?} at {at}");
                let row = cursor.read(&mut buffer).unwrap();
                let stored = expected.stored().unwrap();
                assert_eq!((row.meta, row.value), (stored.meta, &stored.value[..]));
                expected.advance();
                cursor.advance();
            }
            assert_eq!(cursor.key(), None, "{range:?} at {at}");
        }
    }
}

#[test]
fn a_run_tells_its_history() {
    let (whole, run) = both();
    let all = |run: &Run, from: i64, upto: i64| {
        let mut seen = Vec::new();
        let went_on = run.versions(Revision(from), Revision(upto), &mut |row| {
            seen.push((row.meta, row.dead, row.key.to_vec(), row.value.to_vec()));
            Ok(true)
        });
        assert!(went_on.unwrap());
        seen
    };
    let mut expected = Vec::new();
    for logged in whole.log.from(Revision(2), 1_000) {
        for (meta, dead, kv) in logged.versions() {
            let found = run.version(meta.at).unwrap().expect("it was spilled");
            assert_eq!((found.meta, found.value), (meta, kv.value.clone()));
            assert_eq!(whole.version(&kv.key, meta.at), Some(meta));
            expected.push((meta, dead, kv.key.to_vec(), kv.value.to_vec()));
        }
        let last = logged.traces.last().unwrap().dead;
        assert_eq!(run.dead(logged.revised.revision).unwrap(), Some(last));
    }
    assert_eq!(all(&run, 0, 1_000), expected);
    let (from, upto) = (60, 90);
    expected.retain(|(meta, ..)| (from..=upto).contains(&meta.at.main.0));
    assert_eq!(all(&run, from, upto), expected);
    assert!(run.version(Version { main: Revision(500), sub: 0 }).unwrap().is_none());
    assert_eq!(run.dead(Revision(500)).unwrap(), None);
}

/// Of each key the newest version, which is what `cur` keeps, tombstones included.
#[test]
fn a_run_tells_the_newest_of_each_key() {
    let (whole, run) = both();
    let mut newest = Vec::new();
    let pushed = run.newest(&mut |row| {
        newest.push((row.key.to_vec(), row.meta, row.value.to_vec()));
        Ok(())
    });
    pushed.unwrap();
    let mut cursor = whole.cursor(&KeyRange::all(), Revision(i64::MAX));
    let mut expected = Vec::new();
    while let (Some(key), Some(stored)) = (cursor.key(), cursor.stored()) {
        expected.push((key.to_vec(), stored.meta, stored.value.to_vec()));
        cursor.advance();
    }
    assert_eq!(newest, expected);
    assert!(newest.iter().any(|(_, meta, _)| meta.is_tombstone()));
}

/// Whoever holds a run while it grows goes on seeing what it saw.
#[test]
fn a_run_does_not_change_while_its_successor_grows() {
    let (_, run) = both();
    let part = Memtable::default();
    revise(&[&part], 162, &[("hot".into(), Some("newer".into()))]);
    let grown = run.with(&part, Revision(162), &create).unwrap();
    let value = |run: &Run| run.get(b"hot", Revision(i64::MAX)).unwrap().unwrap().value;
    assert_eq!(value(&grown), "newer");
    assert_ne!(value(&run), "newer");
    assert!(run.version(Version { main: Revision(162), sub: 0 }).unwrap().is_none());
}

#[test]
fn a_short_file_is_told() {
    let (_, run) = both();
    run.file.as_ref().unwrap().set_size(10).unwrap();
    assert!(matches!(run.get(b"hot", Revision(i64::MAX)), Err(Fault::Damaged(_))));
}
