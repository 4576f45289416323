//! The JSON gateway, from the socket on.
//!
//! Requests that were right are damaged in one place or two and sent to a store in this process over
//! a real connection. Whatever they are, each must be answered with a status line (or, where the
//! damage is to the framing of HTTP, with the end of the connection), never with 500 for a panic,
//! and the store must go on serving.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use store::Node;
use store::config::{Config, Url};

use crate::Random;

/// After so many seeds a request that is right is asked on a connection of its own.
const GOES_ON: u64 = 200;

/// A path and a body that it takes.
const REQUESTS: [(&str, &str); 12] = [
    ("kv/put", r#"{"key":"Zm9v","value":"YmFy","lease":"0","prev_kv":true}"#),
    ("kv/range", r#"{"key":"Zm9v","range_end":"AA==","limit":"5","sort_order":"DESCEND"}"#),
    ("kv/deleterange", r#"{"key":"Zm9v","rangeEnd":"Zm9w"}"#),
    (
        "kv/txn",
        r#"{"compare":[{"key":"Zm9v","target":"VALUE","value":"YmFy"}],"success":[{"request_txn":{"success":[{"request_put":{"key":"YQ==","value":"Yg=="}}]}}],"failure":[{"requestRange":{"key":"YQ=="}}]}"#,
    ),
    ("kv/compaction", r#"{"revision":"1","physical":false}"#),
    ("lease/grant", r#"{"TTL":100,"ID":"77"}"#),
    ("lease/timetolive", r#"{"ID":77,"keys":true}"#),
    ("lease/revoke", r#"{"ID":"77"}"#),
    ("cluster/member/list", r#"{"linearizable":true}"#),
    ("maintenance/alarm", r#"{"action":"GET","memberID":"0","alarm":"NONE"}"#),
    ("maintenance/hashkv", r#"{"revision":0}"#),
    ("auth/user/add", r#"{"name":"u","password":"p","options":{"no_password":true}}"#),
];
/// What is put into a body.
const ODD: [&str; 20] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "\\",
    "null",
    "true",
    "-1",
    "1e400",
    "99999999999999999999",
    "NaN",
    "\"\\ud800\"",
    "\u{0}",
    "{\"key\":",
    "[[[[[[[[",
    "\"====\"",
    "\"Zm9\"",
    "{\"a\":{\"a\":{\"a\":",
];

fn damaged(random: &mut Random) -> (&'static str, String) {
    let (path, body) = REQUESTS[random.below(REQUESTS.len())];
    let mut body = body.to_string();
    for _ in 0..random.below(3) {
        let at = random.below(body.len() + 1);
        let odd = ODD[random.below(ODD.len())];
        match random.below(4) {
            0 => body.insert_str(at, odd),
            1 => body.truncate(at),
            2 => body.insert_str(at, &odd.repeat(1 + random.below(300))),
            _ => {
                let end = (at + 1 + random.below(8)).min(body.len());
                if body.is_char_boundary(at) && body.is_char_boundary(end) {
                    body.replace_range(at..end, odd);
                }
            }
        }
        // A place inside of a character cannot be the next one.
        body.retain(|c| c.is_ascii());
    }
    (path, body)
}

/// The store that is asked, and a connection to it: made once, kept for the next seed.
struct Bench {
    address: SocketAddr,
    connection: Option<TcpStream>,
    /// Serves for as long as the process lives.
    _node: (tokio::runtime::Runtime, Node),
}

/// One damaged request.
pub fn seed(seed: u64) {
    static BENCH: OnceLock<Mutex<Bench>> = OnceLock::new();
    let mut bench = BENCH.get_or_init(|| Mutex::new(bench())).lock().expect("a panic ends the run");
    let Bench { address, connection, .. } = &mut *bench;
    let kept = connection.get_or_insert_with(|| connect(*address));
    if !damage(seed, kept) {
        *connection = None;
    }
    if seed.is_multiple_of(GOES_ON) {
        let answer = ask(&mut connect(*address), "kv/put", "{\"key\":\"YQ==\"}", 14);
        let status = answer.as_ref().map(|(status, _)| &status[..]);
        assert_eq!(status, Some("200"), "seed {seed}: the store no longer serves");
    }
}

fn bench() -> Bench {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let mut config = Config::in_memory("fuzz");
    config.listen.client_urls = vec![Url::parse("http://127.0.0.1:0").expect("a URL")];
    let node = runtime.block_on(Node::start(config)).expect("the node starts");
    let address = node.addresses()[0];
    Bench { address, connection: None, _node: (runtime, node) }
}

/// Sends one damaged request over `connection`; true when the connection goes on.
fn damage(seed: u64, connection: &mut TcpStream) -> bool {
    let mut random = Random::new(seed);
    let (path, body) = damaged(&mut random);
    let length = match random.below(40) {
        0 => body.len() + 1 + random.below(5),
        1 => body.len() / 2,
        _ => body.len(),
    };
    if length != body.len() {
        // Sent and left: nobody waits for the answer to half a request.
        let _ = send(connection, path, &body, length);
        return false;
    }
    let Some((status, answer)) = ask(connection, path, &body, length) else { return false };
    // etcd, too, gives this one away as an error of its own making.
    let is_known = answer.contains("bcrypt: password length exceeds 72 bytes");
    assert!(status != "500" || is_known, "seed {seed}: {path} {body} is answered with {answer}");
    true
}

fn send(connection: &mut TcpStream, path: &str, body: &str, length: usize) -> std::io::Result<()> {
    let head = format!(
        "POST /v3/{path} HTTP/1.1\r\nHost: fuzz\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    connection.write_all(&[head.as_bytes(), body.as_bytes()].concat())
}

/// The status of the answer and all of it; none where the other side has closed, which is an answer too.
///
/// # Panics
/// When something comes back that is not HTTP.
fn ask(
    connection: &mut TcpStream,
    path: &str,
    body: &str,
    length: usize,
) -> Option<(String, String)> {
    send(connection, path, body, length).ok()?;
    let answer = read_answer(connection);
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    assert!(status.is_some() || answer.is_empty(), "{path} {body} is answered with {answer:?}");
    let status = status.map(String::from)?;
    Some((status, answer))
}

/// One answer with a `Content-Length`, or in chunks.
fn read_answer(connection: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.trim().parse().ok());
            let done = match length {
                Some(length) => body.len() >= length,
                None => !head.contains("chunked") || body.ends_with("0\r\n\r\n"),
            };
            if done {
                return text;
            }
        }
        match connection.read(&mut byte) {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&bytes).into_owned(),
            Ok(read) => bytes.extend_from_slice(&byte[..read]),
        }
    }
}

/// A connection that gives up rather than wait for ever.
fn connect(address: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect(address).expect("the store accepts");
    connection.set_read_timeout(Some(Duration::from_secs(20))).expect("a deadline can be set");
    connection
}
