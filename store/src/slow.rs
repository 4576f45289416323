//! Telling of what was slow, in the lines that etcd's operators look for: `request stats` for a
//! unary request, `apply request took too long` for an entry of the log.
//!
//! The lines say which RPC and how long, not what was asked: keys are their owners' business. A
//! store that is slow as a whole would say it of every request, which helps nobody and makes it
//! slower, so of one kind a number each second is told and then each hundredth; the line says how
//! many were left out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::config::SlowConfig;
use crate::limits::{SLOW_LINES_PER_SECOND, SLOW_LINES_THEN_EACH};
use crate::logging::go_duration;

/// The thresholds, and how much has been told lately.
pub(crate) struct Slow {
    config: SlowConfig,
    requests: Sample,
    applies: Sample,
}

impl Slow {
    pub(crate) fn new(config: SlowConfig) -> Self {
        Self { config, requests: Sample::default(), applies: Sample::default() }
    }

    /// A unary request was answered.
    pub(crate) fn request(&self, path: &str, code: Code, took: Duration) {
        if took <= self.config.request {
            return;
        }
        let Some(untold) = self.requests.take(Instant::now()) else { return };
        tracing::warn!(
            "time spent" = go_duration(took),
            "response type" = path,
            code = ?code,
            untold,
            "request stats"
        );
    }

    /// An entry of the log was applied; tells whether that was slow.
    pub(crate) fn apply(&self, commands: usize, took: Duration) -> bool {
        if took <= self.config.apply {
            return false;
        }
        let Some(untold) = self.applies.take(Instant::now()) else { return true };
        tracing::warn!(
            took = go_duration(took),
            "expected-duration" = go_duration(self.config.apply),
            commands,
            untold,
            "apply request took too long"
        );
        true
    }
}

/// Which of many equal lines are told.
#[derive(Default)]
struct Sample(Mutex<Window>);

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    seen: u64,
    untold: u64,
}

impl Sample {
    /// How many were left out before this one, if this one is to be told.
    fn take(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            window.began = Some(now);
            window.seen = 0;
        }
        window.seen += 1;
        let told = window.seen <= SLOW_LINES_PER_SECOND
            || (window.seen - SLOW_LINES_PER_SECOND).is_multiple_of(SLOW_LINES_THEN_EACH);
        if told {
            return Some(std::mem::take(&mut window.untold));
        }
        window.untold += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_a_few_are_told() {
        let sample = Sample::default();
        let zero = Instant::now();
        let told: Vec<u64> = (0..1000).filter_map(|_| sample.take(zero)).collect();
        let more = (1000 - SLOW_LINES_PER_SECOND) / SLOW_LINES_THEN_EACH;
        assert_eq!(told.len() as u64, SLOW_LINES_PER_SECOND + more);
        assert_eq!(told.last(), Some(&(SLOW_LINES_THEN_EACH - 1)));
        assert_eq!(sample.take(zero + Duration::from_millis(999)), None);
        // A second later they are told again.
        assert!(sample.take(zero + Duration::from_secs(1)).is_some());
        assert_eq!(sample.take(zero + Duration::from_secs(1)), Some(0));
    }
}
