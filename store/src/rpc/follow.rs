//! A watch from inside the process, for services that wait for something to happen.
//!
//! It is a stream of the hub with one watcher, as a client's would be, without a wire: the same
//! bounded outbox, the same catching up from history, and so the same promise that nothing is
//! missed however slowly it is read.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Notify;
use tonic::Status;

use super::{Member, status, watch};
use crate::command::{Event, KeyRange, Refusal, Revision};
use crate::raft::Unavailable;
use crate::watch::{Create, Filters, Form, Message, Picks, StreamId};

/// Messages taken from the outbox at a time.
const TAKE: usize = 16;

/// What happens to a range of keys, from a revision on.
pub(super) struct Follower {
    member: Arc<Member>,
    stream: StreamId,
    wake: Arc<Notify>,
    taken: VecDeque<Message>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.member.watching.close(self.stream);
    }
}

impl Follower {
    pub(super) fn new(member: &Arc<Member>, range: KeyRange, from: Revision) -> Self {
        let (stream, wake) = member.watching.open();
        member.watching.lock().hub.create(
            stream,
            Create {
                range,
                start: from,
                id: 0,
                filters: Filters::default(),
                form: Form::Plain,
                fragment: false,
                progress: false,
            },
        );
        Self { member: Arc::clone(member), stream, wake, taken: VecDeque::new() }
    }

    /// The changes of the next revision that touches the range. Waits until there is one.
    pub(super) async fn next(&mut self) -> Result<(Revision, Vec<Event>), Status> {
        loop {
            if self.taken.is_empty() {
                self.member.watching.lock().hub.take(self.stream, TAKE, &mut self.taken);
            }
            match self.taken.pop_front() {
                Some(Message::Events { group, picks, .. }) => {
                    let events = match picks {
                        Picks::All => group.events().to_vec(),
                        Picks::Some(picks) => {
                            picks.iter().map(|at| group.events()[*at as usize].clone()).collect()
                        }
                    };
                    return Ok((group.revision(), events));
                }
                Some(Message::Compacted { compacted, .. }) => {
                    return Err(status::refusal(Refusal::Compacted { compacted }));
                }
                Some(_) => continue,
                None => {}
            }
            if watch::catch_up(&self.member, self.stream).await? {
                continue;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = self.member.stopping.cancelled() => {
                    return Err(status::unavailable(Unavailable::Stopped));
                }
            }
        }
    }
}
