//! The only place that spawns. Every task belongs to a [`Tasks`] tree: stopping the tree tells all
//! of them at once and waits until the last has ended. A task that panics is counted and logged
//! here, so that nothing dies silently.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A set of tasks with one stop signal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    panics: Arc<AtomicU64>,
}

impl Tasks {
    /// An empty set.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Runs a future on the current runtime until it ends; it should watch [`Tasks::stopping`].
    pub(crate) fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let panics = Arc::clone(&self.panics);
        let guard = PanicGuard { what, panics };
        self.tracker.spawn(async move {
            let _guard = guard;
            task.await;
        });
    }

    /// The signal that ends the set.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tasks that ended by a panic since the start.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Tells every task to end and waits for the last one.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Speaks up when a task unwinds.
struct PanicGuard {
    what: &'static str,
    panics: Arc<AtomicU64>,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(task = self.what, "a task panicked");
        }
    }
}
