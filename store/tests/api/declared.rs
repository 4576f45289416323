//! Every RPC and every field of a request has a declared meaning for permissions, by the
//! descriptors of the API: one that is new fails here until somebody has thought about it.
//!
//! Two tables. [`calls`] has a sample of each RPC and says who is let through; it is asked of a
//! whole node, as nobody, as somebody without a role, as somebody with one, and as root. [`FIELDS`]
//! has each field of each message that a request can hold, nested ones too.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use proto::Raw;

use super::access::{ALICE, Guarded, MALLORY, ROOT};
use super::*;

/// Who is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Everybody,
    /// Whoever has logged in.
    Users,
    /// Alice, who has a role for the keys in the sample, and root.
    Role,
    Root,
}

impl Who {
    fn includes(self, user: Option<&str>) -> bool {
        match self {
            Self::Everybody => true,
            Self::Users => user.is_some(),
            Self::Role => matches!(user, Some(ALICE | ROOT)),
            Self::Root => user == Some(ROOT),
        }
    }
}

/// A sample of each RPC. Those of locks and elections are on keys that alice may read and write.
fn calls() -> Vec<(&'static str, Vec<u8>, Who)> {
    use Who::{Everybody, Role, Root, Users};
    let kv = [
        ("/etcdserverpb.KV/Range", range("k", "").encode_to_vec(), Role),
        ("/etcdserverpb.KV/RangeStream", range("k", "").encode_to_vec(), Role),
        ("/etcdserverpb.KV/Put", put("k", "1").encode_to_vec(), Role),
        ("/etcdserverpb.KV/DeleteRange", delete("k", "").encode_to_vec(), Role),
        ("/etcdserverpb.KV/Txn", txn().encode_to_vec(), Role),
        (
            "/etcdserverpb.KV/Compact",
            of(pb::CompactionRequest { revision: 2, physical: false }),
            Root,
        ),
        ("/etcdserverpb.Watch/Watch", of(watch()), Role),
    ];
    let lease = [
        ("LeaseGrant", of(pb::LeaseGrantRequest { ttl: 60, id: 0 }), Users),
        ("LeaseKeepAlive", of(pb::LeaseKeepAliveRequest { id: 5 }), Role),
        ("LeaseTimeToLive", of(pb::LeaseTimeToLiveRequest { id: 5, keys: true }), Role),
        ("LeaseTimeToLive", of(pb::LeaseTimeToLiveRequest { id: 5, keys: false }), Users),
        ("LeaseLeases", of(pb::LeaseLeasesRequest {}), Role),
        // One that is not there, so that all can ask.
        ("LeaseRevoke", of(pb::LeaseRevokeRequest { id: 6 }), Users),
    ];
    let maintenance = [
        ("Status", vec![], Users),
        ("Alarm", of(pb::AlarmRequest::default()), Users),
        ("Alarm", of(pb::AlarmRequest { action: 2, member_id: 0, alarm: 1 }), Root),
        ("Alarm", of(pb::AlarmRequest { action: 1, member_id: 7, alarm: 0 }), Root),
        ("Alarm", of(pb::AlarmRequest { action: 77, member_id: 7, alarm: 1 }), Root),
        ("Defragment", vec![], Root),
        ("Hash", vec![], Root),
        ("HashKV", vec![], Root),
        ("Snapshot", vec![], Root),
        ("MoveLeader", vec![], Root),
        ("Downgrade", of(pb::DowngradeRequest { action: 2, version: String::new() }), Root),
    ];
    let cluster = [
        ("MemberList", vec![], Users),
        ("MemberAdd", vec![], Root),
        ("MemberRemove", of(pb::MemberRemoveRequest { id: 1 }), Root),
        ("MemberUpdate", vec![], Root),
        ("MemberPromote", of(pb::MemberPromoteRequest { id: 1 }), Root),
    ];
    let locks = [
        ("/v3lockpb.Lock/Unlock", of(proto::v3lockpb::UnlockRequest { key: "k".into() }), Role),
        ("/v3lockpb.Lock/Lock", lock(), Role),
        ("/v3electionpb.Election/Leader", election(), Role),
        ("/v3electionpb.Election/Campaign", campaign(), Role),
        ("/v3electionpb.Election/Observe", election(), Role),
        ("/v3electionpb.Election/Proclaim", proclaim(), Role),
        ("/v3electionpb.Election/Resign", resign(), Role),
    ];
    let named = |service: &str, method: &str| -> &'static str {
        Box::leak(format!("/etcdserverpb.{service}/{method}").into_boxed_str())
    };
    let mut calls = [&kv[..], &locks].concat();
    let rest = [
        ("Lease", lease.to_vec()),
        ("Cluster", cluster.to_vec()),
        ("Maintenance", maintenance.to_vec()),
        ("Auth", auth_calls()),
    ];
    for (service, methods) in rest {
        calls.extend(
            methods.into_iter().map(|(name, bytes, who)| (named(service, name), bytes, who)),
        );
    }
    assert!(calls.iter().all(|(.., who)| [Everybody, Users, Role, Root].contains(who)));
    calls
}

fn auth_calls() -> Vec<(&'static str, Vec<u8>, Who)> {
    use Who::{Everybody, Role, Root};
    let wrong = pb::AuthenticateRequest { name: "x".into(), password: "y".into() };
    vec![
        ("AuthStatus", vec![], Everybody),
        ("Authenticate", of(wrong), Everybody),
        ("AuthEnable", vec![], Root),
        ("UserAdd", of(pb::AuthUserAddRequest { name: "new".into(), ..Default::default() }), Root),
        ("UserGet", of(pb::AuthUserGetRequest { name: ALICE.into() }), Role),
        ("UserGet", of(pb::AuthUserGetRequest { name: ROOT.into() }), Root),
        ("UserList", vec![], Root),
        ("UserDelete", vec![], Root),
        ("UserChangePassword", vec![], Root),
        ("UserGrantRole", vec![], Root),
        ("UserRevokeRole", vec![], Root),
        ("RoleAdd", vec![], Root),
        ("RoleGet", of(pb::AuthRoleGetRequest { role: "two".into() }), Role),
        ("RoleGet", of(pb::AuthRoleGetRequest { role: "none".into() }), Root),
        ("RoleList", vec![], Root),
        ("RoleDelete", vec![], Root),
        ("RoleGrantPermission", vec![], Root),
        ("RoleRevokePermission", vec![], Root),
        // The last: afterwards nobody is asked.
        ("AuthDisable", vec![], Root),
    ]
}

fn of(message: impl prost::Message) -> Vec<u8> {
    message.encode_to_vec()
}

fn txn() -> pb::TxnRequest {
    let put = pb::request_op::Request::RequestPut(put("k", "2"));
    pb::TxnRequest { success: vec![pb::RequestOp { request: Some(put) }], ..Default::default() }
}

fn watch() -> pb::WatchRequest {
    let create = pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    pb::WatchRequest { request_union: Some(create) }
}

fn lock() -> Vec<u8> {
    of(proto::v3lockpb::LockRequest { name: "e".into(), lease: 7 })
}

fn election() -> Vec<u8> {
    of(proto::v3electionpb::LeaderRequest { name: "e".into() })
}

fn campaign() -> Vec<u8> {
    of(proto::v3electionpb::CampaignRequest { name: "e".into(), lease: 7, value: "v".into() })
}

fn leader() -> Option<proto::v3electionpb::LeaderKey> {
    Some(proto::v3electionpb::LeaderKey { name: "e".into(), key: "e/7".into(), rev: 1, lease: 7 })
}

fn proclaim() -> Vec<u8> {
    of(proto::v3electionpb::ProclaimRequest { leader: leader(), value: "v".into() })
}

fn resign() -> Vec<u8> {
    of(proto::v3electionpb::ResignRequest { leader: leader() })
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(proto::DESCRIPTORS).expect("our own descriptors")
}

#[tokio::test]
async fn every_rpc_lets_through_whom_it_should_and_nobody_else() {
    let declared: BTreeSet<String> = calls().iter().map(|(path, ..)| (*path).to_owned()).collect();
    let there: BTreeSet<String> = pool()
        .services()
        .flat_map(|service| {
            let name = service.full_name().to_owned();
            let path =
                move |method: prost_reflect::MethodDescriptor| format!("/{name}/{}", method.name());
            service.methods().map(path).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(there, declared, "an RPC without a sample, or a sample without its RPC");

    let guarded = Guarded::start().await;
    guarded.grant(5).await;
    guarded.grant(7).await;
    guarded.open_to_alice("e", "f").await;
    guarded.put("e0", "1", 5).await;
    for (path, request, who) in calls() {
        for user in [None, Some(MALLORY), Some(ALICE), Some(ROOT)] {
            let through = let_through(&guarded, path, &request, user).await;
            assert_eq!(through, who.includes(user), "{path} as {user:?}");
        }
    }
    guarded.world.stop().await;
}

/// Calls, and sees whether the answer, whatever it is, is for want of a permission.
async fn let_through(guarded: &Guarded, path: &str, message: &[u8], user: Option<&str>) -> bool {
    const REFUSALS: [&str; 2] = ["etcdserver: permission denied", "etcdserver: user name is empty"];
    let mut grpc = tonic::client::Grpc::new(guarded.world.channel.clone());
    grpc.ready().await.expect("a connection");
    let message = Bytes::copy_from_slice(message);
    let messages =
        tokio_stream::StreamExt::chain(tokio_stream::once(message), tokio_stream::pending());
    let unary = !path.ends_with("/Watch") && !path.ends_with("/LeaseKeepAlive");
    let messages = tokio_stream::StreamExt::take(messages, if unary { 1 } else { 2 });
    let request = match user {
        Some(user) => guarded.by(user, messages),
        None => tonic::Request::new(messages),
    };
    let asked = async {
        let path = path.parse().expect("a path");
        let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
        answers.message().await
    };
    // Who has to wait, for a lock or for a leader, has been let through.
    let Ok(answered) = tokio::time::timeout(std::time::Duration::from_millis(500), asked).await
    else {
        return true;
    };
    match answered {
        Err(status) => !REFUSALS.contains(&status.message()),
        Ok(Some(answer)) if path.ends_with("/Watch") => {
            !pb::WatchResponse::decode(answer).expect("an answer").canceled
        }
        Ok(_) => true,
    }
}

/// What a field means for permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The keys, or the end of them, that are read.
    Reads,
    /// That are written.
    Writes,
    /// Asks for what is overwritten or deleted: reads it.
    Previous,
    /// A lease whose keys are at stake.
    Lease,
    /// Holds further requests, whose fields are in the table themselves.
    Holds,
    /// A user or role that one may ask about if it is one's own.
    Own,
    /// Makes the difference between asking and changing.
    Action,
    /// Nothing: the rule of the RPC says it all, or it changes how and not what.
    Nothing,
}

use Meaning::{Action, Holds, Lease, Nothing, Own, Previous, Reads, Writes};

/// Every field, message by message.
const FIELDS: &[(&str, &[(&str, Meaning)])] = &[
    (
        "etcdserverpb.RangeRequest",
        &[
            ("key", Reads),
            ("range_end", Reads),
            ("limit", Nothing),
            ("revision", Nothing),
            ("sort_order", Nothing),
            ("sort_target", Nothing),
            ("serializable", Nothing),
            ("keys_only", Nothing),
            ("count_only", Nothing),
            ("min_mod_revision", Nothing),
            ("max_mod_revision", Nothing),
            ("min_create_revision", Nothing),
            ("max_create_revision", Nothing),
        ],
    ),
    (
        "etcdserverpb.PutRequest",
        &[
            ("key", Writes),
            ("value", Nothing),
            ("lease", Lease),
            ("prev_kv", Previous),
            ("ignore_value", Nothing),
            ("ignore_lease", Nothing),
        ],
    ),
    (
        "etcdserverpb.DeleteRangeRequest",
        &[("key", Writes), ("range_end", Writes), ("prev_kv", Previous)],
    ),
    (
        "etcdserverpb.RequestOp",
        &[
            ("request_range", Holds),
            ("request_put", Holds),
            ("request_delete_range", Holds),
            ("request_txn", Holds),
        ],
    ),
    (
        "etcdserverpb.Compare",
        &[
            ("result", Nothing),
            ("target", Nothing),
            ("key", Reads),
            ("range_end", Reads),
            ("version", Nothing),
            ("create_revision", Nothing),
            ("mod_revision", Nothing),
            ("value", Nothing),
            ("lease", Nothing),
        ],
    ),
    ("etcdserverpb.TxnRequest", &[("compare", Holds), ("success", Holds), ("failure", Holds)]),
    ("etcdserverpb.CompactionRequest", &[("revision", Nothing), ("physical", Nothing)]),
    (
        "etcdserverpb.WatchRequest",
        &[("create_request", Holds), ("cancel_request", Holds), ("progress_request", Holds)],
    ),
    (
        "etcdserverpb.WatchCreateRequest",
        &[
            ("key", Reads),
            ("range_end", Reads),
            ("start_revision", Nothing),
            ("progress_notify", Nothing),
            ("filters", Nothing),
            ("prev_kv", Nothing),
            ("watch_id", Nothing),
            ("fragment", Nothing),
        ],
    ),
    ("etcdserverpb.WatchCancelRequest", &[("watch_id", Nothing)]),
    ("etcdserverpb.WatchProgressRequest", &[]),
    ("etcdserverpb.LeaseGrantRequest", &[("TTL", Nothing), ("ID", Nothing)]),
    ("etcdserverpb.LeaseRevokeRequest", &[("ID", Lease)]),
    ("etcdserverpb.LeaseKeepAliveRequest", &[("ID", Lease)]),
    ("etcdserverpb.LeaseTimeToLiveRequest", &[("ID", Lease), ("keys", Previous)]),
    ("etcdserverpb.LeaseLeasesRequest", &[]),
    ("etcdserverpb.MemberAddRequest", &[("peerURLs", Nothing), ("isLearner", Nothing)]),
    ("etcdserverpb.MemberRemoveRequest", &[("ID", Nothing)]),
    ("etcdserverpb.MemberUpdateRequest", &[("ID", Nothing), ("peerURLs", Nothing)]),
    ("etcdserverpb.MemberListRequest", &[("linearizable", Nothing)]),
    ("etcdserverpb.MemberPromoteRequest", &[("ID", Nothing)]),
    ("etcdserverpb.AlarmRequest", &[("action", Action), ("memberID", Nothing), ("alarm", Nothing)]),
    ("etcdserverpb.StatusRequest", &[]),
    ("etcdserverpb.DefragmentRequest", &[]),
    ("etcdserverpb.HashRequest", &[]),
    ("etcdserverpb.HashKVRequest", &[("revision", Nothing)]),
    ("etcdserverpb.SnapshotRequest", &[]),
    ("etcdserverpb.MoveLeaderRequest", &[("targetID", Nothing)]),
    ("etcdserverpb.DowngradeRequest", &[("action", Nothing), ("version", Nothing)]),
    ("etcdserverpb.AuthEnableRequest", &[]),
    ("etcdserverpb.AuthDisableRequest", &[]),
    ("etcdserverpb.AuthStatusRequest", &[]),
    ("etcdserverpb.AuthenticateRequest", &[("name", Nothing), ("password", Nothing)]),
    (
        "etcdserverpb.AuthUserAddRequest",
        &[
            ("name", Nothing),
            ("password", Nothing),
            ("options", Holds),
            ("hashedPassword", Nothing),
        ],
    ),
    ("authpb.UserAddOptions", &[("no_password", Nothing)]),
    ("etcdserverpb.AuthUserGetRequest", &[("name", Own)]),
    ("etcdserverpb.AuthUserListRequest", &[]),
    ("etcdserverpb.AuthUserDeleteRequest", &[("name", Nothing)]),
    (
        "etcdserverpb.AuthUserChangePasswordRequest",
        &[("name", Nothing), ("password", Nothing), ("hashedPassword", Nothing)],
    ),
    ("etcdserverpb.AuthUserGrantRoleRequest", &[("user", Nothing), ("role", Nothing)]),
    ("etcdserverpb.AuthUserRevokeRoleRequest", &[("name", Nothing), ("role", Nothing)]),
    ("etcdserverpb.AuthRoleAddRequest", &[("name", Nothing)]),
    ("etcdserverpb.AuthRoleGetRequest", &[("role", Own)]),
    ("etcdserverpb.AuthRoleListRequest", &[]),
    ("etcdserverpb.AuthRoleDeleteRequest", &[("role", Nothing)]),
    ("etcdserverpb.AuthRoleGrantPermissionRequest", &[("name", Nothing), ("perm", Holds)]),
    (
        "etcdserverpb.AuthRoleRevokePermissionRequest",
        &[("role", Nothing), ("key", Nothing), ("range_end", Nothing)],
    ),
    ("authpb.Permission", &[("permType", Nothing), ("key", Nothing), ("range_end", Nothing)]),
    // Locks and elections: the keys that their steps read and write, by the KV service.
    ("v3lockpb.LockRequest", &[("name", Writes), ("lease", Lease)]),
    ("v3lockpb.UnlockRequest", &[("key", Writes)]),
    ("v3electionpb.CampaignRequest", &[("name", Writes), ("lease", Lease), ("value", Nothing)]),
    ("v3electionpb.ProclaimRequest", &[("leader", Holds), ("value", Nothing)]),
    ("v3electionpb.LeaderRequest", &[("name", Reads)]),
    ("v3electionpb.ResignRequest", &[("leader", Holds)]),
    (
        "v3electionpb.LeaderKey",
        &[("name", Nothing), ("key", Writes), ("rev", Nothing), ("lease", Lease)],
    ),
];

#[test]
fn every_field_of_a_request_has_a_meaning() {
    let mut there = BTreeMap::new();
    for service in pool().services() {
        for method in service.methods() {
            collect(&method.input(), &mut there);
        }
    }
    let declared: BTreeMap<String, BTreeSet<String>> = FIELDS
        .iter()
        .map(|(message, fields)| {
            let names = fields.iter().map(|(name, _)| (*name).to_owned()).collect();
            ((*message).to_owned(), names)
        })
        .collect();
    assert_eq!(there, declared, "say what the field means for permissions, and see to it");
    // What holds requests is what has messages in it, so that nothing hides in a nested one.
    for (message, fields) in FIELDS {
        let descriptor = pool().get_message_by_name(message).expect("collected above");
        for (name, meaning) in *fields {
            let field = descriptor.get_field_by_name(name).expect("compared above");
            let holds = matches!(field.kind(), Kind::Message(_));
            assert_eq!(holds, *meaning == Holds, "{message}.{name}");
        }
    }
}

/// The fields of a message and of all that it can hold.
fn collect(message: &MessageDescriptor, there: &mut BTreeMap<String, BTreeSet<String>>) {
    let name = message.full_name().to_owned();
    if there.contains_key(&name) {
        return;
    }
    there.insert(name, message.fields().map(|field| field.name().to_owned()).collect());
    for field in message.fields() {
        if let Kind::Message(inner) = field.kind() {
            collect(&inner, there);
        }
    }
}
