//! Clients that mean ill, or are broken: floods, silence, garbage. Deadlines and bounds cut them, the
//! server's memory does not follow them, and other clients notice nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::http;
use tests::server::{Program, Server};

/// How long the server lets a client be silent that has said nothing yet; `listen.rs` has it.
const GREETING_DEADLINE: Duration = Duration::from_secs(10);

/// What an ordinary request may take beside a flood, on a machine that does other things too.
const SOON: Duration = Duration::from_secs(5);

fn server(flags: &[&str]) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    (Server::start(Program::Ours, &dir.path().join("data"), flags), dir)
}

/// Others are served as if nothing were.
fn serves(server: &Server) {
    let begun = Instant::now();
    let (status, body) = http::post(&server.endpoint, "/v3/kv/put", "{\"key\":\"YQ==\"}");
    assert_eq!(status, 200, "{body}");
    assert!(begun.elapsed() < SOON, "a put took {:?}", begun.elapsed());
}

/// Kilobytes of memory in use.
fn resident(server: &Server) -> u64 {
    let path = format!("/proc/{}/status", server.process.pid());
    let status = std::fs::read_to_string(path).expect("the server runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Whether the other side closes within the time, whatever it says before.
fn closes(stream: &mut TcpStream, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        stream.set_read_timeout(Some(left)).expect("a timeout can be set");
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => match error.kind() {
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => return false,
                _ => return true,
            },
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// A connection that has begun to speak HTTP/2.
fn http2(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(&server.endpoint).expect("the server listens");
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&hello).expect("the server listens");
    stream
}

/// `POST /etcdserverpb.KV/Range`, in HPACK's simplest words.
fn request_headers() -> Vec<u8> {
    let path = b"/etcdserverpb.KV/Range";
    let mut block = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).expect("short")];
    block.extend_from_slice(path);
    block
}

/// Reads frames until one is of this kind; `None` if the connection ends first.
fn await_frame(stream: &mut TcpStream, kind: u8) -> Option<Vec<u8>> {
    stream.set_read_timeout(Some(SOON)).expect("a timeout can be set");
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).ok()?;
        if head[3] == kind {
            return Some(payload);
        }
    }
}

#[test]
fn ten_thousand_idle_clients_are_borne_and_silent_ones_cut() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("the soft limit may be raised");
    // Some are left for everything else.
    let count = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(500).min(10_000);
    let (server, _dir) = server(&[]);
    let before = resident(&server);
    let begun = Instant::now();
    let mut slow = TcpStream::connect(&server.endpoint).expect("the server listens");
    slow.write_all(b"GET /health HTTP/1.1\r\nX-Slow: ").expect("the server listens");
    let mut speaking: Vec<_> = (0..count / 2).map(|_| http2(&server)).collect();
    let connect = |_| TcpStream::connect(&server.endpoint).expect("the server listens");
    let mut silent: Vec<_> = (0..count / 2).map(connect).collect();
    serves(&server);
    let grown = (resident(&server) - before) * 1024 / count as u64;
    assert!(grown < 64 << 10, "an idle connection takes {grown} bytes");

    // One byte every now and then is as good as none.
    while begun.elapsed() < GREETING_DEADLINE / 2 {
        std::thread::sleep(Duration::from_millis(500));
        slow.write_all(b"x").expect("it is not too late yet");
    }
    assert!(closes(&mut slow, GREETING_DEADLINE), "slow headers are waited for for ever");
    for stream in silent.iter_mut().step_by(count / 20) {
        assert!(closes(stream, GREETING_DEADLINE), "a silent client is waited for for ever");
    }
    // Those who have begun to speak HTTP/2 may be silent.
    for stream in speaking.iter_mut().step_by(count / 20) {
        stream.write_all(&frame(PING, 0, 0, b"12345678")).expect("the connection is open");
        assert_eq!(await_frame(stream, PING).as_deref(), Some(&b"12345678"[..]));
    }
    serves(&server);
}

#[test]
fn half_tls_handshakes_are_cut() {
    let port = tests::server::free_port();
    let url = format!("--listen-metrics-urls=https://127.0.0.1:{port}");
    let (server, _dir) = server(&["--auto-tls=true", &url]);
    // A record of a handshake that says it is longer than what comes.
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let mut halves: Vec<_> = (0..500)
        .map(|nth| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
            if nth % 2 == 0 {
                stream.write_all(hello).expect("the server listens");
            }
            stream
        })
        .collect();
    serves(&server);
    for stream in halves.iter_mut().step_by(25) {
        assert!(
            closes(stream, GREETING_DEADLINE + SOON),
            "half a handshake is waited for for ever"
        );
    }
    serves(&server);
}

#[test]
fn a_rapid_reset_ends_the_connection() {
    let (server, _dir) = server(&[]);
    let mut stream = http2(&server);
    let headers = request_headers();
    let mut refused = false;
    for id in (1..200_000).step_by(2) {
        let open = frame(HEADERS, END_HEADERS | END_STREAM, id, &headers);
        let reset = frame(RST_STREAM, 0, id, &8_u32.to_be_bytes());
        if stream.write_all(&[open, reset].concat()).is_err() {
            refused = true;
            break;
        }
    }
    let told = await_frame(&mut stream, GOAWAY);
    assert!(refused || told.is_some(), "streams are opened and reset without an end");
    serves(&server);
}

#[test]
fn headers_without_an_end_end_the_connection() {
    let (server, _dir) = server(&[]);
    let before = resident(&server);
    for piece in [0, 1, 16_000] {
        let mut stream = http2(&server);
        let open = frame(HEADERS, END_STREAM, 1, &request_headers());
        stream.write_all(&open).expect("the connection is open");
        // A header field whose value never ends: literal, new name, seven bits of length and more.
        let more = frame(CONTINUATION, 0, 1, &vec![0; piece]);
        let flood = (0..100_000).any(|_| stream.write_all(&more).is_err());
        let told = await_frame(&mut stream, GOAWAY);
        assert!(flood || told.is_some(), "{piece} bytes at a time go on for ever");
        serves(&server);
    }
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 32 << 10, "headers without an end took {grown} KiB");
}

#[test]
fn garbage_ends_its_connection_only() {
    let (server, _dir) = server(&[]);
    let client_hello = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00";
    let bad_frame = [PREFACE, &[0xff; 64]].concat();
    let inputs: [&[u8]; 5] = [
        client_hello,
        &[0; 4096],
        b"GET\r\n\r\n",
        &bad_frame,
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ];
    for garbage in inputs {
        let mut stream = TcpStream::connect(&server.endpoint).expect("the server listens");
        stream.write_all(garbage).expect("the server listens");
        assert!(closes(&mut stream, SOON), "{garbage:?} is borne");
        serves(&server);
    }
}

/// gRPC is HTTP/2: its content type over HTTP/1 makes no gRPC request, as in etcd.
#[test]
fn grpc_over_http1_is_plain_http() {
    let (server, _dir) = server(&[]);
    let kind = "Content-Type: application/grpc";
    let answer = http::send(&server.endpoint, "GET", "/health", &[kind], "");
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "{\"health\":\"true\",\"reason\":\"\"}")
    );
    let answer = http::send(&server.endpoint, "POST", "/etcdserverpb.KV/Range", &[kind], "");
    assert_eq!(answer.status, 404);
}

#[test]
fn json_that_is_too_much_is_refused_before_it_is_held() {
    let (server, _dir) = server(&[]);
    let before = resident(&server);
    let deep = format!("{{\"key\":{}", "[".repeat(10 << 20));
    let wide = format!("{{\"key\":\"{}\"}}", "A".repeat(32 << 20));
    for (json, status) in [(deep, 400), (wide, 429)] {
        assert_eq!(http::post(&server.endpoint, "/v3/kv/put", &json).0, status);
        serves(&server);
    }
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 32 << 10, "refused requests took {grown} KiB");
}

#[test]
fn http_can_have_urls_of_its_own() {
    let port = tests::server::free_port();
    let url = format!("--listen-client-http-urls=http://127.0.0.1:{port}");
    let (server, _dir) = server(&[&url]);
    let apart = format!("127.0.0.1:{port}");
    for path in ["/health", "/version", "/metrics"] {
        assert_eq!(http::get(&apart, path).0, 200, "{path}");
    }
    assert_eq!(http::post(&apart, "/v3/kv/put", "{\"key\":\"YQ==\"}").0, 200);
    for path in ["/version", "/v3/kv/put"] {
        assert_eq!(http::get(&server.endpoint, path).0, 404, "{path} is not at the gRPC port");
    }
}

#[test]
fn metrics_urls_have_health_and_nothing_else() {
    let port = tests::server::free_port();
    let url = format!("--listen-metrics-urls=http://127.0.0.1:{port}");
    let (_server, _dir) = server(&[&url]);
    let apart = format!("127.0.0.1:{port}");
    for path in ["/health", "/livez", "/readyz", "/metrics"] {
        assert_eq!(http::get(&apart, path).0, 200, "{path}");
    }
    for path in ["/version", "/v3/kv/range"] {
        assert_eq!(http::get(&apart, path).0, 404, "{path}");
    }
    assert_eq!(http::post(&apart, "/v3/kv/put", "{\"key\":\"YQ==\"}").0, 404);
}
