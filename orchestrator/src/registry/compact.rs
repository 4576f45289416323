//! Forgetting history, by upstream's protocol.
//!
//! All API servers on a store agree through one key: its *version* is a clock that one of them
//! advances per interval, and whoever advances it compacts the revision it saw one interval before.
//! So each revision stays readable for at least one interval, and it does not matter how many
//! servers run or when they start.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::key;
use crate::client::etcd::{Range, Store, StoreError, Txn};

/// How often history is compacted unless told otherwise.
pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(300);

/// What one server knows of the common clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Clock {
    /// Version of the key when we last saw it.
    time: i64,
    /// Revision of the store at that moment; 0 before the first look.
    revision: i64,
}

/// Compacts once per interval until cancelled. An interval of zero compacts never.
pub async fn run(store: Store, interval: Duration, cancel: CancellationToken) {
    if interval.is_zero() {
        cancel.cancelled().await;
        return;
    }
    let mut clock = Clock::default();
    loop {
        match tick(&store, clock).await {
            Ok(next) => clock = next,
            Err(error) => tracing::warn!(%error, "history could not be compacted"),
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = cancel.cancelled() => return,
        }
    }
}

/// Tries to advance the clock; compacts what it showed before if that worked.
async fn tick(store: &Store, clock: Clock) -> Result<Clock, StoreError> {
    let txn = Txn::new()
        .when_version(key::COMPACT, clock.time)
        .put(key::COMPACT, clock.revision.to_string())
        .else_read(&Range::key(key::COMPACT));
    let answer = store.txn(txn).await?;
    let revision = answer.revision;
    if !answer.succeeded {
        let time = answer.entry(0).map_or(0, |entry| entry.version);
        return Ok(Clock { time, revision });
    }
    if clock.revision > 0 {
        store.compact(clock.revision).await?;
        tracing::debug!(revision = clock.revision, "compacted");
    }
    Ok(Clock { time: clock.time + 1, revision })
}
