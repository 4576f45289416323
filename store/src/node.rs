//! One member, put together: the composition root.
//!
//! Starting is a recipe that reads downwards (disk, log, machine, raft, leases, listeners);
//! stopping is the same list backwards with deadlines. A program that embeds a store uses what the
//! `store` binary uses: [`Node::start`], [`Node::connect`] for a client without a socket, and
//! [`Node::shutdown`].

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::auth::{Gate, TokenError};
use crate::chance::Chance;
use crate::command::{self, Command, MemberId, Outcome, Sender};
use crate::compactor::Compactor;
use crate::config::{Config, StorageKind};
use crate::engine::{Applied, Engine, EngineConfig, Identity, Reader, Storage};
use crate::fault::Fault;
use crate::ids::{self, Ids};
use crate::limits::{LEFT_QUEUES_MAX, VOLATILE_SEGMENT_BYTES};
use crate::listen::{Threads, Workers};
use crate::metrics::Metrics;
use crate::raft::{self, Peer, RaftConfig, Unavailable};
use crate::rpc::{self, Leases, Member, Router, Surface, Watching};
use crate::slow::Slow;
use crate::socket::Listener;
use crate::tasks::Tasks;
use crate::tls::{Tls, TlsError};
use crate::wal::{self, RealDisk, VolatileDisk, Wal};

/// Why a node cannot start: one line, with causes as sources.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory cannot be made or is open to others.
    #[error("{path}: {reason}", path = .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// `--initial-cluster-state=existing` without data.
    #[error(
        "--initial-cluster-state=existing: there are no data of this member, and joining a running \
         cluster is not built yet"
    )]
    Joining,
    /// The data cannot be opened.
    #[error(transparent)]
    Engine(#[from] Fault),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] wal::Fault),
    /// Consensus cannot start.
    #[error(transparent)]
    Raft(#[from] raft::StartError),
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Tokens cannot be made or checked.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// An address is taken, or not ours.
    #[error("{0}")]
    Listen(String),
    /// Threads or runtimes cannot be made.
    #[error("cannot start the client workers")]
    Workers(#[source] io::Error),
    /// The member came up and cannot serve.
    #[error("the member cannot serve: {0}")]
    Unavailable(Unavailable),
}

/// A running member.
pub struct Node {
    member: Arc<Member>,
    workers: Workers,
    threads: Threads,
    tasks: Tasks,
    stop: CancellationToken,
    addresses: Vec<SocketAddr>,
}

/// Who hears of every entry that was applied, before its author is answered.
#[derive(Clone)]
struct Hearers {
    watching: Arc<Watching>,
    leases: Arc<Leases>,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    slow: Arc<Slow>,
}

impl Hearers {
    fn new(config: &Config, reader: &Reader, gate: Gate) -> Self {
        let lease_checkpoints = config.gates.enabled(crate::config::Gate::LeaseCheckpoint);
        Self {
            watching: Arc::new(Watching::new(reader.view().revision())),
            leases: Arc::new(Leases::new(lease_checkpoints)),
            gate: Arc::new(gate),
            metrics: Arc::new(Metrics::new(config.http.metrics_extensive)),
            slow: Arc::new(Slow::new(config.slow)),
        }
    }

    fn hear(&self, commands: &[Command], applied: &mut Applied, took: Duration) {
        self.watching.publish(std::mem::take(&mut applied.events));
        rpc::observe(&self.leases, commands, &applied.outcomes);
        self.gate.observe(commands, &applied.outcomes);
        let slow = self.slow.apply(commands.len(), took);
        self.metrics.applied(commands, &applied.outcomes, took, slow);
    }
}

/// What a single voter waits between becoming leader and serving, at most.
const READY_DEADLINE: Duration = Duration::from_secs(60);

impl Node {
    /// Starts a member and returns once it serves.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let gate = gate(&config)?;
        // Sockets first: a port in use must be told before any data are touched.
        let listeners = Listeners::bind(&config)?;
        let directories = Directories::prepare(&config)?;
        let chance = Chance::from_system();
        let (engine, wal, ids) =
            open(&config, directories, derive_ids(&config), chance.salt()).await?;
        let reader = engine.reader();

        let hearers = Hearers::new(&config, &reader, gate);
        let tasks = Tasks::new();
        let stop = CancellationToken::new();
        let wal_timings = wal.timings();
        let machine = {
            let hearers = hearers.clone();
            let mut checkpoints = CountedCheckpoints::new(&config, reader.clone());
            raft::Applier::new(engine, move |commands, applied, took| {
                hearers.hear(commands, applied, took);
                checkpoints.applied(applied.index);
            })
        };
        let deadline = Duration::from_secs(5) + 2 * config.raft.election_timeout;
        let raft = raft::start(raft_config(&config, ids, deadline), wal, machine).await?;
        await_leadership(&raft).await?;
        let mut leadership = raft.subscribe();
        leadership.mark_unchanged();
        let extend = config.raft.election_timeout;
        let Hearers { watching, leases, gate, metrics, slow } = hearers;
        leases.promote(&reader, extend);

        let (left_queues, left) = tokio::sync::mpsc::channel(LEFT_QUEUES_MAX);
        let member = Arc::new(Member {
            left_queues,
            ids,
            quota_bytes: config.disk.quota_bytes,
            lease_ttl_min: lease_ttl_min(config.raft.election_timeout),
            reader: reader.clone(),
            raft: raft.clone(),
            wal: wal_timings,
            hashes: rpc::Told::default(),
            gates: config.gates.clone(),
            watching,
            leases: Arc::clone(&leases),
            stopping: stop.clone(),
            slow_reads: rpc::slow_reads(),
            snapshots: rpc::snapshot::turns(),
            chance,
            gate,
            deadline,
            requests: config.requests,
            config: config.member.clone(),
        });
        introduce(&member, &reader).await?;

        tasks.spawn(
            "lease leadership",
            Arc::clone(&leases).follow_leadership(leadership, reader, extend, stop.clone()),
        );
        tasks.spawn("left queues", rpc::queue::remove_left(left, raft.clone(), stop.clone()));
        tasks.spawn("lease clock", leases.keep_time(raft, stop.clone()));
        let compactor = Compactor::new(config.compaction);
        tasks.spawn("compaction", compact(compactor, Arc::clone(&member), stop.clone()));
        let router = Router::new(Arc::clone(&member), metrics, &config.listen, &config.http, slow);
        let router = Arc::new(router);
        let (workers, threads) = Workers::start(&router, &stop).map_err(StartError::Workers)?;
        let addresses = listeners.serve(&workers, &tasks, &stop);
        tracing::info!(
            member = format!("{:x}", ids.member.0),
            cluster = format!("{:x}", ids.cluster),
            "ready to serve client requests"
        );
        Ok(Self { member, workers, threads, tasks, stop, addresses })
    }

    /// A client in this process: gRPC over a pipe instead of a socket.
    pub fn connect(&self) -> Channel {
        let workers = self.workers.clone();
        Endpoint::from_static("http://in-process").connect_with_connector_lazy(tower::service_fn(
            move |_: Uri| {
                let workers = workers.clone();
                async move { workers.pipe().await.map(TokioIo::new) }
            },
        ))
    }

    /// The ports it listens on, in the order of the configured client URLs, then the HTTP-only ones,
    /// then the metrics URLs: what port 0 became. Sockets in the file system are not among them.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until the member has stopped by itself, and says why.
    pub async fn failed(&self) -> String {
        let mut fault = self.member.reader.fault();
        tokio::select! {
            stopped = self.member.raft.stopped() => match stopped {
                raft::Stop::Asked => std::future::pending().await,
                raft::Stop::Failed(reason) => reason,
            },
            fault = fault.wait_for(Option::is_some) => match fault.as_deref() {
                Ok(Some(fault)) => fault.to_string(),
                _ => std::future::pending().await,
            },
        }
    }

    /// Stops serving, then consensus, then storage. What was acknowledged is on the disk anyway.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.finish().await;
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || threads.join()).await;
        drop(joined);
        self.member.raft.shutdown().await;
    }
}

/// Sockets that are bound and not yet served.
struct Listeners {
    bound: Vec<(Listener, Option<Arc<Tls>>, Surface)>,
}

impl Listeners {
    fn bind(config: &Config) -> Result<Self, StartError> {
        let listen = &config.listen;
        let fixtures = match config.disk.storage {
            StorageKind::Disk => Some(config.disk.data_dir.join("fixtures/client")),
            StorageKind::Memory => None,
        };
        let tls = match &listen.tls {
            Some(tls) => Some(Arc::new(Tls::load(tls, fixtures.as_deref())?)),
            None => None,
        };
        let surface = match listen.client_http_urls.is_empty() {
            true => Surface::Client,
            false => Surface::Grpc,
        };
        let clients = listen.client_urls.iter().map(|url| (url, surface));
        let http = listen.client_http_urls.iter().map(|url| (url, Surface::Http));
        let metrics = listen.metrics_urls.iter().map(|url| (url, Surface::Metrics));
        let mut bound = Vec::new();
        for (url, surface) in clients.chain(http).chain(metrics) {
            let tls = match (url.tls(), &tls) {
                (false, _) => None,
                (true, Some(tls)) => Some(Arc::clone(tls)),
                (true, None) => {
                    return Err(StartError::Listen(format!("{url} needs a certificate and a key")));
                }
            };
            let listener = Listener::bind(url, listen).map_err(StartError::Listen)?;
            let secure = tls.is_some();
            tracing::info!(%url, secure, "listening");
            bound.push((listener, tls, surface));
        }
        Ok(Self { bound })
    }

    fn serve(self, workers: &Workers, tasks: &Tasks, stop: &CancellationToken) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for (listener, tls, surface) in self.bound {
            addresses.extend(listener.address());
            tasks.spawn("acceptor", workers.clone().accept(listener, tls, surface, stop.clone()));
        }
        addresses
    }
}

/// What tells clients apart. A certificate that every client had to show also says who he is.
fn gate(config: &Config) -> Result<Gate, TokenError> {
    let names_count = config.listen.tls.as_ref().is_some_and(|tls| tls.client_cert_auth);
    Gate::new(&config.auth, names_count)
}

/// Where things are on disk: `<data-dir>/member/{db,wal}`. A volatile store has none.
struct Directories {
    db: PathBuf,
    wal: PathBuf,
}

impl Directories {
    /// Makes them, unless nothing is to be kept.
    fn prepare(config: &Config) -> Result<Option<Self>, StartError> {
        if config.disk.storage == StorageKind::Memory {
            return Ok(None);
        }
        let root = &config.disk.data_dir;
        make_private(root)?;
        let member = root.join("member");
        let wal = config.disk.wal_dir.clone().unwrap_or_else(|| member.join("wal"));
        crate::offline::take_over(root, &wal)
            .map_err(|reason| StartError::Directory { path: root.clone(), reason })?;
        if config.member.existing && !member.join("db").exists() {
            return Err(StartError::Joining);
        }
        make_private(&member)?;
        make_private(&wal)?;
        Ok(Some(Self { db: member.join("db"), wal }))
    }
}

/// Makes a directory that only its owner can use; one that others can write to is refused, for
/// what is in it could not be trusted.
fn make_private(path: &Path) -> Result<(), StartError> {
    let fail = |reason: String| StartError::Directory { path: path.to_owned(), reason };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| fail(error.to_string()))?;
    let mode =
        std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(fail(format!(
            "others may write to it (mode {:o}); make it 0700",
            mode & 0o777
        )));
    }
    if mode & 0o077 != 0 {
        let path = path.display().to_string();
        tracing::warn!(
            path,
            mode = format!("{:o}", mode & 0o777),
            "others can read the data; 0700 is safer"
        );
    }
    Ok(())
}

fn derive_ids(config: &Config) -> Ids {
    let token = &config.member.cluster_token;
    let of = |urls: &Vec<crate::config::urls::Url>| {
        let urls: Vec<_> = urls.iter().map(crate::config::urls::Url::as_str).collect();
        ids::member_id(&urls, token)
    };
    let members: Vec<MemberId> = config.member.initial_cluster.values().map(of).collect();
    let own = config.member.initial_cluster.get(&config.member.name);
    let member = own.map_or_else(|| of(&config.member.advertise_peer_urls), of);
    Ids { cluster: ids::cluster_id(&members), member }
}

fn raft_config(config: &Config, ids: Ids, request_timeout: Duration) -> RaftConfig {
    let urls = config.member.advertise_peer_urls.iter().map(ToString::to_string).collect();
    RaftConfig {
        id: ids.member.0,
        members: BTreeMap::from([(ids.member.0, Peer { urls })]),
        heartbeat: config.raft.heartbeat,
        election_timeout: config.raft.election_timeout,
        request_timeout,
        segment_bytes: segment_bytes(config),
    }
}

/// etcd's rule: one and a half election timeouts, in whole seconds.
fn lease_ttl_min(election_timeout: Duration) -> i64 {
    let seconds = election_timeout.mul_f64(1.5).as_millis().div_ceil(1000);
    i64::try_from(seconds).expect("the election timeout is below a minute")
}

async fn await_leadership(raft: &raft::Handle) -> Result<(), StartError> {
    match tokio::time::timeout(READY_DEADLINE, raft.ready()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(unavailable)) => Err(StartError::Unavailable(unavailable)),
        Err(_) => Err(StartError::Unavailable(Unavailable::NoLeader { leader: None })),
    }
}

/// Tells the cluster this member's name and client URLs, and its quota, if they are news.
async fn introduce(member: &Member, reader: &Reader) -> Result<(), StartError> {
    let me = command::Member {
        id: member.ids.member,
        name: member.config.name.clone(),
        client_urls: member.config.advertise_client_urls.iter().map(ToString::to_string).collect(),
    };
    let mut commands = Vec::new();
    let view = reader.view();
    if !view.members().contains(&me) {
        commands.push(Command::MemberAttributes(me));
    }
    let quota =
        Command::Quota { bytes: member.quota_bytes.unwrap_or(0), member: member.ids.member };
    commands.push(quota);
    drop(view);
    member.raft.propose_many(commands).await.map(drop).map_err(StartError::Unavailable)
}

/// `--snapshot-count`: asks for a checkpoint after so many entries, besides those that the engine
/// makes by size and age.
struct CountedCheckpoints {
    reader: Reader,
    every: u64,
    asked_at: u64,
}

impl CountedCheckpoints {
    fn new(config: &Config, reader: Reader) -> Self {
        let asked_at = reader.applied().unwrap_or(0);
        Self { reader, every: config.disk.snapshot_count.max(1), asked_at }
    }

    fn applied(&mut self, index: u64) {
        if index - self.asked_at >= self.every {
            self.asked_at = index;
            self.reader.request_checkpoint();
        }
    }
}

/// Compacts by itself, by the configured rule, while this member leads.
async fn compact(mut compactor: Compactor, member: Arc<Member>, stop: CancellationToken) {
    let Some(every) = compactor.every() else { return };
    let zero = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = stop.cancelled() => return,
        }
        if !member.raft.status().is_leader {
            continue;
        }
        let current = member.reader.view().revision();
        let Some(at) = compactor.tick(zero.elapsed(), current) else { continue };
        match member.raft.propose(Command::Compact(at).by(Sender::Store)).await {
            Ok(Outcome { result: Ok(_), .. }) => {
                tracing::info!(revision = at.0, "compacted automatically");
            }
            // Somebody compacted further meanwhile.
            Ok(Outcome { result: Err(refusal), .. }) => tracing::debug!(%refusal, "not compacted"),
            Err(error) => {
                tracing::warn!(%error, "automatic compaction failed; the next one makes up for it")
            }
        }
    }
}

/// Opens data and log, off the runtime: both read the disk.
async fn open(
    config: &Config,
    directories: Option<Directories>,
    derived: Ids,
    salt: u32,
) -> Result<(Engine, Wal, Ids), StartError> {
    let identity = Identity { cluster: derived.cluster, member: derived.member.0 };
    let (disk, pace, segment_bytes) = (config.disk.clone(), config.pace, segment_bytes(config));
    let opened = tokio::task::spawn_blocking(move || {
        let (storage, log): (_, Arc<dyn wal::Disk>) = match directories {
            None => (Storage::Memory, Arc::new(VolatileDisk::default())),
            Some(Directories { db, wal }) => {
                let log = open_disk(&wal, disk.fsync)?;
                let storage = match disk.fsync {
                    true => Storage::Directory(db),
                    false => Storage::Disk(open_disk(&db, false)?),
                };
                (storage, log)
            }
        };
        let mut engine_config = EngineConfig::new(storage, identity);
        engine_config.cache_bytes = disk.cache_bytes;
        engine_config.compact_batch = pace.batch;
        engine_config.compact_rest = pace.pause;
        let engine = Engine::open(engine_config)?;
        let identity = engine.identity();
        let (cluster, node) = (identity.cluster, identity.member);
        let wal = Wal::open(log, wal::Config { segment_bytes, cluster, node, salt })?;
        Ok((engine, wal, Ids { cluster, member: MemberId(node) }))
    });
    opened.await.expect("opening does not panic")
}

fn open_disk(directory: &Path, fsync: bool) -> Result<Arc<dyn wal::Disk>, StartError> {
    let disk = RealDisk::open(directory).map_err(|error| StartError::Directory {
        path: directory.to_owned(),
        reason: match error.kind() {
            io::ErrorKind::WouldBlock => "in use by another process".to_owned(),
            _ => error.to_string(),
        },
    })?;
    Ok(Arc::new(if fsync { disk } else { disk.without_sync() }))
}

/// In memory, small segments: what is purged is given back sooner.
fn segment_bytes(config: &Config) -> u64 {
    match config.disk.storage {
        StorageKind::Disk => wal::SEGMENT_BYTES,
        StorageKind::Memory => wal::SEGMENT_BYTES.min(VOLATILE_SEGMENT_BYTES),
    }
}
