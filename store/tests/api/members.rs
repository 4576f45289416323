//! What the one member says about itself, and lets be changed.

use super::*;

#[tokio::test]
async fn other_peer_urls_are_told_and_kept() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let config = || Config::new("test", dir.path().join("data"));
    let node = Node::start(config()).await.expect("the node starts");
    let mut cluster = pb::cluster_client::ClusterClient::new(node.connect());
    let list = pb::MemberListRequest { linearizable: true };
    let before = cluster.member_list(list).await.expect("a list").into_inner().members;
    let moved = ["http://10.0.0.1:2380".to_owned(), "http://10.0.0.2:2380".to_owned()];
    let update = pb::MemberUpdateRequest {
        id: before[0].id,
        peer_ur_ls: moved.iter().rev().cloned().collect(),
    };
    let updated = cluster.member_update(update).await.expect("an update").into_inner().members;
    let expected = pb::Member { peer_ur_ls: moved.to_vec(), ..before[0].clone() };
    assert_eq!(updated, std::slice::from_ref(&expected));
    drop(cluster);
    node.shutdown().await;

    // It is the cluster's knowledge, so the flags of the next start do not count.
    let node = Node::start(config()).await.expect("the node starts again");
    let mut cluster = pb::cluster_client::ClusterClient::new(node.connect());
    let after = cluster.member_list(list).await.expect("a list").into_inner().members;
    assert_eq!(after, [expected]);
    drop(cluster);
    node.shutdown().await;
}
