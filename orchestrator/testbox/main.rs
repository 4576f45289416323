//! The program inside the built-in `testbox` image.
//!
//! A machine without internet still needs something to run, and the tests need a container whose
//! behaviour they can dictate. This is one static program, standard library only, compiled by
//! `build.rs` and embedded in the `orchestrator` binary. The image tags `v1` and `v2` hold the same
//! program; `TESTBOX_VERSION`, set by the image, makes a rolling update visible.
//!
//! ```text
//! testbox [http] [PORT]        answer every request with the pod's name and the version (8080)
//! testbox sleep SECONDS        wait (SIGTERM ends it with 143)
//! testbox logs COUNT MS BYTES  print COUNT lines (0: for ever), MS apart, BYTES long
//! testbox exit CODE            end with CODE
//! testbox eat MIB              touch MIB of memory and hold it
//! testbox burn SECONDS         keep one CPU busy, then print the CPU time it got
//! testbox get HOST:PORT [N]    N requests to an http server, one answer a line
//! testbox cat FILE...          print files
//! testbox write FILE TEXT      write a file
//! testbox env | id             print the environment | the process's identity and capabilities
//! ```
//! Commands may be chained with `then`: `testbox env then cat /config/a then sleep 60`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long the server keeps answering after SIGTERM: longer than endpoints take to leave proxies.
const LINGER: Duration = Duration::from_secs(2);
/// More connections than this at once are closed unanswered.
const CONNECTIONS_MAX: usize = 1024;

static TERMINATED: AtomicBool = AtomicBool::new(false);
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
}

extern "C" fn on_term(_: i32) {
    TERMINATED.store(true, Ordering::SeqCst);
}

fn main() {
    // The first process of a pid namespace has no default signal actions: without a handler it
    // could not be asked to stop.
    // SAFETY: `on_term` only stores to an atomic, which is async-signal-safe.
    unsafe {
        signal(15, on_term as *const () as usize);
        signal(2, on_term as *const () as usize);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for command in arguments.split(|word| word == "then") {
        let code = run(command);
        if code != 0 {
            std::process::exit(code);
        }
    }
}

fn run(command: &[String]) -> i32 {
    let name = command.first().map_or("http", String::as_str);
    let rest = command.get(1..).unwrap_or_default();
    match name {
        "http" => http(number(rest, 0, 8080)),
        "sleep" => sleep(Duration::from_secs(number(rest, 0, 0))),
        "logs" => logs(number(rest, 0, 0), number(rest, 1, 1000), number(rest, 2, 40)),
        "exit" => number(rest, 0, 0),
        "eat" => eat(number(rest, 0, 1)),
        "burn" => burn(Duration::from_secs(number(rest, 0, 1))),
        "get" => get(rest.first().map_or("", String::as_str), number(rest, 1, 1)),
        "cat" => cat(rest),
        "write" => write(rest),
        "env" => environment(),
        "id" => identity(),
        other => {
            eprintln!("testbox: unknown command {other:?}");
            64
        }
    }
}

/// The argument at `at` as a number, or `default` where it is absent. Bad input ends the program.
fn number<T: std::str::FromStr>(words: &[String], at: usize, default: T) -> T {
    match words.get(at) {
        None => default,
        Some(word) => word.parse().unwrap_or_else(|_| {
            eprintln!("testbox: {word:?} is not a number this command takes");
            std::process::exit(64)
        }),
    }
}

fn pod() -> String {
    std::env::var("HOSTNAME")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}

fn version() -> String {
    std::env::var("TESTBOX_VERSION").unwrap_or_else(|_| "unknown".to_owned())
}

fn http(port: u16) -> i32 {
    let listener = match TcpListener::bind(("0.0.0.0", port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("testbox: cannot listen on port {port}: {error}");
            return 1;
        }
    };
    println!("testbox {} of {} serves on port {port}", version(), pod());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if CONNECTIONS.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
                CONNECTIONS.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            std::thread::spawn(move || {
                // A peer that goes away mid-answer is its own business.
                let _ = answer(stream);
                CONNECTIONS.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    while !TERMINATED.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("testbox {} of {} got SIGTERM, serves on for {LINGER:?}", version(), pod());
    std::thread::sleep(LINGER);
    0
}

/// Reads one request head and answers it: `/env` and `/healthz` have their own answers.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = Vec::new();
    let mut chunk = [0_u8; 2048];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") && head.len() < 64 * 1024 {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        head.extend_from_slice(&chunk[..length]);
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split_whitespace().nth(1).unwrap_or("/");
    let body = match path {
        "/healthz" => "ok\n".to_owned(),
        "/env" => std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
        _ => format!("{} {}\n", pod(), version()),
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn sleep(duration: Duration) -> i32 {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        if TERMINATED.load(Ordering::SeqCst) {
            return 143;
        }
        std::thread::sleep(
            Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())),
        );
    }
    0
}

fn logs(count: u64, interval_ms: u64, bytes: usize) -> i32 {
    let mut line = 0;
    let mut out = std::io::stdout().lock();
    while count == 0 || line < count {
        let mut text = format!("line {line} ");
        while text.len() < bytes {
            text.push((b'a' + u8::try_from(text.len() % 26).unwrap_or(0)) as char);
        }
        if writeln!(out, "{text}").is_err() {
            return 1;
        }
        line += 1;
        if interval_ms > 0 && sleep(Duration::from_millis(interval_ms)) != 0 {
            return 143;
        }
    }
    0
}

fn eat(mib: usize) -> i32 {
    let mut held = Vec::new();
    for eaten in 0..mib {
        // One byte per page makes the kernel give it; `black_box` keeps the stores.
        let mut block = vec![0_u8; 1 << 20];
        block.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        held.push(std::hint::black_box(block));
        if eaten % 16 == 0 {
            println!("holds {} MiB", eaten + 1);
        }
    }
    println!("holds {} MiB", held.len());
    sleep(Duration::from_secs(u64::MAX / 4_000_000_000))
}

fn burn(duration: Duration) -> i32 {
    let end = Instant::now() + duration;
    let mut state = 1_u64;
    while Instant::now() < end {
        for _ in 0..10_000 {
            state =
                std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: u64 = fields.get(11).and_then(|text| text.parse().ok()).unwrap_or(0);
    println!("cpu {} ms", ticks * 10);
    0
}

fn get(target: &str, count: u64) -> i32 {
    for _ in 0..count {
        let answer = (|| -> std::io::Result<String> {
            let address = target
                .to_socket_addrs()?
                .next()
                .ok_or_else(|| std::io::Error::other("no such address"))?;
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text.split("\r\n\r\n").nth(1).unwrap_or("").trim().to_owned())
        })();
        match answer {
            Ok(body) => println!("{body}"),
            Err(error) => {
                println!("error: {error}");
                return 1;
            }
        }
    }
    0
}

fn cat(files: &[String]) -> i32 {
    for file in files {
        match std::fs::read(file) {
            Ok(bytes) => {
                let mut out = std::io::stdout();
                if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
                    return 1;
                }
            }
            Err(error) => {
                eprintln!("testbox: {file}: {error}");
                return 1;
            }
        }
    }
    0
}

fn write(words: &[String]) -> i32 {
    let [file, text] = words else {
        eprintln!("testbox: write takes a file and a text");
        return 64;
    };
    match std::fs::write(file, text) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("testbox: {file}: {error}");
            1
        }
    }
}

fn environment() -> i32 {
    let mut all: Vec<String> =
        std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
    all.sort();
    all.iter().for_each(|line| println!("{line}"));
    0
}

fn identity() -> i32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let wanted = ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp"];
    for line in status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name))) {
        println!("{}", line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    0
}
