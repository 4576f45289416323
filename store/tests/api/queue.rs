//! Locks and elections through the whole node.

use std::time::Duration;

use proto::v3electionpb as el;
use proto::v3electionpb::election_client::ElectionClient;
use proto::v3lockpb::lock_client::LockClient;
use proto::v3lockpb::{LockRequest, UnlockRequest};

use super::*;

impl World {
    async fn granted(&self, ttl: i64) -> i64 {
        let grant = pb::LeaseGrantRequest { ttl, id: 0 };
        self.lease().lease_grant(grant).await.expect("a grant").into_inner().id
    }

    async fn count(&self, prefix: &str) -> i64 {
        let rows = self.kv().range(range(&format!("{prefix}/"), &format!("{prefix}0"))).await;
        rows.expect("a range").into_inner().count
    }
}

/// Waits until so many keys stand in the queue.
async fn queued(world: &World, name: &str, wanted: i64) {
    let all = async {
        while world.count(name).await != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.expect("the queue fills and drains");
}

fn lock(name: &str, lease: i64) -> LockRequest {
    LockRequest { name: name.to_owned().into(), lease }
}

#[tokio::test]
async fn a_lock_goes_from_hand_to_hand_in_the_order_of_asking() {
    let world = World::start().await;
    let mut locks = LockClient::new(world.channel.clone());
    let first = world.granted(60).await;
    let held = locks.lock(lock("l", first)).await.expect("free").into_inner();
    assert_eq!(held.key, format!("l/{first:x}"));
    let again = locks.lock(lock("l", first)).await.expect("its own").into_inner();
    assert_eq!(again.key, held.key, "whoever holds it may ask again");

    let mut waiting = Vec::new();
    for n in 2..=4 {
        let (lease, mut locks) = (world.granted(60).await, locks.clone());
        waiting.push((lease, tokio::spawn(async move { locks.lock(lock("l", lease)).await })));
        queued(&world, "l", n).await;
    }
    let mut key = held.key;
    for (lease, waiting) in waiting {
        assert!(!waiting.is_finished(), "somebody else holds it");
        locks.unlock(UnlockRequest { key }).await.expect("an unlock");
        let next = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        key = next.expect("in time").expect("no panic").expect("the lock").into_inner().key;
        assert_eq!(key, format!("l/{lease:x}"));
    }
    world.stop().await;
}

#[tokio::test]
async fn who_hangs_up_leaves_the_queue_and_who_vanishes_loses_the_lock() {
    let world = World::start().await;
    let mut locks = LockClient::new(world.channel.clone());
    let short = world.granted(2).await;
    locks.lock(lock("l", short)).await.expect("free");
    let hasty = world.granted(60).await;
    let gone = tokio::time::timeout(Duration::from_millis(200), locks.lock(lock("l", hasty))).await;
    assert!(gone.is_err(), "the lock is held");
    queued(&world, "l", 1).await;
    let patient = world.granted(60).await;
    let held = tokio::time::timeout(Duration::from_secs(10), locks.lock(lock("l", patient))).await;
    let held = held.expect("the short lease ends").expect("the lock").into_inner();
    assert_eq!(held.key, format!("l/{patient:x}"));
    let unknown = locks.lock(lock("l", 12345)).await;
    assert_eq!(refused(unknown), says(Code::Unknown, "requested lease not found"));
    world.stop().await;
}

#[tokio::test]
async fn a_lock_without_a_lease_gets_one_of_a_minute() {
    let world = World::start().await;
    let mut locks = LockClient::new(world.channel.clone());
    let held = locks.lock(lock("l", 0)).await.expect("free").into_inner();
    let hex = std::str::from_utf8(&held.key["l/".len()..]).expect("text").to_owned();
    let id = i64::from_str_radix(&hex, 16).expect("the lease in hexadecimal");
    let ask = pb::LeaseTimeToLiveRequest { id, keys: true };
    let lease = world.lease().lease_time_to_live(ask).await.expect("known").into_inner();
    assert_eq!((lease.granted_ttl, lease.keys), (60, vec![held.key]));
    world.stop().await;
}

fn unknown(text: &str) -> (Code, String) {
    (Code::Unknown, text.to_owned())
}

#[tokio::test]
async fn an_election_tells_its_leaders_in_order() {
    let world = World::start().await;
    let mut elections = ElectionClient::new(world.channel.clone());
    let name: bytes::Bytes = "e".into();
    let ask = el::LeaderRequest { name: name.clone() };
    assert_eq!(refused(elections.leader(ask.clone()).await), unknown("election: no leader"));
    let mut observed = elections.observe(ask.clone()).await.expect("a stream").into_inner();

    let lease = world.granted(60).await;
    let campaign = |lease: i64, value: &str| el::CampaignRequest {
        name: name.clone(),
        lease,
        value: value.to_owned().into(),
    };
    let won = elections.campaign(campaign(lease, "one")).await.expect("nobody else runs");
    let leader = won.into_inner().leader.expect("a key");
    assert_eq!((leader.lease, &leader.name), (lease, &name));

    let second = world.granted(60).await;
    let (mut other, wants) = (elections.clone(), campaign(second, "two"));
    let waiting = tokio::spawn(async move { other.campaign(wants).await });
    queued(&world, "e", 2).await;
    let proclaim = el::ProclaimRequest { leader: Some(leader.clone()), value: "one!".into() };
    elections.proclaim(proclaim.clone()).await.expect("it leads");
    let now = elections.leader(ask).await.expect("a leader").into_inner().kv.expect("a key");
    assert_eq!(&now.value[..], b"one!");
    let resign = el::ResignRequest { leader: Some(leader) };
    elections.resign(resign.clone()).await.expect("it leads");
    waiting.await.expect("no panic").expect("the next one leads");
    assert_eq!(refused(elections.proclaim(proclaim).await), unknown("election: not leader"));
    elections.resign(resign).await.expect("nothing to resign from is no error");

    let mut told = Vec::new();
    while told.len() < 3 {
        let next = tokio::time::timeout(Duration::from_secs(10), observed.message()).await;
        let next = next.expect("in time").expect("an answer").expect("the stream goes on");
        told.push(next.kv.expect("a key").value);
    }
    assert_eq!(told, [&b"one"[..], b"one!", b"two"]);
    let nobody = el::ProclaimRequest { leader: None, value: "x".into() };
    let missing = unknown("\"leader\" field must be provided");
    assert_eq!(refused(elections.proclaim(nobody).await), missing);
    assert_eq!(refused(elections.resign(el::ResignRequest { leader: None }).await), missing);
    world.stop().await;
}
