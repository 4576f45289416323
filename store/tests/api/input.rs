//! Requests that make no sense get etcd's answer, in etcd's words, and change nothing.

use super::*;
use pb::range_request::SortTarget;

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put_op(key: &str) -> pb::RequestOp {
    op(pb::request_op::Request::RequestPut(put(key, "v")))
}

fn delete_op(key: &str, end: &str) -> pb::RequestOp {
    op(pb::request_op::Request::RequestDeleteRange(delete(key, end)))
}

fn txn_op(txn: pb::TxnRequest) -> pb::RequestOp {
    op(pb::request_op::Request::RequestTxn(txn))
}

fn then(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..Default::default() }
}

fn then_else(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, failure, ..Default::default() }
}

#[tokio::test]
async fn keys_are_needed() {
    let world = World::start().await;
    let mut kv = world.kv();
    let empty = says(Code::InvalidArgument, "key is not provided");
    assert_eq!(refused(kv.range(range("", "")).await), empty);
    assert_eq!(refused(kv.put(put("", "v")).await), empty);
    assert_eq!(refused(kv.delete_range(delete("", "z")).await), empty);
    assert_eq!(refused(kv.txn(then(vec![put_op("")])).await), empty);
    assert_eq!(refused(kv.txn(then(vec![txn_op(then(vec![delete_op("", "")]))])).await), empty);
    let compare = pb::TxnRequest { compare: vec![pb::Compare::default()], ..Default::default() };
    assert_eq!(refused(kv.txn(compare).await), empty);
    let unset = then(vec![pb::RequestOp { request: None }]);
    assert_eq!(refused(kv.txn(unset).await), says(Code::InvalidArgument, "key not found"));
    world.stop().await;
}

#[tokio::test]
async fn ranges_and_revisions_at_their_edges() {
    let world = World::start().await;
    let mut kv = world.kv();
    for key in ["a", "b", "c"] {
        world.put(key, "v").await;
    }
    for (key, end, count) in
        [("a", "c", 2), ("b", "a", 0), ("b", "b", 0), ("b", "\0", 2), ("\0", "\0", 3), ("a", "", 1)]
    {
        let answer = kv.range(range(key, end)).await.expect("a range").into_inner();
        assert_eq!(
            (answer.count, answer.kvs.len()),
            (count, usize::try_from(count).expect("small"))
        );
    }
    for limit in [0, -1, i64::MIN, i64::MAX] {
        let request = pb::RangeRequest { limit, ..range("\0", "\0") };
        assert_eq!(kv.range(request).await.expect("a range").into_inner().kvs.len(), 3);
    }
    for revision in [-1, i64::MIN] {
        let request = pb::RangeRequest { revision, ..range("a", "") };
        assert_eq!(kv.range(request).await.expect("a range").into_inner().count, 1);
    }
    let future = says(Code::OutOfRange, "mvcc: required revision is a future revision");
    for revision in [5, i64::MAX] {
        let request = pb::RangeRequest { revision, ..range("a", "") };
        assert_eq!(refused(kv.range(request).await), future);
    }
    let odd = says(Code::InvalidArgument, "invalid sort option");
    let order = pb::RangeRequest { sort_order: 9, ..range("a", "") };
    assert_eq!(refused(kv.range(order).await), odd);
    let target = pb::RangeRequest { sort_target: -3, ..range("a", "") };
    assert_eq!(refused(kv.range(target).await), odd);
    world.stop().await;
}

#[tokio::test]
async fn ignoring_needs_something_to_keep() {
    let world = World::start().await;
    let mut kv = world.kv();
    let both = pb::PutRequest { ignore_value: true, ..put("a", "v") };
    assert_eq!(refused(kv.put(both).await), says(Code::InvalidArgument, "value is provided"));
    let both = pb::PutRequest { ignore_lease: true, lease: 5, ..put("a", "v") };
    assert_eq!(refused(kv.put(both).await), says(Code::InvalidArgument, "lease is provided"));
    let missing = says(Code::InvalidArgument, "key not found");
    let value = pb::PutRequest { ignore_value: true, ..put("a", "") };
    assert_eq!(refused(kv.put(value.clone()).await), missing);
    let lease = pb::PutRequest { ignore_lease: true, ..put("a", "v") };
    assert_eq!(refused(kv.put(lease).await), missing);
    let unknown = pb::PutRequest { lease: 77, ..put("a", "v") };
    assert_eq!(refused(kv.put(unknown).await), says(Code::NotFound, "requested lease not found"));
    assert_eq!(world.put("a", "v").await, 2, "none of them took a revision");
    kv.put(value).await.expect("now there is a value to keep");
    let kept = kv.range(range("a", "")).await.expect("a range").into_inner();
    assert_eq!((&kept.kvs[0].value[..], kept.kvs[0].version), (&b"v"[..], 2));
    world.stop().await;
}

#[tokio::test]
async fn transactions_have_a_budget() {
    let world = World::start().await;
    let mut kv = world.kv();
    let puts = |n: usize| (0..n).map(|n| put_op(&format!("k{n}"))).collect::<Vec<_>>();
    kv.txn(then(puts(128))).await.expect("128 steps are allowed");
    let too_many = says(Code::InvalidArgument, "too many operations in txn request");
    assert_eq!(refused(kv.txn(then(puts(129))).await), too_many);
    // The nested one may have what its parent left: 128 − 1.
    kv.txn(then(vec![txn_op(then(puts(127)))])).await.expect("1 + 127");
    assert_eq!(refused(kv.txn(then(vec![txn_op(then(puts(128)))])).await), too_many);
    let deep =
        |levels: usize| (0..levels).fold(then(puts(1)), |inner, _| then(vec![txn_op(inner)]));
    kv.txn(deep(20)).await.expect("nesting is allowed");
    for levels in [60, 100, 1000] {
        kv.txn(deep(levels)).await.expect_err("too deep");
    }
    world.put("still", "alive").await;
    world.stop().await;
}

#[tokio::test]
async fn no_key_changes_twice() {
    let world = World::start().await;
    let mut kv = world.kv();
    let twice = says(Code::InvalidArgument, "duplicate key given in txn request");
    for steps in [
        vec![put_op("a"), put_op("a")],
        vec![put_op("b"), delete_op("a", "c")],
        vec![delete_op("a", "\0"), put_op("b")],
        vec![delete_op("b", ""), put_op("b")],
        vec![put_op("a"), txn_op(then(vec![put_op("a")]))],
        vec![delete_op("a", "z"), txn_op(then_else(vec![], vec![put_op("b")]))],
        vec![txn_op(then(vec![put_op("a")])), txn_op(then_else(vec![], vec![put_op("a")]))],
        vec![txn_op(then(vec![delete_op("a", "c")])), put_op("b")],
    ] {
        assert_eq!(refused(kv.txn(then(steps.clone())).await), twice, "{steps:?}");
        // The branch that will not run is judged as well.
        assert_eq!(refused(kv.txn(then_else(vec![], steps)).await), twice);
    }
    for steps in [
        vec![delete_op("a", "d"), delete_op("b", "z"), delete_op("b", "")],
        vec![txn_op(then_else(vec![put_op("a")], vec![put_op("a")]))],
        vec![put_op("a"), delete_op("b", "c"), put_op("c")],
        vec![delete_op("b", "a"), put_op("b")],
    ] {
        kv.txn(then(steps)).await.expect("allowed");
    }
    world.stop().await;
}

#[tokio::test]
async fn sizes_are_bounded_exactly() {
    let world = World::start_with(|config| config.requests.max_bytes = 4096).await;
    let mut kv = world.kv();
    // Key and value with their tags and lengths: 1 + 1 + 1 and 1 + 2.
    let fits = "x".repeat(4096 - 6);
    world.put("k", &fits).await;
    let large = says(Code::InvalidArgument, "request is too large");
    assert_eq!(refused(kv.put(put("k", &(fits + "x"))).await), large);
    let huge = "x".repeat(600 << 10);
    let (code, _) = refused(kv.put(put("k", &huge)).await);
    assert_eq!(code, Code::ResourceExhausted, "as grpc-go says it");
    world.stop().await;
}

#[tokio::test]
async fn compaction_at_its_edges() {
    let world = World::start().await;
    let mut kv = world.kv();
    for n in 0..5 {
        world.put("a", &n.to_string()).await;
    }
    let compacted = says(Code::OutOfRange, "mvcc: required revision has been compacted");
    let future = says(Code::OutOfRange, "mvcc: required revision is a future revision");
    let compact = |revision| pb::CompactionRequest { revision, physical: true };
    assert_eq!(refused(kv.compact(compact(7)).await), future);
    assert_eq!(refused(kv.compact(compact(-5)).await), compacted);
    kv.compact(compact(4)).await.expect("within history");
    assert_eq!(refused(kv.compact(compact(4)).await), compacted);
    let old = pb::RangeRequest { revision: 3, ..range("a", "") };
    assert_eq!(refused(kv.range(old).await), compacted);
    world.stop().await;
}

#[tokio::test]
async fn a_stream_adds_up_to_the_unary_answer() {
    let world = World::start().await;
    let mut kv = world.kv();
    for n in 0..300 {
        world.put(&format!("k{n:03}"), &format!("{}", 300 - n)).await;
    }
    for request in [
        range("k", "l"),
        pb::RangeRequest { limit: 25, ..range("k", "l") },
        pb::RangeRequest { limit: 300, ..range("k", "l") },
        pb::RangeRequest { count_only: true, ..range("k", "l") },
        pb::RangeRequest { keys_only: true, revision: 200, ..range("k", "l") },
        // No order, but a target: ascending. Keys and revisions are in the same order here.
        pb::RangeRequest { sort_target: SortTarget::Value.into(), limit: 25, ..range("k", "l") },
        pb::RangeRequest { sort_target: SortTarget::Mod.into(), ..range("k", "l") },
        range("none", ""),
    ] {
        let unary = kv.range(request.clone()).await.expect("a range").into_inner();
        let mut stream = kv.range_stream(request.clone()).await.expect("a stream").into_inner();
        let mut merged = pb::RangeResponse::default();
        while let Some(chunk) = stream.message().await.expect("a chunk") {
            let chunk = chunk.range_response.expect("never empty");
            assert!(merged.header.is_none(), "only the last chunk has a header");
            merged.kvs.extend(chunk.kvs);
            (merged.header, merged.more, merged.count) = (chunk.header, chunk.more, chunk.count);
        }
        assert_eq!(merged, unary, "{request:?}");
    }
    let sorted = pb::RangeRequest { sort_order: 2, ..range("k", "l") };
    let (code, text) = refused(kv.range_stream(sorted).await);
    assert_eq!(code, Code::Unimplemented);
    assert_eq!(text, "RangeStream does not support custom sort orders");
    world.stop().await;
}

/// Goal: an alarm is part of the data: it stands after a restart, whatever the quota is by then.
#[tokio::test]
async fn an_alarm_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let mut config = Config::new("test", dir.path().join("data"));
    let mut start = |quota| {
        config.disk.quota_bytes = Some(quota);
        Node::start(config.clone())
    };
    let full = says(Code::ResourceExhausted, "mvcc: database space exceeded");
    let mut quota = 4000;
    for _ in 0..3 {
        let node = start(quota).await.expect("the node starts");
        let mut kv = pb::kv_client::KvClient::new(node.connect());
        if quota == 4000 {
            // What would cross the quota is refused, and raises the alarm.
            assert_eq!(refused(kv.put(put("a", &"x".repeat(4000))).await), full);
        }
        assert_eq!(refused(kv.put(put("b", "v")).await), full);
        kv.delete_range(delete("none", "")).await.expect("deleting is allowed");
        let mut maintenance = pb::maintenance_client::MaintenanceClient::new(node.connect());
        let list = maintenance.alarm(pb::AlarmRequest::default()).await.expect("a list");
        let listed: Vec<_> = list.into_inner().alarms.iter().map(|alarm| alarm.alarm).collect();
        assert_eq!(listed, [1]);
        drop((kv, maintenance));
        node.shutdown().await;
        quota = 1 << 30;
    }
}

#[tokio::test]
async fn what_is_sorted_is_streamed_in_pieces_of_bounded_size() {
    let world = World::start_with(|config| config.requests.max_bytes = 10_000).await;
    for n in 0..30 {
        world.put(&format!("k{n:02}"), &format!("{:02}{}", 30 - n, "x".repeat(1000))).await;
    }
    let sorted = pb::RangeRequest { sort_target: SortTarget::Value.into(), ..range("k", "l") };
    let mut stream = world.kv().range_stream(sorted).await.expect("a stream").into_inner();
    let mut pieces = Vec::new();
    while let Some(piece) = stream.message().await.expect("a piece") {
        pieces.push(piece.range_response.expect("never empty").kvs);
    }
    assert!(pieces.len() >= 3 && pieces.iter().all(|piece| piece.len() <= 11), "{}", pieces.len());
    let keys: Vec<_> = pieces.concat().into_iter().map(|kv| kv.key).collect();
    assert!(keys.len() == 30 && keys.iter().rev().is_sorted(), "{keys:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_hash_that_was_told_outlives_the_compaction_to_its_revision() {
    let world = World::start().await;
    for value in ["1", "2", "3"] {
        world.put("a", value).await;
    }
    let ask = async |revision| {
        let request = pb::HashKvRequest { revision };
        let answer = world.maintenance().hash_kv(request).await.expect("a hash").into_inner();
        (answer.hash, answer.compact_revision, answer.hash_revision)
    };
    let before = ask(4).await;
    let upto = pb::CompactionRequest { revision: 4, physical: true };
    world.kv().compact(upto).await.expect("a compaction");
    assert_eq!(ask(4).await, before);
    world.put("a", "4").await;
    let now = ask(5).await;
    assert_eq!((now.1, now.2), (4, 5), "later revisions are hashed anew");
    world.stop().await;
}

#[tokio::test]
async fn a_full_store_refuses_writes_and_recovers() {
    let world = World::start_with(|config| config.disk.quota_bytes = Some(4000)).await;
    let mut kv = world.kv();
    world.put("a", &"x".repeat(3000)).await;
    let full = says(Code::ResourceExhausted, "mvcc: database space exceeded");
    assert_eq!(refused(kv.put(put("a", &"x".repeat(1000))).await), full, "there is no room");
    assert_eq!(refused(kv.put(put("b", "v")).await), full);
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 0 };
    assert_eq!(refused(world.lease().lease_grant(grant).await), full);
    let status = world.maintenance().status(pb::StatusRequest {}).await.expect("a status");
    let status = status.into_inner();
    let member = status.header.expect("a header").member_id;
    assert_eq!(status.errors, [format!("memberID:{member} alarm:NOSPACE")]);
    kv.delete_range(delete("a", "")).await.expect("deleting is allowed");
    let upto = pb::CompactionRequest { revision: 3, physical: true };
    kv.compact(upto).await.expect("compacting is allowed");
    assert_eq!(refused(kv.put(put("b", "v")).await), full, "the alarm stands until disarmed");
    let disarm = pb::AlarmRequest { action: 2, member_id: member, alarm: 1 };
    let disarmed = world.maintenance().alarm(disarm).await.expect("disarming").into_inner();
    assert_eq!(disarmed.alarms.len(), 1);
    world.put("b", "v").await;
    world.stop().await;
}
