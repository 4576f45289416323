//! Every field of every request, at its edges.
//!
//! Goal: numbers at the ends of their range, names that are empty or endless or not even text, enums
//! that do not exist, keys of no bytes: each gets etcd's code and words, or etcd's answer, and harms
//! nobody. Method: the fields come from the descriptors, so a new one is tried without being thought
//! of; each request is a good one with one field changed, sent as bytes, because a client library
//! would refuse to. What is expected was recorded from etcd:
//!
//! ```sh
//! TESTS_PEER=etcd-3.7 [UPDATE_GOLDENFILES=1] cargo test -p tests edges
//! ```

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value,
};
use proto::authpb;
use proto::etcdserverpb as pb;
use proto::v3electionpb as election;
use proto::v3lockpb as lock;
use tests::server::{Program, Server};
use tests::tools;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A lease that is there all the time, and its seconds.
const LEASE: i64 = 5;
const TTL: i64 = 6_000;
/// Stands in a text until it is replaced by bytes that are no text.
const NO_TEXT: &str = "@no-text@";
const NO_TEXT_BYTES: &[u8; 9] = b"@\xff\xfe\xc0\xaf\xed\xa0\x80@";
/// Larger than any name, and smaller than a request may be.
const LONG: usize = 20_000;
/// Who is not answered by then has to wait: for a lock, or for something to watch.
const WAIT: Duration = Duration::from_millis(700);
/// Fewer would mean that the descriptors were not read.
const CASES_MIN: usize = 300;

/// An RPC, and a request that is good.
struct Call {
    path: &'static str,
    request: Box<dyn Fn(i64) -> Vec<u8>>,
}

fn call<M: Message + 'static>(path: &'static str, request: impl Fn(i64) -> M + 'static) -> Call {
    Call { path, request: Box::new(move |nth| request(nth).encode_to_vec()) }
}

fn range() -> pb::RangeRequest {
    pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() }
}

fn put() -> pb::PutRequest {
    pb::PutRequest { key: "k".into(), value: "v".into(), lease: LEASE, ..Default::default() }
}

fn delete() -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: "d".into(), range_end: "e".into(), ..Default::default() }
}

fn txn() -> pb::TxnRequest {
    use pb::compare::TargetUnion;
    use pb::request_op::Request;
    let compare = |target: i32, target_union| pb::Compare {
        key: "k".into(),
        result: 3,
        target,
        target_union: Some(target_union),
        ..Default::default()
    };
    let op = |request| pb::RequestOp { request: Some(request) };
    let nested =
        pb::TxnRequest { success: vec![op(Request::RequestRange(range()))], ..Default::default() };
    pb::TxnRequest {
        compare: vec![
            compare(1, TargetUnion::CreateRevision(77)),
            compare(3, TargetUnion::Value("none".into())),
        ],
        success: vec![
            op(Request::RequestPut(put())),
            op(Request::RequestDeleteRange(delete())),
            op(Request::RequestTxn(nested)),
        ],
        failure: vec![op(Request::RequestRange(range()))],
    }
}

fn watch() -> pb::WatchRequest {
    let create = pb::WatchCreateRequest { key: "k".into(), ..Default::default() };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    pb::WatchRequest { request_union: Some(union) }
}

fn leader() -> Option<election::LeaderKey> {
    Some(election::LeaderKey { name: "e".into(), key: "e/5".into(), rev: 1, lease: LEASE })
}

/// Every RPC whose request has a field, but for those that change the cluster, that answer with all
/// of the data, or whose answer to nonsense is a listed difference.
fn calls() -> Vec<Call> {
    let mut calls = vec![
        call("etcdserverpb.KV/Range", |_| range()),
        call("etcdserverpb.KV/RangeStream", |_| range()),
        call("etcdserverpb.KV/Put", |_| put()),
        call("etcdserverpb.KV/DeleteRange", |_| delete()),
        call("etcdserverpb.KV/Txn", |_| txn()),
        call("etcdserverpb.KV/Compact", |_| pb::CompactionRequest { revision: 1, physical: false }),
        call("etcdserverpb.Watch/Watch", |_| watch()),
        call("etcdserverpb.Lease/LeaseGrant", |nth| pb::LeaseGrantRequest {
            id: 1_000 + nth,
            ttl: 600,
        }),
        call("etcdserverpb.Lease/LeaseRevoke", |_| pb::LeaseRevokeRequest { id: 77 }),
        call("etcdserverpb.Lease/LeaseKeepAlive", |_| pb::LeaseKeepAliveRequest { id: LEASE }),
        call("etcdserverpb.Lease/LeaseTimeToLive", |_| pb::LeaseTimeToLiveRequest {
            id: LEASE,
            keys: false,
        }),
        call("etcdserverpb.Cluster/MemberList", |_| pb::MemberListRequest::default()),
        call("etcdserverpb.Maintenance/HashKV", |_| pb::HashKvRequest { revision: 0 }),
    ];
    calls.extend(auth_calls());
    calls.extend(queue_calls());
    calls
}

fn auth_calls() -> Vec<Call> {
    let name = |nth: i64| format!("n{nth}");
    let permission = || authpb::Permission { perm_type: 2, key: "k".into(), range_end: "l".into() };
    vec![
        call("etcdserverpb.Auth/Authenticate", |_| pb::AuthenticateRequest {
            name: "u".into(),
            password: "p".into(),
        }),
        call("etcdserverpb.Auth/UserAdd", move |nth| pb::AuthUserAddRequest {
            name: name(nth),
            password: "p".into(),
            options: Some(authpb::UserAddOptions::default()),
            ..Default::default()
        }),
        call("etcdserverpb.Auth/UserGet", |_| pb::AuthUserGetRequest { name: "u".into() }),
        call("etcdserverpb.Auth/UserChangePassword", |_| pb::AuthUserChangePasswordRequest {
            name: "u".into(),
            password: "p".into(),
            ..Default::default()
        }),
        call("etcdserverpb.Auth/UserGrantRole", |_| pb::AuthUserGrantRoleRequest {
            user: "u".into(),
            role: "r".into(),
        }),
        call("etcdserverpb.Auth/UserRevokeRole", |_| pb::AuthUserRevokeRoleRequest {
            name: "u".into(),
            role: "r".into(),
        }),
        call("etcdserverpb.Auth/RoleAdd", move |nth| pb::AuthRoleAddRequest { name: name(nth) }),
        call("etcdserverpb.Auth/RoleGrantPermission", move |_| {
            pb::AuthRoleGrantPermissionRequest { name: "r".into(), perm: Some(permission()) }
        }),
        call("etcdserverpb.Auth/RoleGet", |_| pb::AuthRoleGetRequest { role: "r".into() }),
        call("etcdserverpb.Auth/RoleRevokePermission", |_| pb::AuthRoleRevokePermissionRequest {
            role: "r".into(),
            key: "k".into(),
            range_end: "l".into(),
        }),
        call("etcdserverpb.Auth/UserDelete", |_| pb::AuthUserDeleteRequest { name: "n".into() }),
        call("etcdserverpb.Auth/RoleDelete", |_| pb::AuthRoleDeleteRequest { role: "n".into() }),
    ]
}

fn queue_calls() -> Vec<Call> {
    vec![
        call("v3lockpb.Lock/Lock", |_| lock::LockRequest { name: "l".into(), lease: LEASE }),
        call("v3lockpb.Lock/Unlock", |_| lock::UnlockRequest { key: "l/5".into() }),
        call("v3electionpb.Election/Campaign", |_| election::CampaignRequest {
            name: "e".into(),
            lease: LEASE,
            value: "v".into(),
        }),
        call("v3electionpb.Election/Leader", |_| election::LeaderRequest { name: "e".into() }),
        call("v3electionpb.Election/Proclaim", |_| election::ProclaimRequest {
            leader: leader(),
            value: "v".into(),
        }),
        call("v3electionpb.Election/Resign", |_| election::ResignRequest { leader: leader() }),
    ]
}

/// Values at the edges of what a field may hold, each with a name.
fn edges(field: &FieldDescriptor) -> Vec<(&'static str, Value)> {
    let texts = |text: fn(&str) -> Value| {
        vec![("empty", text("")), ("zero", text("\0")), ("long", text(&"n".repeat(LONG)))]
    };
    match field.kind() {
        Kind::Int64 => [("min", i64::MIN), ("-1", -1), ("0", 0), ("1", 1), ("max", i64::MAX)]
            .map(|(name, number)| (name, Value::I64(number)))
            .into(),
        Kind::Uint64 => [("0", 0), ("1", 1), ("max", u64::MAX)]
            .map(|(name, number)| (name, Value::U64(number)))
            .into(),
        Kind::Bool => vec![("false", Value::Bool(false)), ("true", Value::Bool(true))],
        Kind::Enum(of) => {
            let beyond = of.values().map(|value| value.number()).max().unwrap_or(0) + 1;
            [("-1", -1), ("beyond", beyond), ("max", i32::MAX)]
                .map(|(name, number)| (name, Value::EnumNumber(number)))
                .into()
        }
        Kind::String => {
            let mut all = texts(|text| Value::String(text.to_owned()));
            all.push(("no text", Value::String(NO_TEXT.to_owned())));
            all
        }
        Kind::Bytes => texts(|text| Value::Bytes(Bytes::copy_from_slice(text.as_bytes()))),
        other => panic!("{} is of a kind that nobody has thought of: {other:?}", field.full_name()),
    }
}

/// The same request with one field changed, for each field and each edge, nested messages included.
fn variants(message: &DynamicMessage, place: &str) -> Vec<(String, DynamicMessage)> {
    let mut all = Vec::new();
    for field in message.descriptor().fields() {
        let name = format!("{place}{}", field.name());
        let mut with = |name: String, value: Value| {
            let mut changed = message.clone();
            changed.set_field(&field, value);
            all.push((name, changed));
        };
        match (field.kind(), message.get_field(&field).as_ref()) {
            (Kind::Message(_), Value::Message(inner)) if message.has_field(&field) => {
                for (name, inner) in variants(inner, &format!("{name}.")) {
                    with(name, Value::Message(inner));
                }
            }
            (Kind::Message(_), Value::List(list)) => {
                for (nth, item) in list.iter().enumerate() {
                    let Value::Message(item) = item else { continue };
                    for (name, item) in variants(item, &format!("{name}[{nth}].")) {
                        let mut list = list.clone();
                        list[nth] = Value::Message(item);
                        with(name, Value::List(list));
                    }
                }
            }
            (Kind::Message(_), _) => {}
            (_, Value::List(_)) => {
                for (edge, value) in edges(&field) {
                    with(format!("{name}=[{edge}]"), Value::List(vec![value]));
                }
            }
            _ => {
                for (edge, value) in edges(&field) {
                    with(format!("{name}={edge}"), value);
                }
            }
        }
    }
    all
}

/// Cases whose answer is chance, or a difference that `differences.md` lists.
fn left_out(path: &str, case: &str) -> bool {
    // The server picks the id of a lease.
    let picks = case == "ID=0" || (path.starts_with("v3") && case == "lease=0");
    let listed = [
        ("KV/Range", "keys_only=true"),
        ("KV/RangeStream", "keys_only=true"),
        ("KV/RangeStream", "sort_target="),
        ("KV/Txn", "success[1].request_delete_range.range_end=zero"),
        // The revision that was compacted to.
        ("Maintenance/HashKV", "revision=1"),
        ("Auth/RoleGrantPermission", "perm.permType="),
    ];
    let is_this = |(rpc, of): &(&str, &str)| path.ends_with(rpc) && case.starts_with(of);
    picks || listed.iter().any(is_this)
}

/// What two correct servers may say in words of their own.
fn words(status: &Status) -> String {
    if status.code() == Code::Internal && status.message().to_lowercase().contains("proto") {
        return "(not a message)".to_owned();
    }
    if status.message().contains("unmarshal") || status.message().contains("decod") {
        return "(not a message)".to_owned();
    }
    status.message().to_owned()
}

/// A message on one line: only what is set, and nothing that is chance.
fn show(message: &DynamicMessage) -> String {
    let mut line = String::new();
    for (field, value) in message.fields() {
        let value = match (field.name(), value) {
            ("header", Value::Message(header)) => {
                let revision = header.get_field_by_name("revision");
                format!("r{}", revision.as_deref().and_then(Value::as_i64).unwrap_or(0))
            }
            ("token", _) => "a token".to_owned(),
            // One request may take a second or so of it.
            ("TTL", Value::I64(ttl)) if (TTL - 100..TTL).contains(ttl) => TTL.to_string(),
            ("hash", _) | ("clientURLs" | "peerURLs", _) => continue,
            (_, value) => show_value(value),
        };
        let _ = write!(line, "{}:{value} ", field.name());
    }
    line.trim_end().to_owned()
}

fn show_value(value: &Value) -> String {
    match value {
        Value::Message(message) => format!("{{{}}}", show(message)),
        Value::List(list) => {
            let items: Vec<_> = list.iter().map(show_value).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Bytes(bytes) => shorten(&bytes.escape_ascii().to_string()),
        Value::String(text) => shorten(&text.escape_debug().to_string()),
        other => format!("{other:?}"),
    }
}

fn shorten(text: &str) -> String {
    if text.len() < 100 { format!("\"{text}\"") } else { format!("({} bytes)", text.len()) }
}

/// Messages as bytes.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}

/// Asks, and tells the first answer.
async fn ask(channel: &Channel, path: &str, message: Bytes) -> Result<Option<Bytes>, Status> {
    use tokio_stream::StreamExt as _;
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("a connection");
    let lasting = path.ends_with("/Watch") || path.ends_with("/LeaseKeepAlive");
    let messages = tokio_stream::once(message).chain(tokio_stream::pending());
    let request = tonic::Request::new(messages.take(if lasting { 2 } else { 1 }));
    let path = format!("/{path}").parse().expect("a path");
    let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
    answers.message().await
}

fn no_text(mut message: Vec<u8>) -> Bytes {
    let find = |message: &[u8]| {
        message.windows(NO_TEXT.len()).position(|window| window == NO_TEXT.as_bytes())
    };
    while let Some(at) = find(&message) {
        message[at..at + NO_TEXT.len()].copy_from_slice(NO_TEXT_BYTES);
    }
    message.into()
}

/// Asks everything and tells it, a line for each case.
async fn play(channel: &Channel) -> Vec<String> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("our own descriptors");
    let mut lines = Vec::new();
    let mut nth = 0;
    for Call { path, request } in calls() {
        let (service, method) = path.split_once('/').expect("a service and a method");
        let service = pool.get_service_by_name(service).expect("a service of the API");
        let method = service.methods().find(|found| found.name() == method).expect("its method");
        let decode = |bytes: &[u8]| {
            DynamicMessage::decode(method.input(), bytes).expect("a sample is a message")
        };
        let cases: Vec<_> =
            variants(&decode(&request(0)), "").into_iter().map(|(case, _)| case).collect();
        let cases = cases.into_iter().enumerate().map(|(at, case)| (Some(at), case));
        for (at, case) in [(None, "good".to_owned())].into_iter().chain(cases) {
            if left_out(path, &case) {
                continue;
            }
            nth += 1;
            let good = decode(&request(nth));
            let message = match at {
                Some(at) => variants(&good, "").swap_remove(at).1,
                None => good,
            };
            let asked = ask(channel, path, no_text(message.encode_to_vec()));
            let told = match tokio::time::timeout(WAIT, asked).await {
                Err(_) => "has to wait".to_owned(),
                Ok(Ok(None)) => "the end".to_owned(),
                Ok(Ok(Some(answer))) => {
                    let answer = DynamicMessage::decode(method.output(), answer);
                    show(&answer.expect("an answer of the API"))
                }
                Ok(Err(status)) => format!("{:?}: {}", status.code(), words(&status)),
            };
            lines.push(format!("{path} {case}: {told}"));
        }
    }
    lines
}

/// A lease, a key on it, a user and a role: what the samples speak of.
async fn furnish(channel: &Channel) {
    let grant = pb::LeaseGrantRequest { id: LEASE, ttl: TTL };
    let mut lease = pb::lease_client::LeaseClient::new(channel.clone());
    lease.lease_grant(grant).await.expect("granted");
    pb::kv_client::KvClient::new(channel.clone()).put(put()).await.expect("put");
    let mut auth = pb::auth_client::AuthClient::new(channel.clone());
    let user =
        pb::AuthUserAddRequest { name: "u".into(), password: "p".into(), ..Default::default() };
    auth.user_add(user).await.expect("added");
    auth.role_add(pb::AuthRoleAddRequest { name: "r".into() }).await.expect("added");
}

#[tokio::test]
async fn every_field_at_its_edges() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let peer = std::env::var("TESTS_PEER").ok();
    let program = match &peer {
        Some(peer) => Program::Peer(tools::required(peer)),
        None => Program::Ours,
    };
    let server = Server::start(program, &dir.path().join("data"), &["--bcrypt-cost=4"]);
    let endpoint = Channel::from_shared(server.url()).expect("the URL is well formed");
    let channel = endpoint.connect().await.expect("the server accepts connections");
    furnish(&channel).await;
    let told = play(&channel).await;
    assert!(told.len() > CASES_MIN, "only {} cases", told.len());

    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/edges.golden");
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(&path, told.join("\n") + "\n").expect("it can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("recorded");
    let expected: Vec<&str> = golden.lines().collect();
    assert_eq!(told.len(), expected.len(), "record it anew: the API has other fields");
    let differs = told.iter().zip(&expected).filter(|(told, expected)| told != *expected);
    let differs: Vec<_> =
        differs.map(|(told, expected)| format!("- {expected}\n+ {told}")).collect();
    assert!(differs.is_empty(), "{} of {}:\n{}", differs.len(), told.len(), differs.join("\n"));
}
