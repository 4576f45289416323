//! Leases through the whole node: granted, renewed, expired.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn granting_settles_id_and_time() {
    let world = World::start().await;
    let mut lease = world.lease();
    let granted = lease.lease_grant(pb::LeaseGrantRequest { ttl: -5, id: 0 }).await;
    let granted = granted.expect("a grant").into_inner();
    assert!(granted.id > 0, "a positive id");
    assert_eq!(granted.ttl, 2, "one and a half election timeouts, in whole seconds");
    let again = lease.lease_grant(pb::LeaseGrantRequest { ttl: 9, id: granted.id }).await;
    assert_eq!(refused(again), says(Code::FailedPrecondition, "lease already exists"));
    let endless = lease.lease_grant(pb::LeaseGrantRequest { ttl: 9_000_000_001, id: 0 }).await;
    assert_eq!(refused(endless), says(Code::OutOfRange, "too large lease TTL"));
    let unknown = lease.lease_revoke(pb::LeaseRevokeRequest { id: 1 }).await;
    assert_eq!(refused(unknown), says(Code::NotFound, "requested lease not found"));
    let ask = pb::LeaseTimeToLiveRequest { id: 1, keys: true };
    let unknown = lease.lease_time_to_live(ask).await.expect("no error").into_inner();
    assert_eq!((unknown.ttl, unknown.granted_ttl), (-1, 0));
    let renewals = tokio_stream::iter([1, granted.id].map(|id| pb::LeaseKeepAliveRequest { id }));
    let mut renewed = lease.lease_keep_alive(renewals).await.expect("a stream").into_inner();
    for ttl in [0, 2] {
        assert_eq!(renewed.message().await.expect("an answer").expect("one each").ttl, ttl);
    }
    world.stop().await;
}

#[tokio::test]
async fn an_expired_lease_takes_its_keys_along() {
    let world = World::start().await;
    let mut lease = world.lease();
    lease.lease_grant(pb::LeaseGrantRequest { ttl: 2, id: 7 }).await.expect("a grant");
    for key in ["b", "a"] {
        let put = pb::PutRequest { lease: 7, ..put(key, "v") };
        world.kv().put(put).await.expect("a put");
    }
    let ask = pb::LeaseTimeToLiveRequest { id: 7, keys: true };
    let known = lease.lease_time_to_live(ask).await.expect("known").into_inner();
    assert_eq!(known.keys, [&b"a"[..], b"b"]);
    assert_eq!(known.granted_ttl, 2);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let left = world.kv().range(range("a", "z")).await.expect("a range").into_inner();
        if left.count == 0 {
            assert_eq!(left.header.expect("a header").revision, 4, "one revision for both keys");
            break;
        }
        assert_eq!(left.count, 2, "both or none");
        assert!(tokio::time::Instant::now() < deadline, "the lease never expired");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.stop().await;
}
