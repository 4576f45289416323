//! A whole node in this process, asked over gRPC by the generated clients: what `etcdctl` cannot
//! ask, and what would be slow to ask with it.

mod access;
mod connection;
mod declared;
mod health;
mod input;
mod lease;
mod members;
mod names;
mod port;
mod queue;
mod watch;

use proto::etcdserverpb as pb;
use store::Node;
use store::config::Config;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A node on a data directory of its own.
struct World {
    node: Node,
    channel: Channel,
    _dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let mut config = Config::new("test", dir.path().join("data"));
        change(&mut config);
        let node = Node::start(config).await.expect("the node starts");
        let channel = node.connect();
        Self { node, channel, _dir: dir }
    }

    fn kv(&self) -> pb::kv_client::KvClient<Channel> {
        pb::kv_client::KvClient::new(self.channel.clone())
    }

    fn lease(&self) -> pb::lease_client::LeaseClient<Channel> {
        pb::lease_client::LeaseClient::new(self.channel.clone())
    }

    fn maintenance(&self) -> pb::maintenance_client::MaintenanceClient<Channel> {
        pb::maintenance_client::MaintenanceClient::new(self.channel.clone())
    }

    /// Puts and tells the revision.
    async fn put(&self, key: &str, value: &str) -> i64 {
        let answer = self.kv().put(put(key, value)).await.expect("the put succeeds");
        answer.into_inner().header.expect("every answer has a header").revision
    }

    async fn stop(self) {
        drop(self.channel);
        self.node.shutdown().await;
    }
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

fn range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    }
}

fn delete(key: &str, end: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    }
}

/// The code and the text of a refusal.
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("must be refused");
    (status.code(), status.message().to_owned())
}

fn says(code: Code, text: &str) -> (Code, String) {
    (code, format!("etcdserver: {text}"))
}
