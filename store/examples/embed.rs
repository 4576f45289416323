//! A store inside another program, and a client of it that needs no socket. Run with
//! `cargo run -p store --example embed`.

use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{PutRequest, RangeRequest};
use store::Node;
use store::config::{Config, Url};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `Config::new("embedded", "some/folder".into())` would keep everything on the disk.
    let mut config = Config::in_memory("embedded");
    // Listening is up to you: without a URL only this process can reach the store.
    config.listen.client_urls = vec![Url::parse("http://127.0.0.1:0")?];

    let node = Node::start(config).await?;
    let mut kv = KvClient::new(node.connect());
    let put = PutRequest { key: "greeting".into(), value: "hello".into(), ..Default::default() };
    kv.put(put).await?;
    let get = RangeRequest { key: "greeting".into(), ..Default::default() };
    let answer = kv.range(get).await?.into_inner();

    let pair = answer.kvs.first().ok_or("the key is there")?;
    let revision = answer.header.map_or(0, |header| header.revision);
    println(&format!("{:?} at revision {revision}", pair.value))?;
    println(&format!("etcdctl --endpoints={} get greeting", node.addresses()[0]))?;
    node.shutdown().await;
    Ok(())
}

fn println(line: &str) -> std::io::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}")
}
