//! How answers reach their callers.
//!
//! One entry answers many callers, each a task on some client thread's runtime. To wake a task of
//! another thread's runtime is a system call, and one for each task: an entry of sixty commands
//! would keep the Raft thread busy with sixty of them. So each client thread has a *mailbox*. The
//! answers of an entry are sorted by mailbox, put there in one go, and the thread is woken once; its
//! *courier* hands them to the tasks, which on their own thread is a push onto the run queue.
//!
//! ```text
//!  Raft thread:    entry applied ─▶ Delivery ─▶ mailbox of client-0 ─▶ (one wake) courier ─▶ tasks
//!                                           └─▶ mailbox of client-1 ─▶ (one wake) courier ─▶ tasks
//! ```
//!
//! While answers come the courier also lets its thread's clock tick. A caller gives up after some
//! seconds, and a timer that is due before all others of its runtime makes the runtime wake itself
//! up, by a system call again; beside a nearer tick it does not.
//!
//! A mailbox holds at most one answer for each caller that waits, so what bounds callers bounds it.
//! Callers on threads without one (the lease timers, tests) are woken directly.

use super::propose::Unavailable;
use crate::command::Outcome;
use std::cell::OnceCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{MissedTickBehavior, interval};

/// Far below the time after which callers give up, and far above the time between two answers.
const TICK: Duration = Duration::from_secs(1);

/// The outcomes of a proposal's commands, or why there are none.
pub(crate) type Reply = Result<Vec<Outcome>, Unavailable>;

/// Who waits for a reply, and on which thread.
pub(crate) struct Caller {
    slot: oneshot::Sender<Reply>,
    mailbox: Option<Mailbox>,
}

impl Caller {
    /// A caller on this thread, and where it waits.
    pub(crate) fn here() -> (Self, oneshot::Receiver<Reply>) {
        let (slot, reply) = oneshot::channel();
        let mailbox = HERE.with(|here| here.get().cloned());
        (Self { slot, mailbox }, reply)
    }

    /// It does not wait any more.
    pub(crate) fn has_left(&self) -> bool {
        self.slot.is_closed()
    }
}

/// Replies that go out together.
#[derive(Default)]
pub(crate) struct Delivery {
    /// One for each client thread: few, so they are searched one by one.
    parcels: Vec<(Mailbox, Vec<Letter>)>,
}

struct Letter {
    slot: oneshot::Sender<Reply>,
    reply: Reply,
}

impl Letter {
    fn deliver(self) {
        // A failure means that nobody waits any more.
        drop(self.slot.send(self.reply));
    }
}

impl Delivery {
    pub(crate) fn add(&mut self, caller: Caller, reply: Reply) {
        let letter = Letter { slot: caller.slot, reply };
        let Some(mailbox) = caller.mailbox else { return letter.deliver() };
        match self.parcels.iter_mut().find(|(other, _)| Arc::ptr_eq(&other.0, &mailbox.0)) {
            Some((_, parcel)) => parcel.push(letter),
            None => self.parcels.push((mailbox, vec![letter])),
        }
    }

    pub(crate) fn send(self) {
        for (mailbox, mut parcel) in self.parcels {
            mailbox.lock().append(&mut parcel);
            mailbox.0.arrived.notify_one();
        }
    }
}

/// Where replies wait for the courier of one thread.
#[derive(Clone, Default)]
struct Mailbox(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    letters: Mutex<Vec<Letter>>,
    arrived: Notify,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Vec<Letter>> {
        self.0.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    static HERE: OnceCell<Mailbox> = const { OnceCell::new() };
}

/// The courier: gives the thread that runs it a mailbox, and empties it for as long as it runs.
/// Runs beside the callers, on their own current-thread runtime, which it must not outlive.
pub(crate) async fn courier() {
    let mailbox = HERE.with(|here| here.get_or_init(Mailbox::default).clone());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut letters, mut ticking) = (Vec::new(), false);
    loop {
        std::mem::swap(&mut *mailbox.lock(), &mut letters);
        if letters.is_empty() {
            tokio::select! {
                () = mailbox.0.arrived.notified() => ticking = true,
                _ = tick.tick(), if ticking => ticking = false,
            }
        }
        letters.drain(..).for_each(Letter::deliver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Revision;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn outcome(number: i64) -> Reply {
        Ok(vec![Outcome {
            revision: Revision(number),
            result: Ok(crate::command::Response::Quota),
        }])
    }

    /// Goal: however many callers of a thread one delivery answers, the thread is woken once, and
    /// each caller gets its own reply.
    #[tokio::test]
    async fn one_delivery_wakes_a_thread_once() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut context = Context::from_waker(&waker);
        let mut courier = std::pin::pin!(courier());
        assert!(courier.as_mut().poll(&mut context).is_pending());
        let mut delivery = Delivery::default();
        let mut replies = Vec::new();
        for number in 0..64 {
            let (caller, reply) = Caller::here();
            delivery.add(caller, outcome(number));
            replies.push(reply);
        }
        assert!(replies[0].try_recv().is_err(), "nothing is delivered before it is sent");
        delivery.send();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(courier.as_mut().poll(&mut context).is_pending());
        for (number, mut reply) in (0..).zip(replies) {
            assert_eq!(reply.try_recv().expect("was delivered"), outcome(number));
        }
    }

    /// Goal: a thread without a courier is answered at once, and one that left harms nobody.
    #[test]
    fn callers_without_a_mailbox_are_answered_directly() {
        let (caller, mut reply) = std::thread::spawn(Caller::here).join().expect("does not panic");
        let (gone, left) = std::thread::spawn(Caller::here).join().expect("does not panic");
        drop(left);
        assert!(gone.has_left());
        let mut delivery = Delivery::default();
        delivery.add(gone, outcome(1));
        delivery.add(caller, outcome(2));
        assert_eq!(reply.try_recv().expect("was delivered"), outcome(2));
    }
}
