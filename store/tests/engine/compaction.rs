//! Compaction at every revision of a history.
//!
//! Goal: wherever history is cut, what is left answers as before, what is gone is refused, and the
//! tables hold exactly the versions that are kept: for a cut at a put, an overwrite, a deletion, a
//! second life, in the middle of what a lease took along, at the newest revision, and for a second
//! cut further on.
//!
//! Method: one history that has all of those next to each other, small enough for every cut to be
//! tried, with all of it in the memtable and with all of it in the database.

use bytes::Bytes;
use store::{
    command::{Command, DeleteRange, KeyRange, LeaseId, Op, Put, RangeQuery, Revision, Txn},
    engine::Budget,
};

use crate::world::World;

fn key(name: &'static str) -> Bytes {
    Bytes::from_static(name.as_bytes())
}

fn put(name: &'static str, value: &'static str) -> Put {
    Put { key: key(name), value: key(value), ..Put::default() }
}

fn delete(range: KeyRange) -> DeleteRange {
    DeleteRange { range, prev_kv: false }
}

fn history() -> Vec<Command> {
    let put_one = |name, value| Command::Put(put(name, value));
    let delete_one = |name| Command::Delete(delete(KeyRange::Key(key(name))));
    let leased = |name| Command::Put(Put { lease: LeaseId(7), ..put(name, "leased") });
    let several = Txn {
        success: vec![
            Op::Put(put("a", "in a transaction")),
            Op::Delete(delete(KeyRange::Span(key("b"), key("d")))),
            Op::Put(put("e", "in a transaction")),
        ],
        ..Txn::default()
    };
    vec![
        put_one("a", "1"),
        put_one("b", "1"),
        put_one("a", "2"),
        Command::LeaseGrant { id: LeaseId(7), ttl: 60 },
        delete_one("a"),
        put_one("a", "second life"),
        leased("c"),
        leased("l/1"),
        leased("l/2"),
        put_one("l/1", "kept"),
        Command::Txn(several),
        delete_one("a"),
        delete_one("e"),
        put_one("e", "second life"),
        Command::LeaseRevoke(LeaseId(7)),
        put_one("b", "second life"),
        Command::Delete(delete(KeyRange::all())),
        put_one("a", "third life"),
        put_one("z", "last"),
        delete_one("z"),
    ]
}

/// Everything that can be asked about any revision.
fn check(world: &mut World) {
    let newest = world.model.revision.0;
    for at in -1..=newest + 1 {
        for range in [KeyRange::all(), KeyRange::Key(key("a")), KeyRange::Span(key("b"), key("m"))]
        {
            world.check_range(&RangeQuery { revision: Revision(at), ..RangeQuery::new(range) });
        }
        world.check_hash(Revision(at));
        for revisions in [1, 100] {
            world.check_history(Revision(at), Budget { revisions, bytes: 1 << 20 });
        }
    }
    world.check_small();
}

#[test]
fn any_revision_can_be_the_last_that_is_forgotten() {
    let mut cuts = 0;
    for memtable_bytes in [1, 1 << 30] {
        let mut newest = 1;
        let mut cut = 1;
        while cut <= newest {
            let mut world = World::new(memtable_bytes, 1);
            history().into_iter().for_each(|command| world.apply(vec![command]));
            newest = world.model.revision.0;
            world.apply(vec![Command::Compact(Revision(cut))]);
            check(&mut world);
            world.check_tables();
            check(&mut world);
            // And again, half of the way on.
            world.apply(vec![Command::Compact(Revision((cut + newest + 1) / 2))]);
            check(&mut world);
            world.check_tables();
            check(&mut world);
            cut += 1;
        }
        assert!(newest > 15, "a history of {newest} revisions says little");
        cuts += newest;
    }
    assert!(cuts > 30, "only {cuts} cuts were tried");
}
