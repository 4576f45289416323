//! The Lease service, and the shell around the lessor: its clock, and the task that proposes the
//! revocation of expired leases.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use proto::etcdserverpb as pb;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{Credentials, Member, status};
use crate::command::{Command, LeaseId, Outcome, Refusal, Response as Answer, Sender};
use crate::engine::Reader;
use crate::lessor::{Lessor, Remaining};
use crate::limits::{LEASE_REVOKES_IN_FLIGHT_MAX, LEASE_REVOKES_PER_SECOND, LEASE_TTL_SECONDS_MAX};
use crate::machine::auth::needs::{Act, Need};
use crate::raft::{self, Unavailable};

/// The lessor with a clock.
#[derive(Debug)]
pub(crate) struct Leases {
    lessor: Mutex<Lessor>,
    /// The process's own zero.
    zero: tokio::time::Instant,
    /// A deadline may be nearer than the revoker thinks, or a lease has gone.
    changed: Notify,
    /// For the metrics.
    renewed: AtomicU64,
    expired: AtomicU64,
}

impl Leases {
    /// With or without notes of what is left of long leases.
    pub(crate) fn new(checkpoints: bool) -> Self {
        Self {
            lessor: Mutex::new(Lessor::new(checkpoints)),
            zero: tokio::time::Instant::now(),
            changed: Notify::new(),
            renewed: AtomicU64::new(0),
            expired: AtomicU64::new(0),
        }
    }

    fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Lessor> {
        self.lessor.lock().expect("a panic under this lock ends the process")
    }

    /// This member leads from now on, with an election timeout's grace. The leases are read under
    /// the lock: a grant or revocation that is applied meanwhile is either in what is read or waits
    /// to be told after it.
    pub(crate) fn promote(&self, reader: &Reader, extend: Duration) {
        let mut lessor = self.lock();
        lessor.promote(reader.leases(), self.now(), extend);
        drop(lessor);
        self.changed.notify_waiters();
    }

    /// Starts and stops the clock with each later change of leadership, until told to stop.
    pub(crate) async fn follow_leadership(
        self: Arc<Self>,
        mut leadership: tokio::sync::watch::Receiver<raft::Leadership>,
        reader: Reader,
        extend: Duration,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            if leadership.borrow_and_update().ready {
                self.promote(&reader, extend);
            } else {
                self.lock().demote();
            }
        }
    }

    /// How often leases were renewed, and how many expired, since the start.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.renewed.load(Ordering::Relaxed), self.expired.load(Ordering::Relaxed))
    }

    /// A grant was applied.
    pub(crate) fn granted(&self, id: LeaseId, seconds: i64) {
        self.lock().granted(id, seconds, self.now());
        self.changed.notify_waiters();
    }

    /// A revocation was applied.
    pub(crate) fn revoked(&self, id: LeaseId) {
        self.lock().revoked(id);
        self.changed.notify_waiters();
    }

    /// Renews a lease; one that has just expired is first waited out, for its revocation is on its
    /// way. Answers the seconds to live, zero for no such lease.
    async fn renew(&self, id: LeaseId, patience: Duration) -> Result<i64, Unavailable> {
        let settled = async {
            loop {
                let changed = self.changed.notified();
                {
                    let mut lessor = self.lock();
                    if let Some(ttl) = lessor.renew(id, self.now()) {
                        self.renewed.fetch_add(1, Ordering::Relaxed);
                        return seconds(ttl);
                    }
                    if lessor.leading() && !lessor.is_expired(id, self.now()) {
                        return 0;
                    }
                }
                changed.await;
            }
        };
        let settled = tokio::time::timeout(patience, settled).await;
        settled.map_err(|_| Unavailable::NoLeader { leader: None })
    }

    /// Proposes the revocation of expired leases and the notes of what is left of long ones, a
    /// bounded number each second, until told to stop.
    pub(crate) async fn keep_time(self: Arc<Self>, raft: raft::Handle, stop: CancellationToken) {
        const ROUND: Duration = Duration::from_millis(100);
        const PER_ROUND: usize = LEASE_REVOKES_PER_SECOND / 10;
        while !stop.is_cancelled() {
            let (expired, notes) = {
                let mut lessor = self.lock();
                let now = self.now();
                (lessor.expired(now, PER_ROUND), lessor.to_note(now, PER_ROUND))
            };
            // A leader that has been replaced without knowing it must not end leases that live on
            // under the new one: it asks first. An error means a retry, by the lessor's own rule.
            if !expired.is_empty() && raft.read_index().await.is_ok() {
                self.expired.fetch_add(expired.len() as u64, Ordering::Relaxed);
                let revoke = |id| raft.propose(Command::LeaseRevoke(id).by(Sender::Store));
                let _ = stream::iter(expired.into_iter().map(revoke))
                    .buffer_unordered(LEASE_REVOKES_IN_FLIGHT_MAX)
                    .count()
                    .await;
            }
            if !notes.is_empty() {
                let _ = raft.propose(Command::LeaseCheckpoint(notes).by(Sender::Store)).await;
            }
            let changed = self.changed.notified();
            let due = {
                let lessor = self.lock();
                [lessor.next_due(), lessor.next_note()].into_iter().flatten().min()
            };
            let pause = async {
                tokio::time::sleep(ROUND).await;
                match due {
                    Some(due) => tokio::time::sleep_until(self.zero + due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = changed => tokio::time::sleep(ROUND).await,
                () = stop.cancelled() => {}
            }
        }
    }
}

pub(super) struct LeaseService(pub(super) Arc<Member>);

#[tonic::async_trait]
impl pb::lease_server::Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        if request.ttl > LEASE_TTL_SECONDS_MAX {
            return Err(status::refusal(Refusal::LeaseTtlTooLarge));
        }
        let ttl = request.ttl.max(self.0.lease_ttl_min);
        let id = match request.id {
            0 => self.0.chance.lease_id(),
            id => id,
        };
        let grant = Command::LeaseGrant { id: LeaseId(id), ttl };
        let (revision, _) = self.0.propose(caller, grant, 24).await?;
        let header = Some(self.0.header(revision));
        Ok(Response::new(pb::LeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let id = LeaseId(request.into_inner().id);
        let (revision, _) = self.0.propose(caller, Command::LeaseRevoke(id), 16).await?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: Some(self.0.header(revision)) }))
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let credentials = Credentials::of(&request);
        let state = (Arc::clone(&self.0), credentials, request.into_inner());
        let answers = stream::try_unfold(state, |(member, credentials, mut requests)| async move {
            let request = tokio::select! {
                request = requests.message() => request?,
                () = member.stopping.cancelled() => {
                    return Err(status::unavailable(Unavailable::Stopped));
                }
            };
            let Some(pb::LeaseKeepAliveRequest { id }) = request else { return Ok(None) };
            // Whoever keeps a lease alive keeps its keys.
            let caller = member.recognise(&credentials)?;
            member.allow(&caller, &Need::Login)?;
            member.allow(&caller, &Need::Lease(Act::Write, LeaseId(id)))?;
            // The header comes first: a client must not see a renewal at a revision at which the
            // lease was gone.
            let header = Some(member.header_now());
            let ttl = renew(&member, LeaseId(id)).await.map_err(status::unavailable)?;
            let answer = pb::LeaseKeepAliveResponse { header, id, ttl };
            Ok(Some((answer, (member, credentials, requests))))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        let id = LeaseId(request.id);
        self.0.linearize().await.map_err(status::unavailable)?;
        self.0.allow(&caller, &Need::Login)?;
        if request.keys {
            self.0.allow(&caller, &Need::Lease(Act::Read, id))?;
        }
        let remaining = {
            let lessor = self.0.leases.lock();
            if !lessor.leading() {
                return Err(status::unavailable(Unavailable::NoLeader { leader: None }));
            }
            lessor.remaining(id, self.0.leases.now())
        };
        let view = self.0.reader.view();
        let header = Some(self.0.header(view.revision()));
        let Some(Remaining { left, granted }) = remaining else {
            let unknown = pb::LeaseTimeToLiveResponse {
                header,
                id: request.id,
                ttl: -1,
                ..Default::default()
            };
            return Ok(Response::new(unknown));
        };
        let lease = self.0.reader.lease(id).filter(|_| request.keys);
        let keys = lease.map_or_else(Vec::new, |lease| lease.keys.into_iter().collect());
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: seconds(left),
            granted_ttl: seconds(granted),
            keys,
        }))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let caller = self.0.caller(&request)?;
        self.0.allow(&caller, &Need::Login)?;
        let ids = self.0.leases.lock().by_deadline();
        for id in &ids {
            self.0.allow(&caller, &Need::Lease(Act::Read, *id))?;
        }
        let leases = ids.into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: Some(self.0.header_now()), leases }))
    }
}

/// Renews a lease, after taking back a note of what was left of it.
async fn renew(member: &Member, id: LeaseId) -> Result<i64, Unavailable> {
    let noted = member.leases.lock().has_note(id);
    if noted {
        member.raft.propose(Command::LeaseCheckpoint(vec![(id, 0)]).by(Sender::Store)).await?;
        member.leases.lock().note_withdrawn(id);
    }
    member.leases.renew(id, member.deadline).await
}

/// Whole seconds, cut off as etcd cuts them.
fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Tells the lessor what applied commands did to leases.
pub(crate) fn observe(leases: &Leases, commands: &[Command], outcomes: &[Outcome]) {
    for (command, outcome) in commands.iter().zip(outcomes) {
        match (command.parts().1, &outcome.result) {
            (Command::LeaseGrant { id, ttl }, Ok(Answer::LeaseGrant { .. })) => {
                leases.granted(*id, *ttl);
            }
            (Command::LeaseRevoke(id), Ok(_)) => leases.revoked(*id),
            _ => {}
        }
    }
}
