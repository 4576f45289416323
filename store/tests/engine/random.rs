//! Random commands, questions and accidents against the model.
//!
//! Revisions are drawn relative to what is retained when their turn comes, so that most questions
//! and compactions are about something.

use std::cell::Cell;

use bytes::Bytes;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};
use store::{
    command::{
        Access, Alarm, AlarmKind, AuthOp, Command, Compare, CompareResult, CompareTarget,
        DeleteRange, KeyRange, LeaseId, Login, MemberId, Op, PasswordHash, Permission, Put, ROOT,
        RangeQuery, Revision, Sender, SortOrder, SortTarget, Txn,
    },
    engine::Budget,
    machine::auth::needs::Act,
};

use crate::{model::Model, world::World};

#[derive(Clone, Debug)]
enum Step {
    Entry(Vec<Command>),
    Range(RangeQuery),
    /// A transaction that only asks.
    Ask(Txn),
    May(Option<Sender>, Act, KeyRange),
    History(Revision, usize, usize),
    Hash(Revision),
    Small,
    Checkpoint,
    Reopen,
    Defragment,
    PowerCut,
}

/// Steps of one case; with the cases below far more than a hundred thousand commands.
const STEPS_MAX: usize = 120;
const CASES: u32 = 1_200;

#[test]
fn the_engine_does_what_the_model_does() {
    let config = Config {
        cases: CASES,
        rng_seed: RngSeed::Fixed(0x5709_e004 + crate::other_seeds()),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let commands = Cell::new(0);
    let steps = vec(step(), STEPS_MAX / 2..STEPS_MAX);
    let sizes = prop_oneof![Just(1), Just(5_000), Just(50_000), Just(1 << 30)];
    TestRunner::new(config)
        .run(&(sizes, any::<u64>(), steps), |(memtable_bytes, seed, steps)| {
            let mut world = World::new(memtable_bytes, seed);
            for step in steps {
                if let Step::Entry(entry) = &step {
                    commands.set(commands.get() + entry.len());
                }
                take(&mut world, step);
            }
            take(&mut world, Step::Small);
            world.check_tables();
            take(&mut world, Step::Hash(Revision(0)));
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    let commands = commands.get();
    assert!(commands >= 100_000, "only {commands} commands were tried");
}

fn take(world: &mut World, step: Step) {
    match step {
        Step::Entry(mut commands) => {
            // Each command may make a revision, so the later ones see a guess; that is enough.
            commands.iter_mut().for_each(|command| settle(&world.model, command));
            world.apply(commands);
        }
        Step::Range(mut query) => {
            query.revision = at(&world.model, query.revision);
            for bound in [&mut query.min_modified, &mut query.max_create] {
                *bound = at(&world.model, *bound);
            }
            world.check_range(&query);
        }
        Step::Ask(mut txn) => {
            settle_txn(&world.model, &mut txn);
            world.check_txn(&txn);
        }
        Step::May(mut by, act, range) => {
            by.iter_mut().for_each(|by| settle_sender(&world.model, by));
            world.check_permission(by.as_ref(), act, &range);
        }
        Step::History(from, revisions, bytes) => {
            let from = at(&world.model, from);
            world.check_history(from, Budget { revisions, bytes });
        }
        Step::Hash(upto) => {
            let upto = at(&world.model, upto);
            world.check_hash(upto);
        }
        Step::Small => world.check_small(),
        Step::Checkpoint => world.checkpoint(),
        Step::Reopen => world.reopen(),
        Step::Defragment => world.defragment(),
        Step::PowerCut => world.power_cut(),
    }
}

/// Turns a drawn number into a revision: 0 stays, the rest lies from two below the compacted
/// revision to two above the newest.
fn at(model: &Model, drawn: Revision) -> Revision {
    let lowest = model.compacted.0.max(0) - 2;
    match drawn.0 {
        0 => Revision(0),
        drawn => Revision(lowest + drawn % (model.revision.0 + 3 - lowest)),
    }
}

fn settle(model: &Model, command: &mut Command) {
    match command {
        Command::Compact(upto) => {
            let lowest = model.compacted.0 - 1;
            // Mostly a little further, so that there is history left to ask about.
            let span = (model.revision.0 + 2 - lowest).max(1);
            upto.0 = lowest + (upto.0 % span).min(upto.0 % 7);
        }
        Command::Txn(txn) => settle_txn(model, txn),
        Command::Sent { by, command } => {
            settle_sender(model, by);
            settle(model, command);
        }
        _ => {}
    }
}

/// What was drawn is how many changes ago he proved who he is.
fn settle_sender(model: &Model, by: &mut Sender) {
    if let Sender::User(login) = by {
        login.revision = model.guard.revision.saturating_sub(login.revision);
    }
}

fn settle_txn(model: &Model, txn: &mut Txn) {
    for compare in &mut txn.compares {
        if let CompareTarget::Create(revision) | CompareTarget::Modified(revision) =
            &mut compare.target
        {
            *revision = at(model, *revision);
        }
    }
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match op {
            Op::Range(query) => query.revision = at(model, query.revision),
            Op::Txn(txn) => settle_txn(model, txn),
            Op::Put(_) | Op::Delete(_) => {}
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        60 => vec(sent(), 1..4).prop_map(Step::Entry),
        2 => Just(Step::Entry(users())),
        30 => query().prop_map(Step::Range),
        4 => (vec(compare(), 0..3), vec(query(), 0..3), vec(query(), 0..2)).prop_map(
            |(compares, success, failure)| {
                let ranges = |queries: Vec<_>| queries.into_iter().map(Op::Range).collect();
                Step::Ask(Txn { compares, success: ranges(success), failure: ranges(failure) })
            }
        ),
        10 => (by(), any::<bool>(), range()).prop_map(|(by, reads, range)| {
            Step::May(by, if reads { Act::Read } else { Act::Write }, range)
        }),
        6 => (drawn(), 1..20_usize, 1..4_000_usize)
            .prop_map(|(from, revisions, bytes)| Step::History(from, revisions, bytes)),
        3 => drawn().prop_map(Step::Hash),
        4 => Just(Step::Small),
        4 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
        1 => Just(Step::Defragment),
        1 => Just(Step::PowerCut),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        40 => put().prop_map(Command::Put),
        12 => delete().prop_map(Command::Delete),
        20 => txn(2).prop_map(Command::Txn),
        5 => drawn().prop_map(Command::Compact),
        5 => lease().prop_map(|id| Command::LeaseGrant { id, ttl: id.0 * 10 }),
        3 => lease().prop_map(Command::LeaseRevoke),
        1 => (lease(), 0..100_i64).prop_map(|left| Command::LeaseCheckpoint(vec![left])),
        1 => (0..60_000_u64).prop_map(|bytes| Command::Quota { bytes, member: MemberId(7) }),
        2 => Just(Command::ClearAlarm(Alarm { member: MemberId(7), kind: AlarmKind::NoSpace })),
    ]
}

/// A command, mostly with somebody who sends it: once logging in is required nothing else is carried
/// out.
fn sent() -> impl Strategy<Value = Command> {
    let command = prop_oneof![9 => command(), 1 => auth_op().prop_map(Command::Auth)];
    (command, by()).prop_map(|(command, by)| match by {
        Some(by) => command.by(by),
        None => command,
    })
}

fn by() -> impl Strategy<Value = Option<Sender>> {
    let login = (user(), prop_oneof![8 => Just(0), 1 => 1..3_u64])
        .prop_map(|(user, revision)| Sender::User(Login { user, revision }));
    prop_oneof![3 => Just(None), 3 => Just(Some(Sender::Store)), 6 => login.prop_map(Some)]
}

/// The beginning of every session about users, which chance alone would seldom find.
fn users() -> Vec<Command> {
    let [root, alice] = [ROOT, "alice"].map(str::to_owned);
    let hash = PasswordHash(Bytes::from_static(b"hash"));
    let add = |name| AuthOp::UserAdd { name, hash: hash.clone(), no_password: false };
    let give = |user, role: &str| AuthOp::UserGrantRole { user, role: role.to_owned() };
    let role = AuthOp::RoleAdd { name: "r1".to_owned() };
    let ops = [
        add(root.clone()),
        give(root, ROOT),
        add(alice.clone()),
        role,
        give(alice, "r1"),
        AuthOp::Enable,
    ];
    ops.map(|op| Command::Auth(op).by(Sender::Store)).into()
}

fn user() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just(ROOT), 5 => Just("alice"), 2 => Just("bob"), 1 => Just("")]
        .prop_map(str::to_owned)
}

fn role() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(ROOT), 5 => Just("r1"), 3 => Just("r2"), 1 => Just("")]
        .prop_map(str::to_owned)
}

fn auth_op() -> impl Strategy<Value = AuthOp> {
    let hash = || (0..3_u8).prop_map(|n| PasswordHash(Bytes::from(vec![b'h'; usize::from(n)])));
    let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::ReadWrite)];
    prop_oneof![
        1 => Just(AuthOp::Enable),
        1 => Just(AuthOp::Disable),
        4 => (user(), hash(), any::<bool>())
            .prop_map(|(name, hash, no_password)| AuthOp::UserAdd { name, hash, no_password }),
        1 => user().prop_map(|name| AuthOp::UserDelete { name }),
        2 => (user(), hash()).prop_map(|(name, hash)| AuthOp::UserChangePassword { name, hash }),
        6 => (user(), role()).prop_map(|(user, role)| AuthOp::UserGrantRole { user, role }),
        1 => (user(), role()).prop_map(|(user, role)| AuthOp::UserRevokeRole { user, role }),
        4 => role().prop_map(|name| AuthOp::RoleAdd { name }),
        1 => role().prop_map(|name| AuthOp::RoleDelete { name }),
        14 => (role(), access, range()).prop_map(|(role, access, range)| {
            AuthOp::RoleGrantPermission { role, permission: Permission { access, range } }
        }),
        2 => (role(), range())
            .prop_map(|(role, range)| AuthOp::RoleRevokePermission { role, range }),
    ]
}

fn drawn() -> impl Strategy<Value = Revision> {
    prop_oneof![1 => Just(0), 6 => 1..100_000_i64].prop_map(Revision)
}

fn key() -> impl Strategy<Value = Bytes> {
    let names = ["a", "a/", "a/1", "a/2", "a0", "b", "b/1", "c", "\u{0}", "zz"];
    (0..names.len()).prop_map(move |nth| Bytes::from_static(names[nth].as_bytes()))
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        6 => (0..50_u8).prop_map(|n| Bytes::from(format!("v{n}"))),
        1 => Just(Bytes::new()),
        1 => any::<u8>().prop_map(|byte| Bytes::from(vec![byte; 700])),
    ]
}

fn lease() -> impl Strategy<Value = LeaseId> {
    (1..5_i64).prop_map(LeaseId)
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => key().prop_map(KeyRange::Key),
        3 => (key(), key()).prop_map(|(start, end)| KeyRange::Span(start, end)),
        1 => key().prop_map(KeyRange::From),
        1 => Just(KeyRange::all()),
    ]
}

fn put() -> impl Strategy<Value = Put> {
    let lease = prop_oneof![4 => Just(LeaseId::NONE), 1 => lease()];
    (key(), value(), lease, any::<bool>(), 0..12_u8).prop_map(
        |(key, value, lease, prev_kv, ignore)| {
            let mut put = Put { key, value, lease, prev_kv, ..Put::default() };
            match ignore {
                0 => (put.ignore_value, put.value) = (true, Bytes::new()),
                1 => (put.ignore_lease, put.lease) = (true, LeaseId::NONE),
                2 => put.ignore_value = true,
                _ => {}
            }
            put
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    (range(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRange { range, prev_kv })
}

fn query() -> impl Strategy<Value = RangeQuery> {
    let order = prop_oneof![
        3 => Just(SortOrder::None),
        1 => Just(SortOrder::Ascend),
        1 => Just(SortOrder::Descend),
    ];
    let target = prop_oneof![
        4 => Just(SortTarget::Key),
        1 => Just(SortTarget::Version),
        1 => Just(SortTarget::Create),
        1 => Just(SortTarget::Modified),
        1 => Just(SortTarget::Value),
    ];
    let flags = (0..8_u8, 0..6_u8);
    (range(), drawn(), 0..5_i64, order, target, flags, drawn(), drawn()).prop_map(
        |(range, revision, limit, order, target, (flags, filter), min, max)| {
            let mut query = RangeQuery { revision, limit, order, target, ..RangeQuery::new(range) };
            query.keys_only = flags == 0;
            query.count_only = flags == 1;
            match filter {
                0 => query.min_modified = min,
                1 => query.max_create = max,
                _ => {}
            }
            query
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0..4_i64).prop_map(CompareTarget::Version),
        drawn().prop_map(CompareTarget::Create),
        drawn().prop_map(CompareTarget::Modified),
        lease().prop_map(CompareTarget::Lease),
        value().prop_map(CompareTarget::Value),
    ];
    let result = prop_oneof![
        Just(CompareResult::Equal),
        Just(CompareResult::Greater),
        Just(CompareResult::Less),
        Just(CompareResult::NotEqual),
    ];
    (range(), target, result).prop_map(|(range, target, result)| Compare { range, target, result })
}

fn txn(depth: u32) -> BoxedStrategy<Txn> {
    let op = move || {
        let plain = prop_oneof![
            4 => put().prop_map(Op::Put),
            1 => delete().prop_map(Op::Delete),
            2 => query().prop_map(Op::Range),
        ];
        match depth {
            0 => plain.boxed(),
            _ => prop_oneof![6 => plain, 1 => txn(depth - 1).prop_map(Op::Txn)].boxed(),
        }
    };
    (vec(compare(), 0..3), vec(op(), 0..4), vec(op(), 0..4))
        .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
        .boxed()
}
