//! The jobs: what is measured, and how each is run against one server.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::contest::{Contestant, Who};
use super::disturb::{Disturbance, disturb};
use super::drive::{Shape, Tally, drive};
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::fan::{Fan, fan_out, watch_latency};
use super::keepalive::keep_alive;
use super::kube;
use super::link::{Came, Link};
use super::meter::{self, Reading, Subject};
use super::table::Figures;
use super::work::{Ask, DOOMED, FILL_BATCH, FILLED, Fill, Grants, Keys, RANGE};

/// One job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name in the table.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// Requests in flight.
    pub clients: usize,
    /// Connections.
    pub connections: usize,
    /// An open loop at so many requests per second.
    pub rate: Option<u64>,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes the whole key space.
    Fill,
    /// Requests on keys.
    Keys(Ask),
    /// Watchers times puts, on so many keys.
    Fan { watchers: usize, puts: u64, keys: u64 },
    /// From a put to its event.
    WatchLatency,
    /// New leases.
    Grant,
    /// Leases kept alive.
    KeepAlive,
    /// Lists, guarded updates and watches together.
    Kubernetes,
    /// Writes while something large goes on.
    Disturb(Disturbance),
    /// From kill -9 to the first linearizable answer; after rest, or in the midst of puts.
    Boot { loaded: bool },
}

/// What all jobs share.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Keys there are.
    pub keys: u64,
    /// Bytes of each value.
    pub value_size: usize,
    /// How long a run takes.
    pub time: Duration,
}

/// A server as a job sees it.
#[derive(Clone)]
pub struct Target {
    /// Where.
    pub endpoint: Endpoint,
    /// Its process and disk, where they are known.
    pub subject: Subject,
}

impl Job {
    /// Whether the limit can do it too.
    pub fn suits(&self, who: Who) -> bool {
        let simple = matches!(
            self.kind,
            Kind::Keys(
                Ask::Put | Ask::Get { .. } | Ask::Range { .. } | Ask::Page { .. } | Ask::Mixed
            )
        );
        who != Who::Limit || simple
    }

    /// Whether it kills the server, which must then be one that this program has started.
    pub fn kills(&self) -> bool {
        matches!(self.kind, Kind::Boot { .. })
    }

    fn shape(&self, setting: Setting) -> Shape {
        Shape {
            clients: self.clients,
            connections: self.connections,
            time: setting.time,
            count: u64::MAX,
            rate: self.rate,
        }
    }
}

/// Runs a job that leaves the server running. Some give several rows; each has a suffix to the
/// job's name.
///
/// # Errors
/// When the server refuses, or has no such call.
pub async fn run(
    job: &Job,
    target: &Target,
    setting: Setting,
) -> Result<Vec<(&'static str, Figures)>, Failure> {
    let endpoint = &target.endpoint;
    let shape = job.shape(setting);
    let watch = Stopwatch::new(&target.subject);
    let one = |figures| Ok(vec![("", figures)]);
    match job.kind {
        Kind::Fill => {
            let tally = fill(endpoint, FILLED, setting.keys, setting.value_size).await?;
            one(watch.stop(&tally))
        }
        Kind::Keys(ask) => one(keys(job, ask, target, setting).await?),
        Kind::Fan { watchers, puts, keys } => {
            let fan = Fan {
                watchers,
                puts,
                keys,
                connections: job.connections,
                writers: job.clients,
                value_size: setting.value_size,
            };
            let mut watch = watch;
            let tally = fan_out(endpoint, fan, || watch = Stopwatch::new(&target.subject)).await?;
            one(watch.stop(&tally))
        }
        Kind::WatchLatency => {
            let tally = watch_latency(endpoint, setting.time, setting.value_size).await?;
            one(watch.stop(&tally))
        }
        Kind::Grant => {
            let tally = drive(endpoint, shape, |_| Grants::new()).await?;
            one(watch.stop(&tally))
        }
        Kind::KeepAlive => {
            let tally = keep_alive(endpoint, job.clients, job.connections, setting.time).await?;
            one(watch.stop(&tally))
        }
        Kind::Kubernetes => {
            fill(endpoint, kube::PREFIX, kube::OBJECTS, kube::OBJECT_BYTES).await?;
            let watch = Stopwatch::new(&target.subject);
            let kube::Kubernetes { updates, pages, events } =
                kube::kubernetes(endpoint, setting.time).await?;
            let mut figures = watch.stop(&updates);
            let rate = events as f64 / updates.time.as_secs_f64();
            figures.note = format!("{rate:.0} watch events/s; CPU is that of all three");
            Ok(vec![("updates", figures), ("rows listed", Figures::of(&pages))])
        }
        Kind::Disturb(disturbance) => {
            let (keys, size) = (setting.keys, setting.value_size);
            let shape = Shape { time: shape.time.max(DISTURBED), ..shape };
            let (tally, note) = disturb(endpoint, disturbance, shape, keys, size).await?;
            one(Figures { note, ..watch.stop(&tally) })
        }
        Kind::Boot { .. } => {
            Err(Failure::Endpoint("a boot needs a server that this program starts".to_owned()))
        }
    }
}

/// How long puts run around a disturbance: longer than any of them should take.
const DISTURBED: Duration = Duration::from_secs(12);

/// How long a load runs before it counts.
const WARM: Duration = Duration::from_millis(300);

/// Keys that one run of deletes may use up.
const DOOMED_MAX: u64 = 300_000;

async fn keys(job: &Job, ask: Ask, target: &Target, setting: Setting) -> Result<Figures, Failure> {
    let mut keys = setting.keys;
    let mut shape = job.shape(setting);
    if ask == Ask::Delete {
        keys = DOOMED_MAX.min(setting.keys);
        fill(&target.endpoint, DOOMED, keys, setting.value_size).await?;
    } else {
        let warm = Shape { time: WARM, ..shape };
        drive(&target.endpoint, warm, |nth| {
            Keys::new(ask, keys, setting.value_size, nth, job.connections)
        })
        .await?;
    }
    shape.connections = shape.connections.clamp(1, shape.clients.max(1));
    let watch = Stopwatch::new(&target.subject);
    let tally = drive(&target.endpoint, shape, |nth| {
        Keys::new(ask, keys, setting.value_size, nth, shape.connections)
    })
    .await?;
    Ok(watch.stop(&tally))
}

/// Fills a key space, a hundred keys to a transaction.
async fn fill(
    endpoint: &Endpoint,
    prefix: &str,
    keys: u64,
    value_size: usize,
) -> Result<Tally, Failure> {
    const CONNECTIONS: usize = 4;
    let shape = Shape {
        clients: 8,
        connections: CONNECTIONS,
        time: Duration::from_secs(600),
        count: keys.div_ceil(FILL_BATCH),
        rate: None,
    };
    drive(endpoint, shape, |nth| Fill::new(prefix, keys, value_size, nth, CONNECTIONS)).await
}

/// How long a server rests before it is killed when "idle".
const REST: Duration = Duration::from_secs(8);

/// Kills the server and times its return.
///
/// # Errors
/// When it does not serve again within a minute.
pub fn boot(
    contestant: &mut Contestant,
    loaded: bool,
    setting: Setting,
) -> Result<Figures, Failure> {
    if loaded {
        let (endpoint, keys) = (contestant.endpoint.clone(), setting.keys);
        let shape = Shape { clients: 64, connections: 8, time: REST, count: u64::MAX, rate: None };
        let load = std::thread::spawn(move || {
            let make = |nth| Keys::new(Ask::Put, keys, setting.value_size, nth, 8);
            // It ends with a broken connection, as it should.
            let _ = block_on(drive(&endpoint, shape, make));
        });
        std::thread::sleep(setting.time.min(REST / 2));
        contestant.kill();
        load.join().expect("the load does not panic");
    } else {
        std::thread::sleep(REST);
        contestant.kill();
    }
    let begin = Instant::now();
    contestant.start_again();
    block_on(first_answer(&contestant.endpoint, begin))?;
    let mut tally = Tally::new();
    tally.record(begin.elapsed());
    tally.time = begin.elapsed();
    let subject = contestant.subject();
    let before = Reading::newborn(&subject);
    let mut figures = Stopwatch { before, subject }.stop(&tally);
    // There is one boot, not so many per second.
    figures.rate = 0.0;
    figures.note = "first linearizable answer".to_owned();
    Ok(figures)
}

async fn first_answer(endpoint: &Endpoint, begin: Instant) -> Result<(), Failure> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let mut message = Vec::new();
    let mut gets = Keys::new(Ask::Get { serializable: false }, 1, 0, 0, 1);
    super::drive::Work::next(&mut gets, &mut message);
    while begin.elapsed() < PATIENCE {
        if let Ok(mut link) = Link::connect(endpoint).await {
            link.calls().open(0, RANGE, &message, true, begin);
            let mut answered = false;
            let turn = async {
                while link.calls().live() > 0 {
                    link.turn(|_, _, came| answered |= matches!(came, Came::Message(_))).await?;
                }
                Ok::<_, Failure>(())
            };
            if tokio::time::timeout(PATIENCE, turn).await.is_ok_and(|ended| ended.is_ok())
                && answered
            {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err(Failure::Late("no answer a minute after the start".to_owned()))
}

/// Runs on a runtime of this thread's own.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime starts").block_on(future)
}

/// What the server has used since.
struct Stopwatch {
    subject: Subject,
    before: Reading,
}

impl Stopwatch {
    fn new(subject: &Subject) -> Self {
        Self { subject: subject.clone(), before: Reading::now(subject) }
    }

    fn stop(self, tally: &Tally) -> Figures {
        let (cpu, written) = Reading::since(&self.subject, self.before);
        let done = tally.units.max(1) as f64;
        let memory = |read: fn(Pid) -> u64| self.subject.pid.map_or(0.0, |pid| read(pid) as f64);
        Figures {
            cpu: cpu.as_secs_f64() * 1e6 / done,
            written: written as f64 / done,
            resident: memory(meter::resident),
            peak: memory(meter::peak),
            ..Figures::of(tally)
        }
    }
}
