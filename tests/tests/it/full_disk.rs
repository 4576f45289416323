//! A disk that fills up under a running store.
//!
//! Goal: the store stops with one line that names the trouble, rather than go on with a log it could
//! not write; and everything it had acknowledged is there once there is room again.
//!
//! Method: the data folder lies on a small file system in memory, mounted for this test, and large
//! values are put until no answer comes. Then the mount is made larger, which is what an operator
//! does with a volume.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{PutRequest, RangeRequest};
use tests::server::{Program, Server};
use tonic::transport::Channel;

/// The first size of the volume, and the second.
const SMALL: &str = "size=24m";
const LARGE: &str = "size=96m";
/// A few dozen of these fill it.
const VALUE_BYTES: usize = 700_000;
/// More than the volume could ever hold.
const PUTS_MAX: u32 = 200;

/// A file system in memory, gone with this value, however the test ends.
struct Volume(PathBuf);

impl Volume {
    fn new(path: &Path) -> Self {
        std::fs::create_dir(path).expect("a folder can be made");
        let volume = Self(path.to_path_buf());
        volume.mount(SMALL, MsFlags::empty());
        volume
    }

    fn grow(&self) {
        self.mount(LARGE, MsFlags::MS_REMOUNT);
    }

    fn mount(&self, size: &str, flags: MsFlags) {
        mount(Some("tmpfs"), &self.0, Some("tmpfs"), flags, Some(size)).expect("root may mount");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Detached, it goes as soon as nobody is in it; a process that is still there has been
        // started after this value and so ended before it.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

async fn connect(server: &Server) -> KvClient<Channel> {
    let endpoint = Channel::from_shared(server.url()).expect("the URL is well formed");
    let channel = endpoint.connect().await.expect("the server accepts connections");
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

fn value(nth: u32) -> Vec<u8> {
    // No two blocks are alike, so that no file system can make little of them.
    let mut state = u64::from(nth) + 1;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..VALUE_BYTES).map(|_| byte()).collect()
}

/// Puts until one is not acknowledged; returns how many were.
async fn fill(server: &Server) -> u32 {
    let mut client = connect(server).await;
    for nth in 0..PUTS_MAX {
        let key = format!("key{nth:03}").into();
        let request = PutRequest { key, value: value(nth).into(), ..PutRequest::default() };
        if client.put(request).await.is_err() {
            return nth;
        }
    }
    panic!("a volume of {SMALL} holds {PUTS_MAX} values of {VALUE_BYTES} bytes");
}

#[test]
fn a_full_disk_stops_the_store_and_loses_nothing() {
    if !tests::root("full_disk::a_full_disk_stops_the_store_and_loses_nothing") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let volume = Volume::new(&dir.path().join("volume"));
    // Its log file lies beside the volume: an operator reads what a full disk could not take.
    let data = volume.0.join("data");
    let mut server = Server::start(Program::Ours, &data, &["--log-outputs=stderr"]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let acknowledged = runtime.block_on(fill(&server));
    assert!(acknowledged > 5, "full after {acknowledged} values");

    let status = server.process.wait();
    let said = server.process.output();
    assert!(!status.success(), "{status}: {said}");
    let errors: Vec<_> = said.lines().filter(|line| line.contains("\"level\":\"error\"")).collect();
    assert_eq!(errors.len(), 1, "one line tells it:\n{said}");
    for part in ["the store cannot go on", "No space left on device"] {
        assert!(errors[0].contains(part), "{part} is not in {}", errors[0]);
    }
    assert!(!said.contains("panicked"), "{said}");

    volume.grow();
    server.restart();
    let found = runtime.block_on(async {
        let all =
            RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
        connect(&server).await.range(all).await.expect("it serves again").into_inner().kvs
    });
    // The one whose answer never came may be there or not.
    assert!(found.len() == acknowledged as usize || found.len() == acknowledged as usize + 1);
    for (nth, kv) in (0..).zip(&found) {
        assert_eq!(kv.key, format!("key{nth:03}").as_bytes());
        assert!(kv.value == value(nth), "the value of key{nth:03} is another");
    }
    // And takes writes.
    let put = PutRequest { key: "after".into(), value: "room".into(), ..PutRequest::default() };
    runtime.block_on(async { connect(&server).await.put(put).await }).expect("there is room");
    server.process.stop();
}
