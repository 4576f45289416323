//! The only place that spawns. Every task belongs to a [`Tasks`] set, whose owner waits until the
//! last has ended; what tells them to end is a token they were given. A task that panics is logged
//! here, so that nothing dies silently.

use std::future::Future;

use futures_util::FutureExt;
use tokio_util::task::TaskTracker;

/// A set of tasks that are waited for together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
}

impl Tasks {
    /// An empty set.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Runs a future on the current runtime until it ends.
    pub(crate) fn spawn(
        &self,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let guard = PanicGuard { what };
        // Not an async block: it would hold the task twice, and most tasks are single requests.
        self.tracker.spawn(task.map(move |()| drop(guard)));
    }

    /// Waits for the last task; they must have been told to end.
    pub(crate) async fn finish(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Speaks up when a task unwinds.
struct PanicGuard {
    what: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.what, "a task panicked");
        }
    }
}
