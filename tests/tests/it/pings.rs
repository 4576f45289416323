//! Clients that ping too often: the rule of `--grpc-keepalive-min-time`, over real connections.
//!
//! `TESTS_PEER=etcd-3.7` plays the same against etcd. The rule itself, case by case, is tested
//! beside it (`store/src/pings`).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use tests::authority::Authority;
use tests::server::{Program, Server};
use tests::tools;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

fn program() -> Program {
    match std::env::var("TESTS_PEER") {
        Ok(peer) => Program::Peer(tools::required(&peer)),
        Err(_) => Program::Ours,
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0abcdefgh";
const GOAWAY: u8 = 7;

/// Sends so many pings at once and returns the frames that come back, of kind and payload, until the
/// server closes or has been silent for a second.
fn frames_after(server: &Server, pings: usize) -> (Vec<(u8, Vec<u8>)>, bool) {
    let mut socket = TcpStream::connect(&server.endpoint).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    socket.write_all(&[PREFACE, SETTINGS, &PING.repeat(pings)].concat()).expect("sent");
    let mut bytes = Vec::new();
    // A silent server is one that does not close.
    let closed = socket.read_to_end(&mut bytes).is_ok();
    let mut frames = Vec::new();
    let mut rest = bytes.as_slice();
    while let [l0, l1, l2, kind, _, _, _, _, _, after @ ..] = rest {
        let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
        frames.push((*kind, after[..length].to_vec()));
        rest = &after[length..];
    }
    (frames, closed)
}

/// Goal: three pings without a call are answered, the fourth is told why it is not.
#[test]
fn a_flood_of_pings_is_told_and_cut_off() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let server = Server::start(program(), &dir.path().join("data"), &[]);
    let (frames, closed) = frames_after(&server, 3);
    assert!(!closed && frames.iter().all(|(kind, _)| *kind != GOAWAY), "{frames:?}");
    let (frames, closed) = frames_after(&server, 4);
    let (_, farewell) = frames.iter().find(|(kind, _)| *kind == GOAWAY).expect("a farewell");
    assert_eq!(farewell, b"\0\0\0\0\0\0\0\x0btoo_many_pings");
    assert!(closed, "nothing comes after it: {frames:?}");
}

/// How a watch ends whose connection pings five times a second, within four seconds.
async fn watch_on(endpoint: tonic::transport::Endpoint) -> Option<tonic::Status> {
    let interval = Duration::from_millis(200);
    let channel = endpoint.http2_keep_alive_interval(interval).keep_alive_while_idle(true);
    let channel = channel.connect().await.expect("the server accepts");
    let mut watch = pb::watch_client::WatchClient::new(channel);
    let create = pb::WatchCreateRequest { key: "a".into(), ..Default::default() };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    let asks = tokio_stream::once(pb::WatchRequest { request_union: Some(union) });
    let asks = tokio_stream::StreamExt::chain(asks, tokio_stream::pending());
    let mut answers = watch.watch(asks).await.expect("a stream").into_inner();
    assert!(answers.message().await.expect("an answer").expect("an answer").created);
    let ended = tokio::time::timeout(Duration::from_secs(4), answers.message()).await;
    ended.ok()?.err()
}

/// Goal: a client's library that is set up badly loses its calls; where etcd does not count, over
/// TLS, we do not either.
#[tokio::test]
async fn a_library_that_pings_too_often_is_sent_away_but_not_over_tls() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let plain = Server::start(program(), &dir.path().join("plain"), &[]);
    let began = Instant::now();
    let endpoint = Channel::from_shared(plain.url()).expect("a URL");
    // Whether the library tells the reason depends on what it was doing when it came.
    watch_on(endpoint).await.expect("the watch ends");
    assert!(began.elapsed() >= Duration::from_millis(600), "three pings are fine");

    let patient =
        Server::start(program(), &dir.path().join("patient"), &["--grpc-keepalive-min-time=100ms"]);
    let endpoint = Channel::from_shared(patient.url()).expect("a URL");
    assert!(watch_on(endpoint).await.is_none(), "it may ping every tenth of a second");

    let authority = Authority::new(&dir.path().join("ca.pem"));
    authority.sign_nameless(&dir.path().join("server"));
    authority.sign_named(&dir.path().join("client"), "client");
    let secure = Server::start_secure(program(), &dir.path().join("secure"), dir.path(), &[]);
    let file = |name: &str| std::fs::read(dir.path().join(name)).expect("written above");
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(file("ca.pem")))
        .identity(Identity::from_pem(file("client.pem"), file("client.key")));
    let endpoint = Channel::from_shared(secure.url()).expect("a URL").tls_config(tls).expect("TLS");
    assert!(watch_on(endpoint).await.is_none(), "over TLS nobody counts");
}
