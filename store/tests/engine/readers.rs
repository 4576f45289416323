//! Readers on other threads see whole revisions, whatever the writer and the checkpoint do.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use bytes::Bytes;
use store::{
    command::{Command, KeyRange, Op, Put, RangeQuery, Revision, Txn},
    engine::{Budget, Reader},
};

use crate::{
    disk::healthy,
    world::{config, open},
};

const ENTRIES: u64 = 3_000;
const KEYS: i64 = 5;

/// Every transaction writes the same value to all keys, so any view in which they differ is torn.
/// Checkpoints and compactions go on all the time, since each entry fills a memtable.
#[test]
fn views_are_whole() {
    let disk = healthy();
    let mut engine = open(&disk, 1);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            let reader = engine.reader();
            scope.spawn(|| read_until(&done, reader));
        }
        for index in 0..ENTRIES {
            let mut commands = vec![Command::Txn(write_all(index))];
            if index % 50 == 49 {
                commands.push(Command::Compact(engine.reader().view().revision()));
            }
            engine.apply(index, None, &commands).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    engine.close().unwrap();
    let engine = store::engine::Engine::open(config(&disk, 1)).unwrap();
    assert_eq!(engine.applied().0, Some(ENTRIES - 1));
}

fn write_all(number: u64) -> Txn {
    let value = Bytes::from(format!("{number}"));
    let put = |key| {
        let key = Bytes::from(format!("key{key}"));
        Op::Put(Put { key, value: value.clone(), ..Put::default() })
    };
    Txn { success: (0..KEYS).map(put).collect(), ..Txn::default() }
}

fn read_until(done: &AtomicBool, reader: Reader) {
    let mut newest = Revision(0);
    let mut all = RangeQuery::new(KeyRange::all());
    while !done.load(Ordering::Relaxed) {
        let view = reader.view();
        assert!(view.revision() >= newest, "revisions never fall");
        newest = view.revision();
        for at in [newest, view.compacted().max(Revision(1))] {
            all.revision = at;
            let kvs = view.range(&all).unwrap().kvs;
            assert!(kvs.iter().all(|kv| kv.value == kvs[0].value && kv.modified == at));
            assert_eq!(kvs.len(), if at == Revision(1) { 0 } else { 5 });
        }
        let from = view.compacted().max(Revision(2));
        let history = view.history(from, Budget { revisions: 1_000, bytes: 1 << 20 }).unwrap();
        let expected = usize::try_from(newest.0 + 1 - from.0).unwrap();
        assert_eq!(history.revised.len(), expected.min(1_000));
    }
}
