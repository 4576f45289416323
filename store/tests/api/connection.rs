//! One HTTP/2 connection, seen from its frames: what the generated clients hide.

use std::future::poll_fn;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use store::config::urls::Url;

const PATIENCE: Duration = Duration::from_secs(10);

async fn world(change: impl FnOnce(&mut Config)) -> World {
    World::start_with(|config| {
        config.listen.client_urls = vec![Url::parse("http://127.0.0.1:0").expect("a URL")];
        change(config);
    })
    .await
}

async fn socket(world: &World) -> TcpStream {
    TcpStream::connect(world.node.addresses()[0]).await.expect("a connection")
}

/// A client that takes 64 KiB of each answer before it must be asked, and how its connection ends.
async fn client(world: &World) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let (requests, connection) = builder.handshake(socket(world).await).await.expect("HTTP/2");
    (requests.ready().await.expect("room"), tokio::spawn(connection))
}

fn call(requests: &mut SendRequest<Bytes>, method: &str) -> (ResponseFuture, SendStream<Bytes>) {
    let request = http::Request::post(format!("http://x/etcdserverpb.KV/{method}"))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    requests.send_request(request.body(()).expect("a request"), false).expect("sent")
}

fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).expect("small"));
    message.encode(&mut frame).expect("grows");
    frame.freeze()
}

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// A connection on which both have begun to speak HTTP/2, and the client leaves it at that.
async fn begun(world: &World) -> TcpStream {
    let mut socket = socket(world).await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
    socket.write_all(&settings).await.expect("sent");
    let mut said = Vec::new();
    while !kinds(&said).contains(&SETTINGS) {
        assert_ne!(socket.read_buf(&mut said).await.expect("it is open"), 0, "it is closed");
    }
    socket
}

/// The kinds of the frames in what a server has said.
fn kinds(mut said: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = *said {
        let length = 9 + usize::from(a) * 65_536 + usize::from(b) * 256 + usize::from(c);
        kinds.push(kind);
        said = said.get(length..).unwrap_or_default();
    }
    kinds
}

/// All of an answer, taken piece by piece.
async fn read(response: ResponseFuture) -> (Bytes, http::HeaderMap) {
    let mut body: RecvStream = response.await.expect("an answer").into_body();
    let mut all = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece.expect("a piece");
        all.extend_from_slice(&piece);
        tokio::task::yield_now().await;
        body.flow_control().release_capacity(piece.len()).expect("was taken");
    }
    (all.freeze(), body.trailers().await.expect("the end").expect("trailers"))
}

/// Goal: answers larger than a client's window come whole, beside each other, and past one that
/// nobody reads.
#[tokio::test]
async fn large_answers_pass_small_windows() {
    let world = world(|_| {}).await;
    for nth in 0..10 {
        world.put(&format!("k{nth}"), &"v".repeat(50_000)).await;
    }
    let (mut requests, _ending) = client(&world).await;
    let all = framed(&range("k", "l"));
    let ask = |requests: &mut SendRequest<Bytes>| {
        let (response, mut stream) = call(requests, "Range");
        stream.send_data(all.clone(), true).expect("sent");
        response
    };
    let unread = ask(&mut requests).await.expect("an answer");
    let asked: Vec<_> = (0..4).map(|_| tokio::spawn(read(ask(&mut requests)))).collect();
    for asked in asked {
        let (bytes, trailers) =
            tokio::time::timeout(PATIENCE, asked).await.expect("in time").expect("read");
        assert_eq!(trailers["grpc-status"], "0");
        let answer = pb::RangeResponse::decode(&bytes[5..]).expect("an answer");
        assert_eq!((answer.kvs.len(), answer.count), (10, 10));
    }
    drop(unread);
    world.stop().await;
}

/// Goal: a request may come byte by byte, and end by an empty frame.
#[tokio::test]
async fn a_request_may_come_in_any_pieces() {
    let world = world(|_| {}).await;
    let (mut requests, _ending) = client(&world).await;
    let (response, mut stream) = call(&mut requests, "Put");
    for byte in framed(&put("k", "v")) {
        stream.send_data(Bytes::copy_from_slice(&[byte]), false).expect("sent");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut response = response;
    let early = tokio::time::timeout(Duration::from_millis(50), &mut response).await;
    assert!(early.is_err(), "a request ends with its stream");
    stream.send_data(Bytes::new(), true).expect("sent");
    let (bytes, trailers) = read(response).await;
    assert_eq!(trailers["grpc-status"], "0");
    let answer = pb::PutResponse::decode(&bytes[5..]).expect("an answer");
    assert_eq!(answer.header.expect("every answer has one").revision, 2);
    world.stop().await;
}

/// Goal: a call that its client has reset is let go of, and the connection serves on.
#[tokio::test]
async fn a_reset_ends_a_call_and_nothing_else() {
    let world = world(|_| {}).await;
    let (mut requests, _ending) = client(&world).await;
    for method in ["Put", "Range", "RangeStream", "Compact"] {
        let (response, mut stream) = call(&mut requests, method);
        stream.send_data(Bytes::from_static(&[0, 0]), false).expect("sent");
        stream.send_reset(h2::Reason::CANCEL);
        response.await.expect_err("it was reset");
        requests = requests.ready().await.expect("the connection lives");
    }
    let (response, mut stream) = call(&mut requests, "Put");
    stream.send_data(framed(&put("k", "v")), true).expect("sent");
    assert_eq!(read(response).await.1["grpc-status"], "0");
    world.stop().await;
}

/// Goal: who says nothing is pinged, and cut if he does not answer; who answers stays.
#[tokio::test]
async fn who_answers_no_ping_is_cut() {
    let world = world(|config| {
        config.listen.keepalive.interval = Some(Duration::from_millis(100));
        config.listen.keepalive.timeout = Duration::from_millis(100);
    })
    .await;
    let (mut requests, _ending) = client(&world).await;
    let since = tokio::time::Instant::now();
    let mut silent = begun(&world).await;
    let mut said = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut said)).await;
    // Whether it ends or breaks is the system's business.
    drop(ended.expect("it is cut"));
    assert!(since.elapsed() >= Duration::from_millis(200), "{:?}", since.elapsed());
    let pings = kinds(&said).into_iter().filter(|kind| *kind == PING).count();
    assert_eq!(pings, 1, "{:?}", kinds(&said));
    tokio::time::sleep(Duration::from_millis(300)).await;
    poll_fn(|context| requests.poll_ready(context)).await.expect("it answered, and stays");
    let (response, mut stream) = call(&mut requests, "Range");
    stream.send_data(framed(&range("k", "")), true).expect("sent");
    assert_eq!(read(response).await.1["grpc-status"], "0");
    world.stop().await;
}

/// Goal: a node that stops says so to clients that are silent, before it closes.
#[tokio::test]
async fn a_stop_is_announced() {
    let world = world(|_| {}).await;
    let mut silent = begun(&world).await;
    let told = tokio::spawn(async move {
        let mut said = Vec::new();
        while !kinds(&said).contains(&GOAWAY) {
            let length = silent.read_buf(&mut said).await.expect("it is open");
            assert_ne!(length, 0, "it is closed without a word: {:?}", kinds(&said));
        }
    });
    tokio::task::yield_now().await;
    let stopping = tokio::spawn(world.stop());
    tokio::time::timeout(PATIENCE, told).await.expect("in time").expect("it is told");
    stopping.await.expect("it stops");
}
