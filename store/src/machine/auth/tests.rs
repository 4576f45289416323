//! The rules one by one, and the merging of ranges against plain counting over a tiny key space.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::needs::Needs as _;
use super::*;
use crate::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, LeaseId, Login, Op, Put,
    RangeQuery, Txn,
};

fn key(text: &'static str) -> KeyRange {
    KeyRange::Key(Bytes::from_static(text.as_bytes()))
}

fn span(start: &'static str, end: &'static str) -> KeyRange {
    KeyRange::new(Bytes::from_static(start.as_bytes()), Bytes::from_static(end.as_bytes()))
}

fn grant(role: &str, access: Access, range: KeyRange) -> AuthOp {
    AuthOp::RoleGrantPermission { role: role.into(), permission: Permission { access, range } }
}

fn user(name: &str) -> AuthOp {
    let hash = PasswordHash(Bytes::from_static(b"hash"));
    AuthOp::UserAdd { name: name.into(), hash, no_password: false }
}

fn give(user: &str, role: &str) -> AuthOp {
    AuthOp::UserGrantRole { user: user.into(), role: role.into() }
}

fn role(name: &str) -> AuthOp {
    AuthOp::RoleAdd { name: name.into() }
}

/// Changes that must succeed.
fn auth(ops: impl IntoIterator<Item = AuthOp>) -> Auth {
    let mut auth = Auth::default();
    for op in ops {
        auth.change(&op).unwrap_or_else(|refusal| panic!("{op:?}: {refusal}"));
    }
    auth
}

/// Alice has the role `r` and nothing else; logging in is required.
fn alices(grants: impl IntoIterator<Item = AuthOp>) -> Auth {
    let base = [user(ROOT), give(ROOT, ROOT), user("alice"), role("r"), give("alice", "r")];
    auth(base.into_iter().chain(grants).chain([AuthOp::Enable]))
}

fn by(auth: &Auth, user: &str) -> Sender {
    Sender::User(Login { user: user.into(), revision: auth.revision() })
}

fn may(auth: &Auth, user: &str, need: Need<'_>) -> Result<(), AuthRefusal> {
    auth.permits(Some(&by(auth, user)), need, &Leases::default())
}

#[test]
fn what_etcd_refuses_is_refused_and_changes_nothing() {
    let base = alices([grant("r", Access::Read, key("a"))]);
    let cases = [
        (user(""), AuthRefusal::UserNameEmpty),
        (user("alice"), AuthRefusal::UserExists),
        (role(""), AuthRefusal::RoleNameEmpty),
        (role("r"), AuthRefusal::RoleExists),
        (give("bob", "r"), AuthRefusal::UserNotFound),
        (give("bob", "none"), AuthRefusal::UserNotFound),
        (give("alice", "none"), AuthRefusal::RoleNotFound),
        (AuthOp::UserDelete { name: "bob".into() }, AuthRefusal::UserNotFound),
        (AuthOp::UserDelete { name: ROOT.into() }, AuthRefusal::InvalidManagement),
        (AuthOp::RoleDelete { name: "none".into() }, AuthRefusal::RoleNotFound),
        (AuthOp::RoleDelete { name: ROOT.into() }, AuthRefusal::InvalidManagement),
        (
            AuthOp::UserRevokeRole { user: ROOT.into(), role: ROOT.into() },
            AuthRefusal::InvalidManagement,
        ),
        (
            AuthOp::UserRevokeRole { user: "alice".into(), role: ROOT.into() },
            AuthRefusal::RoleNotGranted,
        ),
        (
            AuthOp::UserChangePassword { name: "bob".into(), hash: PasswordHash::default() },
            AuthRefusal::UserNotFound,
        ),
        (grant("none", Access::Read, key("a")), AuthRefusal::RoleNotFound),
        (grant("r", Access::Read, key("")), AuthRefusal::InvalidManagement),
        (grant("r", Access::Read, span("c", "b")), AuthRefusal::InvalidManagement),
        (grant("r", Access::Read, span("c", "c")), AuthRefusal::InvalidManagement),
        (
            AuthOp::RoleRevokePermission { role: "r".into(), range: key("b") },
            AuthRefusal::PermissionNotGranted,
        ),
        (
            AuthOp::RoleRevokePermission { role: "none".into(), range: key("a") },
            AuthRefusal::RoleNotFound,
        ),
    ];
    for (op, refusal) in cases {
        let mut auth = base.clone();
        assert_eq!(auth.change(&op), Err(refusal), "{op:?}");
        assert_eq!(auth, base, "{op:?}");
    }
}

#[test]
fn root_must_be_there_before_logging_in_is_required() {
    let mut auth = Auth::default();
    assert_eq!(auth.change(&AuthOp::Enable), Err(AuthRefusal::RootUserMissing));
    auth.change(&user(ROOT)).unwrap();
    assert_eq!(auth.change(&AuthOp::Enable), Err(AuthRefusal::RootRoleMissing));
    // The role needs no entry of its own.
    auth.change(&give(ROOT, ROOT)).unwrap();
    auth.change(&AuthOp::Enable).unwrap();
    assert!(auth.enabled());
    auth.change(&AuthOp::Disable).unwrap();
    auth.change(&AuthOp::UserDelete { name: ROOT.into() }).unwrap();
}

/// What etcd 3.7.3 counts: every change, except requiring to log in and what changes nothing.
#[test]
fn the_auth_revision_counts_changes() {
    let mut auth = Auth::default();
    let mut revisions = vec![auth.revision()];
    for op in [
        user(ROOT),
        give(ROOT, ROOT),
        give(ROOT, ROOT),
        AuthOp::Enable,
        AuthOp::Enable,
        AuthOp::Disable,
        AuthOp::Disable,
        role("r"),
        grant("r", Access::Read, key("a")),
        grant("r", Access::Read, key("a")),
    ] {
        auth.change(&op).unwrap();
        revisions.push(auth.revision());
    }
    assert_eq!(revisions, [1, 2, 3, 3, 3, 3, 4, 4, 5, 6, 7]);
}

/// Recorded from etcd 3.7.3: it looks for the grant to replace only at the first one of its key.
#[test]
fn a_grant_replaces_the_first_of_its_key_or_comes_beside() {
    let auth = alices([
        grant("r", Access::Read, key("a")),
        grant("r", Access::Read, span("a", "c")),
        grant("r", Access::Write, span("a", "c")),
        grant("r", Access::ReadWrite, key("a")),
    ]);
    let listed: Vec<_> = auth.role("r").unwrap().permissions().to_vec();
    let expected = [
        Permission { access: Access::ReadWrite, range: key("a") },
        Permission { access: Access::Read, range: span("a", "c") },
        Permission { access: Access::Write, range: span("a", "c") },
    ];
    assert_eq!(listed, expected);
    // One revocation takes all of exactly these keys.
    let mut auth = auth;
    let revoke = AuthOp::RoleRevokePermission { role: "r".into(), range: span("a", "c") };
    auth.change(&revoke).unwrap();
    assert_eq!(auth.role("r").unwrap().permissions().len(), 1);
}

#[test]
fn a_deleted_role_is_taken_from_its_users() {
    let mut auth = alices([grant("r", Access::Read, key("a"))]);
    assert_eq!(may(&auth, "alice", Need::Keys(Act::Read, &key("a"))), Ok(()));
    auth.change(&AuthOp::RoleDelete { name: "r".into() }).unwrap();
    assert!(auth.user("alice").unwrap().roles.is_empty());
    auth.change(&role("r")).unwrap();
    let denied = Err(AuthRefusal::PermissionDenied);
    assert_eq!(may(&auth, "alice", Need::Keys(Act::Read, &key("a"))), denied);
}

#[test]
fn nobody_the_store_root_and_others() {
    let auth = alices([grant("r", Access::Read, key("a"))]);
    let a = key("a");
    let needs = [
        Need::Login,
        Need::User("alice"),
        Need::Role("r"),
        Need::Keys(Act::Read, &a),
        Need::Keys(Act::Write, &a),
        Need::User("bob"),
        Need::Role("other"),
        Need::Root,
    ];
    for (nth, need) in needs.into_iter().enumerate() {
        let none = auth.permits(None, need, &Leases::default());
        assert_eq!(none, Err(AuthRefusal::UserNameEmpty), "{need:?}");
        assert_eq!(auth.permits(Some(&Sender::Store), need, &Leases::default()), Ok(()));
        assert_eq!(may(&auth, ROOT, need), Ok(()), "{need:?}");
        assert_eq!(may(&auth, "alice", need).is_ok(), nth < 4, "{need:?}");
        // Gone since he logged in.
        assert_eq!(may(&auth, "ghost", need).is_ok(), need == Need::Login, "{need:?}");
    }
}

/// A proof of an earlier revision is worth nothing for keys, even root's; what only asks for the
/// role of root goes by what is true now, as in etcd.
#[test]
fn an_old_revision_has_no_rights_on_keys() {
    let mut auth = alices([grant("r", Access::Read, key("a"))]);
    let senders = [by(&auth, "alice"), by(&auth, ROOT)];
    auth.change(&role("later")).unwrap();
    let a = key("a");
    for sender in &senders {
        let asked = auth.permits(Some(sender), Need::Keys(Act::Read, &a), &Leases::default());
        assert_eq!(asked, Err(AuthRefusal::OldRevision));
    }
    assert_eq!(auth.permits(Some(&senders[1]), Need::Root, &Leases::default()), Ok(()));
}

#[test]
fn who_touches_a_lease_must_have_all_its_keys() {
    let auth = alices([grant("r", Access::ReadWrite, span("a", "c"))]);
    let mut leases = Leases::default();
    for (id, attached) in [(1, ["a", "b"]), (2, ["a", "z"])] {
        leases.restore(LeaseId(id), 10, 0);
        for key in attached {
            assert!(leases.restore_key(LeaseId(id), Bytes::from_static(key.as_bytes())));
        }
    }
    let alice = by(&auth, "alice");
    for (id, allowed) in [(1, true), (2, false), (3, true)] {
        for act in [Act::Read, Act::Write] {
            let need = Need::Lease(act, LeaseId(id));
            assert_eq!(auth.permits(Some(&alice), need, &leases).is_ok(), allowed, "lease {id}");
            assert_eq!(auth.permits(Some(&by(&auth, ROOT)), need, &leases), Ok(()));
        }
    }
}

/// Everything that a transaction touches is named: conditions, both branches, what is nested.
#[test]
fn a_transaction_needs_all_that_is_in_it() {
    let put = |name| {
        Op::Put(Put {
            key: Bytes::from_static(name),
            lease: LeaseId(7),
            prev_kv: true,
            ..Put::default()
        })
    };
    let delete = |range| Op::Delete(DeleteRange { range, prev_kv: true });
    let compare =
        |range| Compare { range, target: CompareTarget::Version(0), result: CompareResult::Equal };
    let inner = Txn {
        compares: vec![compare(key("c2"))],
        success: vec![Op::Range(RangeQuery::new(key("r2")))],
        failure: vec![put(b"p2")],
    };
    let outer = Txn {
        compares: vec![compare(key("c1"))],
        success: vec![delete(key("d1"))],
        failure: vec![Op::Txn(inner)],
    };
    let (d1, p2) = (key("d1"), Bytes::from_static(b"p2"));
    let expected = [
        Need::Keys(Act::Read, &key("c1")),
        Need::Keys(Act::Write, &d1),
        Need::Keys(Act::Read, &d1),
        Need::Keys(Act::Read, &key("c2")),
        Need::Keys(Act::Read, &key("r2")),
        Need::Key(Act::Write, &p2),
        Need::Lease(Act::Write, LeaseId(7)),
        Need::Key(Act::Read, &p2),
    ];
    let mut named = Vec::new();
    let command = Command::Txn(outer);
    let all: Result<(), ()> = command.each(&mut |need| {
        named.push(format!("{need:?}"));
        Ok(())
    });
    assert_eq!(all, Ok(()));
    assert_eq!(named, expected.map(|need| format!("{need:?}")));
    // And each one alone can refuse the whole.
    for stop in 0..expected.len() {
        let mut seen = 0;
        let refused = command.each(&mut |_| {
            seen += 1;
            if seen > stop { Err(stop) } else { Ok(()) }
        });
        assert_eq!(refused, Err(stop));
    }
}

/// All keys of up to three letters out of `a`, `b` and the smallest one.
fn tiny_keys() -> Vec<Vec<u8>> {
    let mut keys = vec![vec![]];
    let mut from = 0;
    for _ in 0..3 {
        let upto = keys.len();
        for at in from..upto {
            for letter in [0, b'a', b'b'] {
                keys.push([&keys[at][..], &[letter]].concat());
            }
        }
        from = upto;
    }
    keys
}

fn tiny_key() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(prop_oneof![Just(0), Just(b'a'), Just(b'b')], 0..3)
        .prop_map(Bytes::from)
}

fn tiny_range() -> impl Strategy<Value = KeyRange> {
    (tiny_key(), tiny_key(), 0..4_u8).prop_map(|(start, end, shape)| match shape {
        0 => KeyRange::Key(start),
        1 => KeyRange::From(start),
        _ => KeyRange::Span(start, end),
    })
}

/// Whether every key that a range can hold is in one of the others. Bounds are at most two letters
/// and end-exclusive, so a gap, if there is one, shows at a key of three letters.
fn counted(granted: &[KeyRange], asked: &KeyRange) -> bool {
    let mut keys = tiny_keys().into_iter().filter(|key| asked.contains(key));
    keys.all(|key| granted.iter().any(|range| range.contains(&key)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Spread over two roles in any way, ranges cover what counting says, no more and no less.
    #[test]
    fn covering_is_counting(
        granted in proptest::collection::vec((tiny_range(), any::<bool>()), 0..6),
        asked in tiny_range(),
    ) {
        let of = |which: bool| -> Spans {
            granted.iter().filter(|(_, role)| *role == which).map(|(range, _)| range).collect()
        };
        let sets = [of(false), of(true)];
        let ranges: Vec<_> = granted.iter().map(|(range, _)| range.clone()).collect();
        let covered = spans::cover(sets.iter(), &asked);
        if asked.is_empty() {
            // Never more than its start allows.
            prop_assert!(!covered || ranges.iter().any(|range| range.contains(asked.start())));
        } else {
            prop_assert_eq!(covered, counted(&ranges, &asked));
        }
    }

    /// What is kept is put back as it was.
    #[test]
    fn restoring_gives_the_same(grants in proptest::collection::vec(tiny_range(), 0..6)) {
        let mut before = alices([]);
        for range in grants {
            // Some make no sense and are refused.
            let _ = before.change(&grant("r", Access::ReadWrite, range));
        }
        let users: Vec<_> = before.users().cloned().collect();
        let roles: Vec<_> = before
            .roles()
            .map(|(name, role)| (name.to_owned(), role.permissions().to_vec()))
            .collect();
        let after = Auth::restore(before.enabled(), before.revision(), users, roles);
        prop_assert_eq!(after, before);
    }
}

#[test]
fn a_gap_of_one_key_is_a_gap() {
    let roles = |end: &'static str| {
        [span("a", end), span("m", "z")].map(|range| std::iter::once(&range).collect::<Spans>())
    };
    assert!(spans::cover(roles("m").iter(), &span("b", "y")));
    // What lies between is the keys from `l\u{ff}` on.
    assert!(!spans::cover(roles("l").iter(), &span("b", "y")));
    let touching: BTreeSet<_> = [key("a"), span("a\0", "b")]
        .iter()
        .map(|range| spans::cover([[range].into_iter().collect::<Spans>()].iter(), &span("a", "b")))
        .collect();
    assert_eq!(touching, BTreeSet::from([false]), "neither alone");
    let both = [key("a"), span("a\0", "b")];
    let both = both.iter().map(|range| [range].into_iter().collect::<Spans>());
    let both: Vec<_> = both.collect();
    assert!(spans::cover(both.iter(), &span("a", "b")), "but both together");
}
