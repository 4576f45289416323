//! Structured tasks: the only place of this program that spawns.
//!
//! Every long-lived part runs under one [`Tasks`]. A part that ends with an error, or panics, stops the
//! whole tree: a cluster without its scheduler looks healthy and is not. Stopping is a token that all
//! parts watch; [`Tasks::wait`] returns once the last of them is gone, with the first failure.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A part that ended the tree, and why.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The part returned an error.
    #[error("{name}: {reason}")]
    Failed { name: &'static str, reason: String },
    /// The part panicked; the panic itself is in the log.
    #[error("{name} panicked: {reason}")]
    Panicked { name: &'static str, reason: String },
    /// The part returned although nobody had asked it to stop.
    #[error("{name} ended by itself")]
    Ended { name: &'static str },
    /// Parts were still running when the time given for stopping was over.
    #[error("{count} parts did not stop within {} ms", .within.as_millis())]
    Stuck { count: usize, within: Duration },
}

/// A tree of tasks that live and die together.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    first_failure: Arc<Mutex<Option<Failure>>>,
}

impl Tasks {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tasks that stop with this tree, and can be stopped before it: shutdown goes in stages.
    pub fn stage(&self) -> Self {
        Self {
            tracker: TaskTracker::new(),
            token: self.token.child_token(),
            first_failure: Arc::clone(&self.first_failure),
        }
    }

    /// The token a part watches to know when to stop.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs a part. `root` is cancelled when it fails, so that the failure reaches every stage.
    pub fn spawn<E: Display>(
        &self,
        name: &'static str,
        root: &Self,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let token = self.token.clone();
        let root = root.clone();
        self.tracker.spawn(async move {
            let failure = match AssertUnwindSafe(part).catch_unwind().await {
                Ok(Ok(())) if token.is_cancelled() => return,
                Ok(Ok(())) => Failure::Ended { name },
                Ok(Err(reason)) => Failure::Failed { name, reason: reason.to_string() },
                Err(panic) => Failure::Panicked { name, reason: panic_text(&*panic) },
            };
            root.fail(failure);
        });
    }

    /// Asks every task of this tree to stop.
    pub fn stop(&self) {
        self.token.cancel();
    }

    /// Resolves once somebody asked the tree to stop, be it [`Tasks::stop`] or a failure.
    pub async fn stopping(&self) {
        self.token.cancelled().await;
    }

    /// Waits until every task is gone, at most `within` after the call.
    pub async fn wait(&self, within: Duration) -> Result<(), Failure> {
        self.tracker.close();
        if tokio::time::timeout(within, self.tracker.wait()).await.is_err() {
            let count = self.tracker.len();
            return Err(self.take_failure().unwrap_or(Failure::Stuck { count, within }));
        }
        self.take_failure().map_or(Ok(()), Err)
    }

    /// The first failure, if any part failed. Later calls find none.
    pub fn take_failure(&self) -> Option<Failure> {
        self.lock().take()
    }

    fn fail(&self, failure: Failure) {
        tracing::error!("{failure}");
        self.lock().get_or_insert(failure);
        self.token.cancel();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Failure>> {
        self.first_failure.lock().expect("no code panics while it holds this lock")
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until_stopped(token: CancellationToken) -> Result<(), String> {
        token.cancelled().await;
        Ok(())
    }

    /// Goal: one failing part ends the others, whichever stage they are in, and is the one reported.
    #[tokio::test]
    async fn a_failure_stops_every_stage() {
        let root = Tasks::new();
        let stage = root.stage();
        stage.spawn("steady", &root, until_stopped(stage.token()));
        stage.spawn("broken", &root, async { Err::<(), _>("disk on fire") });
        root.stopping().await;
        let failure = stage.wait(Duration::from_secs(5)).await.expect_err("a part failed");
        assert_eq!(failure.to_string(), "broken: disk on fire");
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let root = Tasks::new();
        root.spawn("broken", &root, async {
            assert!(std::hint::black_box(false), "boom");
            Ok::<(), String>(())
        });
        let failure = root.wait(Duration::from_secs(5)).await.expect_err("a part panicked");
        assert_eq!(failure.to_string(), "broken panicked: boom");
    }

    #[tokio::test]
    async fn an_early_end_is_a_failure_and_a_wanted_one_is_not() {
        let root = Tasks::new();
        root.spawn("brief", &root, async { Ok::<(), String>(()) });
        let failure = root.wait(Duration::from_secs(5)).await.expect_err("it was not asked to end");
        assert_eq!(failure.to_string(), "brief ended by itself");

        let root = Tasks::new();
        root.spawn("steady", &root, until_stopped(root.token()));
        root.stop();
        root.wait(Duration::from_secs(5)).await.expect("it was asked to end");
    }

    #[tokio::test]
    async fn a_stuck_part_does_not_hold_the_process() {
        let root = Tasks::new();
        root.spawn("deaf", &root, std::future::pending::<Result<(), String>>());
        root.stop();
        let failure = root.wait(Duration::from_millis(5)).await.expect_err("it never ends");
        assert_eq!(failure.to_string(), "1 parts did not stop within 5 ms");
    }
}
