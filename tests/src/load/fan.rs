//! Watches: many watchers that all want every put, and the time from a put to its event.
//!
//! Each watcher has a call of its own, as the clients of Kubernetes do, on a few shared
//! connections. The run ends when every watcher has been given every event, so a lost event shows
//! as a run that gives up, and one that came twice as a wrong answer.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::drive::{Request, Shape, Tally, Work, drive};
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::link::{Came, Link};
use super::wire;
use super::work::{PUT, Template, WATCH, blank, value};

/// So many watchers times so many puts.
#[derive(Clone, Copy, Debug)]
pub struct Fan {
    /// Watchers, each with a call of its own.
    pub watchers: usize,
    /// Puts that all of them see.
    pub puts: u64,
    /// Different keys that the puts go to: with one, each watcher watches that key, otherwise the
    /// prefix.
    pub keys: u64,
    /// Connections that the watchers share.
    pub connections: usize,
    /// Puts in flight.
    pub writers: usize,
    /// Bytes of each value.
    pub value_size: usize,
}

const PREFIX: &str = "fan/";
const PREFIX_END: &[u8] = b"fan0";

/// When a fan-out is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Events that reached all watchers as units, and the latencies of the puts.
///
/// # Errors
/// When events are missing or too many, or the server refuses.
pub async fn fan_out(
    endpoint: &Endpoint,
    fan: Fan,
    at_begin: impl FnOnce(),
) -> Result<Tally, Failure> {
    let connections = fan.connections.clamp(1, fan.watchers);
    let barrier = Arc::new(Barrier::new(connections + 1));
    let mut tasks = JoinSet::new();
    for nth in 0..connections {
        let watchers = fan.watchers / connections + usize::from(nth < fan.watchers % connections);
        let link = Link::connect(endpoint).await?;
        tasks.spawn(listen(link, watchers, fan, Arc::clone(&barrier)));
    }
    let ready = tokio::time::timeout(PATIENCE, barrier.wait()).await;
    ready.map_err(|_| Failure::Late("not all watchers were created".to_owned()))?;
    at_begin();
    let begin = Instant::now();
    let shape = Shape {
        clients: fan.writers,
        connections: fan.writers.div_ceil(8),
        time: PATIENCE,
        count: fan.puts,
        rate: None,
    };
    let mut tally = drive(endpoint, shape, |_| Puts::new(fan)).await?;
    tally.units = 0;
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            tally.units += ended.expect("a listener does not panic")?;
        }
        Ok::<_, Failure>(())
    };
    let late = |_| Failure::Late("not all watchers were given all events".to_owned());
    tokio::time::timeout(PATIENCE, all).await.map_err(late)??;
    tally.time = begin.elapsed();
    Ok(tally)
}

/// One connection's watchers; returns the events they got.
async fn listen(
    mut link: Link,
    watchers: usize,
    fan: Fan,
    barrier: Arc<Barrier>,
) -> Result<u64, Failure> {
    create(&mut link, watchers, &request(fan.keys)).await?;
    barrier.wait().await;
    let wanted = watchers as u64 * fan.puts;
    let mut events = 0;
    let mut ended = false;
    while events < wanted && !ended {
        link.turn(|_, _, came| match came {
            Came::Message(message) => events += wire::count_of(message, 11),
            Came::End(_) => ended = true,
        })
        .await?;
    }
    match events == wanted {
        true => Ok(events),
        false => Err(Failure::Wrong(format!("{events} events instead of {wanted}"))),
    }
}

/// Opens watch calls and waits until all are confirmed.
pub(super) async fn create(
    link: &mut Link,
    watchers: usize,
    request: &pb::WatchRequest,
) -> Result<(), Failure> {
    let message = prost::Message::encode_to_vec(request);
    for nth in 0..watchers {
        link.calls().open(nth as u64, WATCH, &message, false, Instant::now());
    }
    let (mut created, mut ended) = (0, false);
    while created < watchers {
        link.turn(|_, _, came| match came {
            Came::Message(message) => {
                created += usize::from(wire::number_of(message, 3) == 1);
                ended |= wire::number_of(message, 4) == 1;
            }
            Came::End(_) => ended = true,
        })
        .await?;
        if ended {
            return Err(Failure::Refused("a watch was not created".to_owned()));
        }
    }
    Ok(())
}

fn request(keys: u64) -> pb::WatchRequest {
    let mut key = Vec::new();
    let mut range_end = bytes::Bytes::new();
    match keys {
        1 => Template::key(PREFIX).write(&mut key, &[0]),
        _ => {
            key.extend_from_slice(PREFIX.as_bytes());
            range_end = bytes::Bytes::from_static(PREFIX_END);
        }
    }
    let create = pb::WatchCreateRequest { key: key.into(), range_end, ..Default::default() };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

/// Puts to the watched keys in turn.
struct Puts {
    template: Template,
    keys: u64,
    next: u64,
}

impl Puts {
    fn new(fan: Fan) -> Self {
        let put = pb::PutRequest {
            key: blank(PREFIX),
            value: value(fan.value_size),
            ..pb::PutRequest::default()
        };
        Self { template: Template::new(&put), keys: fan.keys, next: 0 }
    }
}

impl Work for Puts {
    fn next(&mut self, message: &mut Vec<u8>) -> Option<Request> {
        self.template.write(message, &[self.next % self.keys]);
        self.next += 1;
        Some(Request { path: PUT, tag: 0 })
    }

    fn answer(&mut self, _: u64, _: &[u8]) -> u64 {
        1
    }
}

/// The time from sending a put to having its event, one put after the other.
///
/// # Errors
/// When the server refuses or does not deliver.
pub async fn watch_latency(
    endpoint: &Endpoint,
    time: Duration,
    value_size: usize,
) -> Result<Tally, Failure> {
    let mut watch = Link::connect(endpoint).await?;
    let mut put = Link::connect(endpoint).await?;
    create(&mut watch, 1, &request(1)).await?;
    let fan = Fan { watchers: 1, puts: 0, keys: 1, connections: 1, writers: 1, value_size };
    let mut puts = Puts::new(fan);
    let mut tally = Tally::new();
    let mut message = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time {
        message.clear();
        puts.next(&mut message);
        let begin = Instant::now();
        put.calls().open(0, PUT, &message, true, begin);
        let (seen, refused) = (Cell::new(None), Cell::new(false));
        while seen.get().is_none() || put.calls().live() > 0 {
            let event = watch.turn(|_, _, came| match came {
                Came::Message(message) if wire::count_of(message, 11) > 0 => {
                    seen.set(Some(begin.elapsed()));
                }
                Came::Message(_) => {}
                Came::End(_) => refused.set(true),
            });
            let answer = put.turn(|_, _, came| {
                refused.set(refused.get() || matches!(came, Came::End(false)));
            });
            tokio::select! {
                ended = event => ended?,
                ended = answer => ended?,
                () = tokio::time::sleep(PATIENCE) => {
                    return Err(Failure::Late("an event never came".to_owned()));
                }
            }
            if refused.get() {
                return Err(Failure::Refused("the put or the watch ended".to_owned()));
            }
        }
        tally.record(seen.get().expect("the loop waited for it"));
    }
    tally.units = tally.answered;
    tally.time = start.elapsed();
    Ok(tally)
}
