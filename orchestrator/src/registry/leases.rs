//! Shared leases, by which events end.
//!
//! A lease per event would cost the store more than the event. So many events share one: a lease
//! is handed out for at most a minute, or a twentieth of the events' life if that is less, and to
//! at most a thousand events, and lives that much longer than they must.

use std::time::Duration;

use jiff::Timestamp;

use super::{Registry, codec};
use crate::api::{Kind, Status, kinds};

const REUSE_TIME_MAX: Duration = Duration::from_secs(60);
const REUSE_PARTS: u32 = 20;
const KEYS_MAX: usize = 1000;

/// The lease handed out at present.
#[derive(Debug)]
pub(super) struct Shared {
    id: i64,
    since: Timestamp,
    keys: usize,
}

fn reuse_time(ttl: Duration) -> Duration {
    (ttl / REUSE_PARTS).min(REUSE_TIME_MAX)
}

fn usable(lease: &Shared, ttl: Duration, now: Timestamp) -> bool {
    let age = Duration::try_from(now.duration_since(lease.since));
    lease.keys < KEYS_MAX && age.is_ok_and(|age| age < reuse_time(ttl))
}

impl Registry {
    /// The lease for a new object of a kind; 0 when it stays until it is deleted.
    pub(super) async fn lease_for(&self, kind: &'static Kind) -> Result<i64, Status> {
        if *kind.stored() != kinds::EVENT {
            return Ok(0);
        }
        let ttl = self.config().event_ttl;
        // Held across the grant, so that a burst of events asks for one lease and not for many.
        let mut current = self.shared.event_lease.lock().await;
        let now = super::now();
        if let Some(lease) = current.as_mut().filter(|lease| usable(lease, ttl, now)) {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let seconds = (ttl + reuse_time(ttl)).as_secs().max(1);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let granted = self.store().lease_grant(seconds).await;
        let id = granted.map_err(|error| codec::store_error(&error))?;
        *current = Some(Shared { id, since: now, keys: 1 });
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_shared_for_a_while() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let hour = Duration::from_secs(3600);
        let lease = |keys| Shared { id: 1, since: at(0), keys };
        assert!(usable(&lease(1), hour, at(59)));
        assert!(!usable(&lease(1), hour, at(60)));
        assert!(!usable(&lease(KEYS_MAX), hour, at(0)));
        assert!(!usable(&lease(1), Duration::from_secs(20), at(1)));
        assert!(!usable(&lease(1), hour, at(-5)), "a clock that went back starts a new lease");
    }
}
