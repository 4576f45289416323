//! The loop every controller runs in.
//!
//! A controller is one function from a key to a better world. It is told nothing about what
//! changed, may be called at any moment, and must be idempotent: it reads caches, plans, and acts.
//! Everything else is here:
//!
//! - *When*: a change in a cache puts a key into the [`Work`] queue; so does a slow timer for all
//!   keys, so that a missed signal would cost minutes and not for ever.
//! - *How many at once*: at most `WORKERS` keys, never two runs of one key.
//! - *Again after failure*: with the back-off of the queue.
//! - *The revision barrier*: a run is over only when the caches show what the run wrote. The next
//!   run of the key thus never acts on a picture from before its own last act, which is what
//!   Kubernetes keeps expectation counters for.
//!
//! One task drives one controller; runs are futures inside it, so that stopping the task stops all.

use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::{Api, Error};
use super::queue::{Outcome, Queue};

/// Keys of one controller that run at the same time. Runs mostly wait for the store.
const WORKERS: usize = 64;
/// Every key is looked at again after so long, changed or not.
const RESYNC: Duration = Duration::from_secs(600);
/// How long a run waits for the caches to show its writes before it lets the key go: a cache that
/// is so far behind has lost its watch, and compare-and-swap still protects every write.
const BARRIER: Duration = Duration::from_secs(10);

/// What a run wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Await,
    /// Another run after this time, changed or not.
    After(Duration),
}

impl Next {
    /// The earlier of two wishes.
    #[must_use]
    pub fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::Await, next) | (next, Self::Await) => next,
            (Self::After(one), Self::After(other)) => Self::After(one.min(other)),
        }
    }
}

/// Brings the world closer to what a key asks for.
pub trait Controller: Send + Sync + 'static {
    /// What it is asked to look at: mostly an object's name.
    type Key: Ord + Clone + Debug + Send + Sync + 'static;
    /// Its name in logs and events.
    const NAME: &'static str;

    /// Every key there is, for the slow timer.
    fn keys(&self) -> Vec<Self::Key>;

    /// One run. `api` is how it writes; it keeps the revisions for the barrier.
    fn reconcile(
        &self,
        key: &Self::Key,
        api: &Api,
    ) -> impl Future<Output = Result<Next, Error>> + Send;
}

/// The shared end of a controller's queue: what subscribers put keys into.
pub struct Work<K> {
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    queue: Mutex<Queue<K>>,
    added: Notify,
}

impl<K> Clone for Work<K> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K: Ord + Clone> Default for Work<K> {
    fn default() -> Self {
        Self { inner: Arc::new(Inner { queue: Mutex::default(), added: Notify::new() }) }
    }
}

impl<K: Ord + Clone> Work<K> {
    fn queue(&self) -> MutexGuard<'_, Queue<K>> {
        // The queue's own assertions are the only panics under this lock; they mean a bug that the
        // log shows, and the sets they guard are still usable.
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a run of `key`.
    pub fn add(&self, key: K) {
        self.queue().add(key);
        self.inner.added.notify_one();
    }

    /// Asks for a run of `key` after some time.
    pub fn add_after(&self, key: K, wait: Duration) {
        self.queue().add_at(key, (Instant::now() + wait).into_std());
        self.inner.added.notify_one();
    }
}

/// Runs a controller until `stop`.
pub async fn run<C: Controller>(
    controller: &C,
    work: &Work<C::Key>,
    api: &Api,
    stop: CancellationToken,
) {
    // An earlier term of leadership may have ended in the middle of runs.
    work.queue().recover();
    let mut resync = tokio::time::interval(RESYNC);
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < WORKERS {
            let Some(key) = work.queue().next(Instant::now().into_std()) else { break };
            running.push(attempt(controller, key, api));
        }
        // A full house is woken by whoever leaves it.
        let wake = work.queue().wake_at().filter(|_| running.len() < WORKERS);
        let alarm = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = work.inner.added.notified() => {}
            () = alarm => {}
            Some((key, outcome)) = running.next(), if !running.is_empty() => {
                work.queue().done(key, outcome);
            }
            _ = resync.tick() => {
                let mut queue = work.queue();
                controller.keys().into_iter().for_each(|key| queue.add(key));
            }
        }
    }
}

/// One run and its barrier.
async fn attempt<C: Controller>(controller: &C, key: C::Key, api: &Api) -> (C::Key, Outcome) {
    let api = api.fresh();
    // Boxed: the future of a large controller would otherwise be copied with every move.
    let run = Box::pin(AssertUnwindSafe(controller.reconcile(&key, &api)).catch_unwind());
    let ended = run.await;
    if tokio::time::timeout(BARRIER, api.settle()).await.is_err() {
        tracing::warn!(controller = C::NAME, ?key, "the caches do not show the last writes yet");
    }
    let now = Instant::now();
    let outcome = match ended {
        Ok(Ok(Next::Await)) => Outcome::Settled,
        Ok(Ok(Next::After(wait))) => Outcome::Again((now + wait).into_std()),
        Ok(Err(error)) => {
            if error.is_routine() {
                tracing::debug!(controller = C::NAME, ?key, %error, "running again");
            } else {
                tracing::warn!(controller = C::NAME, ?key, %error, "failed, running again");
            }
            Outcome::Failed(now.into_std())
        }
        Err(_) => {
            tracing::error!(controller = C::NAME, ?key, "panicked, running again");
            Outcome::Failed(now.into_std())
        }
    };
    (key, outcome)
}
