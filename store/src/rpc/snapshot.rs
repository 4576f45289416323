//! Maintenance.Snapshot: the whole store as an etcd database file, in blobs.
//!
//! A thread of its own reads one moment of the store and fills a short queue; the client's demand
//! empties it. So a client that is slow holds back its own thread and nobody else: writes go on
//! beside the moment, which never changes. Every blob says how many bytes are still to come; after
//! the last one a message with the SHA-256 of all of them follows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use proto::etcdserverpb::SnapshotResponse;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Member, status};
use crate::engine::Reader;
use crate::image::{Export, STORAGE_VERSION, Sink, Stop};
use crate::limits::{SNAPSHOT_BLOB_BYTES, SNAPSHOT_BLOBS_WAITING_MAX, SNAPSHOTS_MAX};
use crate::raft::Unavailable;

/// What the call answers with.
pub(super) type Blobs = BoxStream<'static, Result<SnapshotResponse, Status>>;

/// As many turns as snapshots may be taken at a time.
pub(crate) fn turns() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(SNAPSHOTS_MAX))
}

/// Begins a snapshot of this instant.
pub(super) fn stream(member: &Member) -> Result<Blobs, Status> {
    let turn = Arc::clone(&member.snapshots)
        .try_acquire_owned()
        .map_err(|_| status::unavailable(Unavailable::Overloaded))?;
    let (blobs, received) = mpsc::channel(SNAPSHOT_BLOBS_WAITING_MAX);
    let reader = member.reader.clone();
    let thread = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        produce(&reader, &blobs);
    });
    // Nobody waits for it: it ends by itself when its queue has no reader any more.
    drop(thread);
    Ok(ReceiverStream::new(received).boxed())
}

fn produce(reader: &Reader, blobs: &mpsc::Sender<Result<SnapshotResponse, Status>>) {
    let done = catch_unwind(AssertUnwindSafe(|| send_all(reader, blobs)));
    let error = match done {
        Ok(Ok(()) | Err(Stop::Gone)) => return,
        Ok(Err(error)) => status::fault(&error),
        Err(_) => status::handler_panicked(),
    };
    // Nobody listens any more: then nobody needs to know.
    drop(blobs.blocking_send(Err(error)));
}

fn send_all(
    reader: &Reader,
    blobs: &mpsc::Sender<Result<SnapshotResponse, Status>>,
) -> Result<(), Stop> {
    let export = Export::measure(reader.moment())?;
    tracing::info!(
        bytes = export.bytes(),
        revision = export.revision().0,
        "sending a database snapshot to a client"
    );
    let mut cutter = Cutter { blobs, remaining: export.bytes(), blob: Vec::new() };
    let digest = export.write(&mut cutter)?;
    cutter.finish()?;
    cutter.send(digest.to_vec())?;
    tracing::info!(revision = export.revision().0, "sent the database snapshot");
    Ok(())
}

/// Cuts the file into blobs.
struct Cutter<'a> {
    blobs: &'a mpsc::Sender<Result<SnapshotResponse, Status>>,
    remaining: u64,
    blob: Vec<u8>,
}

impl Cutter<'_> {
    fn send(&mut self, blob: Vec<u8>) -> Result<(), Stop> {
        let response = SnapshotResponse {
            header: None,
            remaining_bytes: self.remaining,
            blob: blob.into(),
            version: STORAGE_VERSION.to_owned(),
        };
        self.blobs.blocking_send(Ok(response)).map_err(|_| Stop::Gone)
    }

    fn finish(&mut self) -> Result<(), Stop> {
        if self.blob.is_empty() {
            return Ok(());
        }
        let blob = std::mem::take(&mut self.blob);
        self.remaining -= blob.len() as u64;
        self.send(blob)
    }
}

impl Sink for Cutter<'_> {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let room = SNAPSHOT_BLOB_BYTES - self.blob.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.blob.extend_from_slice(now);
            bytes = later;
            if self.blob.len() == SNAPSHOT_BLOB_BYTES {
                self.finish()?;
            }
        }
        Ok(())
    }
}
