//! Lease keepalives: each client has a lease and a call of its own, and refreshes as soon as it was
//! told that it is refreshed.

use std::time::{Duration, Instant};

use prost::Message as _;
use proto::etcdserverpb as pb;
use tokio::task::JoinSet;

use super::drive::Tally;
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::link::{Came, Link};
use super::wire;
use super::work::{KEEP_ALIVE, LEASE_GRANT, LEASE_TTL};

/// Refreshes for `time`.
///
/// # Errors
/// When the server refuses, or a lease is found to have ended.
pub async fn keep_alive(
    endpoint: &Endpoint,
    clients: usize,
    connections: usize,
    time: Duration,
) -> Result<Tally, Failure> {
    let connections = connections.clamp(1, clients);
    let mut tasks = JoinSet::new();
    for nth in 0..connections {
        let slots = clients / connections + usize::from(nth < clients % connections);
        tasks.spawn(refresh(Link::connect(endpoint).await?, slots, time));
    }
    let begin = Instant::now();
    let mut tally = Tally::new();
    while let Some(ended) = tasks.join_next().await {
        tally.add(&ended.expect("a client does not panic")?);
    }
    tally.units = tally.answered;
    tally.time = begin.elapsed();
    Ok(tally)
}

async fn refresh(mut link: Link, slots: usize, time: Duration) -> Result<Tally, Failure> {
    let leases = grant(&mut link, slots).await?;
    let messages: Vec<Vec<u8>> =
        leases.iter().map(|id| pb::LeaseKeepAliveRequest { id: *id }.encode_to_vec()).collect();
    let begin = Instant::now();
    for (tag, message) in (0..).zip(&messages) {
        link.calls().open(tag, KEEP_ALIVE, message, false, begin);
    }
    let mut tally = Tally::new();
    let (mut waiting, mut failed) = (slots, false);
    while waiting > 0 && !failed {
        link.turn(|calls, handle, came| match came {
            Came::Message(message) => {
                tally.record(handle.begin.elapsed());
                failed |= wire::number_of(message, 3) == 0;
                if begin.elapsed() < time {
                    let tag = usize::try_from(handle.tag).expect("tags are indexes");
                    calls.send(handle.stream, &messages[tag]);
                } else {
                    waiting -= 1;
                }
            }
            Came::End(_) => failed = true,
        })
        .await?;
    }
    match failed {
        true => Err(Failure::Refused("a lease could not be kept alive".to_owned())),
        false => Ok(tally),
    }
}

async fn grant(link: &mut Link, count: usize) -> Result<Vec<i64>, Failure> {
    let message = pb::LeaseGrantRequest { ttl: LEASE_TTL, id: 0 }.encode_to_vec();
    for _ in 0..count {
        link.calls().open(0, LEASE_GRANT, &message, true, Instant::now());
    }
    let mut leases = Vec::new();
    while link.calls().live() > 0 {
        link.turn(|_, _, came| {
            if let Came::Message(message) = came {
                leases.push(wire::number_of(message, 2).cast_signed());
            }
        })
        .await?;
    }
    match leases.len() == count {
        true => Ok(leases),
        false => Err(Failure::Refused("a lease was not granted".to_owned())),
    }
}
