//! Who may do what, asked of a whole node: keys in every shape and place, leases, tokens,
//! passwords, certificates, and switching it all on and off.
//!
//! Alice reads `r…`, writes `w…`, does both with `b` and `k`; nobody but root has anything to do with
//! `secret`. Mallory has logged in and has no role.

use std::time::{Duration, Instant};

use proto::authpb;
use tonic::metadata::MetadataValue;
use tonic::{Request, Streaming};

use super::*;
use store::config::TokenKind;

pub(super) const ROOT: &str = "root";
pub(super) const ALICE: &str = "alice";
pub(super) const MALLORY: &str = "mallory";

/// A node where logging in is required, and tokens of everybody.
pub(super) struct Guarded {
    pub(super) world: World,
    root: String,
    alice: String,
    mallory: String,
}

/// Logging in is quick: the cost of hashes is the least there is.
pub(super) fn cheap(config: &mut Config) {
    config.auth.bcrypt_cost = 4;
}

impl Guarded {
    pub(super) async fn start() -> Self {
        Self::start_with(cheap).await
    }

    pub(super) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let world = World::start_with(change).await;
        set_up(&world).await;
        let [root, alice, mallory] = [
            log_in(&world, ROOT, "pw").await.expect("root logs in"),
            log_in(&world, ALICE, "pw").await.expect("alice logs in"),
            log_in(&world, MALLORY, "pw").await.expect("mallory logs in"),
        ];
        let guarded = Self { world, root, alice, mallory };
        for key in ["r1", "w1", "k", "secret"] {
            guarded.put(key, "old", 0).await;
        }
        guarded
    }

    pub(super) fn token(&self, user: &str) -> &str {
        match user {
            ROOT => &self.root,
            ALICE => &self.alice,
            MALLORY => &self.mallory,
            other => panic!("{other} has not logged in"),
        }
    }

    /// A request with a user's token.
    pub(super) fn by<T>(&self, user: &str, message: T) -> Request<T> {
        with_token(self.token(user), message)
    }

    /// Root puts a key.
    pub(super) async fn put(&self, key: &str, value: &str, lease: i64) -> i64 {
        let put = pb::PutRequest { lease, ..put(key, value) };
        let answer = self.world.kv().put(self.by(ROOT, put)).await.expect("root may");
        answer.into_inner().header.expect("a header").revision
    }

    /// The newest revision.
    async fn revision(&self) -> i64 {
        let answer = self.world.kv().range(self.by(ROOT, range("k", ""))).await.expect("root may");
        answer.into_inner().header.expect("a header").revision
    }

    async fn txn(&self, user: &str, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        self.world.kv().txn(self.by(user, txn)).await.map(tonic::Response::into_inner)
    }

    pub(super) async fn grant(&self, id: i64) {
        let grant = pb::LeaseGrantRequest { id, ttl: 1000 };
        self.world.lease().lease_grant(self.by(ROOT, grant)).await.expect("root may");
    }
}

pub(super) fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let token: MetadataValue<_> = token.parse().expect("tokens are plain text");
    request.metadata_mut().insert("token", token);
    request
}

pub(super) fn auth(world: &World) -> pb::auth_client::AuthClient<Channel> {
    pb::auth_client::AuthClient::new(world.channel.clone())
}

async fn log_in(world: &World, name: &str, password: &str) -> Result<String, Status> {
    let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
    Ok(auth(world).authenticate(request).await?.into_inner().token)
}

fn user(name: &str) -> pb::AuthUserAddRequest {
    pb::AuthUserAddRequest { name: name.into(), password: "pw".into(), ..Default::default() }
}

fn give(user: &str, role: &str) -> pb::AuthUserGrantRoleRequest {
    pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() }
}

fn permit(
    role: &str,
    kind: authpb::permission::Type,
    key: &str,
    end: &str,
) -> pb::AuthRoleGrantPermissionRequest {
    let perm = authpb::Permission {
        perm_type: kind.into(),
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
    };
    pb::AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(perm) }
}

/// Users, roles, and then the demand to log in.
async fn set_up(world: &World) {
    use authpb::permission::Type::{Read, Readwrite, Write};
    let mut auth = auth(world);
    for name in [ROOT, ALICE, MALLORY] {
        auth.user_add(user(name)).await.expect("a user");
    }
    auth.user_grant_role(give(ROOT, ROOT)).await.expect("root's role");
    // The two halves of what she reads come from two roles.
    for role in ["one", "two"] {
        auth.role_add(pb::AuthRoleAddRequest { name: role.into() }).await.expect("a role");
        auth.user_grant_role(give(ALICE, role)).await.expect("granted");
    }
    for (role, kind, key, end) in [
        ("one", Read, "r", "r5"),
        ("two", Read, "r5", "s"),
        ("one", Write, "w", "x"),
        ("two", Readwrite, "k", ""),
        ("two", Readwrite, "b", ""),
    ] {
        auth.role_grant_permission(permit(role, kind, key, end)).await.expect("permitted");
    }
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("enabled");
}

fn denied() -> (Code, String) {
    says(Code::PermissionDenied, "permission denied")
}

fn nobody() -> (Code, String) {
    says(Code::InvalidArgument, "user name is empty")
}

fn bad_token() -> (Code, String) {
    says(Code::Unauthenticated, "invalid auth token")
}

/// One step of a transaction, and whether alice may take it.
fn steps() -> Vec<(pb::request_op::Request, bool)> {
    use pb::request_op::Request::{RequestDeleteRange, RequestPut, RequestRange};
    let previous = |request: pb::PutRequest| pb::PutRequest { prev_kv: true, ..request };
    let previous_of =
        |request: pb::DeleteRangeRequest| pb::DeleteRangeRequest { prev_kv: true, ..request };
    let leased = |key, lease| pb::PutRequest { lease, ..put(key, "new") };
    vec![
        (RequestRange(range("r1", "")), true),
        (RequestRange(range("r", "s")), true),
        (RequestRange(range("r", "s0")), false),
        (RequestRange(range("q", "r5")), false),
        (RequestRange(range("w1", "")), false),
        (RequestRange(range("k", "l")), false),
        (RequestRange(range("k", "\0")), false),
        (RequestRange(range("\0", "\0")), false),
        (RequestPut(put("w2", "new")), true),
        (RequestPut(put("r1", "new")), false),
        (RequestPut(put("secret", "new")), false),
        (RequestPut(previous(put("w2", "new"))), false),
        (RequestPut(leased("w2", 1)), true),
        (RequestPut(leased("w2", 2)), false),
        (RequestDeleteRange(delete("w", "x")), true),
        (RequestDeleteRange(delete("w", "y")), false),
        (RequestDeleteRange(delete("r1", "")), false),
        (RequestDeleteRange(delete("w", "\0")), false),
        (RequestDeleteRange(previous_of(delete("w", "x"))), false),
        (RequestDeleteRange(previous_of(delete("k", ""))), true),
    ]
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn nest(txn: pb::TxnRequest) -> pb::RequestOp {
    op(pb::request_op::Request::RequestTxn(txn))
}

fn then(steps: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success: steps, ..Default::default() }
}

fn otherwise(steps: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { failure: steps, ..Default::default() }
}

/// Every place a step can have: taken or not, alone or with others, up to three deep.
fn places(step: &pb::RequestOp) -> Vec<pb::TxnRequest> {
    let inner = [then(vec![step.clone()]), otherwise(vec![step.clone()])];
    let mut all = inner.to_vec();
    for inner in inner {
        all.push(then(vec![nest(inner.clone())]));
        all.push(otherwise(vec![nest(inner.clone())]));
        all.push(then(vec![nest(otherwise(vec![nest(inner)]))]));
    }
    all
}

/// Leases 1 and 2: alice may write what is on the first, but not what is on the second.
async fn with_leases() -> Guarded {
    let guarded = Guarded::start().await;
    for (lease, key) in [(1, "w9"), (2, "secret")] {
        guarded.grant(lease).await;
        guarded.put(key, "old", lease).await;
    }
    guarded
}

#[tokio::test]
async fn a_step_is_judged_alike_wherever_it_is() {
    use pb::request_op::Request::{RequestDeleteRange, RequestPut, RequestRange};
    let guarded = with_leases().await;
    for (step, allowed) in steps() {
        // Alone.
        let mut kv = guarded.world.kv();
        let alone = match step.clone() {
            RequestRange(request) => kv.range(guarded.by(ALICE, request)).await.map(drop),
            RequestPut(request) => kv.put(guarded.by(ALICE, request)).await.map(drop),
            RequestDeleteRange(request) => {
                kv.delete_range(guarded.by(ALICE, request)).await.map(drop)
            }
            other => panic!("{other:?} is no step"),
        };
        if allowed {
            alone.unwrap_or_else(|status| panic!("{step:?}: {status}"));
        } else {
            assert_eq!(refused(alone), denied(), "{step:?}");
        }
        for mut txn in places(&op(step.clone())) {
            // Something she may do stands before it, and is not done if the rest may not be.
            txn.success.insert(0, op(RequestPut(put("b", "changed"))));
            let before = guarded.revision().await;
            let answer = guarded.txn(ALICE, txn.clone()).await;
            if allowed {
                answer.unwrap_or_else(|status| panic!("{txn:?}: {status}"));
                continue;
            }
            assert_eq!(refused(answer), denied(), "{txn:?}");
            assert_eq!(guarded.revision().await, before, "{txn:?} did something");
            let anonymous = guarded.world.kv().txn(txn.clone()).await;
            assert_eq!(refused(anonymous), nobody(), "{txn:?}");
            let mallory = guarded.txn(MALLORY, txn).await;
            assert_eq!(refused(mallory), denied());
        }
    }
    guarded.world.stop().await;
}

/// The outcome of a comparison tells what a key holds.
#[tokio::test]
async fn comparing_is_reading() {
    let guarded = Guarded::start().await;
    for (key, end, allowed) in
        [("r1", "", true), ("r", "s", true), ("secret", "", false), ("r", "t", false)]
    {
        let compare = pb::Compare {
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
            target_union: Some(pb::compare::TargetUnion::Version(7)),
            ..Default::default()
        };
        let inner = pb::TxnRequest { compare: vec![compare], ..Default::default() };
        for txn in [inner.clone(), then(vec![nest(inner.clone())]), otherwise(vec![nest(inner)])] {
            let answer = guarded.txn(ALICE, txn.clone()).await;
            assert_eq!(answer.is_ok(), allowed, "{txn:?}");
        }
    }
    guarded.world.stop().await;
}

/// Every way to ask for more than one may know, asked of the leader's newest state, of what this
/// member holds, as a stream, and as a watch.
#[tokio::test]
async fn a_reader_of_some_keys_reads_no_others() {
    let guarded = Guarded::start().await;
    let shapes = [
        (range("k", ""), true),
        (range("k", "l"), false),
        (range("k", "k\0"), true),
        (range("k", "\0"), false),
        (range("", "\0"), false),
        (range("\0", "\0"), false),
        (range("r", "s"), true),
        (range("r4", "r6"), true),
        (range("r", "r9"), true),
        (range("q", "s"), false),
        (pb::RangeRequest { keys_only: true, ..range("secret", "") }, false),
        (pb::RangeRequest { count_only: true, ..range("a", "z") }, false),
        (pb::RangeRequest { count_only: true, ..range("r", "s") }, true),
        (pb::RangeRequest { limit: 1, ..range("r1", "z") }, false),
        (pb::RangeRequest { revision: 2, ..range("secret", "") }, false),
        (pb::RangeRequest { revision: 2, ..range("r1", "") }, true),
    ];
    for (request, allowed) in shapes {
        if !request.key.is_empty() {
            for serializable in [false, true] {
                let request = pb::RangeRequest { serializable, ..request.clone() };
                let unary = guarded.world.kv().range(guarded.by(ALICE, request.clone())).await;
                let streamed = stream(&guarded, request.clone()).await;
                if allowed {
                    unary.expect("she may");
                    streamed.expect("she may");
                } else {
                    assert_eq!(refused(unary), denied(), "{request:?}");
                    assert_eq!(refused(streamed), denied(), "{request:?}");
                }
            }
        }
        let reason = watch(&guarded, ALICE, &request.key, &request.range_end).await;
        let expected = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert_eq!(reason, if allowed { "" } else { expected }, "{request:?}");
    }
    guarded.world.stop().await;
}

async fn stream(guarded: &Guarded, request: pb::RangeRequest) -> Result<(), Status> {
    let answer = guarded.world.kv().range_stream(guarded.by(ALICE, request)).await?;
    let mut pieces = answer.into_inner();
    while pieces.message().await?.is_some() {}
    Ok(())
}

async fn open_watch(
    guarded: &Guarded,
    token: Option<&str>,
    create: pb::WatchCreateRequest,
) -> Streaming<pb::WatchResponse> {
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    let create = pb::WatchRequest { request_union: Some(create) };
    let requests =
        tokio_stream::StreamExt::chain(tokio_stream::once(create), tokio_stream::pending());
    let mut request = Request::new(requests);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().expect("plain text"));
    }
    let mut watch = pb::watch_client::WatchClient::new(guarded.world.channel.clone());
    watch.watch(request).await.expect("the stream opens for everybody").into_inner()
}

async fn created(answers: &mut Streaming<pb::WatchResponse>) -> pb::WatchResponse {
    let answer = answers.message().await.expect("an answer").expect("before the end");
    assert!(answer.created);
    assert_eq!(answer.canceled, !answer.cancel_reason.is_empty());
    assert_eq!(answer.canceled, answer.watch_id == -1);
    answer
}

/// Why a watch was refused; empty if it was not.
async fn watch(guarded: &Guarded, user: &str, key: &[u8], end: &[u8]) -> String {
    let create = pb::WatchCreateRequest {
        key: key.to_vec().into(),
        range_end: end.to_vec().into(),
        ..Default::default()
    };
    let token = guarded.token(user);
    created(&mut open_watch(guarded, Some(token), create).await).await.cancel_reason
}

#[tokio::test]
async fn a_watch_says_in_gos_words_why_it_may_not_be() {
    let guarded = Guarded::start().await;
    let create =
        || pb::WatchCreateRequest { key: "k".into(), start_revision: 1, ..Default::default() };
    for (token, reason) in [
        (None, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
        (
            Some("AAAAAAAAAAAAAAAA.7"),
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
        ),
    ] {
        let answer = created(&mut open_watch(&guarded, token, create()).await).await;
        assert_eq!(answer.cancel_reason, reason);
    }
    // Permission is asked for when a watch is made, and not again: as in etcd, one that runs goes
    // on when its owner loses the right, and the next one is refused.
    let mut running = open_watch(&guarded, Some(guarded.token(ALICE)), create()).await;
    assert_eq!(created(&mut running).await.cancel_reason, "");
    let revoke = pb::AuthUserRevokeRoleRequest { name: ALICE.into(), role: "two".into() };
    auth(&guarded.world).user_revoke_role(guarded.by(ROOT, revoke)).await.expect("root may");
    let past = running.message().await.expect("an event").expect("before the end");
    assert_eq!(past.events.len(), 1);
    guarded.put("k", "after", 0).await;
    assert_eq!(running.message().await.expect("an event").expect("not the end").events.len(), 1);
    assert!(!watch(&guarded, ALICE, b"k", b"").await.is_empty());
    guarded.world.stop().await;
}

#[tokio::test]
async fn leases_belong_to_those_who_may_write_their_keys() {
    let guarded = with_leases().await;
    let mut lease = guarded.world.lease();
    let ttl = |id, keys| pb::LeaseTimeToLiveRequest { id, keys };
    for (id, allowed) in [(1, false), (2, false), (3, true)] {
        // She writes what is on the first and does not read it.
        let keys = lease.lease_time_to_live(guarded.by(ALICE, ttl(id, true))).await;
        assert_eq!(keys.is_ok(), allowed, "lease {id}");
        lease.lease_time_to_live(guarded.by(ALICE, ttl(id, false))).await.expect("no keys");
        lease.lease_time_to_live(ttl(id, false)).await.expect_err("nobody");
    }
    for (user, allowed) in [(ALICE, false), (ROOT, true)] {
        let listed = lease.lease_leases(guarded.by(user, pb::LeaseLeasesRequest {})).await;
        assert_eq!(listed.is_ok(), allowed, "{user}");
    }
    for (id, user, allowed) in
        [(1, ALICE, true), (2, ALICE, false), (1, MALLORY, false), (2, ROOT, true)]
    {
        let renew = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let mut answers =
            lease.lease_keep_alive(guarded.by(user, renew)).await.expect("opens").into_inner();
        let answer = answers.message().await;
        assert_eq!(answer.is_ok(), allowed, "{user} renews {id}: {answer:?}");
    }
    for (id, user, allowed) in [(2, ALICE, false), (1, MALLORY, false), (1, ALICE, true)] {
        let revoke = lease.lease_revoke(guarded.by(user, pb::LeaseRevokeRequest { id })).await;
        assert_eq!(revoke.is_ok(), allowed, "{user} revokes {id}");
    }
    let kept = guarded.world.kv().range(guarded.by(ROOT, range("secret", ""))).await;
    assert_eq!(kept.expect("root may").into_inner().count, 1);
    // The store itself may end any lease.
    guarded
        .world
        .lease()
        .lease_revoke(guarded.by(ROOT, pb::LeaseRevokeRequest { id: 2 }))
        .await
        .expect("root may");
    let short = pb::LeaseGrantRequest { id: 9, ttl: 1 };
    lease.lease_grant(guarded.by(ROOT, short)).await.expect("root may");
    guarded.put("secret", "short", 9).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = guarded.world.kv().range(guarded.by(ROOT, range("secret", ""))).await;
        if left.expect("root may").into_inner().count == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "the lease did not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    guarded.world.stop().await;
}

#[tokio::test]
async fn a_token_ends_with_its_user_password_or_purpose() {
    let guarded = Guarded::start().await;
    let world = &guarded.world;
    let ask = |token: String| async move {
        world.kv().range(with_token(&token, range("k", ""))).await.map(drop)
    };
    let mut auth = auth(world);
    for forged in ["", "x", "AAAAAAAAAAAAAAAA.1", "Bearer x", &guarded.alice[1..]] {
        assert_eq!(refused(ask(forged.to_owned()).await), bad_token(), "{forged:?}");
    }
    // Either header, with or without the word before it.
    for (header, value) in [
        ("token", guarded.alice.clone()),
        ("authorization", guarded.alice.clone()),
        ("authorization", format!("Bearer {}", guarded.alice)),
    ] {
        let mut request = Request::new(range("k", ""));
        request.metadata_mut().insert(header, value.parse().expect("plain text"));
        world.kv().range(request).await.expect("alice may");
    }

    let passwd = pb::AuthUserChangePasswordRequest {
        name: ALICE.into(),
        password: "new".into(),
        ..Default::default()
    };
    auth.user_change_password(guarded.by(ROOT, passwd)).await.expect("root may");
    assert_eq!(refused(ask(guarded.alice.clone()).await), bad_token());
    log_in(world, ALICE, "pw").await.expect_err("the old password");
    let alice = log_in(world, ALICE, "new").await.expect("the new one");
    ask(alice.clone()).await.expect("alice may");

    // Permissions change what a token is good for, not whether it is good.
    let revoke = pb::AuthUserRevokeRoleRequest { name: ALICE.into(), role: "two".into() };
    auth.user_revoke_role(guarded.by(ROOT, revoke)).await.expect("root may");
    assert_eq!(refused(ask(alice.clone()).await), denied());

    let delete = pb::AuthUserDeleteRequest { name: ALICE.into() };
    auth.user_delete(guarded.by(ROOT, delete)).await.expect("root may");
    assert_eq!(refused(ask(alice.clone()).await), bad_token());

    auth.auth_disable(guarded.by(ROOT, pb::AuthDisableRequest {})).await.expect("root may");
    ask(alice).await.expect("nobody is asked");
    log_in(world, ROOT, "pw").await.expect_err("nothing to log in to");
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("enabled again");
    assert_eq!(refused(ask(guarded.root.clone()).await), bad_token());
    guarded.world.stop().await;
}

#[tokio::test]
async fn an_unused_token_ends_by_itself() {
    let guarded = Guarded::start_with(|config| {
        cheap(config);
        config.auth.token_ttl = Duration::from_millis(600);
    })
    .await;
    let token = log_in(&guarded.world, ALICE, "pw").await.expect("alice logs in");
    let mut kv = guarded.world.kv();
    for _ in 0..10 {
        kv.range(with_token(&token, range("k", ""))).await.expect("used in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(refused(kv.range(with_token(&token, range("k", ""))).await), bad_token());
    guarded.world.stop().await;
}

/// Neither the answer nor the time tells whether a name is known.
#[tokio::test]
async fn an_unknown_name_is_like_a_wrong_password() {
    let guarded = Guarded::start_with(|config| config.auth.bcrypt_cost = 9).await;
    let mut quickest = [Duration::MAX; 2];
    for _ in 0..5 {
        for (nth, name) in [ALICE, "nobody-of-this-name"].into_iter().enumerate() {
            let begun = Instant::now();
            let failed = log_in(&guarded.world, name, "wrong").await;
            quickest[nth] = quickest[nth].min(begun.elapsed());
            let text = "authentication failed, invalid user ID or password";
            assert_eq!(refused(failed), says(Code::InvalidArgument, text));
        }
    }
    let [known, unknown] = quickest;
    assert!(unknown * 2 > known && known * 2 > unknown, "{known:?} against {unknown:?}");
    let too_long = pb::AuthUserAddRequest {
        name: "long".into(),
        password: "x".repeat(73),
        ..Default::default()
    };
    let refusal = auth(&guarded.world).user_add(guarded.by(ROOT, too_long)).await;
    let text = "bcrypt: password length exceeds 72 bytes".to_owned();
    assert_eq!(refused(refusal), (Code::Unknown, text));
    guarded.world.stop().await;
}

#[tokio::test]
async fn signed_tokens_outlive_a_restart_and_no_change() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "a secret of the cluster").expect("written");
    let options = [("sign-method", "HS256"), ("priv-key", secret.to_str().expect("plain"))];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut config = Config::new("test", dir.path().join("data"));
    cheap(&mut config);
    config.auth.token = TokenKind::Jwt(options.into());
    let start = || async {
        let node = Node::start(config.clone()).await.expect("the node starts");
        let channel = node.connect();
        World { node, channel, _dir: tempfile::tempdir().expect("another") }
    };
    let world = start().await;
    set_up(&world).await;
    let alice = log_in(&world, ALICE, "pw").await.expect("alice logs in");
    let root = log_in(&world, ROOT, "pw").await.expect("root logs in");
    world.kv().put(with_token(&alice, put("k", "1"))).await.expect("alice may");
    world.stop().await;

    let world = start().await;
    world.kv().put(with_token(&alice, put("k", "2"))).await.expect("still good");
    auth(&world)
        .role_add(with_token(&root, pb::AuthRoleAddRequest { name: "any".into() }))
        .await
        .expect("root may");
    let old = says(Code::InvalidArgument, "revision of auth store is old");
    for token in [&alice, &root] {
        assert_eq!(refused(world.kv().put(with_token(token, put("k", "3"))).await), old);
        assert_eq!(refused(world.kv().range(with_token(token, range("k", ""))).await), old);
    }
    // What asks for the role of root alone goes by what is true now, as in etcd.
    let list = |token| with_token(token, pb::AuthUserListRequest {});
    auth(&world).user_list(list(&root)).await.expect("root may");
    auth(&world).user_list(list(&alice)).await.expect_err("alice may not");
    let alice = log_in(&world, ALICE, "pw").await.expect("alice logs in again");
    world.kv().put(with_token(&alice, put("k", "4"))).await.expect("alice may");
    assert_eq!(refused(world.kv().put(with_token("a.b.c", put("k", "5"))).await), bad_token());
    world.stop().await;
}

/// While others write, logging in is demanded and given up again. What was written by nobody was
/// written while nobody was asked, and nothing that was acknowledged is lost.
#[tokio::test]
async fn demanding_to_log_in_loses_nothing() {
    let guarded = Guarded::start().await;
    let world = &guarded.world;
    let done = std::sync::atomic::AtomicBool::new(false);
    let writer = |key: &'static str| {
        let (mut kv, done) = (world.kv(), &done);
        async move {
            let mut written = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                match kv.put(put(key, "x")).await {
                    Ok(_) => written += 1,
                    Err(status) => {
                        assert_eq!((status.code(), status.message().to_owned()), nobody())
                    }
                }
            }
            written
        }
    };
    let toggle = async {
        let mut root = guarded.root.clone();
        for _ in 0..10 {
            let mut auth = auth(world);
            auth.auth_disable(with_token(&root, pb::AuthDisableRequest {})).await.expect("root");
            tokio::time::sleep(Duration::from_millis(20)).await;
            auth.auth_enable(pb::AuthEnableRequest {}).await.expect("enabled");
            assert_eq!(refused(world.kv().put(put("w", "x")).await), nobody());
            root = log_in(world, ROOT, "pw").await.expect("root logs in");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        root
    };
    let (root, one, two) = tokio::join!(toggle, writer("one"), writer("two"));
    for (key, written) in [("one", one), ("two", two)] {
        let answer = world.kv().range(with_token(&root, range(key, ""))).await.expect("root may");
        assert_eq!(answer.into_inner().kvs[0].version, written, "{key}");
    }
    assert!(one > 0 && two > 0, "somebody wrote in between");
    guarded.world.stop().await;
}

/// Users may be many, and what a checkpoint keeps of them is all of it.
#[tokio::test]
async fn users_and_roles_survive_a_restart_and_a_defragmentation() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let mut config = Config::new("test", dir.path().join("data"));
    cheap(&mut config);
    let start = || async {
        let node = Node::start(config.clone()).await.expect("the node starts");
        let channel = node.connect();
        World { node, channel, _dir: tempfile::tempdir().expect("another") }
    };
    let world = start().await;
    set_up(&world).await;
    let root = log_in(&world, ROOT, "pw").await.expect("root logs in");
    let defragment = with_token(&root, pb::DefragmentRequest {});
    world.maintenance().defragment(defragment).await.expect("root may");
    let status = auth(&world).auth_status(pb::AuthStatusRequest {}).await.expect("anybody may");
    world.stop().await;
    for _ in 0..2 {
        let world = start().await;
        let again = auth(&world).auth_status(pb::AuthStatusRequest {}).await.expect("anybody may");
        let (before, after) = (status.get_ref(), again.get_ref());
        assert!(after.enabled);
        assert_eq!(after.auth_revision, before.auth_revision);
        assert_eq!(refused(world.kv().put(with_token(&root, put("k", "1"))).await), bad_token());
        let alice = log_in(&world, ALICE, "pw").await.expect("alice logs in");
        world.kv().put(with_token(&alice, put("k", "1"))).await.expect("alice may");
        let outside = world.kv().range(with_token(&alice, range("secret", ""))).await;
        assert_eq!(refused(outside), denied());
        world.stop().await;
    }
}

impl Guarded {
    /// Gives alice a range to read and write. Tokens stay good.
    pub(super) async fn open_to_alice(&self, key: &str, end: &str) {
        let kind = authpb::permission::Type::Readwrite;
        let grant = self.by(ROOT, permit("two", kind, key, end));
        auth(&self.world).role_grant_permission(grant).await.expect("root may");
    }
}
