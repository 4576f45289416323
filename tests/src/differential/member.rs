//! One server in a session: sends it a step, and brings back its answer.

use std::path::Path;
use std::time::{Duration, Instant};

use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb as pb;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::answer::{self, Answer};
use super::auth::{self, AuthStep, Line, Token};
use super::release::Release;
use super::step::{Known, Step, Turn};
use super::watches::Watches;
use super::{CLIENTS, STREAMS};
use crate::server::{Program, Server};

/// How long a lease of the minimum time may take to end.
const EXPIRY: Duration = Duration::from_secs(20);

/// Passwords are not what is compared, so they are made cheap.
const FLAGS: [&str; 1] = ["--bcrypt-cost=4"];
/// The id of that lease: no session draws it.
const SHORT_LEASE: i64 = 6_000_000;

/// A server, its clients, and what it has told them.
pub(super) struct Member {
    /// Ends with the session.
    _server: Server,
    channels: Vec<Channel>,
    /// In whose name each client speaks.
    tokens: Vec<Token>,
    known: Known,
    watches: Watches,
    /// What is compared with: answers are cut to what that release can say.
    release: Release,
}

impl Member {
    /// Starts a fresh server and connects.
    pub(super) async fn start(program: Program, release: Release, dir: &Path) -> Self {
        let dir = dir.to_path_buf();
        let server = tokio::task::spawn_blocking(move || Server::start(program, &dir, &FLAGS))
            .await
            .expect("the server starts");
        let endpoint = Endpoint::from_shared(server.url()).expect("an address is a URL");
        let endpoint = endpoint.tcp_nodelay(true);
        let channels = (0..CLIENTS).map(|_| endpoint.connect_lazy()).collect::<Vec<_>>();
        let watches = Watches::new(channels[0].clone(), STREAMS, release).await;
        let mut member = Self {
            _server: server,
            channels,
            tokens: vec![Token::default(); CLIENTS],
            known: Known::default(),
            watches,
            release,
        };
        member.known.compacted = -1;
        // The first answer tells the member's id and revision, which symbols may ask for.
        member.take(&Turn { client: 0, step: Step::Status }).await;
        member
    }

    /// Waits until watchers have heard everything.
    pub(super) async fn settle(&mut self) -> Answer {
        let mut answer = self.watches.settle(self.known.revision).await;
        answer.normalise(&self.known);
        answer
    }

    /// Takes one step.
    pub(super) async fn take(&mut self, turn: &Turn) -> Answer {
        let mut step = turn.step.clone();
        self.known.resolve(&mut step);
        self.release.limit(&mut step, self.known.compacted);
        let mut answer = self.ask(turn.client, &step).await.unwrap_or_else(Answer::from);
        self.learn(&step, &answer);
        match (&step, &mut answer) {
            (Step::Range(request) | Step::RangeStream(request), Answer::Range(answer)) => {
                answer::settle_range(request, answer);
            }
            (Step::Txn(request), Answer::Txn(answer)) => answer::settle_txn(request, answer),
            // etcd looks at a token even where none is needed: differences.md.
            (Step::Auth(AuthStep::Status), answer) if self.tokens[turn.client].0.is_some() => {
                *answer = Answer::Nothing;
            }
            (Step::HashKv(request), answer) => {
                answer::settle_hash(request, answer, &self.known);
            }
            _ => {}
        }
        answer.normalise(&self.known);
        self.release.settle(&step, &mut answer);
        answer
    }

    fn learn(&mut self, step: &Step, answer: &Answer) {
        if let Some(header) = answer.header() {
            self.known.revision = self.known.revision.max(header.revision);
            self.known.member = header.member_id;
        }
        match (step, answer) {
            (Step::Compact(request), Answer::Compact(_)) => {
                self.known.compacted = request.revision;
                self.known.compactions.push(request.revision);
            }
            (Step::Grant(request), Answer::Grant(answer)) if request.id == 0 => {
                self.known.name_lease(answer.id);
            }
            _ => {}
        }
    }

    async fn ask(&mut self, client: usize, step: &Step) -> Result<Answer, Status> {
        let token = self.tokens[client].clone();
        let channel = Line::new(self.channels[client].clone(), token);
        match step {
            Step::Range(_)
            | Step::RangeStream(_)
            | Step::Put(_)
            | Step::Delete(_)
            | Step::Txn(_)
            | Step::Compact(_) => kv(channel, step).await,
            Step::Grant(_)
            | Step::Brief(_)
            | Step::Revoke(_)
            | Step::KeepAlive(_)
            | Step::TimeToLive(_)
            | Step::Leases => lease(channel, step).await,
            Step::Expire(request) => expire(channel, request).await,
            Step::Members(request) => {
                let answer = ClusterClient::new(channel).member_list(*request).await?;
                Ok(Answer::Members(answer.into_inner()))
            }
            Step::Status | Step::HashKv(_) | Step::Alarm(_) | Step::Defragment => {
                maintenance(channel, step).await
            }
            Step::Watch(nth, request) => {
                let (compacted, now) = (self.known.compacted, self.known.revision);
                let nth = self.watches.route(*nth, request.start_revision, now);
                Ok(self.watches.stream(nth).create(request.clone(), compacted).await)
            }
            Step::Cancel(nth, id) => Ok(self.watches.stream(*nth).cancel(*id).await),
            Step::Progress(nth) => {
                let now = self.known.revision;
                Ok(self.watches.stream(*nth).progress(now).await)
            }
            Step::Close(nth) => {
                self.watches.close(*nth);
                Ok(Answer::Nothing)
            }
            Step::Settle => Ok(Answer::Nothing),
            Step::Auth(AuthStep::Login(name, _)) if name.is_empty() => {
                self.tokens[client] = Token::default();
                Ok(Answer::Nothing)
            }
            Step::Auth(step) => {
                let (answer, token) = auth::ask(channel, step).await?;
                if token.is_some() {
                    self.tokens[client] = Token(token);
                }
                Ok(answer)
            }
        }
    }
}

async fn kv(channel: Line, step: &Step) -> Result<Answer, Status> {
    let mut client = KvClient::new(channel).max_decoding_message_size(usize::MAX);
    Ok(match step.clone() {
        Step::Range(request) => Answer::Range(client.range(request).await?.into_inner()),
        Step::RangeStream(request) => {
            let mut pieces = client.range_stream(request).await?.into_inner();
            let mut whole = pb::RangeResponse::default();
            while let Some(piece) = pieces.message().await? {
                let Some(piece) = piece.range_response else { continue };
                if whole.header.is_some() {
                    return Ok(Answer::Broken("a piece follows the one with the header".into()));
                }
                whole.kvs.extend(piece.kvs);
                (whole.header, whole.count, whole.more) = (piece.header, piece.count, piece.more);
            }
            Answer::Range(whole)
        }
        Step::Put(request) => Answer::Put(client.put(request).await?.into_inner()),
        Step::Delete(request) => Answer::Delete(client.delete_range(request).await?.into_inner()),
        Step::Txn(request) => Answer::Txn(client.txn(request).await?.into_inner()),
        Step::Compact(request) => Answer::Compact(client.compact(request).await?.into_inner()),
        other => unreachable!("{other:?} is not of this service"),
    })
}

async fn lease(channel: Line, step: &Step) -> Result<Answer, Status> {
    let mut client = LeaseClient::new(channel);
    Ok(match *step {
        Step::Grant(request) => Answer::Grant(client.lease_grant(request).await?.into_inner()),
        Step::Brief(request) => {
            let mut granted = client.lease_grant(request).await?.into_inner();
            // It may have ended before this arrives.
            let _ = client.lease_revoke(pb::LeaseRevokeRequest { id: granted.id }).await;
            if request.id == 0 {
                granted.id = 0;
            }
            Answer::Grant(granted)
        }
        Step::Revoke(request) => Answer::Revoke(client.lease_revoke(request).await?.into_inner()),
        Step::KeepAlive(request) => {
            let once = tokio_stream::iter([request]);
            let mut answers = client.lease_keep_alive(once).await?.into_inner();
            Answer::KeepAlive(answers.message().await?)
        }
        Step::TimeToLive(request) => {
            Answer::TimeToLive(client.lease_time_to_live(request).await?.into_inner())
        }
        Step::Leases => {
            let answer = client.lease_leases(pb::LeaseLeasesRequest {}).await?;
            Answer::Leases(answer.into_inner())
        }
        ref other => unreachable!("{other:?} is not of this service"),
    })
}

async fn maintenance(channel: Line, step: &Step) -> Result<Answer, Status> {
    let mut client = MaintenanceClient::new(channel);
    Ok(match *step {
        Step::Status => Answer::Status(client.status(pb::StatusRequest {}).await?.into_inner()),
        Step::HashKv(request) => Answer::HashKv(client.hash_kv(request).await?.into_inner()),
        Step::Alarm(request) => Answer::Alarm(client.alarm(request).await?.into_inner()),
        Step::Defragment => {
            let answer = client.defragment(pb::DefragmentRequest {}).await?;
            Answer::Defragment(answer.into_inner())
        }
        ref other => unreachable!("{other:?} is not of this service"),
    })
}

/// Puts a key on a lease of the minimum time and waits until both are gone.
async fn expire(channel: Line, put: &pb::PutRequest) -> Result<Answer, Status> {
    let mut leases = LeaseClient::new(channel.clone());
    let mut kv = KvClient::new(channel);
    let grant = pb::LeaseGrantRequest { ttl: 1, id: SHORT_LEASE };
    let lease = leases.lease_grant(grant).await?.into_inner().id;
    kv.put(pb::PutRequest { lease, ..put.clone() }).await?;
    let deadline = Instant::now() + EXPIRY;
    let ask = pb::RangeRequest { key: put.key.clone(), ..Default::default() };
    loop {
        let answer = kv.range(ask.clone()).await?.into_inner();
        if answer.kvs.is_empty() {
            return Ok(Answer::Range(answer));
        }
        if Instant::now() > deadline {
            return Ok(Answer::Broken("the lease does not end".into()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
