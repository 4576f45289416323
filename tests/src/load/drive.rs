//! Many clients on few connections: closed loop, where each waits for its answer before it asks
//! again, and open loop, where requests are due at a fixed rate whether or not earlier ones have
//! been answered.
//!
//! In an open loop a latency is counted from the moment the request was due, so that a server which
//! stalls is charged with all the requests that it held up, not with one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::endpoint::Endpoint;
use super::explain::explain;
use super::failure::Failure;
use super::link::{Calls, Came, Link};

/// What is asked, and what the answers are worth. One value serves one connection.
pub trait Work: Send + 'static {
    /// Writes the next request into `message` and names its method; `None` when there is no more.
    fn next(&mut self, message: &mut Vec<u8>) -> Option<Request>;

    /// Looks at an answer of the request with this tag and tells how many things it carried: rows,
    /// for instance.
    fn answer(&mut self, tag: u64, message: &[u8]) -> u64;
}

/// A request besides its message.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The method, as HTTP/2 names it.
    pub path: &'static str,
    /// Comes back with the answer.
    pub tag: u64,
}

/// How much, how long, from how many.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Requests in flight; in an open loop, the most.
    pub clients: usize,
    /// Connections they share.
    pub connections: usize,
    /// When to stop asking.
    pub time: Duration,
    /// How many to ask at most.
    pub count: u64,
    /// Requests per second of an open loop.
    pub rate: Option<u64>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Requests answered.
    pub answered: u64,
    /// What the answers carried.
    pub units: u64,
    /// Wall time of the run.
    pub time: Duration,
    /// Latencies in microseconds.
    pub latency: Histogram<u64>,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { answered: 0, units: 0, time: Duration::ZERO, latency: histogram() }
    }

    /// Counts one answer.
    pub fn record(&mut self, latency: Duration) {
        self.answered += 1;
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros);
    }

    /// Takes another connection's figures in.
    pub fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.units += other.units;
        self.time = self.time.max(other.time);
        self.latency.add(&other.latency).expect("equal bounds");
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

/// Microseconds from one to a minute, three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are fixed and valid")
}

/// How long answers may take after the last request.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a load; `make` gives each connection its work.
///
/// # Errors
/// When the server cannot be reached or refuses: a load on a broken server measures nothing.
pub async fn drive<W: Work>(
    endpoint: &Endpoint,
    shape: Shape,
    make: impl Fn(usize) -> W,
) -> Result<Tally, Failure> {
    let connections = shape.connections.clamp(1, shape.clients.max(1));
    let mut links = Vec::with_capacity(connections);
    for _ in 0..connections {
        links.push(Link::connect(endpoint).await?);
    }
    let ticker = shape.rate.map(Ticker::start);
    let left = Arc::new(AtomicU64::new(shape.count));
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for (nth, link) in links.into_iter().enumerate() {
        let slots = shape.clients / connections + usize::from(nth < shape.clients % connections);
        let client = Client {
            work: make(nth),
            message: Vec::new(),
            end: begin + shape.time,
            left: Arc::clone(&left),
            tally: Tally::new(),
            refused: None,
        };
        match &ticker {
            None => tasks.spawn(closed(link, client, slots)),
            Some(ticker) => {
                let period = Duration::from_secs_f64(connections as f64 / ticker.rate as f64);
                let first = begin + period.mul_f64(nth as f64 / connections as f64);
                let due = Due { next: first, period, wake: Arc::clone(&ticker.wake) };
                tasks.spawn(open(link, client, slots, due))
            }
        };
    }
    let mut tally = Tally::new();
    let late = || Failure::Late("answers are missing half a minute after the last request".into());
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            match ended.expect("a client does not panic") {
                Ok(part) => tally.add(&part),
                Err(Ended::Failed(failure)) => return Err(failure),
                Err(Ended::Refused(path, message)) => {
                    return Err(explain(endpoint, path, &message).await);
                }
            }
        }
        Ok(())
    };
    tokio::time::timeout(shape.time + PATIENCE, all).await.map_err(|_| late())??;
    tally.time = begin.elapsed();
    Ok(tally)
}

/// Why a connection's part ended early.
enum Ended {
    Failed(Failure),
    /// This request got an error.
    Refused(&'static str, Vec<u8>),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// One connection's clients.
struct Client<W> {
    work: W,
    message: Vec<u8>,
    end: Instant,
    /// Requests that all connections together may still send.
    left: Arc<AtomicU64>,
    tally: Tally,
    /// The last request was refused; it is asked again with a client that reads the reason.
    refused: Option<(&'static str, Vec<u8>)>,
}

impl<W: Work> Client<W> {
    /// Asks once more, unless time or requests are used up. The latency counts from `due`.
    fn ask(&mut self, calls: &mut Calls, now: Instant, due: Instant) -> bool {
        let take = |left: u64| left.checked_sub(1);
        let left = || self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if now >= self.end || self.refused.is_some() || !left() {
            return false;
        }
        self.message.clear();
        let Some(request) = self.work.next(&mut self.message) else { return false };
        calls.open(request.tag, request.path, &self.message, true, due);
        true
    }

    fn refuse(&mut self) {
        let mut message = Vec::new();
        // Whatever comes next is as good an example as the one that failed.
        if let Some(request) = self.work.next(&mut message) {
            self.refused = Some((request.path, message));
        }
    }

    fn finish(mut self, begin: Instant) -> Result<Tally, Ended> {
        self.tally.time = begin.elapsed();
        match self.refused {
            Some((path, message)) => Err(Ended::Refused(path, message)),
            None => Ok(self.tally),
        }
    }
}

async fn closed<W: Work>(
    mut link: Link,
    mut client: Client<W>,
    slots: usize,
) -> Result<Tally, Ended> {
    let begin = Instant::now();
    for _ in 0..slots {
        client.ask(link.calls(), begin, begin);
    }
    while link.calls().live() > 0 {
        link.turn(|calls, handle, came| match came {
            Came::Message(message) => {
                client.tally.units += client.work.answer(handle.tag, message);
            }
            Came::End(true) => {
                let now = Instant::now();
                client.tally.record(now - handle.begin);
                client.ask(calls, now, now);
            }
            Came::End(false) => client.refuse(),
        })
        .await?;
    }
    client.finish(begin)
}

/// When one connection's requests are due.
struct Due {
    next: Instant,
    period: Duration,
    wake: Arc<Notify>,
}

async fn open<W: Work>(
    mut link: Link,
    mut client: Client<W>,
    slots: usize,
    mut due: Due,
) -> Result<Tally, Ended> {
    let begin = Instant::now();
    let mut done = false;
    while !done || link.calls().live() > 0 {
        let now = Instant::now();
        while !done && due.next <= now && link.calls().live() < slots {
            done = !client.ask(link.calls(), now, due.next);
            due.next += due.period;
        }
        let turn = link.turn(|_, handle, came| match came {
            Came::Message(message) => {
                client.tally.units += client.work.answer(handle.tag, message);
            }
            Came::End(true) => client.tally.record(handle.begin.elapsed()),
            Came::End(false) => client.refuse(),
        });
        tokio::select! {
            ended = turn => ended?,
            () = due.wake.notified() => {}
        }
    }
    client.finish(begin)
}

/// Wakes open loops more often than the runtime's timer can, which counts in milliseconds.
struct Ticker {
    rate: u64,
    wake: Arc<Notify>,
    stop: Arc<AtomicBool>,
}

impl Ticker {
    fn start(rate: u64) -> Self {
        let (wake, stop) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (waker, stopped) = (Arc::clone(&wake), Arc::clone(&stop));
        let period = Duration::from_secs_f64(1.0 / rate.max(1) as f64);
        let period = period.clamp(Duration::from_micros(100), Duration::from_millis(1));
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(period);
                // Who is busy now looks at the clock by itself when it is done.
                waker.notify_waiters();
            }
        });
        Self { rate, wake, stop }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
