//! The recorder: what components report, kept as Event objects.
//!
//! Reporting never waits and never fails: a report goes into a bounded queue, and when the queue is
//! full it is dropped and counted. One task writes the queue out. The same report about the same
//! object within ten minutes does not make a second Event but raises the `count` of the first, as
//! everybody who has looked at `kubectl describe` expects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::view::ObjectRef;
use crate::api::kinds::EVENT;
use crate::api::{Key, Object, Status, time};
use crate::registry::{Actor, Part, Registry, WriteOptions};
use crate::tasks::Tasks;

/// Reports that wait to be written. A burst of a thousand pods makes about two per pod.
const WAITING_MAX: usize = 4096;
/// Events that may still be counted up.
const REMEMBERED_MAX: usize = 4096;
/// Reports written at the same time.
const WRITES_MAX: usize = 32;
/// For how long an equal report counts as the same.
const SAME_WITHIN: Duration = Duration::from_secs(600);
/// Namespace of events about cluster-wide objects.
const CLUSTER_NAMESPACE: &str = "default";

/// Whether a report is news or a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// News.
    Normal,
    /// A problem.
    Warning,
}

impl Severity {
    fn text(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What makes two reports the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Sameness {
    component: &'static str,
    kind: &'static str,
    about: Key,
    uid: String,
    severity: Severity,
    reason: String,
    message: String,
}

struct Report {
    sameness: Sameness,
    about: ObjectRef,
    at: Timestamp,
}

/// The reporting end. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Report>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    pub(super) fn start(registry: Registry, tasks: &Tasks, root: &Tasks) -> Self {
        let (queue, reports) = mpsc::channel(WAITING_MAX);
        tasks.spawn("events", root, write_out(registry, reports, tasks.token()));
        Self { queue, dropped: Arc::default() }
    }

    /// Reports something that happened to an object.
    pub fn report(
        &self,
        component: &'static str,
        about: &ObjectRef,
        severity: Severity,
        reason: &str,
        message: String,
    ) {
        let sameness = Sameness {
            component,
            kind: about.kind.kind,
            about: about.key.clone(),
            uid: about.uid.clone(),
            severity,
            reason: reason.to_owned(),
            message,
        };
        let report = Report { sameness, about: about.clone(), at: Timestamp::now() };
        if self.queue.try_send(report).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reports that found the queue full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Writes reports out until `stop`. A report that cannot be written is dropped: events tell, they do
/// not decide.
async fn write_out(
    registry: Registry,
    mut reports: mpsc::Receiver<Report>,
    stop: CancellationToken,
) -> Result<(), Status> {
    let mut written: BTreeMap<Sameness, (Key, Instant)> = BTreeMap::new();
    let mut batch = Vec::with_capacity(WRITES_MAX);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            got = reports.recv_many(&mut batch, WRITES_MAX) => {
                if got == 0 {
                    return Ok(());
                }
            }
        }
        let now = Instant::now();
        if written.len() >= REMEMBERED_MAX {
            written.retain(|_, (_, at)| now.duration_since(*at) < SAME_WITHIN);
        }
        if written.len() >= REMEMBERED_MAX {
            // All of them are recent: to start afresh costs a few doubled events.
            written.clear();
        }
        let known = |report: &Report| {
            let (key, at) = written.get(&report.sameness)?;
            (now.duration_since(*at) < SAME_WITHIN).then(|| key.clone())
        };
        let writes = batch.drain(..).map(|report| {
            let known = known(&report);
            write(&registry, report, known)
        });
        let done = futures_util::future::join_all(writes.collect::<Vec<_>>()).await;
        for (sameness, written_as) in done {
            match written_as {
                Ok(key) => {
                    written.insert(sameness, (key, now));
                }
                Err(error) => tracing::debug!(reason = sameness.reason, %error, "event dropped"),
            }
        }
    }
}

async fn write(
    registry: &Registry,
    report: Report,
    known: Option<Key>,
) -> (Sameness, Result<Key, Status>) {
    let actor = Actor::system("system:event-recorder");
    if let Some(key) = known {
        let at = time::seconds(report.at);
        let count_up = |event: &mut Object| {
            let count = event.int("/count").unwrap_or(1);
            event.set("/count", count + 1);
            event.set("/lastTimestamp", at.as_str());
            Ok(())
        };
        match registry.modify(&actor, &EVENT, &key, Part::Main, count_up).await {
            // It has been forgotten after its hour: begin a new one.
            Err(status) if status.is_not_found() => {}
            done => return (report.sameness, done.map(|_| key)),
        }
    }
    let event = event(&report);
    let made = registry.create(&actor, &EVENT, event, &WriteOptions::default()).await;
    (report.sameness, made.map(|made| made.key()))
}

fn event(report: &Report) -> Object {
    let Report { sameness, about, at } = report;
    let namespace = about.key.namespace.as_deref().unwrap_or(CLUSTER_NAMESPACE);
    let nanos = u64::try_from(at.as_nanosecond()).unwrap_or(0);
    // Upstream's form: the object's name and a number nobody else has taken at this moment.
    let name = format!("{}.{:016x}", about.key.name, nanos ^ hash(sameness));
    let seconds = time::seconds(*at);
    let mut involved = json!({
        "apiVersion": about.kind.api_version(),
        "kind": about.kind.kind,
        "name": about.key.name,
        "uid": about.uid,
    });
    if let Some(namespace) = &about.key.namespace {
        involved["namespace"] = namespace.as_str().into();
    }
    if about.revision > 0 {
        involved["resourceVersion"] = about.revision.to_string().into();
    }
    let value = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": involved,
        "reason": sameness.reason,
        "message": sameness.message,
        "type": sameness.severity.text(),
        "source": {"component": sameness.component},
        "reportingComponent": sameness.component,
        "reportingInstance": "",
        "firstTimestamp": seconds,
        "lastTimestamp": seconds,
        "count": 1,
    });
    Object::from_value(value).expect("an event is a JSON object")
}

/// FNV-1a over what is reported, to keep apart the events of one instant.
fn hash(sameness: &Sameness) -> u64 {
    let texts = [sameness.reason.as_str(), sameness.message.as_str(), sameness.uid.as_str()];
    texts.iter().flat_map(|text| text.bytes()).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}
