//! One leader among several processes, by a lease of the store.
//!
//! Every candidate writes a key below the election's prefix that hangs on its own lease; the key
//! with the lowest create revision leads. The others watch for that key's end. A candidate that dies
//! loses its key when its lease ends, so a leader that cannot renew must stop before that: the
//! lead is given up when two thirds of the lease have passed without a renewal.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::etcd::{Range, Store, StoreError, Txn, WatchFrom, prefix_end};

/// Seconds after which a silent candidate is out.
const TTL: i64 = 15;
const RENEW_EVERY: Duration = Duration::from_secs(5);
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);
/// Pause after a failure of the store.
const PAUSE: Duration = Duration::from_secs(1);

/// An election that this process takes part in.
#[derive(Debug, Clone)]
pub struct Election {
    store: Store,
    prefix: String,
    identity: String,
}

impl Election {
    /// An election among the candidates of `name`.
    pub fn new(store: Store, name: &str, identity: &str) -> Self {
        let prefix = crate::registry::key::election(name);
        Self { store, prefix, identity: identity.to_owned() }
    }

    /// Runs `lead` while this process leads; ends when `stop` does, or with the first error of
    /// `lead`. The token given to `lead` ends when the lead is lost.
    pub async fn run<E, F>(
        &self,
        stop: &CancellationToken,
        mut lead: impl FnMut(CancellationToken) -> F,
    ) -> Result<(), E>
    where
        F: Future<Output = Result<(), E>>,
    {
        while !stop.is_cancelled() {
            let Some(campaign) = stop.run_until_cancelled(self.campaign()).await else { break };
            let lease = match campaign {
                Ok(lease) => lease,
                Err(error) => {
                    tracing::warn!(election = self.prefix, %error, "no election now");
                    let _ = stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                    continue;
                }
            };
            tracing::info!(election = self.prefix, identity = self.identity, "leading");
            let term = stop.child_token();
            let led = {
                let led = lead(term.clone());
                let held = self.hold(lease);
                tokio::pin!(led, held);
                tokio::select! {
                    led = &mut led => led,
                    () = &mut held => {
                        tracing::warn!(election = self.prefix, "the lead is lost");
                        term.cancel();
                        led.await
                    }
                }
            };
            // Best effort: the lease ends by itself if this does not reach the store.
            let _ = self.store.lease_revoke(lease).await;
            led?;
        }
        Ok(())
    }

    /// Enters and waits to lead; answers the lease that the lead hangs on.
    async fn campaign(&self) -> Result<i64, StoreError> {
        let lease = self.store.lease_grant(TTL).await?;
        let waiting = async {
            let own = format!("{}{lease:016x}", self.prefix);
            let enter = Txn::new().when_absent(own.clone()).put_with_lease(
                own.clone(),
                self.identity.clone(),
                lease,
            );
            self.store.txn(enter).await?;
            self.wait_for_turn(&own).await
        };
        tokio::select! {
            turn = waiting => turn?,
            () = self.hold(lease) => return Err(StoreError::LeaseNotFound),
        }
        Ok(lease)
    }

    /// Returns once no key of the election is older than `own`.
    async fn wait_for_turn(&self, own: &str) -> Result<(), StoreError> {
        loop {
            let all = self.store.range(&Range::prefix(self.prefix.clone())).await?;
            let oldest = all.entries.iter().min_by_key(|entry| entry.create_revision);
            match oldest {
                Some(oldest) if oldest.key == own.as_bytes() => return Ok(()),
                Some(_) => {}
                None => return Err(StoreError::LeaseNotFound),
            }
            let mut changes = self
                .store
                .watch(WatchFrom {
                    range_end: prefix_end(self.prefix.as_bytes()),
                    key: self.prefix.clone().into(),
                    start_revision: all.revision + 1,
                    ..WatchFrom::default()
                })
                .await?;
            match changes.recv().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(StoreError::Unavailable("the watch ended".to_owned())),
            }
        }
    }

    /// Renews the lease; returns when it is lost or may soon be.
    async fn hold(&self, lease: i64) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let asked = Instant::now();
            let left = GIVE_UP_AFTER.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.store.lease_keep_alive(lease)).await {
                Ok(Ok(_)) => renewed = asked,
                Ok(Err(StoreError::LeaseNotFound)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::warn!(election = self.prefix, %error, "the lead is not renewed");
                }
            }
            if renewed.elapsed() >= GIVE_UP_AFTER {
                return;
            }
        }
    }
}
