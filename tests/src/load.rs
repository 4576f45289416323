//! A closed-loop load on any etcd endpoint: so many clients on so many connections, each waiting for
//! its answer before the next request. Bounded in time and in key space.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use proto::etcdserverpb::PutRequest;
use proto::etcdserverpb::kv_client::KvClient;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tonic::transport::Channel;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Puts {
    /// Requests in flight.
    pub clients: usize,
    /// Connections they share.
    pub connections: usize,
    /// Different keys, written at random.
    pub keys: u64,
    /// Bytes of each value.
    pub value_size: usize,
    /// How long.
    pub time: Duration,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Requests answered.
    pub answered: u64,
    /// Wall time of the run.
    pub time: Duration,
    /// Latencies in microseconds.
    pub latency: Histogram<u64>,
}

impl Outcome {
    /// Answers per second.
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.time.as_secs_f64()
    }
}

/// Runs the load.
///
/// # Panics
/// When the server refuses a connection or a put: a load on a broken server measures nothing.
pub async fn puts(url: &str, load: Puts) -> Outcome {
    let mut channels = Vec::with_capacity(load.connections);
    for _ in 0..load.connections {
        let endpoint = Channel::from_shared(url.to_string()).expect("the URL is well formed");
        channels.push(endpoint.tcp_nodelay(true).connect().await.expect("the server accepts"));
    }
    let begin = Instant::now();
    let end = begin + load.time;
    let clients: Vec<_> = (0..load.clients)
        .map(|n| tokio::spawn(client(channels[n % channels.len()].clone(), n as u64, load, end)))
        .collect();
    let mut latency = histogram();
    for client in clients {
        latency.add(client.await.expect("a client does not panic")).expect("equal bounds");
    }
    Outcome { answered: latency.len(), time: begin.elapsed(), latency }
}

async fn client(channel: Channel, seed: u64, load: Puts, end: Instant) -> Histogram<u64> {
    let mut client = KvClient::new(channel);
    let mut random = StdRng::seed_from_u64(seed);
    let value = Bytes::from(vec![b'v'; load.value_size]);
    let mut latency = histogram();
    while Instant::now() < end {
        let key = format!("load/{:012}", random.random_range(0..load.keys));
        let request = PutRequest { key: key.into(), value: value.clone(), ..PutRequest::default() };
        let begin = Instant::now();
        client.put(request).await.expect("the server answers");
        latency.saturating_record(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    latency
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are fixed and valid")
}
