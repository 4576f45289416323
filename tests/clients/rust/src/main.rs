//! A session of the Rust client `etcd-client`: `session ENDPOINT [auth | snapshot]`.
//!
//! Prints what it has checked, and ends with an error at the first surprise.

use std::error::Error;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, EventType, GetOptions, LockOptions,
    ProclaimOptions, PutOptions, ResignOptions, SortOrder, SortTarget, Txn, TxnOp, WatchOptions,
};

type Done = Result<(), Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Done {
    let mut args = std::env::args().skip(1);
    let endpoint = args.next().ok_or("which endpoint?")?;
    let part = args.next();
    if part.as_deref() == Some("auth") {
        return guarded(&endpoint).await;
    }
    let mut client = Client::connect([&endpoint], None).await?;
    if part.as_deref() == Some("snapshot") {
        return snapshot(&mut client).await;
    }
    values(&mut client).await?;
    transactions(&mut client).await?;
    watches(&mut client).await?;
    leases(&mut client).await?;
    locks(&mut client).await?;
    elections(&mut client).await?;
    refusals(&mut client).await?;
    upkeep(&mut client).await
}

async fn values(client: &mut Client) -> Done {
    client.put("rs/a", "1", None).await?;
    let prev = client.put("rs/a", "2", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(prev.prev_key().ok_or("no previous pair")?.value(), b"1");
    client.put("rs/b", "3", None).await?;
    let sorted = GetOptions::new()
        .with_prefix()
        .with_sort(SortTarget::Key, SortOrder::Descend)
        .with_limit(1);
    let answer = client.get("rs/", Some(sorted)).await?;
    assert_eq!((answer.kvs()[0].key(), answer.count(), answer.more()), (&b"rs/b"[..], 2, true));
    assert_eq!(client.get("rs/none", None).await?.count(), 0);
    assert_eq!(client.delete("rs/b", None).await?.deleted(), 1);
    println!("ok values");
    Ok(())
}

async fn transactions(client: &mut Client) -> Done {
    let txn = Txn::new()
        .when([Compare::value("rs/a", CompareOp::Equal, "2")])
        .and_then([TxnOp::put("rs/t", "yes", None), TxnOp::get("rs/t", None)])
        .or_else([TxnOp::put("rs/t", "no", None)]);
    let answer = client.txn(txn).await?;
    assert!(answer.succeeded() && answer.op_responses().len() == 2);
    assert_eq!(client.get("rs/t", None).await?.kvs()[0].value(), b"yes");
    println!("ok transactions");
    Ok(())
}

async fn watches(client: &mut Client) -> Done {
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut stream = client.watch("rs/w", Some(options)).await?;
    let created = stream.message().await?.ok_or("the watch ended")?;
    assert!(created.created());
    client.put("rs/w1", "1", None).await?;
    client.delete("rs/w1", None).await?;
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        let answer = stream.message().await?.ok_or("the watch ended")?;
        kinds.extend(answer.events().iter().map(|event| event.event_type()));
    }
    assert_eq!(kinds, [EventType::Put, EventType::Delete]);
    stream.request_progress().await?;
    let progress = stream.message().await?.ok_or("the watch ended")?;
    assert!(progress.events().is_empty());
    stream.cancel(created.watch_id()).await?;
    let end = stream.message().await?.ok_or("the watch ended without a word")?;
    assert!(end.canceled());
    println!("ok watches");
    Ok(())
}

async fn leases(client: &mut Client) -> Done {
    let lease = client.lease_grant(60, None).await?;
    client.put("rs/l", "x", Some(PutOptions::new().with_lease(lease.id()))).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(lease.id()).await?;
    keeper.keep_alive().await?;
    assert_eq!(answers.message().await?.ok_or("no answer")?.ttl(), 60);
    let left = client.lease_time_to_live(lease.id(), None).await?;
    assert!(left.granted_ttl() == 60 && left.ttl() > 50);
    assert_eq!(client.leases().await?.leases().len(), 1);
    client.lease_revoke(lease.id()).await?;
    assert_eq!(client.get("rs/l", None).await?.count(), 0);
    println!("ok leases");
    Ok(())
}

async fn locks(client: &mut Client) -> Done {
    let lease = client.lease_grant(60, None).await?.id();
    let options = LockOptions::new().with_lease(lease);
    let key = client.lock("rs-lock", Some(options)).await?.key().to_vec();
    assert!(key.starts_with(b"rs-lock/"));
    assert_eq!(client.get(key.clone(), None).await?.kvs()[0].lease(), lease);
    client.unlock(key.clone()).await?;
    assert_eq!(client.get(key, None).await?.count(), 0);
    println!("ok locks");
    Ok(())
}

async fn elections(client: &mut Client) -> Done {
    let lease = client.lease_grant(60, None).await?.id();
    let won = client.campaign("rs-election", "one", lease).await?;
    let leader = won.leader().ok_or("no leader")?.clone();
    let mut observed = client.observe("rs-election").await?;
    let seen = observed.message().await?.ok_or("nothing is observed")?;
    assert_eq!(seen.kv().ok_or("no pair")?.value(), b"one");
    let options = ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("two", Some(options)).await?;
    let now = client.leader("rs-election").await?;
    assert_eq!(now.kv().ok_or("no pair")?.value(), b"two");
    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    assert!(client.leader("rs-election").await.is_err());
    println!("ok elections");
    Ok(())
}

async fn refusals(client: &mut Client) -> Done {
    let error = client.put("", "x", None).await.err().ok_or("an empty key must be refused")?;
    assert!(error.to_string().contains("key is not provided"), "{error}");
    let future = GetOptions::new().with_revision(1 << 40);
    let error = client.get("rs/a", Some(future)).await.err().ok_or("the future must be refused")?;
    assert!(error.to_string().contains("future revision"), "{error}");
    println!("ok refusals");
    Ok(())
}

async fn upkeep(client: &mut Client) -> Done {
    let status = client.status().await?;
    assert!(status.version().starts_with("3.") && status.leader() != 0);
    assert_eq!(client.member_list().await?.members().len(), 1);
    let revision = client.get("rs/a", None).await?.header().ok_or("no header")?.revision();
    client.compact(revision, None).await?;
    assert_ne!(client.hash_kv(0).await?.hash(), 0);
    client.defragment().await?;
    println!("ok upkeep");
    Ok(())
}

async fn snapshot(client: &mut Client) -> Done {
    let (mut snapshot, mut bytes) = (client.snapshot().await?, 0);
    while let Some(piece) = snapshot.message().await? {
        bytes += piece.blob().len();
    }
    assert_eq!(bytes % 512, 32, "a database and its hash");
    println!("ok snapshot");
    Ok(())
}

/// With users: root has been made and auth is on.
async fn guarded(endpoint: &str) -> Done {
    let options = ConnectOptions::new().with_user("root", "rootpw");
    let mut root = Client::connect([endpoint], Some(options)).await?;
    root.put("rs/guarded", "1", None).await?;
    let mut nobody = Client::connect([endpoint], None).await?;
    let error = nobody.get("rs/guarded", None).await.err().ok_or("nobody must be refused")?;
    assert!(error.to_string().contains("user name is empty"), "{error}");
    let options = ConnectOptions::new().with_user("root", "wrong");
    assert!(Client::connect([endpoint], Some(options)).await.is_err());
    println!("ok guarded");
    Ok(())
}
