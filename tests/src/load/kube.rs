//! What an API server of Kubernetes asks of its store: lists in pages of 500, updates guarded by the
//! revision that was read, and watches on the whole prefix that want previous values and progress.
//!
//! All three run at once for the same time. Each connection of the updaters owns a part of the
//! objects, and updates them in turn, so that no update is refused for another's sake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::watch_request::RequestUnion;
use tokio::task::JoinSet;

use super::drive::{Request, Shape, Tally, Work, drive};
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::fan::create;
use super::link::{Came, Link};
use super::wire;
use super::work::{RANGE, TXN, Template, value};

/// The prefix of the objects.
pub const PREFIX: &str = "/registry/pods/default/";
const PREFIX_END: &[u8] = b"/registry/pods/default0";

/// Objects there are, and bytes of each.
pub const OBJECTS: u64 = 10_000;
/// About what a small pod takes.
pub const OBJECT_BYTES: usize = 2048;

/// Of them so many change: those of a busy part of the cluster.
const CHANGING: u64 = 1_000;

const UPDATERS: usize = 32;
const UPDATER_CONNECTIONS: usize = 4;
const LISTERS: usize = 2;
const WATCHERS: usize = 10;

/// Figures of the three.
pub struct Kubernetes {
    /// Updates.
    pub updates: Tally,
    /// Pages, with rows as units.
    pub pages: Tally,
    /// Events delivered.
    pub events: u64,
}

/// Runs the mixture; the objects must be there ([`super::work::Fill`] writes them).
///
/// # Errors
/// When the server refuses.
pub async fn kubernetes(endpoint: &Endpoint, time: Duration) -> Result<Kubernetes, Failure> {
    let (stop, events) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut watchers = JoinSet::new();
    for _ in 0..2 {
        let mut link = Link::connect(endpoint).await?;
        create(&mut link, WATCHERS / 2, &watch()).await?;
        watchers.spawn(listen(link, Arc::clone(&stop), Arc::clone(&events)));
    }
    let shape =
        |clients, connections| Shape { clients, connections, time, count: u64::MAX, rate: None };
    let (updates, pages) = tokio::join!(
        drive(endpoint, shape(UPDATERS, UPDATER_CONNECTIONS), Updates::new),
        drive(endpoint, shape(LISTERS, LISTERS), |_| Lists::new()),
    );
    stop.store(true, Ordering::Relaxed);
    watchers.shutdown().await;
    Ok(Kubernetes { updates: updates?, pages: pages?, events: events.load(Ordering::Relaxed) })
}

async fn listen(mut link: Link, stop: Arc<AtomicBool>, events: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let turn = link.turn(|_, _, came| {
            if let Came::Message(message) = came {
                events.fetch_add(wire::count_of(message, 11), Ordering::Relaxed);
            }
        });
        if turn.await.is_err() {
            return;
        }
    }
}

fn watch() -> pb::WatchRequest {
    let create = pb::WatchCreateRequest {
        key: bytes::Bytes::from_static(PREFIX.as_bytes()),
        range_end: bytes::Bytes::from_static(PREFIX_END),
        prev_kv: true,
        progress_notify: true,
        ..Default::default()
    };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

/// Guarded updates of one connection's objects.
struct Updates {
    key: Template,
    objects: Vec<u64>,
    /// The revision at which each was last seen; unknown ones are read first.
    seen: Vec<Option<u64>>,
    next: usize,
}

impl Updates {
    fn new(nth: usize) -> Self {
        let objects: Vec<u64> = (nth as u64..CHANGING).step_by(UPDATER_CONNECTIONS).collect();
        let seen = vec![None; objects.len()];
        Self { key: Template::key(PREFIX), objects, seen, next: 0 }
    }
}

impl Work for Updates {
    fn next(&mut self, message: &mut Vec<u8>) -> Option<Request> {
        let at = self.next % self.objects.len();
        self.next += 1;
        let mut key = Vec::new();
        self.key.write(&mut key, &[self.objects[at]]);
        let key = bytes::Bytes::from(key);
        let seen = self.seen[at].unwrap_or(0);
        let compare = pb::Compare {
            result: pb::compare::CompareResult::Equal.into(),
            target: pb::compare::CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(pb::compare::TargetUnion::ModRevision(seen.cast_signed())),
            ..pb::Compare::default()
        };
        let op = |request| pb::RequestOp { request: Some(request) };
        let put =
            pb::PutRequest { key: key.clone(), value: value(OBJECT_BYTES), ..Default::default() };
        let txn = pb::TxnRequest {
            compare: vec![compare],
            success: vec![op(Op::RequestPut(put))],
            failure: vec![op(Op::RequestRange(pb::RangeRequest { key, ..Default::default() }))],
        };
        txn.encode(message).expect("the buffer grows");
        Some(Request { path: TXN, tag: at as u64 })
    }

    fn answer(&mut self, tag: u64, message: &[u8]) -> u64 {
        let at = usize::try_from(tag).expect("tags are indexes");
        let header = wire::bytes_of(message, 1).unwrap_or_default();
        if wire::number_of(message, 2) == 1 {
            self.seen[at] = Some(wire::number_of(header, 3));
            return 1;
        }
        // The failure branch has read the object: response, range, its first row, its revision.
        let row = [3, 1, 2].iter().try_fold(message, |inner, field| wire::bytes_of(inner, *field));
        self.seen[at] = row.map(|row| wire::number_of(row, 3));
        0
    }
}

/// Lists of all objects, page by page at the revision of the first page.
struct Lists {
    from: Vec<u8>,
    revision: u64,
}

impl Lists {
    fn new() -> Self {
        Self { from: PREFIX.as_bytes().to_vec(), revision: 0 }
    }
}

impl Work for Lists {
    fn next(&mut self, message: &mut Vec<u8>) -> Option<Request> {
        let range = pb::RangeRequest {
            key: self.from.clone().into(),
            range_end: bytes::Bytes::from_static(PREFIX_END),
            limit: 500,
            revision: self.revision.cast_signed(),
            ..Default::default()
        };
        range.encode(message).expect("the buffer grows");
        Some(Request { path: RANGE, tag: 0 })
    }

    fn answer(&mut self, _: u64, message: &[u8]) -> u64 {
        let (mut rows, mut last) = (0, None);
        for (field, value) in wire::fields(message) {
            if let (2, wire::Value::Bytes(row)) = (field, value) {
                rows += 1;
                last = Some(row);
            }
        }
        let more = wire::number_of(message, 3) == 1;
        match last.and_then(|row| wire::bytes_of(row, 1)).filter(|_| more) {
            Some(key) => {
                self.from = [key, &[0]].concat();
                let header = wire::bytes_of(message, 1).unwrap_or_default();
                self.revision = match self.revision {
                    0 => wire::number_of(header, 3),
                    revision => revision,
                };
            }
            None => *self = Self::new(),
        }
        rows
    }
}
